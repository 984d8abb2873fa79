"""Which target of a rule takes a request."""

import math
import random
from collections import Counter

import pytest

from gateway.datastore.model import Rule, Target
from gateway.routing.split import split

LARGEST = math.nextafter(1.0, 0.0)


def rule(*weights):
    return Rule(tuple(Target(f"default/{number}", weight) for number, weight in enumerate(weights)))


def chosen(weights, value):
    return split(rule(*weights), lambda: value)


@pytest.mark.parametrize(
    ("weights", "value", "wanted"),
    [
        ((100,), 0.0, "default/0"),
        ((1,), LARGEST, "default/0"),
        ((50, 50), 0.0, "default/0"),
        ((50, 50), math.nextafter(0.5, 0.0), "default/0"),
        ((50, 50), 0.5, "default/1"),
        ((50, 50), LARGEST, "default/1"),
        ((90, 10), 0.89, "default/0"),
        ((90, 10), 0.91, "default/1"),
        ((0, 1), 0.0, "default/1"),
        ((1, 0), LARGEST, "default/0"),
        ((1, 0, 1), 0.5, "default/2"),
        ((3, 3, 3), LARGEST, "default/2"),
        ((0,), 0.5, None),
        ((0, 0), 0.5, None),
        ((), 0.5, None),
    ],
)
def test_a_number_between_0_and_1_falls_into_a_targets_share(weights, value, wanted):
    assert chosen(weights, value) == wanted


def test_shares_are_the_weights_relative_to_one_another():
    random_numbers = random.Random(7)
    wanted = rule(1, 0, 3, 6)
    counts = Counter(split(wanted, random_numbers.random) for _ in range(20_000))
    assert "default/1" not in counts
    for name, share in (("default/0", 0.1), ("default/2", 0.3), ("default/3", 0.6)):
        assert abs(counts[name] / 20_000 - share) < 0.02


def test_a_single_target_costs_no_random_number():
    assert split(rule(7), lambda: pytest.fail("asked for a random number")) == "default/0"


@pytest.mark.parametrize("count", [2, 3, 7, 16])
def test_the_largest_number_always_falls_into_the_last_share(count):
    for weight in range(1, 101):
        assert chosen((weight,) * count, LARGEST) == f"default/{count - 1}"
