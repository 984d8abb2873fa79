"""Which data-parallel ranks of one engine hold a block, by our chained hash: what one of them gives away, another may hold still."""

from typing import final

@final
class ChainRanks:
    """Of one engine, shared by the :class:`_fastpath.kv_blocks.KVBlocks` of its ranks; 16 bytes a block and at most as much again.

    Not for use from two threads at once.
    """

    def __init__(self) -> None: ...
    def add(self, chain: int, rank: int) -> None:
        """A rank, 0 to 63, holds the block. Raises ValueError for another rank."""

    def drop(self, chain: int, rank: int) -> bool:
        """A rank holds it no more: whether now none does. Raises ValueError for a rank that is none."""

    def ranks(self, chain: int) -> int:
        """A bit for each rank that holds it."""

    def __len__(self) -> int:
        """Blocks that any rank holds."""
