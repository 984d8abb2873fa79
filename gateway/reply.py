"""From an engine's answer to the client: whole when it is short, streamed when it is not; never as if whole when it is not."""

from __future__ import annotations

import math
from collections.abc import Callable

from _fastpath.clock import seconds
from _fastpath.log_line import server_timing
from _fastpath.usage import Tail, events_in, scan_usage
from gateway import errors
from gateway.admission.limits import RateLimiter
from gateway.counting import Count
from gateway.downstream.client_socket import ClientSocket, ClientSockets
from gateway.downstream.coalescer import Coalescer
from gateway.downstream.stream import ClientStream
from gateway.downstream.usage_event import UsageEventFilter
from gateway.errors import ClientGone, Draining, PenstockError
from gateway.exchange import Exchange
from gateway.observability.metrics import RequestMetrics
from gateway.settings import Settings
from gateway.upstream.connection import Answer, Sink

LARGEST_WHOLE = 1 << 20
"""An answer of up to this many bytes is read whole before its head goes out, so that a broken one can still be an error."""
Headers = list[tuple[str, str]]
_TAIL_BYTES = 4096
_OK = 200
_UNAVAILABLE = 503


class Replier:
    """Sends answers and errors to clients."""

    def __init__(
        self,
        settings: Settings,
        sockets: ClientSockets,
        limiter: RateLimiter,
        metrics: RequestMetrics,
        clock: Callable[[], float],
        first_token: Callable[[Exchange], None],
        coalescer: Coalescer,
    ) -> None:
        self._settings = settings
        self._has_details = settings.response_details
        self._limiter = limiter
        self._metrics = metrics
        self._sockets = sockets
        self._clock = clock
        self._first_token = first_token
        self._coalescer = coalescer

    def answer_at_once(self, exchange: Exchange, answer: Answer) -> bool:
        """Pass on an answer that came whole with its head, as most do; False when there is something to wait for. Raises ClientGone."""
        head = answer.head
        if not answer.is_complete or head is None or head.is_event_stream:
            return False
        _note_status(exchange, head.status, head.headers)
        body = answer.take()
        now = seconds(self._clock)
        if body:
            self.note(exchange, len(body), now)
        self._send_whole(exchange, head.headers, body, now)
        return True

    async def answer(self, exchange: Exchange, answer: Answer) -> None:
        """Pass an engine's answer on. Raises UpstreamError only while the client has seen nothing."""
        _note_status(exchange, answer.status, answer.headers)
        if answer.is_event_stream or (answer.length is not None and answer.length > LARGEST_WHOLE):
            await self._stream(exchange, answer, b"")
            return
        body = await answer.whole(LARGEST_WHOLE)
        if body:
            self.note(exchange, len(body), seconds(self._clock))
        if not answer.is_complete:
            await self._stream(exchange, answer, body)
            return
        self._send_whole(exchange, answer.headers, body, seconds(self._clock))

    def _send_whole(self, exchange: Exchange, given: Headers, body: bytes, now: float) -> None:
        status = exchange.status
        if status == _OK:
            exchange.usage = scan_usage(body if len(body) <= _TAIL_BYTES else body[-_TAIL_BYTES:])
        self.whole(exchange, status, self._headers(exchange, given), body, now)

    def whole(self, exchange: Exchange, status: Count, headers: Headers, body: bytes, now: float) -> None:
        """Send an answer that is complete, now. Raises ClientGone."""
        exchange.status = status
        exchange.responded = True
        exchange.last_byte = now
        exchange.bytes_out = len(body)
        try:
            exchange.protocol.response_bytes(status, headers, body)
        except Exception as error:
            raise ClientGone from error

    def refuse(self, exchange: Exchange, error: PenstockError) -> None:
        """Send an error."""
        note(exchange, error)
        headers = [*errors.headers(error), ("x-request-id", exchange.request_id)]
        headers = self._with_details(exchange, headers)
        self.whole(exchange, error.status, headers, errors.body(error), seconds(self._clock))

    async def _stream(self, exchange: Exchange, answer: Answer, before: bytes) -> None:
        headers = self._headers(exchange, answer.headers)
        exchange.responded = True
        try:
            transport = exchange.protocol.response_stream(answer.status, headers)
        except Exception as error:
            raise ClientGone from error
        client = ClientSocket(exchange.scope.client, exchange.started, self._sockets)
        stream = ClientStream(transport, client, self._settings.streams, answer, self._clock)
        events = answer.is_event_stream
        # no closure: it would hold itself and the client's stream, which ends when nobody holds it any more
        way = Forwarding(self, exchange, stream, events, self._metrics, self._coalescer)
        try:
            if before:
                way.tail.add(before)
                stream.send(before)
            await answer.forward(way)
            way.end()
        except PenstockError as error:
            note(exchange, error)
            await stream.fail(errors.stream_event(error) if events else b"")
        except ClientGone:
            raise  # cut already, or nobody is there to be told
        except BaseException:
            if not exchange.client_gone:
                shutting_down = Draining("This gateway shuts down.")
                await stream.fail(errors.stream_event(shutting_down) if events else b"")
            raise
        finally:
            stream.close()
        exchange.usage = scan_usage(way.tail.text())

    def note(self, exchange: Exchange, size: Count, now: float) -> None:
        """A piece of the answer was read; with the first one the prompt is computed."""
        if not exchange.first_byte:
            exchange.first_byte = now
            self._first_token(exchange)
        exchange.last_byte = now
        exchange.bytes_out += size

    def _headers(self, exchange: Exchange, given: Headers) -> Headers:
        headers = list(given)
        headers.append(("x-request-id", exchange.request_id))
        if exchange.reservation is not None:
            headers.extend(self._limiter.headers(exchange.reservation))
        return self._with_details(exchange, headers)

    def _with_details(self, exchange: Exchange, headers: Headers) -> Headers:
        placement = exchange.placement
        if self._has_details and placement is not None:
            now = exchange.first_byte or seconds(self._clock)
            sent = exchange.sent or now  # an engine that was tried may have had nothing of it
            overhead, first = sent - exchange.started - exchange.waited, now - sent
            headers.append(("x-penstock-endpoint", placement.placed.name))
            headers.append(("server-timing", server_timing(overhead, exchange.waited, first)))
        return headers


