"""The heartbeat of a worker, beside its plain-Python twin."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from _fastpath.shared_memory import SharedMemory
from bench.micro.ratio import times_faster
from tests.reference import shared_memory as reference

pytestmark = pytest.mark.benchmark(max_time=0.5)


@pytest.fixture
def compiled(tmp_path: Path) -> SharedMemory:
    return SharedMemory.create(str(tmp_path / "memory"), workers=4, prefix_bytes=192)


@pytest.fixture
def plain() -> reference.SharedMemory:
    return reference.SharedMemory(workers=4)


def test_beat(benchmark: Callable[..., Any], compiled: SharedMemory) -> None:
    benchmark(compiled.beat, 3, 1, 2, 3, 4)
    assert compiled.read_row(3)["loop_lag"] == 4


def test_beat_twin(benchmark: Callable[..., Any], plain: reference.SharedMemory) -> None:
    benchmark(plain.beat, 3, 1, 2, 3, 4)
    assert plain.read_row(3)["loop_lag"] == 4


def test_is_current(benchmark: Callable[..., Any], compiled: SharedMemory) -> None:
    assert benchmark(compiled.is_current)


def test_a_beat_is_faster_than_its_twin(compiled: SharedMemory, plain: reference.SharedMemory) -> None:
    # five numbers cost more to hand over than to write
    assert times_faster(lambda: compiled.beat(3, 1, 2, 3, 4), lambda: plain.beat(3, 1, 2, 3, 4)) > 1
