"""Our scheduler on traces that are made: where nothing is shared, and where a few prompts are shared by nearly all."""

from random import Random

import pytest

from bench.fleet.measures import figures
from bench.fleet.policies import POLICIES
from bench.fleet.policies.base import Setting
from bench.fleet.simulation import Fleet, Simulation, default_profile
from bench.fleet.trace import Prompted, Trace

BLOCK = 512
ENGINES = 8


def trace(ids_of, requests=800):
    """Requests of which ``ids_of(random, number)`` makes the prompt's blocks."""
    random = Random(3)
    made = []
    for number in range(requests):
        ids = tuple(ids_of(random, number))
        tokens = len(ids) * BLOCK - random.randrange(BLOCK - 1)
        output = max(1, int(random.lognormvariate(5, 0.7)))
        made.append(Prompted(number, number / 10, tokens, output, ids, ids[: tokens // BLOCK]))
    return Trace("made", "none", BLOCK, tuple(made))


def unshared(random, number):
    length = max(1, int(random.lognormvariate(1.2, 0.9)))
    return range(number * 1000, number * 1000 + length)


def hot(random, number):
    topic = min(9, int(random.paretovariate(1)) - 1)
    start = 10**6 + topic * 100
    return [*range(start, start + 8), *range(number * 1000, number * 1000 + random.randint(1, 3))]


def run(name, requests, rate):
    fleet = Fleet(ENGINES, default_profile(BLOCK))
    router = POLICIES[name](Setting(ENGINES, BLOCK, fleet.profile.kv_tokens, 1))
    try:
        return figures(Simulation(fleet, requests, rate, [router]).run())
    finally:
        router.close()


@pytest.mark.parametrize("rate", [10.0, 16.0, 20.0])
def test_where_nothing_is_shared_it_is_not_worse_than_least_requests(rate):
    requests = trace(unshared)
    ours, yardstick = run("ours", requests, rate), run("least-requests", requests, rate)
    assert ours["hit_rate"] == 0
    assert ours["ttft_p50"] <= yardstick["ttft_p50"]
    assert ours["ttft_p99"] <= yardstick["ttft_p99"]
    assert ours["e2e_p50"] <= 1.05 * yardstick["e2e_p50"]


def test_a_prompt_that_nearly_all_share_is_held_by_many_and_found_everywhere():
    requests = trace(hot)
    ours, yardstick = run("ours", requests, 40.0), run("least-requests", requests, 40.0)
    assert ours["hit_rate"] >= 0.95 * ours["oracle_hit_rate"]
    assert ours["imbalance"] <= 1.25
    assert ours["ttft_p99"] < yardstick["ttft_p99"]
