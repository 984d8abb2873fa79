"""One connection to an engine: one request at a time, dropped on anything odd."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Protocol, cast

from _fastpath.gather import send_both
from _fastpath.http1 import BodyReader, FramingError, Head, body_of, parse_head
from gateway.datastore.model import Endpoint
from gateway.deadlines import Deadlines
from gateway.errors import UpstreamError, UpstreamTimeout
from gateway.waiting import Signal

KEPT_SECONDS = 3.0
"""An idle connection is closed before the engine's server does it (uvicorn: 5 s), so that no request is lost in that race."""
MOST_UNREAD = 256 << 10
"""Bytes of an answer that wait to be taken; with more, nothing further is read from the engine."""
_MOST_INTERIM = 8
_AGES = 1e6


class Keeper(Protocol):
    """Who owns a connection between two requests."""

    def give(self, connection: Connection) -> None:
        """It can take another request."""

    def lost(self, connection: Connection) -> None:
        """It is closed."""


class Connection:
    """A connection, one of asyncio's protocols.

    Its deadline is looked at by the worker's timer: of the answer while there is one, else of being kept.
    """

    def __init__(self, endpoint: Endpoint, keeper: Keeper, deadlines: Deadlines, clock: Callable[[], float]) -> None:
        self.endpoint = endpoint
        self.host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
        """The value of its requests' ``host``."""
        self.host += f":{endpoint.port}"
        self.clock = clock
        self.due = clock() + KEPT_SECONDS
        self.is_closed = False
        self.requests = 0
        self._keeper = keeper
        self._deadlines = deadlines
        self._looked_at = deadlines.add(self, self.due)
        self._answer: Answer | None = None
        self._transport: asyncio.Transport | None = None
        self._descriptor = -1
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast(asyncio.Transport, transport)
        if transport.get_extra_info("sslcontext") is None:
            self._descriptor = transport.get_extra_info("socket").fileno()

    def wait_until(self, due: float) -> None:
        """Move the deadline."""
        self.due = due
        if due < self._looked_at:
            self._looked_at = self._deadlines.add(self, due)

    def send(self, head: bytes, body: bytes, answer: Answer) -> None:
        """Send a request in one write; ``answer`` is told what comes back."""
        assert self._transport is not None
        self.requests += 1
        self._answer = answer
        written = send_both(self._descriptor, head, body) if self._descriptor >= 0 else 0
        if written < len(head):
            self._transport.writelines((head[written:], body))
        elif written < len(head) + len(body):
            self._transport.write(body[written - len(head) :])

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer, or bytes that nobody asked for."""
        answer = self._answer  # held here: it may be over, and let go of, before this call of it returns
        if answer is None:
            self.drop()
        else:
            answer.feed(data)

    def pause_writing(self) -> None:
        """Requests are bounded, and written once: there is nothing to pause."""

    def resume_writing(self) -> None:
        """The same."""

    def eof_received(self) -> bool:
        """The engine has said its last byte."""
        return False

    def connection_lost(self, _exc: Exception | None) -> None:
        """The connection is gone, whoever ended it."""
        self.is_closed = True
        self._descriptor = -1
        answer, self._answer = self._answer, None
        self._keeper.lost(self)
        if answer is not None:
            answer.lost()

    def release(self, is_reusable: bool) -> None:
        """The answer is over."""
        self._answer = None
        transport = self._transport
        if is_reusable and not self.is_closed and transport is not None and not transport.get_write_buffer_size():
            self._read_on()  # the last piece may have been one too many: unread, it would hide the engine's leaving
            self.wait_until(self.clock() + KEPT_SECONDS)
            self._keeper.give(self)
        else:
            self.drop()

    def drop(self) -> None:
        """Close at once: the engine sees it, and stops working."""
        if self._transport is not None and not self.is_closed:
            self.is_closed = True
            self._keeper.lost(self)
            self._transport.abort()

    def pause(self) -> None:
        """Read nothing more. That nothing comes is not the engine's fault meanwhile."""
        if self._transport is not None and not self.is_closed:
            self.due = self.clock() + _AGES
            if not self._is_paused:
                self._is_paused = True
                self._transport.pause_reading()

    def resume(self, patience: float) -> None:
        """Read on; the next piece must come within so many seconds."""
        if self._transport is not None and not self.is_closed:
            self.wait_until(self.clock() + patience)
            self._read_on()

    def _read_on(self) -> None:
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()

    def check(self, now: float) -> None:
        """See to the deadline."""
        if self.is_closed or now < self._looked_at:
            return  # a later look, which an earlier one has made needless
        if now >= self.due:
            answer = self._answer
            if answer is None:
                self.drop()
                return
            self.due = now + KEPT_SECONDS
            answer.overdue()
        self._looked_at = self._deadlines.add(self, self.due)


