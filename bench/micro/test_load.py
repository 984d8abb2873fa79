"""The load of one request, charged and released, beside its plain-Python twin."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from _fastpath import load as compiled_load
from _fastpath import slots as compiled_slots
from _fastpath.shared_memory import SharedMemory
from bench.micro.ratio import times_faster
from tests.reference import load as reference_load
from tests.reference import shared_memory as reference_memory
from tests.reference import slots as reference_slots

WORKERS = 8
ENDPOINTS = 64

pytestmark = pytest.mark.benchmark(max_time=0.5)


class Side(NamedTuple):
    """One implementation: a worker's load, and the slot and generation of an endpoint that all workers have charged."""

    load: Any
    endpoint: tuple[int, int]


def make_side(slots_module: Any, load_module: Any, memory: Any) -> Side:
    slots = slots_module.Slots(memory)
    endpoint = [slots.acquire(0, 2 * identity) for identity in range(1, ENDPOINTS + 1)][-1]
    for worker in range(WORKERS):
        load_module.Load(memory, worker).charge(*endpoint, 100, 10)
    return Side(load_module.Load(memory, 0), endpoint)


@pytest.fixture
def compiled(tmp_path: Path) -> Side:
    memory = SharedMemory.create(str(tmp_path / "memory"), workers=WORKERS, slots=ENDPOINTS, prefix_bytes=192)
    return make_side(compiled_slots, compiled_load, memory)


@pytest.fixture
def plain() -> Side:
    return make_side(reference_slots, reference_load, reference_memory.SharedMemory(workers=WORKERS, slots=ENDPOINTS))


def one_request(side: Side) -> None:
    """What happens to every request: charged, first token, released."""
    load, (slot, generation) = side
    load.charge(slot, generation, 1000, 200)
    load.first_token(slot, generation, 1000)
    load.release(slot, generation, 0, 200)


def test_charge_and_release(benchmark: Callable[..., Any], compiled: Side) -> None:
    benchmark(one_request, compiled)
    assert compiled.load.read(*compiled.endpoint) == (WORKERS, 100 * WORKERS, 10 * WORKERS)


def test_charge_and_release_twin(benchmark: Callable[..., Any], plain: Side) -> None:
    benchmark(one_request, plain)
    assert plain.load.read(*plain.endpoint) == (WORKERS, 100 * WORKERS, 10 * WORKERS)


def test_read_load_of_8_workers(benchmark: Callable[..., Any], compiled: Side) -> None:
    assert benchmark(compiled.load.read, *compiled.endpoint)[0] == WORKERS


def test_read_load_of_8_workers_twin(benchmark: Callable[..., Any], plain: Side) -> None:
    assert benchmark(plain.load.read, *plain.endpoint)[0] == WORKERS


def test_load_is_charged_2_times_faster_than_by_its_twin(compiled: Side, plain: Side) -> None:
    assert times_faster(lambda: one_request(compiled), lambda: one_request(plain)) > 2


def test_load_is_read_5_times_faster_than_by_its_twin(compiled: Side, plain: Side) -> None:
    ratio = times_faster(lambda: compiled.load.read(*compiled.endpoint), lambda: plain.load.read(*plain.endpoint))
    assert ratio > 5
