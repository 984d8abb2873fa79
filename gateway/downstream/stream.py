"""Bytes to the client: the guards that RSGI leaves to the application.

RSGI's stream keeps whatever it is given, however slowly the client reads, and ends a failed stream as if it were whole. So a stream
is measured against what the client's kernel has acknowledged, and a failed one is cut at its socket.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

from gateway.downstream.client_socket import ClientSocket
from gateway.errors import ClientGone
from gateway.settings import Streams

_POLL_SECONDS = 0.05
_FLUSH_SECONDS = 0.05


class SlowClient(ClientGone):
    """The client did not read for too long and was cut off."""

    code = "slow_client"


class Source(Protocol):
    """Where the stream comes from."""

    def pause(self) -> None:
        """Read nothing more for now."""

    def resume(self) -> None:
        """Read on."""

    def fail(self, error: Exception) -> None:
        """Stop: the stream cannot go on."""


class ClientStream:
    """A streamed answer: sends as fast as the client reads, within bounds."""

    def __init__(
        self,
        transport: Any,
        client: ClientSocket,
        limits: Streams,
        source: Source,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = transport.send_bytes
        self._taken: type | None = None
        """What RSGI returns for a piece that it took, once that is known."""
        self._socket = client
        self._limits = limits
        self._check_bytes = limits.check_bytes
        self._source = source
        self._clock = clock
        self._handed_over = 0
        self._unchecked = 0
        self._acknowledged_at_start: int | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def send(self, piece: bytes) -> None:
        """Hand a piece over; while too much of the stream is unread, its source is paused. Raises ClientGone."""
        # not awaited: RSGI has queued it already, and says in the type of what it returns whether the client is there
        kind = type(self._send(piece))
        if kind is not self._taken:
            if kind.__name__ == "PyErrAwaitable":
                raise ClientGone
            self._taken = kind
        size = len(piece)
        # the chunk's size in hexadecimal, and two line ends
        self._handed_over += size + 5
        rest = size >> 4
        while rest:
            self._handed_over += 1
            rest >>= 4
        self._unchecked += size
        if self._unchecked >= self._check_bytes and self._timer is None:
            self._check()

    def _check(self) -> None:
        """Pause the source when too much of the stream is unread."""
        self._unchecked = 0
        if self._backlog() > self._limits.backlog_bytes:
            self._source.pause()
            self._deadline = self._clock() + self._limits.slow_client_seconds
            self._timer = asyncio.get_running_loop().call_later(_POLL_SECONDS, self._look_again)

    async def fail(self, event: bytes) -> None:
        """Tell a client of a stream that it failed, then cut the connection."""
        self._send(event)
        await asyncio.sleep(_FLUSH_SECONDS)
        self._socket.cut()

    def close(self) -> None:
        """Let go of the socket."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._socket.close()

    def _look_again(self) -> None:
        self._timer = None
        if self._backlog() <= self._limits.backlog_bytes:
            self._source.resume()
        elif self._clock() > self._deadline:
            self._socket.cut()
            self._source.fail(SlowClient())
        else:
            self._timer = asyncio.get_running_loop().call_later(_POLL_SECONDS, self._look_again)

    def _backlog(self) -> int:
        acknowledged = self._socket.acknowledged()
        if acknowledged is None:
            return 0
        if self._acknowledged_at_start is None:
            # the connection may have carried earlier answers, and this one has a head: both are forgiven
            self._acknowledged_at_start = max(0, acknowledged - self._handed_over)
        return self._handed_over - (acknowledged - self._acknowledged_at_start)
