"""The access log: one JSON line a request, no prompt text, written by a thread so that a stuck reader holds up nobody."""

from __future__ import annotations

import os
import threading

from _fastpath.log_line import LogLines, is_plain
from gateway.exchange import Exchange

_LONGEST_VALUE = 256
_MOST_LINES_WAITING = 20_000
_MOST_BYTES_WAITING = 32 << 20
_GATHER_SECONDS = 0.05
_NEVER = -1.0


class AccessLog:
    """Lines out to a descriptor, gathered for a moment. When nobody reads it, lines are dropped and counted, and requests go on."""

    def __init__(self, descriptor: int = 1, enabled: bool = True) -> None:
        self._descriptor = descriptor
        self._enabled = enabled
        self._most, self._most_bytes = _MOST_LINES_WAITING, _MOST_BYTES_WAITING
        self._lines = LogLines()
        self._is_told = False
        self._arrived = threading.Event()
        self._ended = threading.Event()
        self._is_torn = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._write_forever, name="access-log", daemon=True)
        if enabled:
            self._thread.start()

    def finished(self, exchange: Exchange, now: float, wall: float) -> None:
        """Log a request that is over; ``wall`` is Unix time."""
        if not self._enabled:
            return
        if self._lines.count >= self._most or self._lines.size >= self._most_bytes:
            self.dropped += 1
            return
        add_line(self._lines, exchange, now, wall)
        if not self._is_told:
            self._is_told = True
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
            self._is_told = False  # before they are taken: whoever adds one from now on tells of it
            self._write(self._lines.take())
        self._write(self._lines.take())  # those that came while the last were written

    def _write(self, lines: bytes) -> None:
        mend = b"\n" if self._is_torn and lines else b""  # a line that broke off shall not spoil the next
        whole = mend + lines
        data = memoryview(whole)
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            pass
        written = len(whole) - len(data)
        self.dropped += lines.count(b"\n", max(0, written - len(mend)))
        if written:
            self._is_torn = whole[written - 1 : written] != b"\n"


def add_line(lines: LogLines, exchange: Exchange, now: float, wall: float) -> None:
    """One more line; ``wall`` is Unix time."""
    placement, server, matched, caller = exchange.placement, exchange.server, exchange.matched, exchange.caller
    started, first, sent, waited = exchange.started, exchange.first_byte, exchange.sent, exchange.waited
    ratio = _NEVER
    if placement is not None and placement.blocks:
        ratio = placement.matched_blocks / placement.blocks
    lines.add(
        wall - (now - started),
        exchange.request_id,
        exchange.path,
        exchange.status,
        exchange.operation.name,
        _shown((exchange.scan.model or "") if exchange.scan is not None else ""),
        matched.route.name if matched is not None else None,
        server.name if server is not None else None,
        placement.placed.name if placement is not None else None,
        exchange.scan is not None and exchange.scan.stream,
        now - started,
        first - started if first else _NEVER,
        sent - started - waited if sent else _NEVER,
        len(exchange.tried),
        exchange.bytes_in,
        exchange.bytes_out,
        ratio,
        exchange.usage,
        exchange.prompt_tokens,
        exchange.chunks,
        exchange.client_gone,
        exchange.error_code,
        exchange.error_source,
        _shown(exchange.error_message),
        caller.tenant if caller is not None else "",
        exchange.refusal,
        waited,
        exchange.decision,
    )


def _shown(text: str) -> str:
    """A client's text as a log may hold it: no control characters, which a terminal would obey, and not too long."""
    if is_plain(text, _LONGEST_VALUE):
        return text
    cut = text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE]
    return cut if cut.isprintable() else "".join([one if one.isprintable() else "\ufffd" for one in cut])
