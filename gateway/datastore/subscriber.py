"""The replica's sockets: subscribe, ask, feed, let the event loop turn in between.

Made inside the process that reads them (a ZeroMQ context does not survive a fork).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator
from pathlib import Path

import zmq
import zmq.asyncio

from gateway.datastore.replica import E_, R_, S_, Next, Replica, Unusable
from gateway.datastore.wire import LARGEST_BODY, WHOLE_REQUEST, Frame, WireError, decode

HOLD_SECONDS = 0.001
"""After so much work on a snapshot the event loop turns, once the piece at hand is done."""
ASK_AGAIN_SECONDS = 1.0
LONGEST_PATIENCE_SECONDS = 30.0
"""The longest pause between two questions for a snapshot that was refused."""
_MEND_SECONDS = 1.0
HEARTBEAT_TIMEOUT_SECONDS = 3.0
_HIGH_WATER_MARK = 20_000

logger = logging.getLogger(__name__)


class Subscriber:
    """Keeps one replica up to date with the publisher of a run directory."""

    def __init__(
        self,
        replica: Replica[E_, S_, R_],
        run_directory: Path,
        applied: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._replica = replica
        self._run_directory = run_directory
        self._applied = applied
        self._clock = clock
        self._context = zmq.asyncio.Context()
        self._updates = self._socket(zmq.SUB, "snapshots")
        self._updates.subscribe(b"")
        self._state = self._socket(zmq.DEALER, "state")
        self._asked_at = 0.0
        self._refused = (0, 0)
        self._patience = 0.0
        self.refusal = ""
        """Why the publisher's latest snapshot is not served here; empty when it is."""
        self.heard_at = 0.0
        """Monotonic seconds of the last frame from a publisher, 0 for none."""

    def _socket(self, kind: int, name: str) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, _HIGH_WATER_MARK)
        socket.setsockopt(zmq.SNDHWM, 100)
        socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_BODY + 4096)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        socket.connect(f"ipc://{self._run_directory / name}")
        return socket

    @property
    def is_heard(self) -> bool:
        """Whether a publisher was heard lately."""
        return self.heard_at > 0 and self._clock() - self.heard_at < HEARTBEAT_TIMEOUT_SECONDS

    async def run(self) -> None:
        """Follow the publisher until cancelled."""
        try:
            while True:
                try:
                    await self._follow()
                except Exception:
                    # out of descriptors, say: the world that stands is served on, and it is tried again
                    logger.exception("following the publisher failed: trying again in %g s", _MEND_SECONDS)
                    await asyncio.sleep(_MEND_SECONDS)
        finally:
            self.close()

    async def _follow(self) -> None:
        poller = zmq.asyncio.Poller()
        poller.register(self._updates, zmq.POLLIN)
        poller.register(self._state, zmq.POLLIN)
        await self._ask()
        while True:
            ready = dict(await poller.poll(timeout=int(ASK_AGAIN_SECONDS * 1000)))
            if self._state in ready:
                await self._drain(self._state, first=1)
            if self._updates in ready:
                await self._drain(self._updates, first=0)
            if self._replica.waiting and self._clock() - self._asked_at > max(ASK_AGAIN_SECONDS, self._patience):
                await self._ask(reconnect=poller)

    def close(self) -> None:
        """Close the sockets; a subscriber that ran has done so."""
        self._updates.close()
        self._state.close()
        self._context.term()

    async def _ask(self, reconnect: zmq.asyncio.Poller | None = None) -> None:
        self._asked_at = self._clock()
        if reconnect is not None:
            # a question that waits in the queue of a publisher that is gone must not be answered twice
            fresh = self._socket(zmq.DEALER, "state")
            reconnect.unregister(self._state)
            self._state.close()
            self._state = fresh
            reconnect.register(self._state, zmq.POLLIN)
        await self._state.send_multipart([b"", WHOLE_REQUEST])

    async def _drain(self, socket: zmq.asyncio.Socket, first: int) -> None:
        while True:
            try:
                parts = await socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            await self.take(parts[first:])

    async def take(self, parts: list[bytes]) -> None:
        """Apply one frame, letting the loop turn in between. A damaged one is dropped and logged."""
        try:
            if len(parts) != 2:
                raise WireError(f"{len(parts)} message parts, not 2")
            frame = decode(parts[0], parts[1])
        except WireError as error:
            logger.warning("snapshot frame dropped: %s", error)
            return
        self.heard_at = self._clock()
        stood = self._stands_at()
        outcome = Next.NOTHING
        try:
            outcome = await self._apply(self._replica.feed(frame))
        except Exception as error:
            # whatever it is, the world before stands and goes on being served
            self._refuse(frame, error)
        if outcome is Next.APPLIED:
            if self.refusal:
                logger.info("snapshot %d of epoch %d is served", frame.sequence, frame.epoch)
            self.refusal, self._patience = "", 0.0
        if outcome is Next.APPLIED or self._stands_at() != stood:
            self._applied()
        if outcome is Next.ASK and self._may_ask(frame):
            await self._ask()

    def _stands_at(self) -> tuple[int, int]:
        return self._replica.world.epoch, self._replica.world.sequence

    def _refuse(self, frame: Frame, error: Exception) -> None:
        """Note and log, once for each snapshot, that it cannot be served; the next question comes later each time."""
        place = (frame.epoch, frame.sequence)
        is_known, self._refused = self.refusal != "" and place == self._refused, place
        self.refusal = str(error) or type(error).__name__
        self._patience = min(LONGEST_PATIENCE_SECONDS, self._patience * 2) if is_known else ASK_AGAIN_SECONDS
        self._asked_at = self._clock()
        if not is_known:
            logger.error(
                "snapshot %d of epoch %d cannot be served, the one before stays: %s",
                frame.sequence,
                frame.epoch,
                self.refusal,
                exc_info=not isinstance(error, Unusable),
            )

    def _may_ask(self, frame: Frame) -> bool:
        pause = ASK_AGAIN_SECONDS / 4
        if self.refusal:
            # what is newer than what was refused may be better, and is asked for sooner
            pause = self._patience if (frame.epoch, frame.sequence) == self._refused else ASK_AGAIN_SECONDS
        return self._clock() - self._asked_at > pause

    async def _apply(self, steps: Generator[None, None, Next]) -> Next:
        turn_ends = self._clock() + HOLD_SECONDS
        while True:
            try:
                next(steps)
            except StopIteration as end:
                outcome: Next = end.value
                return outcome
            if self._clock() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = self._clock() + HOLD_SECONDS
