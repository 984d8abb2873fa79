"""Twin of ``_fastpath.http1``: looks at the whole body so far, again at each call."""

import re
from dataclasses import dataclass

_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})(;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER = re.compile(rb"[\t\x20-\x7e\x80-\xff]+\r\n")
MOST_OVERHEAD = 8192


_STATUS = re.compile(rb"HTTP/1\.([01]) (\d{3})( [\t\x20-\x7e\x80-\xff]*)?")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
_DROPPED = frozenset(
    (
        "connection", "content-length", "date", "keep-alive", "proxy-authenticate", "proxy-connection", "server",
        "server-timing", "te", "trailer", "transfer-encoding", "upgrade", "x-request-id",
    )
)  # fmt: skip


class FramingError(Exception):
    """Bytes that do not follow the framing."""


@dataclass
class Head:
    status: int
    headers: list[tuple[str, str]]
    length: int | None
    chunked: bool
    keeps_alive: bool
    is_event_stream: bool
    end: int


def parse_head(data: bytes, start: int = 0) -> Head | None:
    end = data.find(b"\r\n\r\n", start)
    lines = data[start : end if end >= 0 else None].split(b"\r\n")
    whole = lines if end >= 0 else lines[:-1]
    if any(b"\n" in line for line in lines) or not b"HTTP/1.".startswith(data[start : start + 7]):
        raise FramingError
    fields: list[tuple[str, bytes]] = []
    status = None
    for line in whole:
        if status is None:
            status = _STATUS.fullmatch(line)
            if status is None or not 100 <= int(status[2]) <= 599 or int(status[2]) == 101:
                raise FramingError
            continue
        field = _HEADER.fullmatch(line)
        if field is None:
            raise FramingError
        fields.append((field[1].decode().lower(), field[2]))
        _framing(fields)
    if end < 0:
        return None
    assert status is not None
    return _head(int(status[2]), status[1] == b"1", fields, end + 4)


def _framing(fields: list[tuple[str, bytes]]) -> tuple[int | None, bool, set[str]]:
    lengths = [value for name, value in fields if name == "content-length"]
    codings = [value.lower() for name, value in fields if name == "transfer-encoding"]
    hops = {
        part.strip(" \t")
        for name, value in fields
        if name == "connection"
        for part in value.decode("latin-1").lower().split(",")
    }
    if len(lengths) > 1 or any(not re.fullmatch(rb"\d{1,18}", value) for value in lengths):
        raise FramingError
    if codings not in ([], [b"chunked"]) or "upgrade" in hops:
        raise FramingError
    return int(lengths[0]) if lengths else None, bool(codings), hops


def _head(status: int, is_1_1: bool, fields: list[tuple[str, bytes]], end: int) -> Head:
    length, chunked, hops = _framing(fields)
    if chunked and length is not None:
        raise FramingError
    if status < 200 or status in (204, 304):
        length, chunked = 0, False
    passed = [
        (name, value.decode())
        for name, value in fields
        if name not in _DROPPED | (hops - {"close", "keep-alive"})
        and not name.startswith("x-penstock-")
        and value.decode("latin-1").isascii()
        and value.decode("latin-1").isprintable()
    ]
    keeps = is_1_1 and "close" not in hops and (chunked or length is not None)
    types = [value for name, value in passed if name == "content-type"]
    return Head(status, passed, length, chunked, keeps, bool(types) and types[-1].startswith("text/event-stream"), end)


class BodyReader:
    def __init__(self, *, length: int | None = None, chunked: bool = False) -> None:
        self._length, self._chunked = length, chunked
        self._seen = b""
        self._given = 0
        self.complete = length == 0
        self.excess = 0

    def feed(self, data: bytes, start: int = 0) -> bytes:
        data = data[start:]
        if self.complete:
            self.excess += len(data)
            return b""
        self._seen += data
        if self._chunked:
            body, rest = self._chunks()
        elif self._length is None:
            body, rest = self._seen, b""
        else:
            body, rest = self._seen[: self._length], self._seen[self._length :]
            self.complete = len(body) == self._length
        self.excess = len(rest) if self.complete else 0
        fresh, self._given = body[self._given :], len(body)
        return fresh

    def end(self) -> bool:
        if not self._chunked and self._length is None:
            self.complete = True
        return self.complete

    def _chunks(self) -> tuple[bytes, bytes]:
        """The body so far, and what follows its end."""
        text, body, overhead = self._seen, b"", 0
        while True:
            size = _SIZE.match(text)
            if size is None:
                line = text.partition(b"\r")
                if line[2][1:] or not re.fullmatch(
                    rb"|[0-9a-fA-F]{1,15}(;[\t\x20-\x7e\x80-\xff]*)?\r?", b"".join(line)
                ):
                    raise FramingError
                if overhead + len(line[0].partition(b";")[2]) > MOST_OVERHEAD:
                    raise FramingError
                return body, b""
            overhead += len((size[2] or b";")[1:])
            if overhead + ((size[2] or b"") != b"") > MOST_OVERHEAD:
                raise FramingError
            overhead += (size[2] or b"") != b""
            text, count = text[size.end() :], int(size[1], 16)
            if count == 0:
                return self._trailers(body, text, overhead)
            body += text[:count]
            after = text[count : count + 2]
            if not b"\r\n".startswith(after):
                raise FramingError
            if len(after) < 2:
                return body, b""
            text = text[count + 2 :]

    def _trailers(self, body: bytes, text: bytes, overhead: int) -> tuple[bytes, bytes]:
        while True:
            if text.startswith(b"\r\n"):
                self.complete = True
                return body, text[2:]
            line = _TRAILER.match(text)
            if line is None:
                if text and not re.fullmatch(rb"\r|[\t\x20-\x7e\x80-\xff]+\r?", text):
                    raise FramingError
                if overhead + len(text) > MOST_OVERHEAD:
                    raise FramingError
                return body, b""
            overhead += line.end() - 1
            if overhead > MOST_OVERHEAD:
                raise FramingError
            text = text[line.end() :]
