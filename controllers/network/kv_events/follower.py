"""Follows one engine, or one of its data-parallel ranks: its live messages, and a replay for what was missed.

A lost connection may be a restart of the engine, whose numbers could go on where ours stood: everything is forgotten and begun anew. So it
is when messages were missed that no replay brings, since a removal may have been among them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

import zmq
import zmq.asyncio
from msgspec import Struct
from zmq.utils.monitor import recv_monitor_message

from _fastpath.chain_ranks import ChainRanks
from _fastpath.shared_memory import SharedMemory
from controllers.network.kv_events.apply import Applier, Counts
from controllers.network.kv_events.events import Batch, Cleared, Stored, decode
from controllers.network.kv_events.messages import Message, ReplayFailed, open_socket, read_live, replay
from controllers.network.kv_events.sequence import Sequence, Verdict

TURN_SECONDS = 0.002
"""Work without letting the loop turn."""
AGAIN_SECONDS = 0.2
REFRESH_SECONDS = 1.0
REFRESH_ALL_SECONDS = 60.0
_LOST = (zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED)

logger = logging.getLogger(__name__)


class Target(Struct, frozen=True):
    """What is followed: an endpoint by name and identity, where it publishes (``replay`` empty: nowhere), and the size of its blocks.

    ``ranks``: each publishes at ports of its own, which count from those that are named on.
    """

    name: str
    identity: str
    events: str
    replay: str
    block_tokens: int
    ranks: int = 1

    def of_rank(self, rank: int) -> Target:
        """One of its ranks."""
        return Target(
            self.name, self.identity, _shifted(self.events, rank), _shifted(self.replay, rank), self.block_tokens
        )


class Follower:
    """The task of one engine, or of one rank."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        target: Target,
        memory: SharedMemory,
        slot: int,
        clock: Callable[[], float] = time.monotonic,
        ranks: ChainRanks | None = None,
        rank: int = 0,
    ) -> None:
        """``slot``: the endpoint's, which the caller has acquired; ``clock``: that of all who write the prefix index.

        ``ranks``: what all ranks of the engine hold, where it has several: the index forgets of this ``rank`` only what no other holds.
        """
        self._context = context
        self._target = target
        self._clock = clock
        self._applier = Applier(memory, target.name, slot, target.block_tokens, Counts(), ranks, rank)
        self._rank = rank
        self._is_alone = ranks is None
        self._sequence = Sequence()
        self._turned = 0.0
        self.is_connected = False

    @property
    def counts(self) -> Counts:
        """What became of the engine's events."""
        return self._applier.counts

    def report(self) -> dict[str, Any]:
        """How it stands, for the state file."""
        counts = {name: getattr(self.counts, name) for name in Counts.__struct_fields__}
        return {
            "endpoint": self._target.name,
            "rank": self._rank,
            "connected": self.is_connected,
            "blocks": len(self._applier),
            "sequence": self._sequence.applied,
            **counts,
        }

    async def run(self) -> None:
        """Follow until cancelled."""
        refreshing = asyncio.create_task(self._refresh())
        try:
            while True:
                await self._forget()
                try:
                    await self._follow_connection()
                except zmq.ZMQError as error:
                    logger.warning("endpoint %s cannot be followed: %s", self._target.name, error)
                self.is_connected = False
                self.counts.restarts += 1
                await asyncio.sleep(AGAIN_SECONDS)
        finally:
            refreshing.cancel()

    async def _follow_connection(self) -> None:
        """From one connection to its end, or to a sign that the engine began anew."""
        self._sequence = Sequence()
        with open_socket(self._context, zmq.SUB) as socket:
            monitor = socket.get_monitor_socket()
            try:
                socket.subscribe(b"")
                socket.connect(self._target.events)
                await _until(monitor, (zmq.EVENT_HANDSHAKE_SUCCEEDED,))
                self.is_connected = True
                reading = asyncio.create_task(self._read(socket))
                lost = asyncio.create_task(_until(monitor, _LOST))
                await _first_of(reading, lost)
            finally:
                socket.disable_monitor()
                monitor.close()

    async def _read(self, socket: zmq.asyncio.Socket) -> None:
        """Apply messages until the engine counts from the start again."""
        await self._replay()
        while True:
            message = read_live(await socket.recv_multipart())
            await self._turn()
            if message is None:
                self.counts.unreadable += 1
            elif not await self._live(message):
                return

    async def _live(self, message: Message) -> bool:
        """One live message; False for that of an engine that began anew."""
        number, payload = message
        batch = self._decode(payload)
        verdict = self._sequence.live(number, batch.time)
        if verdict is Verdict.RESTARTED:
            return False
        if verdict is Verdict.GAP:
            await self._fill(number)
        if number > self._sequence.applied:
            await self._apply(number, batch)
        return True

    async def _fill(self, number: int) -> None:
        """Messages before this one were missed."""
        knows_any = self._sequence.applied >= 0
        self.counts.gaps += knows_any
        await self._replay()
        if knows_any and self._sequence.wanted < number:
            await self._forget()

    async def _replay(self) -> None:
        """Apply what the engine still has of what is missing. Where its queue for us was full there is a hole: it is asked again."""
        if not self._target.replay:
            return
        while True:
            before = self._sequence.applied
            try:
                is_whole = await self._replay_once()
            except ReplayFailed as error:
                logger.info("replay of endpoint %s: %s", self._target.name, error)
                is_whole = False
            if is_whole or self._sequence.applied == before:
                return

    async def _replay_once(self) -> bool:
        """Whether the answer had no hole."""
        messages = replay(self._context, self._target.replay, self._sequence.wanted)
        is_first = True
        async with contextlib.aclosing(messages):
            async for number, payload in messages:
                await self._turn()
                if number < self._sequence.wanted:
                    continue
                if number > self._sequence.wanted:
                    if not is_first:
                        return False
                    if self._sequence.applied >= 0:  # the engine has not kept what is missing
                        await self._forget()
                is_first = False
                self.counts.replayed += 1
                await self._apply(number, self._decode(payload))
        return True

    def _decode(self, payload: bytes) -> Batch:
        batch = decode(payload)
        if batch is None:
            self.counts.unreadable += 1
            return Batch()
        return batch

    async def _apply(self, number: int, batch: Batch) -> None:
        counts = self.counts
        counts.batches += 1
        counts.unreadable += batch.dropped
        counts.unknown += batch.unknown
        for event in batch.events:
            if isinstance(event, Stored):
                self._applier.store(event, self._clock())
            elif isinstance(event, Cleared):
                counts.cleared += 1
                await self._forget()
            else:
                self._applier.remove(event)
            await self._turn()
        self._sequence.apply(number, batch.time)

    async def _forget(self) -> None:
        if self._is_alone:
            self._applier.clear()
            await asyncio.to_thread(self._applier.forget_slot)
            return
        with contextlib.closing(self._applier.release()) as pieces:
            for _ in pieces:
                await asyncio.sleep(0)

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            self._applier.refresh(self._clock(), REFRESH_SECONDS / REFRESH_ALL_SECONDS)

    async def _turn(self) -> None:
        """Let the loop turn when it has not for a while: what is there already is received without waiting."""
        if time.perf_counter() - self._turned > TURN_SECONDS:
            await asyncio.sleep(0)
            self._turned = time.perf_counter()


def _shifted(address: str, rank: int) -> str:
    """The same, so many ports further on; nowhere stays nowhere."""
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + rank}" if address else ""


async def _until(monitor: Any, kinds: tuple[int, ...]) -> None:
    """The socket tells of one of these."""
    while (await recv_monitor_message(monitor))["event"] not in kinds:
        pass


async def _first_of(*tasks: asyncio.Task[None]) -> None:
    """Wait until one of them ends, and end the others. Raises what it raised."""
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()
