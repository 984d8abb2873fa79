"""What is known of each of many endpoints, and the filters, beside the plain-Python twin: none of them has the role that is asked for."""

from pathlib import Path

import pytest

from _fastpath.policy import Policy
from bench.micro.fleets import NOW, Benchmark, Decide, endpoints, scheduler_of
from tests.reference import scheduler as twin


@pytest.fixture
def look(tmp_path: Path) -> Decide:
    scheduler, pool = scheduler_of(tmp_path / "memory", endpoints(1000), [])
    policy = Policy()
    return lambda: scheduler.decide(pool, policy, None, 1000, 256, NOW, 2, dry=True)


def test_look_at_1000_endpoints(benchmark: Benchmark, look: Decide) -> None:
    assert benchmark(look) is None


def test_look_at_1000_endpoints_twin(benchmark: Benchmark) -> None:
    fleet, policy = endpoints(1000), twin.Policy()
    assert len(benchmark(lambda: twin.look(fleet, policy, NOW, 2))) == 1000
