"""A follower for each endpoint whose server matches prompts by token."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

import zmq.asyncio

from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots, SlotsFull, endpoint_identity
from controllers.network.desired import DesiredState
from controllers.network.kv_events.follower import Target
from controllers.network.kv_events.ranks import RankFollowers
from gateway.datastore.model import Endpoint

LOOK_SECONDS = 0.2

Attached = tuple[SharedMemory, Slots]

logger = logging.getLogger(__name__)


def targets(desired: DesiredState) -> dict[str, Target]:
    """What there is to follow, by the endpoint's identity: an engine that several servers list is followed once."""
    found: dict[str, Target] = {}
    if not any(server.prefix_cache.mode == "tokens" for server in desired.servers.values()):
        return found  # there may be thousands of endpoints, and this is asked often
    for endpoint in desired.endpoints.values():
        server = desired.servers.get(endpoint.server)
        if server is not None and server.prefix_cache.mode == "tokens" and endpoint.events_port:
            found.setdefault(endpoint.identity, _target(endpoint, server.prefix_cache.block_size))
    return found


def _target(endpoint: Endpoint, block_tokens: int) -> Target:
    host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    replay = f"tcp://{host}:{endpoint.replay_port}" if endpoint.replay_port else ""
    live = f"tcp://{host}:{endpoint.events_port}"
    return Target(endpoint.name, endpoint.identity, live, replay, block_tokens, endpoint.events_ranks)


class Followers:
    """Starts and ends followers as endpoints come and go."""

    def __init__(self, wanted: Callable[[], dict[str, Target]], attached: Callable[[], Attached | None]) -> None:
        """``attached``: the shared memory as it is now; of another one every follower begins anew, since its hashes have another key."""
        self._wanted = wanted
        self._attached = attached
        self._memory: SharedMemory | None = None
        self._running: dict[str, tuple[Target, RankFollowers, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Follow until cancelled."""
        with zmq.asyncio.Context() as context:
            try:
                while True:
                    await self._look(context)
                    await asyncio.sleep(LOOK_SECONDS)
            finally:
                await self._end(list(self._running))

    def report(self) -> list[dict[str, Any]]:
        """How each follower stands, a row a rank."""
        return [row for _, followers, _ in self._running.values() for row in followers.reports()]

    async def _look(self, context: zmq.asyncio.Context) -> None:
        attached = self._attached()
        memory = attached[0] if attached is not None else None
        wanted = self._wanted()
        await self._end(
            identity
            for identity, (target, _, task) in list(self._running.items())
            if memory is not self._memory or wanted.get(identity) != target or task.done()
        )
        self._memory = memory
        if attached is None:
            return
        for identity, target in wanted.items():
            if identity not in self._running:
                self._start(context, target, *attached)

    def _start(self, context: zmq.asyncio.Context, target: Target, memory: SharedMemory, slots: Slots) -> None:
        try:
            slot, _ = slots.acquire(memory.workers, endpoint_identity(target.identity))
        except SlotsFull as error:
            logger.warning("%s", error)
            return
        followers = RankFollowers(context, target, memory, slot)
        self._running[target.identity] = target, followers, asyncio.create_task(followers.run())

    async def _end(self, identities: Iterable[str]) -> None:
        tasks = [self._running.pop(identity)[2] for identity in identities]
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                logger.error("a follower of KV events ended", exc_info=ended)
