"""The cost of each of many endpoints, without a prefix, beside the plain-Python twin."""

from pathlib import Path

import pytest

from _fastpath.policy import Policy
from bench.micro.fleets import GATEWAY, NOW, Benchmark, Decide, endpoints, scheduler_of
from tests.reference import scheduler as twin


@pytest.fixture
def score(tmp_path: Path) -> Decide:
    scheduler, pool = scheduler_of(tmp_path / "memory", endpoints(1000), [])
    policy = Policy()
    return lambda: scheduler.decide(pool, policy, None, 1000, 256, NOW, dry=True)


@pytest.fixture
def score_twin() -> Decide:
    fleet, policy = endpoints(1000), twin.Policy()
    return lambda: min(twin.decide(fleet, policy, 0, 1000, 256, NOW, gateway=GATEWAY).best)


def test_both_cost_the_same(score: Decide, score_twin: Decide) -> None:
    assert score()[0] == score_twin()


def test_cost_of_1000_endpoints(benchmark: Benchmark, score: Decide) -> None:
    assert benchmark(score) is not None


def test_cost_of_1000_endpoints_twin(benchmark: Benchmark, score_twin: Decide) -> None:
    assert benchmark(score_twin) is not None
