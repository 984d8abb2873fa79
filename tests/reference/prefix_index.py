"""Twin of ``_fastpath.prefix_index``: which slots hold which hash, without a bound."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

from tests.reference.shared_memory import SharedMemory

LOOKED_AT_EACH = 32


class PrefixIndex:
    def __init__(self, memory: SharedMemory) -> None:
        self._slots = memory.slots
        self._learned: dict[tuple[int, int], int] = memory.part("learned", dict)
        self._holders: defaultdict[int, set[int]] = memory.part("prefixes", lambda: defaultdict(set))

    def _check(self, slot: int) -> None:
        if slot >= self._slots:
            raise IndexError

    def learn(self, hashes: Iterable[int], slot: int, now: float, oldest: float = 0) -> None:
        self._check(slot)
        for value in hashes:
            if self._learned.get((value, slot // 64), 0) < int(oldest):
                self._holders[value] -= {holder for holder in self._holders[value] if holder // 64 == slot // 64}
            self._holders[value].add(slot)
            self._learned[value, slot // 64] = int(now)

    def match(self, hashes: Iterable[int], slots: Sequence[int], oldest: float = 0) -> list[int]:
        holders = [
            {slot for slot in self._holders.get(value, set()) if self._learned[value, slot // 64] >= int(oldest)}
            for value in hashes
        ]
        for slot in slots:
            self._check(slot)
        if len(set(slots)) < len(slots):
            raise ValueError
        return [_length([slot in held for held in holders]) for slot in slots]

    def forget(self, slot: int) -> None:
        self._check(slot)
        for held in self._holders.values():
            held.discard(slot)

    def discard(self, hashes: Iterable[int], slot: int) -> None:
        self._check(slot)
        for value in hashes:
            self._holders[value].discard(slot)

    def forget_before(self, before: Mapping[int, int]) -> int:
        for slot in before:
            self._check(slot)
        gone = [
            (value, slot)
            for value, held in self._holders.items()
            for slot in held
            if self._learned[value, slot // 64] <= before.get(slot, -1)
        ]
        for value, slot in gone:
            self._holders[value].discard(slot)
        return len(gone)

    def clear(self) -> None:
        self._holders.clear()

    @property
    def entries(self) -> int:
        """Places that the compiled index needs: one for each hash and page of 64 slots that hold it."""
        return sum(len({slot // 64 for slot in held}) for held in self._holders.values())


def _length(held: list[bool]) -> int:
    each = len(list(takewhile(bool, held[:LOOKED_AT_EACH])))
    if each < LOOKED_AT_EACH:
        return each
    low, high = each, len(held)
    while low < high:
        middle = (low + high + 1) // 2
        if held[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
