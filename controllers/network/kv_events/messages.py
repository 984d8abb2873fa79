"""Framing: live messages of a publisher, and what its replay port answers."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, Sequence

import zmq
import zmq.asyncio

LARGEST_MESSAGE = 16 << 20
MOST_QUEUED = 256
"""Live messages that wait for us (a step of an engine each, up to 100 KB); one more is a gap, which a replay fills."""
MOST_REPLAYED = 1000
REPLAY_SECONDS = 5.0
"""Without a further message for so long, a replay is given up."""
_NUMBER = struct.Struct(">Q")
_END = b"\xff" * 8

Message = tuple[int, bytes]
"""Sequence number and payload."""


class ReplayFailed(Exception):
    """The replay port said nothing any more before its end mark."""


def read_live(frames: Sequence[bytes]) -> Message | None:
    """``[topic, number, payload]``; None for anything else."""
    if len(frames) != 3 or len(frames[1]) != 8:
        return None
    return _NUMBER.unpack(frames[1])[0], frames[2]


def read_replayed(frames: Sequence[bytes]) -> Message | None:
    """``[empty, topic, number, payload]`` (vLLM since 0.26) or ``[empty, number, payload]`` (before, and SGLang); else None."""
    if len(frames) not in (3, 4) or len(frames[-2]) != 8:
        return None
    return _NUMBER.unpack(frames[-2])[0], frames[-1]


def is_end(frames: Sequence[bytes]) -> bool:
    """Whether this is the mark behind the last message of a replay, in either framing."""
    return len(frames) in (3, 4) and frames[-2] == _END


def open_socket(context: zmq.asyncio.Context, kind: int) -> zmq.asyncio.Socket:
    """A socket that finds out when the other side is gone, and does not take what is too large."""
    socket = context.socket(kind)
    for option, value in (
        (zmq.LINGER, 0),
        (zmq.IPV6, 1),
        (zmq.MAXMSGSIZE, LARGEST_MESSAGE),
        (zmq.RCVHWM, MOST_QUEUED if kind == zmq.SUB else MOST_REPLAYED),
        (zmq.RECONNECT_IVL, 100),
        (zmq.RECONNECT_IVL_MAX, 2000),
        (zmq.HEARTBEAT_IVL, 5000),
        (zmq.HEARTBEAT_TIMEOUT, 15000),
    ):
        socket.setsockopt(option, value)
    return socket


async def replay(context: zmq.asyncio.Context, address: str, first: int) -> AsyncGenerator[Message, None]:
    """What the engine still has of its messages from number ``first`` on. Raises ReplayFailed."""
    with open_socket(context, zmq.DEALER) as socket:
        socket.connect(address)
        await socket.send_multipart([b"", _NUMBER.pack(first)])
        while True:
            try:
                async with asyncio.timeout(REPLAY_SECONDS):
                    frames = await socket.recv_multipart()
            except TimeoutError:
                raise ReplayFailed(f"{address} says nothing") from None
            if is_end(frames):
                return
            message = read_replayed(frames)
            if message is not None:
                yield message
