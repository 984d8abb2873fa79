"""A paged KV cache with prefix reuse: full blocks are kept by their chained hash until their room is needed, oldest first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

HASH_MASK = (1 << 64) - 1
ROOT_HASH = 0


@dataclass(frozen=True, slots=True)
class Stored:
    """Blocks that can be reused from now on: a chain that continues ``parent`` (None: from the start)."""

    hashes: tuple[int, ...]
    parent: int | None
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Removed:
    """Blocks that made room."""

    hashes: tuple[int, ...]


CacheEvent = Stored | Removed


def block_hashes(tokens: Sequence[int], block_size: int, salt: str = "") -> tuple[int, ...]:
    """Chained hashes of the full blocks of a token sequence; those of one ``salt`` (``cache_salt``) meet those of no other."""
    chain = hash((ROOT_HASH, salt)) & HASH_MASK if salt else ROOT_HASH
    found = []
    for at in range(0, len(tokens) - block_size + 1, block_size):
        chain = hash((chain, tuple(tokens[at : at + block_size]))) & HASH_MASK
        found.append(chain)
    return tuple(found)


@dataclass(slots=True)
class KVCache:
    """Counts blocks; nothing is stored in them. A block in use by several requests counts once."""

    capacity: int
    block_size: int = 16
    events: list[CacheEvent] | None = None
    """Filled with what happens when it is a list."""
    _in_use: dict[int, int] = field(default_factory=dict)
    _reusable: OrderedDict[int, None] = field(default_factory=OrderedDict)
    _private: int = 0
    """Blocks in use that have no hash yet: not full, or not computed."""

    @property
    def used(self) -> int:
        """Blocks that running requests hold."""
        return len(self._in_use) + self._private

    @property
    def private(self) -> int:
        """Blocks that running requests hold and nobody can share: not full, or not computed."""
        return self._private

    @property
    def free(self) -> int:
        """Blocks that could be had, reusable ones included."""
        return self.capacity - self.used

    @property
    def usage(self) -> float:
        """Share in use, 0 to 1."""
        return self.used / self.capacity

    def match(self, hashes: Sequence[int]) -> int:
        """How many blocks from the first are there."""
        for count, one in enumerate(hashes):
            if one not in self._in_use and one not in self._reusable:
                return count
        return len(hashes)

    def hold(self, hashes: Sequence[int]) -> None:
        """Take cached blocks into use for one more request."""
        for one in hashes:
            self._reusable.pop(one, None)
            self._in_use[one] = self._in_use.get(one, 0) + 1

    def take(self, count: int) -> bool:
        """Take blocks for new tokens, evicting the oldest reusable ones; False when there are not enough."""
        if count > self.free:
            return False
        self._private += count
        self._evict()
        return True

    def fill(self, hashes: Sequence[int], parent: int | None, tokens: Sequence[int]) -> None:
        """Blocks that were taken are computed and full: others can reuse them."""
        run: list[int] = []
        run_parent = parent
        for position, one in enumerate(hashes):
            self._private -= 1
            if one in self._in_use or one in self._reusable:
                self._record(run, run_parent, tokens, position)
                run, run_parent = [], one
            else:
                run.append(one)
            self._reusable.pop(one, None)
            self._in_use[one] = self._in_use.get(one, 0) + 1
        self._record(run, run_parent, tokens, len(hashes))

    def _record(self, run: Sequence[int], parent: int | None, tokens: Sequence[int], end: int) -> None:
        """An event for a run of new blocks that ends before block ``end`` of those that ``tokens`` fill."""
        if run and self.events is not None:
            first = (end - len(run)) * self.block_size
            self.events.append(Stored(tuple(run), parent, tuple(tokens[first : end * self.block_size])))

    def release(self, hashes: Sequence[int], private: int) -> None:
        """A request is over: its full blocks stay reusable, last first out, the others are gone."""
        self._private -= private
        for one in reversed(hashes):
            count = self._in_use[one] - 1
            if count:
                self._in_use[one] = count
            else:
                del self._in_use[one]
                self._reusable[one] = None

    def _evict(self) -> None:
        removed = []
        while self.used + len(self._reusable) > self.capacity:
            removed.append(self._reusable.popitem(last=False)[0])
        if removed and self.events is not None:
            self.events.append(Removed(tuple(removed)))
