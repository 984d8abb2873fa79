"""The affinity of an engine to an adapter, beside its plain-Python twin."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from _fastpath import adapters as compiled_adapters
from _fastpath import slots as compiled_slots
from _fastpath.shared_memory import SharedMemory
from bench.micro.ratio import times_faster
from tests.reference import adapters as reference_adapters
from tests.reference import shared_memory as reference_memory
from tests.reference import slots as reference_slots

NAMES = range(2, 34, 2)
ASKED = NAMES[-1]

pytestmark = pytest.mark.benchmark(max_time=0.5)


def make(slots_module: Any, adapters_module: Any, memory: Any) -> Callable[[], str]:
    name = slots_module.Slots(memory).acquire(0, 2)
    adapters = adapters_module.Adapters(memory)
    assert adapters.write(*name, 16, 16, NAMES)
    return lambda: adapters.affinity_of(*name, ASKED)


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[[], str]:
    memory = SharedMemory.create(str(tmp_path / "memory"), workers=1, slots=64, prefix_bytes=192)
    return make(compiled_slots, compiled_adapters, memory)


@pytest.fixture
def plain() -> Callable[[], str]:
    return make(reference_slots, reference_adapters, reference_memory.SharedMemory(workers=1))


def test_affinity_of_16_adapters(benchmark: Callable[..., Any], compiled: Callable[[], str]) -> None:
    assert benchmark(compiled) == "loaded"


def test_affinity_of_16_adapters_twin(benchmark: Callable[..., Any], plain: Callable[[], str]) -> None:
    assert benchmark(plain) == "loaded"


def test_affinity_is_at_least_twice_as_fast(compiled: Callable[[], str], plain: Callable[[], str]) -> None:
    assert times_faster(compiled, plain) > 2
