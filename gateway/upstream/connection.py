"""One connection to an engine: one request at a time, dropped on anything odd."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import cast

from _fastpath.clock import seconds
from _fastpath.gather import send_both
from _fastpath.http1 import BodyReader, FramingError, Head, body_of, parse_head
from gateway.datastore.model import Endpoint, Traffic
from gateway.deadlines import Deadlines
from gateway.errors import UpstreamError, UpstreamTimeout
from gateway.waiting import Signal

KEPT_SECONDS = 3.0
"""An idle connection is closed before the engine's server does it (uvicorn: 5 s), so that no request is lost in that race."""
MOST_UNREAD = 256 << 10
"""Bytes of an answer that wait to be taken; with more, nothing further is read from the engine."""
_MOST_INTERIM = 8
_AGES = 1e6


class Keeper:
    """Who owns a connection between two requests."""

    def give(self, connection: Connection) -> None:
        """It can take another request."""

    def lost(self, connection: Connection) -> None:
        """It is closed."""


class Sink:
    """Where the body of an answer goes as it is read."""

    def take(self, piece: bytes, now: float) -> None:
        """The next piece, and when it was read. What this raises ends the answer."""


class Connection:
    """A connection, one of asyncio's protocols.

    Its deadline is looked at by the worker's timer: of the answer while there is one, else of being kept.
    """

    def __init__(self, endpoint: Endpoint, keeper: Keeper, deadlines: Deadlines, clock: Callable[[], float]) -> None:
        self.endpoint = endpoint
        self.identity: str = endpoint.identity
        """Of its endpoint."""
        self.host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
        """The value of its requests' ``host``."""
        self.host += f":{endpoint.port}"
        self.clock = clock
        self.due = clock() + KEPT_SECONDS
        self.is_closed = False
        self._keeper = keeper
        self._deadlines = deadlines
        self._looked_at = deadlines.add(self, self.due)
        self._answer: Answer | None = None
        self._transport: asyncio.Transport | None = None
        self._descriptor = -1
        self._is_paused = False
        self._is_buffered = False  # whether the transport was given something to write
        # what the last request had, and most have again
        self._path, self._start = "", b""
        self._traffic: Traffic | None = None
        self._timeout = self._idle_timeout = 0.0

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

    def start_of(self, path: str) -> bytes:
        """The first lines of a request for a path: what it asks for, the host, and the rank of the engine that is to have it."""
        if path != self._path:
            rank = self.endpoint.rank
            chosen = f"x-data-parallel-rank: {rank}\r\n" if rank >= 0 else ""
            self._path, self._start = path, f"POST {path} HTTP/1.1\r\nhost: {self.host}\r\n{chosen}".encode("latin-1")
        return self._start

    def ask(self, head: bytes, body: bytes, traffic: Traffic, now: float) -> Answer:
        """Send a request: its answer, of which nothing has come yet."""
        if traffic is not self._traffic:
            self._traffic, self._timeout, self._idle_timeout = traffic, traffic.timeout, traffic.idle_timeout
        answer = Answer()
        answer._begin(self, self._timeout, self._idle_timeout)
        self.wait_until(now + self._timeout)
        self._answer = answer
        self._send(head, body)
        return answer

    def _send(self, head: bytes, body: bytes) -> None:
        """In one write."""
        assert self._transport is not None
        head_size = len(head)
        written = send_both(self._descriptor, head, body) if self._descriptor >= 0 else 0
        if written == head_size + len(body):
            return
        self._is_buffered = True
        if written < head_size:
            self._transport.writelines((head[written:], body))
        else:
            self._transport.write(memoryview(body)[written - head_size :])

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

    def release(self, is_reusable: bool, now: float) -> None:
        """The answer is over."""
        self._answer = None
        if is_reusable and not self.is_closed and not self._has_unsent():
            if self._is_paused:
                self._read_on()  # the last piece may have been one too many: unread, it would hide the engine's leaving
            self.wait_until(now + KEPT_SECONDS)
            self._keeper.give(self)
        else:
            self.drop()

    def _has_unsent(self) -> bool:
        """Whether a part of the request still waits to be written: whoever answers before has not read it."""
        if not self._is_buffered:
            return False
        self._is_buffered = False
        return self._transport is None or self._transport.get_write_buffer_size() > 0

    def drop(self) -> None:
        """Close at once: the engine sees it, and stops working."""
        if self._transport is not None and not self.is_closed:
            self.is_closed = True
            self._keeper.lost(self)
            self._transport.abort()

    def pause(self) -> None:
        """Read nothing more. That nothing comes is not the engine's fault meanwhile."""
        if self._transport is not None and not self.is_closed:
            self.due = seconds(self.clock) + _AGES
            if not self._is_paused:
                self._is_paused = True
                self._transport.pause_reading()

    def resume(self, patience: float) -> None:
        """Read on; the next piece must come within so many seconds."""
        if self._transport is not None and not self.is_closed:
            self.wait_until(seconds(self.clock) + patience)
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

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._timeout = self._idle_timeout = 0.0
        self._early = self._first = b""
        self._interim = 0
        self._body: BodyReader | None = None
        # pieces that wait to be taken: most answers have one, and need no queue
        self._further: deque[bytes] | None = None
        self._unread = 0
        self._is_paused = False
        self._patience = -1
        self._sink: Sink | None = None
        self.is_complete: bool = False
        """The body has come whole."""
        self.head: Head | None = None
        self.error: Exception | None = None
        self.arrived = Signal()
        """Set when there is something to take: the head, a piece, the end."""

    def _begin(self, connection: Connection, timeout: float, idle: float) -> None:
        self._connection = connection
        self._timeout, self._idle_timeout = timeout, idle

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
            while self._unread:
                yield self._take_one()
            if self.is_complete:
                return
            if self.error is not None:
                raise self.error
            self.arrived.clear()
            await self.arrived

    async def forward(self, sink: Sink) -> None:
        """Hand the rest of the body to ``sink``, piece by piece as it is read. Raises UpstreamError, and what ``sink`` raises."""
        while self._unread:
            sink.take(self._take_one(), self._now())
        self._sink = sink
        self._patience = 0
        try:
            while not self.is_complete:
                if self.error is not None:
                    raise self.error
                self.arrived.clear()
                await self.arrived
            if self.error is not None:  # of the last piece, which the client did not take
                raise self.error
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
            connection.release(False, 0.0)

    # What the connection calls.

    def feed(self, data: bytes) -> None:
        """Bytes of the connection."""
        connection, head, body, start = self._connection, self.head, self._body, 0
        assert connection is not None
        try:
            if head is None or body is None:
                if self._early:
                    data, self._early = self._early + data, b""
                head = self._read_head(data)
                if head is None:
                    return
                self.head = head
                self._body = body = body_of(head)
                start = head.end
            piece = body.feed(data, start)
        except FramingError as error:
            self.fail(_refused(error) if self.head is None else _broke_off(error))
            return
        now = seconds(connection.clock)
        if body.complete:
            self.is_complete = True
        else:
            connection.wait_until(now + self._idle_timeout)
        if piece:
            self._deliver(piece, now)
        if body.complete and self._connection is not None:
            self._connection = None
            connection.release(head.keeps_alive and not body.excess, now)
        # who takes the body whole, or has it forwarded, waits for its end alone
        if body.complete or self._unread > self._patience:
            self.arrived.set()

    def lost(self) -> None:
        """The connection is gone."""
        self._connection = None
        if self._body is None:
            self.error = UpstreamError("The engine closed the connection without an answer.")
        elif not self.is_complete:
            self.is_complete = self._body.end()
            if not self.is_complete:
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

    def _deliver(self, piece: bytes, now: float) -> None:
        sink = self._sink
        if sink is not None:
            try:
                sink.take(piece, now)
            except Exception as error:
                self.fail(error)
            return
        if not self._unread:
            self._first = piece
        else:
            if self._further is None:
                self._further = deque()
            self._further.append(piece)
        self._unread += len(piece)
        if self._unread > MOST_UNREAD and not self._is_paused and self._unread > self._patience:
            self._is_paused = True
            self.pause()

    def _take_one(self) -> bytes:
        piece = self._first
        self._first = self._further.popleft() if self._further else b""
        self._unread -= len(piece)
        if self._is_paused and self._unread <= MOST_UNREAD // 2:
            self._is_paused = False
            self.resume()
        return piece

    def take(self) -> bytes:
        """What has come of the body and was not taken yet."""
        found = self._first
        if self._further:
            found = b"".join((found, *self._further))
            self._further = None
        self._first = b""
        self._unread = 0
        if self._is_paused:
            self._is_paused = False
            self.resume()
        return found

    def _now(self) -> float:
        return seconds(self._connection.clock if self._connection is not None else time.monotonic)

    def _read_head(self, data: bytes) -> Head | None:
        """The head of the answer, None while its end has not come."""
        start = 0
        while True:
            head = parse_head(data, start)
            if head is None:
                self._early = data[start:]
                return None
            if head.status >= 200:
                return head
            start = head.end
            self._interim += 1
            if self._interim > _MOST_INTERIM:
                raise FramingError("too many interim answers")


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
