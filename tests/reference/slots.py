"""Twin of ``_fastpath.slots``: identities in a list, and for each slot the set of rows that name it."""

from tests.reference.hashing import Hasher
from tests.reference.shared_memory import SharedMemory


class SlotsFull(Exception):
    """More endpoints than there are slots."""


def identity_word(identity: int) -> int:
    """What is kept of an identity: its low bit is the table's own, and 0 means free."""
    return identity & ~1 or 2


def endpoint_identity(text: str) -> int:
    """A hash under a key that everybody knows."""
    return Hasher((int.from_bytes(b"Penstock"), int.from_bytes(b"slots!"))).seed(text)


class SlotTable:
    """The part of the memory that all :class:`Slots` share."""

    def __init__(self, capacity: int) -> None:
        self.identities: list[int | None] = [None] * capacity
        self.generations = [0] * capacity
        self.named_by: list[set[int]] = [set() for _ in range(capacity)]


class Slots:
    def __init__(self, memory: SharedMemory) -> None:
        self._rows = memory.workers + 1
        self._table = memory.part("slots", lambda: SlotTable(memory.slots))

    def _check(self, row: int, slot: int = 0) -> None:
        if row >= self._rows or slot >= len(self._table.identities):
            raise IndexError

    def acquire(self, row: int, identity: int) -> tuple[int, int]:
        self._check(row)
        word = identity_word(identity)
        if word in self._table.identities:
            slot = self._table.identities.index(word)
        elif None in self._table.identities:
            slot = self._table.identities.index(None)
        else:
            raise SlotsFull
        self._table.identities[slot] = word
        self._table.named_by[slot].add(row)
        return slot, self._table.generations[slot]

    def find(self, identity: int) -> tuple[int, int] | None:
        word = identity_word(identity)
        if word not in self._table.identities:
            return None
        slot = self._table.identities.index(word)
        return slot, self._table.generations[slot]

    def drop(self, row: int, slot: int) -> None:
        self._check(row, slot)
        self._table.named_by[slot].discard(row)

    def drop_row(self, row: int) -> None:
        self._check(row)
        for rows in self._table.named_by:
            rows.discard(row)

    def is_live(self, slot: int, generation: int) -> bool:
        return slot < len(self._table.generations) and self._table.generations[slot] == generation

    def sweep(self) -> list[int]:
        freed = [
            slot
            for slot, identity in enumerate(self._table.identities)
            if identity is not None and not self._table.named_by[slot]
        ]
        for slot in freed:
            self._table.identities[slot] = None
            self._table.generations[slot] += 2  # odd generations are slots that are being freed
        return freed

    @property
    def in_use(self) -> int:
        return sum(identity is not None for identity in self._table.identities)
