"""Making a pool, and what it tells of a decision."""

from pathlib import Path

from _fastpath.policy import Policy
from _fastpath.pool import Pool
from bench.micro.fleets import NOW, Benchmark, endpoints, scheduler_of


def test_make_a_pool_of_256(benchmark: Benchmark) -> None:
    parts = [(slot, 0, 1, 0) for slot in range(256)]
    assert len(benchmark(lambda: Pool(parts))) == 256


def test_explain_a_pool_of_256(benchmark: Benchmark, tmp_path: Path) -> None:
    scheduler, pool = scheduler_of(tmp_path / "memory", endpoints(256), [])
    scheduler.decide(pool, Policy(), None, 1000, 256, NOW, dry=True)
    assert len(benchmark(pool.explain)) == 256
