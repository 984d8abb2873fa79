"""Follows every data-parallel rank of one endpoint: a block is held as long as any rank holds it."""

from __future__ import annotations

import asyncio
from typing import Any

import zmq.asyncio

from _fastpath.chain_ranks import ChainRanks
from _fastpath.prefix_index import PrefixIndex
from _fastpath.shared_memory import SharedMemory
from controllers.network.kv_events.follower import Follower, Target


class RankFollowers:
    """The followers of one endpoint, one a rank. They begin and end together."""

    def __init__(self, context: zmq.asyncio.Context, target: Target, memory: SharedMemory, slot: int) -> None:
        """``slot``: the endpoint's, which the caller has acquired."""
        self._index = PrefixIndex(memory)
        self._slot = slot
        ranks = ChainRanks() if target.ranks > 1 else None
        self._followers = [
            Follower(context, target.of_rank(rank), memory, slot, ranks=ranks, rank=rank)
            for rank in range(target.ranks)
        ]

    def reports(self) -> list[dict[str, Any]]:
        """How each rank stands."""
        return [one.report() for one in self._followers]

    async def run(self) -> None:
        """Follow all of them until cancelled."""
        if len(self._followers) > 1:  # a rank forgets what it said itself: what was known before is forgotten here
            await asyncio.to_thread(self._index.forget, self._slot)
        async with asyncio.TaskGroup() as group:
            for one in self._followers:
                group.create_task(one.run())
