"""What the health of endpoints costs a request beside its plain-Python twin: one outcome, and one look."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from _fastpath import health as compiled_health
from _fastpath import slots as compiled_slots
from _fastpath.shared_memory import SharedMemory
from bench.micro.ratio import times_faster
from tests.reference import health as reference_health
from tests.reference import shared_memory as reference_memory
from tests.reference import slots as reference_slots

NOW = 1000.0
SERVED, FAILED = (compiled_health.OUTCOMES.index(word) for word in ("served", "failed"))

pytestmark = pytest.mark.benchmark(max_time=0.5)


class Side(NamedTuple):
    """One implementation, an endpoint, and rules."""

    health: Any
    endpoint: tuple[int, int]
    outlier: Any


def make_side(slots_module: Any, health_module: Any, memory: Any) -> Side:
    endpoint = slots_module.Slots(memory).acquire(0, 2)
    health = health_module.Health(memory, 0)
    health.begin(*endpoint, NOW)
    return Side(health, endpoint, health_module.Outlier(failures=2))


@pytest.fixture
def compiled(tmp_path: Path) -> Side:
    memory = SharedMemory.create(str(tmp_path / "memory"), workers=2, slots=64, prefix_bytes=192)
    return make_side(compiled_slots, compiled_health, memory)


@pytest.fixture
def plain() -> Side:
    return make_side(reference_slots, reference_health, reference_memory.SharedMemory(workers=2, slots=64))


def served(side: Side) -> None:
    """What happens to nearly every request."""
    health, (slot, generation), outlier = side
    health.note(slot, generation, outlier, SERVED, NOW, NOW)


def failed_and_served(side: Side) -> None:
    """Two changes of the word."""
    health, (slot, generation), outlier = side
    health.note(slot, generation, outlier, FAILED, NOW, NOW)
    health.note(slot, generation, outlier, SERVED, NOW, NOW)


def test_note_an_answer(benchmark: Callable[..., Any], compiled: Side) -> None:
    benchmark(served, compiled)
    assert compiled.health.read(*compiled.endpoint, compiled.outlier, NOW)["failures"] == 0


def test_note_an_answer_twin(benchmark: Callable[..., Any], plain: Side) -> None:
    benchmark(served, plain)


def test_note_a_failure_and_an_answer(benchmark: Callable[..., Any], compiled: Side) -> None:
    benchmark(failed_and_served, compiled)
    assert compiled.health.read(*compiled.endpoint, compiled.outlier, NOW)["ejections"] == 0


def test_note_a_failure_and_an_answer_twin(benchmark: Callable[..., Any], plain: Side) -> None:
    benchmark(failed_and_served, plain)


def test_an_answer_is_noted_3_times_faster_than_by_its_twin(compiled: Side, plain: Side) -> None:
    assert times_faster(lambda: served(compiled), lambda: served(plain)) > 3
