"""Which endpoint holds which block of which prompt: learned at dispatch, shared by all workers, bounded in bytes.

Entries are hints: a race may cost a cache hit, never a wrong answer.
"""

from collections.abc import Mapping, Sequence
from typing import TypedDict, final, type_check_only

from _fastpath.hashing import BlockHashes
from _fastpath.shared_memory import SharedMemory

@type_check_only
class PrefixStatistics(TypedDict):
    entries: int
    capacity: int
    evictions: int

@final
class PrefixIndex:
    def __init__(self, memory: SharedMemory) -> None: ...
    def learn(self, hashes: BlockHashes, slot: int, now: float, oldest: float = 0.0) -> None:
        """The endpoint at ``slot`` holds these blocks; ``now`` in monotonic seconds. The oldest make room.

        Who was said to hold a block that was learned before ``oldest`` the last time holds it no more.
        """

    def match(self, hashes: BlockHashes, slots: Sequence[int], oldest: float = 0.0) -> list[int]:
        """How many blocks from the first each of these slots holds, in their order. ValueError for one that stands twice.

        What was not learned since ``oldest`` (monotonic seconds, whole ones) counts for nobody.

        The first 32 are looked at each; beyond them the length is found by halving, since whoever holds a block was sent all before it.
        """

    def discard(self, hashes: BlockHashes, slot: int) -> None:
        """The endpoint at ``slot`` holds these blocks no more; whoever else holds them still does."""

    def forget(self, slot: int) -> None:
        """The endpoint is gone or lost its cache. Looks through the whole table (5 ms for 64 MB), without the GIL."""

    def forget_before(self, before: Mapping[int, int]) -> int:
        """Forget of each of these slots what was last learned in that second or earlier; how many blocks that were.

        A block that neighbours hold too (64 slots share an entry) is as young as the youngest of them. Looks through the whole table, as
        :meth:`forget` does. Raises IndexError for a slot that there is not.
        """

    def clear(self) -> None:
        """Forget everything."""

    def statistics(self) -> PrefixStatistics:
        """Entries in use, places for them, and how many made room for others so far. Looks through the whole table."""
