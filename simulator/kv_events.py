"""KV-cache events over ZeroMQ in vLLM's wire format: ``[topic, sequence, msgpack([time, events, rank])]``.

Replay on a ROUTER answers as vLLM does since 0.26: ``[empty, topic, sequence, payload]``, then ``[empty, "", eight 0xFF, ""]``.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Sequence

import msgspec
import zmq
import zmq.asyncio

from simulator.kv_cache import CacheEvent, Stored

REPLAY_BATCHES = 10_000
END_OF_REPLAY = b"\xff" * 8


def encode(events: Sequence[CacheEvent], block_size: int, now: float) -> bytes:
    """One batch: events as arrays with their tag first (vLLM's encoding up to 0.23)."""
    rows: list[list[object]] = []
    for event in events:
        if isinstance(event, Stored):
            rows.append(["BlockStored", list(event.hashes), event.parent, list(event.tokens), block_size, None, "GPU"])
        else:
            rows.append(["BlockRemoved", list(event.hashes), "GPU"])
    return msgspec.msgpack.encode([now, rows, 0])


class KVEventPublisher:
    """Publishes batches, and those kept back to who asks."""

    def __init__(self, endpoint: str, replay_endpoint: str | None = None, topic: str = "") -> None:
        self._context = zmq.asyncio.Context()
        self._topic = topic.encode()
        self._sequence = 0
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=REPLAY_BATCHES)
        self._publisher = self._bind(zmq.PUB, endpoint)
        self._replay = self._bind(zmq.ROUTER, replay_endpoint) if replay_endpoint else None

    def _bind(self, kind: int, endpoint: str) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IPV6, 1)
        socket.bind(endpoint)
        return socket

    async def publish(self, events: Sequence[CacheEvent], block_size: int, now: float) -> None:
        """Send one batch."""
        payload = encode(events, block_size, now)
        self._kept.append((self._sequence, payload))
        await self._publisher.send_multipart([self._topic, struct.pack(">Q", self._sequence), payload])
        self._sequence += 1

    async def answer_replays(self) -> None:
        """Serve ``[empty, start]`` questions until cancelled."""
        if self._replay is None:
            await asyncio.Event().wait()
            return
        while True:
            question = await self._replay.recv_multipart()
            if len(question) != 3 or len(question[2]) != 8:
                continue
            client, empty, start = question
            first = struct.unpack(">Q", start)[0]
            for sequence, payload in list(self._kept):
                if sequence >= first:
                    await self._replay.send_multipart(
                        [client, empty, self._topic, struct.pack(">Q", sequence), payload]
                    )
            await self._replay.send_multipart([client, empty, b"", END_OF_REPLAY, b""])

    def close(self) -> None:
        """Close the sockets."""
        self._publisher.close()
        if self._replay is not None:
            self._replay.close()
        self._context.term()
