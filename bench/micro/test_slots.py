"""Acquiring the slots of a snapshot, beside their plain-Python twin."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots
from bench.micro.ratio import times_faster
from tests.reference import shared_memory as reference_memory
from tests.reference import slots as reference

ENDPOINTS = 1024
RANDOM = Random(1)
IDENTITIES = [RANDOM.getrandbits(64) for _ in range(ENDPOINTS)]

pytestmark = pytest.mark.benchmark(max_time=0.5)


@pytest.fixture
def compiled(tmp_path: Path) -> Slots:
    memory = SharedMemory.create(str(tmp_path / "memory"), workers=1, slots=ENDPOINTS, prefix_bytes=192)
    return Slots(memory)


@pytest.fixture
def plain() -> reference.Slots:
    return reference.Slots(reference_memory.SharedMemory(workers=1, slots=ENDPOINTS))


def acquire_all(slots: Slots | reference.Slots) -> None:
    """What a worker does with every snapshot."""
    for identity in IDENTITIES:
        slots.acquire(0, identity)


def test_acquire_1024_endpoints(benchmark: Callable[..., Any], compiled: Slots) -> None:
    benchmark(acquire_all, compiled)
    assert compiled.in_use == ENDPOINTS


def test_acquire_1024_endpoints_twin(benchmark: Callable[..., Any], plain: reference.Slots) -> None:
    benchmark(acquire_all, plain)
    assert plain.in_use == ENDPOINTS


def test_sweep_1024_endpoints(benchmark: Callable[..., Any], compiled: Slots) -> None:
    acquire_all(compiled)
    assert benchmark(compiled.sweep) == []


def test_sweep_1024_endpoints_twin(benchmark: Callable[..., Any], plain: reference.Slots) -> None:
    acquire_all(plain)
    assert benchmark(plain.sweep) == []


def test_slots_are_acquired_5_times_faster_than_by_their_twin(compiled: Slots, plain: reference.Slots) -> None:
    assert times_faster(lambda: acquire_all(compiled), lambda: acquire_all(plain)) > 5
