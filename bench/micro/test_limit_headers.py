"""Writing the rate-limit headers of an answer, beside the plain-Python twin."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from _fastpath import token_bucket as compiled_module
from _fastpath.limit_headers import limit_headers
from _fastpath.shared_memory import SharedMemory
from bench.micro.ratio import times_faster
from bench.micro.test_token_bucket import NOW, make_side
from tests.reference import shared_memory as reference_memory
from tests.reference import token_bucket as reference
from tests.reference.limit_headers import limit_headers as plain_headers

Headers = Callable[[], Sequence[tuple[str, str]]]

pytestmark = pytest.mark.benchmark(max_time=0.5)


@pytest.fixture
def compiled(tmp_path: Path) -> Headers:
    side = make_side(compiled_module, SharedMemory.create(str(tmp_path / "memory"), workers=1, prefix_bytes=192))
    return lambda: limit_headers(side.buckets, side.limits, NOW)


@pytest.fixture
def plain() -> Headers:
    side = make_side(reference, reference_memory.SharedMemory(workers=1, buckets=4096, journal_records=4096))
    return lambda: plain_headers(side.buckets, side.limits, NOW)


def test_limit_headers(benchmark: Callable[..., Any], compiled: Headers) -> None:
    assert len(benchmark(compiled)) == 6


def test_limit_headers_twin(benchmark: Callable[..., Any], plain: Headers) -> None:
    assert len(benchmark(plain)) == 6


def test_limit_headers_are_at_least_four_times_as_fast(compiled: Headers, plain: Headers) -> None:
    assert times_faster(compiled, plain) > 4
