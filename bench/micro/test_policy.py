"""Making a policy beside the plain-Python twin."""

from _fastpath.policy import Policy
from bench.micro.fleets import WEIGHTS, Benchmark
from tests.reference import scheduler as twin


def test_make_a_policy(benchmark: Benchmark) -> None:
    assert not benchmark(lambda: Policy(by_cost=False, weights=WEIGHTS)).by_cost


def test_make_a_policy_twin(benchmark: Benchmark) -> None:
    assert not benchmark(lambda: twin.Policy(by_cost=False, weights=WEIGHTS)).by_cost
