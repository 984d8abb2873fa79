"""The best that a fleet could find cached: one LRU as large as all its caches together, which every request can use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class Oracle:
    """Asked when a request starts on its engine, taught when an engine has computed a block: the times are the run's own."""

    def __init__(self, capacity: int) -> None:
        """``capacity`` in blocks."""
        self._capacity = capacity
        self.taken = 0
        """Blocks of its memory that it cannot have, at present."""
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def match(self, ids: Sequence[int]) -> int:
        """How many blocks from the first it holds; they are its youngest now, the first one last."""
        count = next((at for at, one in enumerate(ids) if one not in self._blocks), len(ids))
        for one in reversed(ids[:count]):
            self._blocks.move_to_end(one)
        return count

    def computed(self, ids: Sequence[int]) -> None:
        """Blocks that an engine has now, or lets go of just now: its youngest. The oldest make room."""
        for one in reversed(ids):
            self._blocks[one] = None
            self._blocks.move_to_end(one)
        while len(self._blocks) > self._capacity - self.taken:
            self._blocks.popitem(last=False)
