"""Twin of ``_fastpath.adapters``: a dict of rows."""

from collections.abc import Iterable
from dataclasses import dataclass

from tests.reference.shared_memory import SharedMemory
from tests.reference.slots import Slots

ADAPTERS_OF_ROW = 30


@dataclass(frozen=True)
class Row:
    """What one scrape said."""

    generation: int
    capacity: int
    busy: int
    loaded: tuple[int, ...]
    waited_for: tuple[int, ...]


def name_of(word: int) -> int:
    """What is kept of 64 bits: all but the lowest, and never nothing."""
    return max(word & ~1, 2)


class Adapters:
    def __init__(self, memory: SharedMemory) -> None:
        self._capacity = memory.slots
        self._slots = Slots(memory)
        self._rows: dict[int, Row] = memory.part("adapters", dict)

    def _check(self, slot: int) -> None:
        if slot >= self._capacity:
            raise IndexError

    def write(
        self,
        slot: int,
        generation: int,
        capacity: int,
        busy: int,
        loaded: Iterable[int],
        waited_for: Iterable[int] = (),
    ) -> bool:
        self._check(slot)
        if not self._slots.is_live(slot, generation):
            return False
        first = [name_of(word) for word in loaded][:ADAPTERS_OF_ROW]
        second = [name_of(word) for word in waited_for][: ADAPTERS_OF_ROW - len(first)]
        self._rows[slot] = Row(generation, capacity, busy, tuple(first), tuple(second))
        return True

    def read(self, slot: int, generation: int) -> dict | None:
        self._check(slot)
        row = self._rows.get(slot)
        if row is None or row.generation != generation or row.capacity == 0:
            return None
        return {
            "capacity": row.capacity,
            "busy": row.busy,
            "loaded": set(row.loaded),
            "waited_for": set(row.waited_for),
        }

    def affinity_of(self, slot: int, generation: int, adapter: int) -> str:
        self._check(slot)
        row = self._rows.get(slot)
        if row is None or row.generation != generation or row.capacity == 0:
            return "untold"
        for names, affinity in ((row.loaded, "loaded"), (row.waited_for, "queued")):
            if name_of(adapter) in names:
                return affinity
        return "room" if row.busy < row.capacity else "taken"
