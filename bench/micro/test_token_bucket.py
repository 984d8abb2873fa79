"""Reserving tokens, beside its plain-Python twin. Target: one reservation in less than 200 ns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from _fastpath import token_bucket as compiled_module
from _fastpath.shared_memory import SharedMemory
from bench.micro.ratio import times_faster
from tests.reference import shared_memory as reference_memory
from tests.reference import token_bucket as reference

NOW = 10**15
# so large that no benchmark empties it: a refusal does not do the work of an admission
LIMITS = (10**9, 1, 10**17)

pytestmark = pytest.mark.benchmark(max_time=0.5)


class Side(NamedTuple):
    """What one implementation needs for a request that is held to three limits."""

    buckets: Any
    bucket: int
    journal: Any
    limits: Any


def make_side(module: Any, memory: Any) -> Side:
    buckets = module.TokenBuckets(memory)
    identities = (1000, 2000, 3000)
    indexes = [buckets.open(identity, NOW) for identity in identities]
    for index in indexes:
        buckets.configure(index, 1, *LIMITS, NOW)
    limits = module.LimitSet(list(zip(indexes, identities, ("input", "output", "requests"), strict=True)))
    return Side(buckets, indexes[0], module.Journal(memory, 0), limits)


@pytest.fixture
def compiled(tmp_path: Path) -> Side:
    return make_side(compiled_module, SharedMemory.create(str(tmp_path / "memory"), workers=1, prefix_bytes=192))


@pytest.fixture
def plain() -> Side:
    return make_side(reference, reference_memory.SharedMemory(workers=1, buckets=4096, journal_records=4096))


def one_request(side: Side) -> None:
    """What happens to every request: taken, then settled."""
    handle = side.journal.take(side.limits, 1000, 200, NOW)
    side.journal.settle(side.limits, handle, 990, 150, NOW)


def test_reserve_tokens(benchmark: Callable[..., Any], compiled: Side) -> None:
    assert benchmark(compiled.buckets.reserve, compiled.bucket, 100, NOW) == 0.0


def test_reserve_tokens_twin(benchmark: Callable[..., Any], plain: Side) -> None:
    assert benchmark(plain.buckets.reserve, plain.bucket, 100, NOW) == 0.0


def test_take_and_settle_three_limits(benchmark: Callable[..., Any], compiled: Side) -> None:
    benchmark(one_request, compiled)
    assert compiled.journal.in_use == 0


def test_take_and_settle_three_limits_twin(benchmark: Callable[..., Any], plain: Side) -> None:
    benchmark(one_request, plain)
    assert plain.journal.in_use == 0


def test_requests_are_settled_5_times_faster_than_by_their_twin(compiled: Side, plain: Side) -> None:
    assert times_faster(lambda: one_request(compiled), lambda: one_request(plain)) > 5


def test_reserving_is_5_times_faster_than_its_twin(compiled: Side, plain: Side) -> None:
    ratio = times_faster(
        lambda: compiled.buckets.reserve(compiled.bucket, 100, NOW),
        lambda: plain.buckets.reserve(plain.bucket, 100, NOW),
    )
    assert ratio > 5
