"""What one engine says it holds, by its own names of blocks: kept so that the prefix index says the same.

An engine's events name blocks by hashes that only it can make; with their tokens they become our chained hashes, those that
:meth:`_fastpath.hashing.Hasher.hash_tokens` makes of a prompt with the same seed.
"""

from collections.abc import Sequence
from typing import final

from _fastpath.chain_ranks import ChainRanks
from _fastpath.prefix_index import PrefixIndex

@final
class KVBlocks:
    limit: int
    """Most blocks that are kept; 32 bytes each and at most as much again."""
    places: int
    """Places of the table, 32 bytes each."""
    def __init__(
        self,
        index: PrefixIndex,
        key: tuple[int, int],
        limit: int = 1 << 21,
        ranks: ChainRanks | None = None,
        rank: int = 0,
    ) -> None:
        """``key``: the hash key of the shared memory that ``index`` lies in. ``ranks``: shared by all ranks of an engine that has several,
        of which this is ``rank``: what another one holds stays in the index. Raises ValueError for a rank that is none.
        """

    def store(
        self,
        names: list[object],
        parent: object,
        tokens: list[object],
        block_tokens: int,
        seed: int,
        slot: int,
        now: float,
        extras: Sequence[bytes | None] | None = None,
        tier: int = 1,
    ) -> int:
        """The engine holds these blocks, a chain that continues the block ``parent`` (None: from ``seed`` on).

        ``names`` and ``parent`` are whole numbers or bytes; ``tokens`` fill all blocks, or are none when the engine names blocks that
        it told of before. ``extras``: what besides its tokens a block depends on. ``tier``: the bit of the memory that holds them.
        Returns how many blocks are known from now on; fewer than there are when the limit is reached. Raises KeyError for a parent
        that is not known, ValueError for what is no event.
        """

    def remove(self, names: list[object], slot: int, tier: int = 1) -> int:
        """This memory of the engine holds these blocks no more. Returns how many of them were known. Raises ValueError.

        What a block was stored twice for is gone with one removal: engines also tell of blocks that they found again.
        """

    def refresh(self, slot: int, now: float, first: int, places: int) -> int:
        """Learn again what stands at these places of the table, so that the index does not take it for old.

        Returns the place to go on from, 0 after the last.
        """

    def release(self, slot: int, first: int, places: int) -> int:
        """Let the index forget what stands at these places of the table, unless another rank holds it. :meth:`clear` comes after the last.

        Returns the place to go on from, 0 after the last. In between nothing may be stored, removed or refreshed.
        """

    def clear(self) -> None:
        """Forget all blocks, here alone: the caller lets the index forget the slot, or has released them."""

    def __len__(self) -> int: ...