class Answer:
    """An engine's answer: first its head, then its body in the pieces that the engine sent."""

    def __init__(self, connection: Connection, timeout: float, idle: float) -> None:
        self._connection: Connection | None = connection
        self._timeout, self._idle_timeout = timeout, idle
        self._early = b""
        self._interim = 0
        self._body: BodyReader | None = None
        self._pieces: deque[bytes] = deque()
        self._unread = 0
        self._is_paused = False
        self._patience = -1
        self._sink: Callable[[bytes], None] | None = None
        self.head: Head | None = None
        self.error: Exception | None = None
        self.arrived = Signal()
        """Set when there is something to take: the head, a piece, the end."""

    @property
    def status(self) -> int:
        """Status of the answer; only once the head has come, as everything below."""
        assert self.head is not None
        return self.head.status

    @property
    def headers(self) -> list[tuple[str, str]]:
        """What may be passed on to the client."""
        assert self.head is not None
        return self.head.headers

    @property
    def length(self) -> int | None:
        """Announced length of the body."""
        assert self.head is not None
        return self.head.length

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is server-sent events."""
        assert self.head is not None
        return self.head.is_event_stream

    @property
    def is_complete(self) -> bool:
        """The body has come whole."""
        return self._body is not None and self._body.complete

    async def wait_for_head(self) -> None:
        """Raises UpstreamError or UpstreamTimeout."""
        while self.head is None:
            if self.error is not None:
                raise self.error
            self.arrived.clear()
            await self.arrived

    async def whole(self, most: int) -> bytes:
        """The body, read to its end or until more than ``most`` bytes are there. Raises UpstreamError."""
        self._patience = most
        while not self.is_complete and self._unread <= most:
            if self.error is not None:
                raise self.error
            self.arrived.clear()
            await self.arrived
        self._patience = -1
        return self.take()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The rest of the body as it comes. Raises UpstreamError when it breaks off, UpstreamTimeout when it stalls."""
        while True:
            while self._pieces:
                yield self._take_one()
            if self.is_complete:
                return
            if self.error is not None:
                raise self.error
            self.arrived.clear()
            await self.arrived

    async def forward(self, sink: Callable[[bytes], None]) -> None:
        """Hand the rest of the body to ``sink``, piece by piece as it is read. Raises UpstreamError, and what ``sink`` raises."""
        while self._pieces:
            sink(self._take_one())
        self._sink = sink
        self._patience = 0
        try:
            while not self.is_complete:
                if self.error is not None:
                    raise self.error
                self.arrived.clear()
                await self.arrived
        finally:
            self._sink = None
            self._patience = -1

    def pause(self) -> None:
        """Read nothing more of the body for now."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """Read on."""
        if self._connection is not None:
            self._connection.resume(self._idle_timeout)

    def close(self) -> None:
        """Nobody wants the rest. A connection whose answer was not read to its end is dropped: the engine sees it at once."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release(is_reusable=False)

    # What the connection calls.

    def feed(self, data: bytes) -> None:
        """Bytes of the connection."""
        connection = self._connection
        assert connection is not None
        try:
            start = 0
            if self._body is None:
                data, start = self._feed_head(data)
                if self._body is None:
                    return
            connection.wait_until(connection.clock() + self._idle_timeout)
            piece = self._body.feed(data, start)
        except FramingError as error:
            self.fail(_refused(error) if self.head is None else _broke_off(error))
            return
        if piece:
            self._deliver(piece)
        if self._body.complete and self._connection is not None:
            self._connection = None
            assert self.head is not None
            connection.release(self.head.keeps_alive and not self._body.excess)
        # who takes the body whole, or has it forwarded, waits for its end alone
        if self._body.complete or self._unread > self._patience:
            self.arrived.set()

    def lost(self) -> None:
        """The connection is gone."""
        self._connection = None
        if self._body is None:
            self.error = UpstreamError("The engine closed the connection without an answer.")
        elif not self._body.complete and not self._body.end():
            self.error = _broke_off(None)
        self.arrived.set()

    def overdue(self) -> None:
        """The deadline of what is waited for has passed."""
        if self.head is None:
            self.fail(UpstreamTimeout(f"The engine did not answer within {self._timeout:g} s."))
        else:
            self.fail(UpstreamTimeout(f"The engine sent nothing for {self._idle_timeout:g} s."))

    def fail(self, error: Exception) -> None:
        """Stop here: who waits for the answer gets the error."""
        self.error = error
        self.close()
        self.arrived.set()

    def _deliver(self, piece: bytes) -> None:
        if self._sink is not None:
            try:
                self._sink(piece)
            except Exception as error:
                self.fail(error)
            return
        self._pieces.append(piece)
        self._unread += len(piece)
        if self._unread > MOST_UNREAD and not self._is_paused and self._unread > self._patience:
            self._is_paused = True
            self.pause()

    def _take_one(self) -> bytes:
        piece = self._pieces.popleft()
        self._unread -= len(piece)
        if self._is_paused and self._unread <= MOST_UNREAD // 2:
            self._is_paused = False
            self.resume()
        return piece

    def take(self) -> bytes:
        """What has come of the body and was not taken yet."""
        pieces = self._pieces
        self._unread = 0
        if self._is_paused:
            self._is_paused = False
            self.resume()
        found = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return found

    def _feed_head(self, data: bytes) -> tuple[bytes, int]:
        """What was read, and where in it the body begins once the head is there."""
        if self._early:
            data, self._early = self._early + data, b""
        start = 0
        while True:
            head = parse_head(data, start)
            if head is None:
                self._early = data[start:]
                return b"", 0
            start = head.end
            if head.status >= 200:
                break
            self._interim += 1
            if self._interim > _MOST_INTERIM:
                raise FramingError("too many interim answers")
        self.head = head
        self._body = body_of(head)
        return data, start


def _refused(error: Exception) -> UpstreamError:
    refused = UpstreamError("The engine answered with something that is not HTTP, or that no client may see.")
    refused.retryable = False
    refused.__cause__ = error
    return refused


def _broke_off(error: Exception | None) -> UpstreamError:
    broken = UpstreamError("The engine broke off in the middle of its answer.")
    broken.retryable = False  # part of an answer was generated, and paid for
    broken.__cause__ = error
    return broken
