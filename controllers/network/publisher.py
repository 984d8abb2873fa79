"""Sends the desired state to whoever subscribes: deltas as they come, the whole to who asks, heartbeats in between."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import zmq
import zmq.asyncio

from controllers.network.desired import DesiredState
from gateway.datastore.epochs import next_epoch
from gateway.datastore.wire import LARGEST_BODY, WHOLE_REQUEST, Frame, Kind, WireError, encode, whole

HEARTBEAT_SECONDS = 0.25
_HIGH_WATER_MARK = 20_000

logger = logging.getLogger(__name__)


class Publisher:
    """One publisher of a run directory. Made when the desired state is complete: an empty one is never sent by accident."""

    def __init__(self, desired: DesiredState, run_directory: Path, epoch: int | None = None) -> None:
        self._desired = desired
        self.epoch = next_epoch(run_directory, time.time_ns()) if epoch is None else epoch
        self.sequence = 1
        desired.take_change()
        self._whole: tuple[int, list[tuple[bytes, bytes]]] = (0, [])
        self._context = zmq.asyncio.Context()
        self._updates = self._socket(zmq.PUB, run_directory / "snapshots")
        self._state = self._socket(zmq.ROUTER, run_directory / "state")

    def _socket(self, kind: int, path: Path) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, _HIGH_WATER_MARK)
        socket.setsockopt(zmq.RCVHWM, 1000)
        socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_BODY + 4096)
        socket.bind(f"ipc://{path}")
        path.chmod(0o600)
        return socket

    async def run(self) -> None:
        """Publish until cancelled."""
        answering = asyncio.create_task(self._answer())
        try:
            while True:
                await self.publish()
                await self._updates.send_multipart(encode(Frame(Kind.HEARTBEAT, self.epoch, self.sequence)))
                await asyncio.sleep(HEARTBEAT_SECONDS)
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            self._updates.close()
            self._state.close()
            self._context.term()

    async def publish(self) -> None:
        """Send what changed, if anything did. A change too large for one frame is a gap: who sees it asks for the whole."""
        change = self._desired.take_change()
        if change is None:
            return
        self.sequence += 1
        try:
            frame = encode(Frame(Kind.DELTA, self.epoch, self.sequence, change=change))
        except WireError:
            frame = encode(Frame(Kind.HEARTBEAT, self.epoch, self.sequence))
        await self._updates.send_multipart(frame)

    async def _answer(self) -> None:
        while True:
            parts = await self._state.recv_multipart()
            if len(parts) != 3 or parts[2] != WHOLE_REQUEST:
                logger.warning("a question that is none was dropped")
                continue
            try:
                frames = self._frames()
            except WireError:
                logger.exception("the whole snapshot cannot be sent")
                continue
            for header, body in frames:
                await self._state.send_multipart([parts[0], b"", header, body])

    def _frames(self) -> list[tuple[bytes, bytes]]:
        if self._whole[0] != self.sequence:
            desired = self._desired
            frames = whole(
                self.epoch,
                self.sequence,
                tuple(desired.routes.values()),
                tuple(desired.servers.values()),
                tuple(desired.endpoints.values()),
            )
            self._whole = (self.sequence, list(frames))
        return self._whole[1]
