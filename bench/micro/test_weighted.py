"""The weighted scores of many endpoints beside the plain-Python twin."""

from pathlib import Path
from random import Random
from timeit import repeat

import pytest

from _fastpath.policy import Policy
from bench.micro.fleets import NOW, WEIGHTS, Benchmark, Decide, endpoints, scheduler_of
from tests.reference import scheduler as twin


@pytest.fixture
def score(tmp_path: Path) -> Decide:
    scheduler, pool = scheduler_of(tmp_path / "memory", endpoints(1000), [])
    policy = Policy(by_cost=False, weights=WEIGHTS)
    return lambda: scheduler.decide(pool, policy, None, 1000, 256, NOW, dry=True)


@pytest.fixture
def score_twin() -> Decide:
    fleet, policy, random = endpoints(1000), twin.Policy(by_cost=False, weights=WEIGHTS), Random(1)

    def decide() -> int:
        decision = twin.decide(fleet, policy, 0, 1000, 256, NOW)
        return max(range(len(fleet)), key=lambda position: decision.scores[position] + 100 * random.random())

    return decide


def test_score_1000_endpoints(benchmark: Benchmark, score: Decide) -> None:
    """All scores on, no prefix. The target is 25 microseconds."""
    assert benchmark(score) is not None


def test_score_1000_endpoints_twin(benchmark: Benchmark, score_twin: Decide) -> None:
    assert benchmark(score_twin) is not None


def test_score_is_at_least_five_times_as_fast(score: Decide, score_twin: Decide) -> None:
    assert min(repeat(score_twin, number=3, repeat=5)) > 5 * min(repeat(score, number=3, repeat=5))
