"""The slots that this process's snapshot names, each acquired once and dropped when the last object that uses it is gone."""

from __future__ import annotations

from msgspec import Struct

from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots, endpoint_identity


class Slot(Struct, frozen=True, gc=False):
    """Where everything that is measured about an endpoint lies."""

    index: int
    generation: int


class SlotBook:
    """Identity → slot, counted: an endpoint may belong to several servers, and a changed one is acquired before the old is dropped."""

    def __init__(self, memory: SharedMemory, row: int) -> None:
        self._slots = Slots(memory)
        self._row = row
        self._held: dict[str, tuple[Slot, int]] = {}

    def acquire(self, identity: str) -> Slot:
        """The slot of an endpoint. Raises SlotsFull."""
        held = self._held.get(identity)
        if held is not None:
            slot, count = held
        else:
            slot, count = Slot(*self._slots.acquire(self._row, endpoint_identity(identity))), 0
        self._held[identity] = (slot, count + 1)
        return slot

    def drop(self, identity: str) -> None:
        """One object less that uses the slot."""
        slot, count = self._held.pop(identity)
        if count > 1:
            self._held[identity] = (slot, count - 1)
        else:
            self._slots.drop(self._row, slot.index)
