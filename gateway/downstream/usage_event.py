"""Takes the usage event out of a stream whose client did not ask for it.

The gateway asks engines for their count of tokens at the end of every stream, because limits and metrics go by it. A client that did not
ask gets the stream that it would have had: an event without choices that carries nothing but usage is left out, everything else passes
byte for byte.
"""

from __future__ import annotations

import orjson

from _fastpath.usage import has_no_usage

MOST_HELD = 64 << 10
"""Of an event that has not ended; a longer one is no usage event and passes as it comes."""


class UsageEventFilter:
    """One stream's filter. Whole events pass at once; only the beginning of an event waits for its end."""

    def __init__(self) -> None:
        self._partial = b""

    def feed(self, piece: bytes) -> bytes:
        """The next piece of the stream: what of it the client may have now."""
        if not self._partial and has_no_usage(piece):
            return piece  # whole events, as most pieces are
        data = self._partial + piece if self._partial else piece
        end = max(_end_of_last(data, b"\n\n"), _end_of_last(data, b"\r\n\r\n"))
        if len(data) - end > MOST_HELD:
            end = len(data)
        self._partial = data[end:]
        whole = data if end == len(data) else data[:end]
        return _without_usage_event(whole) if b'"usage"' in whole else whole

    def end(self) -> bytes:
        """The stream is over: what was still held, of an event that did not end."""
        partial, self._partial = self._partial, b""
        return b"" if _is_usage_event(partial) else partial


def _end_of_last(data: bytes, separator: bytes) -> int:
    """Just behind the last separator, 0 when there is none."""
    place = data.rfind(separator)
    return place + len(separator) if place >= 0 else 0


def _without_usage_event(events: bytes) -> bytes:
    separator = b"\r\n\r\n" if b"\r\n\r\n" in events else b"\n\n"
    parts = events.split(separator)
    kept = [part for part in parts if not _is_usage_event(part)]
    return events if len(kept) == len(parts) else separator.join(kept)


def _is_usage_event(event: bytes) -> bool:
    if not event.startswith(b"data:") or b'"usage"' not in event:
        return False
    try:
        content = orjson.loads(event[5:])
    except orjson.JSONDecodeError:
        return False
    return isinstance(content, dict) and content.get("choices") == [] and isinstance(content.get("usage"), dict)