class Forwarding(Sink):
    """A stream on its way: each piece is noted, its text kept as far as it may say what was used, and sent on as it was read."""

    def __init__(
        self,
        replier: Replier,
        exchange: Exchange,
        stream: ClientStream,
        events: bool,
        metrics: RequestMetrics,
        coalescer: Coalescer,
    ) -> None:
        self.tail = Tail()
        self._replier = replier
        self._exchange = exchange
        self._stream = stream
        self._events = events
        self._metrics = metrics
        self._coalescer = coalescer
        self._gaps = metrics.gap_series(exchange)
        self._hidden = UsageEventFilter() if events and exchange.asked_for_usage else None

    def take(self, piece: bytes, now: float) -> None:
        """The next piece. Raises ClientGone."""
        exchange = self._exchange
        earlier = exchange.last_byte
        if earlier:
            exchange.last_byte = now
            exchange.bytes_out += len(piece)
            self._metrics.gap(self._gaps, now - earlier)
        else:
            self._replier.note(exchange, len(piece), now)
        if self._events:
            exchange.chunks += events_in(piece)
        self.tail.add(piece)
        if self._hidden is not None:
            piece = self._hidden.feed(piece)
        if piece:
            self._stream.send(piece)
        if self._events:  # a large body that comes as fast as it can shall not be held up
            self._coalescer.note(now)

    def end(self) -> None:
        """The engine has said all. Raises ClientGone."""
        if self._hidden is not None and (rest := self._hidden.end()):
            self._stream.send(rest)


def _note_status(exchange: Exchange, status: Count, headers: Headers) -> None:
    exchange.status = status
    if status == _UNAVAILABLE:
        exchange.pushes_back = "retry-after" in [name.lower() for name, _ in headers]


def note(exchange: Exchange, error: PenstockError) -> None:
    """What log and metrics say of a failed exchange."""
    exchange.status = error.status
    exchange.error_code = error.code
    exchange.error_source = error.source
    exchange.error_message = error.message


def estimated_output(exchange: Exchange) -> Count:
    """Tokens of an answer whose engine did not count them: events of a stream, or text by its length."""
    if exchange.chunks:
        return exchange.chunks
    return math.ceil(exchange.bytes_out / 4) if exchange.status == 200 and exchange.operation.generates else 0
