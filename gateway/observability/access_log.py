"""The access log: one JSON line a request, no prompt text, written by a thread so that a stuck reader holds up nobody."""

from __future__ import annotations

import datetime
import os
import threading

from _fastpath.log_line import moment, request_line
from gateway.exchange import Exchange

_LONGEST_VALUE = 256
_MOST_LINES_WAITING = 20_000
_GATHER_SECONDS = 0.05
_NEVER = -1.0


class AccessLog:
    """Lines out to a descriptor, gathered for a moment. When nobody reads it, lines are dropped and counted, and requests go on."""

    def __init__(self, descriptor: int = 1, enabled: bool = True) -> None:
        self._descriptor = descriptor
        self._enabled = enabled
        self._lines: list[bytes] = []
        self._arrived = threading.Event()
        self._ended = threading.Event()
        self._stamps = Timestamps()
        self.dropped = 0
        self._thread = threading.Thread(target=self._write_forever, name="access-log", daemon=True)
        if enabled:
            self._thread.start()

    def finished(self, exchange: Exchange, now: float, wall: float) -> None:
        """Log a request that is over; ``wall`` is Unix time."""
        if not self._enabled:
            return
        if len(self._lines) >= _MOST_LINES_WAITING:
            self.dropped += 1
            return
        self._lines.append(line(exchange, now, wall, self._stamps))
        if not self._arrived.is_set():
            self._arrived.set()

    def close(self) -> None:
        """Write what waits, for at most a second."""
        if self._enabled:
            self._ended.set()
            self._arrived.set()
            self._thread.join(timeout=1.0)

    def _write_forever(self) -> None:
        while not self._ended.is_set():
            self._arrived.wait()
            # the thread wakes up twenty times a second at most: each time it takes the interpreter from the event loop
            self._ended.wait(_GATHER_SECONDS)
            self._arrived.clear()
            gathered = self._lines[:]
            del self._lines[: len(gathered)]  # not another list: a line may be on its way into this one
            self._write(gathered)

    def _write(self, lines: list[bytes]) -> None:
        data = memoryview(b"".join(lines))
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            self.dropped += len(lines)


class Timestamps:
    """RFC 3339 times of one line after the other: all but the milliseconds is made once a second."""

    def __init__(self) -> None:
        self._second = self._milliseconds = -1
        self._seconds = self._text = ""

    def of(self, wall: float) -> str:
        """A Unix time as text, in UTC."""
        milliseconds = int(wall * 1000 + 0.5)
        if milliseconds == self._milliseconds:
            return self._text  # most of a busy moment's lines
        second = milliseconds // 1000
        if second != self._second:
            self._second = second
            self._seconds = datetime.datetime.fromtimestamp(second, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
        self._milliseconds = milliseconds
        self._text = moment(self._seconds, milliseconds % 1000)
        return self._text


def line(exchange: Exchange, now: float, wall: float, stamps: Timestamps) -> bytes:
    """One line, with its end; ``wall`` is Unix time."""
    placement, server, matched = exchange.placement, exchange.server, exchange.matched
    started, first, sent = exchange.started, exchange.first_byte, exchange.sent
    ratio = placement.match_ratio if placement is not None else None
    return request_line(
        stamps.of(wall - (now - started)),
        exchange.request_id,
        exchange.path,
        exchange.status,
        exchange.operation.name,
        _shown(exchange.model),
        matched.route.name if matched is not None else None,
        server.name if server is not None else None,
        placement.placed.name if placement is not None else None,
        exchange.is_stream,
        now - started,
        first - started if first else _NEVER,
        sent - started - exchange.waited if sent else _NEVER,
        len(exchange.tried),
        exchange.bytes_in,
        exchange.bytes_out,
        ratio if ratio is not None else _NEVER,
        exchange.usage,
        exchange.prompt_tokens,
        exchange.chunks,
        exchange.client_gone,
        exchange.error_code,
        exchange.error_source,
        _shown(exchange.error_message),
        exchange.tenant,
        exchange.refusal,
        exchange.waited,
        exchange.decision,
    )


def _shown(text: str) -> str:
    """A client's text as a log may hold it: no control characters, which a terminal would obey, and not too long."""
    cut = text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE]
    return cut if cut.isprintable() else "".join([one if one.isprintable() else "\ufffd" for one in cut])
