"""Writes one engine's events into the prefix index, and counts what became of them."""

from __future__ import annotations

import logging
from collections.abc import Generator

from msgspec import Struct

from _fastpath.chain_ranks import ChainRanks
from _fastpath.hashing import Hasher
from _fastpath.kv_blocks import KVBlocks
from _fastpath.prefix_index import PrefixIndex
from _fastpath.shared_memory import SharedMemory
from controllers.network.kv_events.events import Removed, Stored
from gateway.datastore.token_seed import token_seed

MOST_BLOCKS = 1 << 21
"""Of one engine, or each of its ranks: 33 million tokens in blocks of 16; at most 128 MB."""
RELEASED_PLACES = 4096
"""Of a rank's table, between two turns of the loop."""
_MOST_SEEDS = 10_000

logger = logging.getLogger(__name__)


class Counts(Struct):
    """What became of an engine's events so far; blocks unless it says otherwise."""

    batches: int = 0
    stored: int = 0
    removed: int = 0
    orphaned: int = 0
    """Their parent is not known: the beginning of their chain was stored before this follower came."""
    other_size: int = 0
    """Of another size than the server's ``prefixCache.blockSize``."""
    left_out: int = 0
    """There was no room for them."""
    partial: int = 0
    """Of caches in which a block does not stand for all before it (sliding windows)."""
    unreadable: int = 0
    """Messages and events that could not be read."""
    unknown: int = 0
    """Events of kinds that say nothing to us."""
    cleared: int = 0
    """Times that the engine's cache was emptied."""
    gaps: int = 0
    """Times that messages were missed."""
    replayed: int = 0
    """Messages that a replay brought."""
    restarts: int = 0
    """Times that everything was forgotten and begun anew."""


class Applier:
    """One engine's blocks at its slot, or those of one of its data-parallel ranks."""

    def __init__(
        self,
        memory: SharedMemory,
        name: str,
        slot: int,
        block_tokens: int,
        counts: Counts,
        ranks: ChainRanks | None = None,
        rank: int = 0,
    ) -> None:
        """``name``: the endpoint's, for the log; ``block_tokens``: of the blocks that prompts are hashed in.

        ``ranks``: what all ranks of an engine that has several hold, of which this is ``rank``.
        """
        self._index = PrefixIndex(memory)
        self._hasher = Hasher(memory.hash_key)
        self._blocks = KVBlocks(self._index, memory.hash_key, MOST_BLOCKS, ranks, rank)
        self._is_releasing = False
        self._name = name
        self._slot = slot
        self._block_tokens = block_tokens
        self._seeds: dict[str, int] = {}
        self._partial_groups: set[int] = set()
        self._refreshed = 0
        self.counts = counts

    def __len__(self) -> int:
        return len(self._blocks)

    def store(self, event: Stored, now: float) -> None:
        """The engine holds more."""
        count, counts = len(event.names), self.counts
        if not event.is_whole or event.group in self._partial_groups:
            self._partial_groups.add(event.group)
            counts.partial += count
            return
        if event.block_tokens != self._block_tokens:
            self._complain(event.block_tokens)
            counts.other_size += count
            return
        try:
            stored = self._blocks.store(
                event.names,
                event.parent,
                event.tokens,
                event.block_tokens,
                self._seed(event.adapter),
                self._slot,
                now,
                event.extras,
                event.tier,
            )
        except KeyError:
            counts.orphaned += count
            return
        except ValueError:
            counts.unreadable += 1
            return
        counts.stored += stored
        if event.tokens:
            counts.left_out += count - stored
        else:
            counts.orphaned += count - stored

    def remove(self, event: Removed) -> None:
        """The engine holds less."""
        if event.group in self._partial_groups:
            self.counts.partial += len(event.names)
            return
        try:
            self.counts.removed += self._blocks.remove(event.names, self._slot, event.tier)
        except ValueError:
            self.counts.unreadable += 1

    def release(self) -> Generator[None, None, None]:
        """Forget what this rank holds, and let the index forget what no other rank does: a piece each time that it is asked on."""
        self._is_releasing = True
        try:
            place = self._blocks.release(self._slot, 0, RELEASED_PLACES)
            while place:
                yield
                place = self._blocks.release(self._slot, place, RELEASED_PLACES)
            self.clear()  # not of one that was given up midway: what is left of it is released when it is forgotten again
        finally:
            self._is_releasing = False

    def clear(self) -> None:
        """The engine holds nothing that is known. :meth:`forget_slot` goes with it."""
        self._blocks.clear()
        self._refreshed = 0

    def forget_slot(self) -> None:
        """Let the index forget the slot: looks through all of it (5 ms for 64 MB) without the GIL. The only method for another thread."""
        self._index.forget(self._slot)

    def refresh(self, now: float, share: float) -> None:
        """Learn this share of the blocks again: in a full index what was learned longest ago makes room."""
        if self._is_releasing:
            return
        self._refreshed = self._blocks.refresh(
            self._slot, now, self._refreshed, max(256, int(self._blocks.places * share))
        )

    def _seed(self, adapter: str) -> int:
        seed = self._seeds.get(adapter)
        if seed is None:
            if len(self._seeds) >= _MOST_SEEDS:
                self._seeds.clear()
            seed = self._seeds[adapter] = token_seed(self._hasher, adapter)
        return seed

    def _complain(self, size: int) -> None:
        """Once, and not of the odd event of an engine whose blocks fit otherwise."""
        if self.counts.other_size == 0 and self.counts.stored == 0:
            logger.warning(
                "endpoint %s stores blocks of %d tokens, prompts are matched by %d: set prefixCache.blockSize to %d",
                self._name,
                size,
                self._block_tokens,
                size,
            )
