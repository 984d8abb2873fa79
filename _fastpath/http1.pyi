"""Answers of HTTP/1.1, strictly read (RFC 9110, RFC 9112): bytes in, a head and bytes out, no I/O."""

from typing import final

class FramingError(Exception):
    """Bytes that do not follow the framing: what comes after cannot be trusted either, so the connection must be closed."""

@final
class Head:
    """The head of an answer."""

    status: int
    """200 to 599, or 100 to 199 without 101 for an interim answer, which another head follows."""
    headers: list[tuple[str, str]]
    """Names in lower case. Without those of the connection, those in which the gateway speaks itself, and what is not printable ASCII."""
    length: int | None
    """Announced bytes of the body; 0 for statuses that have none."""
    chunked: bool
    keeps_alive: bool
    """The connection can carry another request: the end of this answer can be told, and nobody said `close`."""
    is_event_stream: bool
    end: int
    """Where in the bytes that were read the body begins."""

def parse_head(data: bytes, start: int = 0) -> Head | None:
    """The head that begins at ``start``, None when its end has not come.

    32 KB at most, 100 headers, 8 KB a line. Raises FramingError for whatever another parser might read otherwise: bare line feeds, folded
    lines, two lengths, a length beside chunks, any transfer-encoding but ``chunked``, upgrades, statuses that no client may see.
    """

@final
class BodyReader:
    """One body: ``length`` bytes, or chunks, or with neither whatever comes until the connection ends."""

    complete: bool
    """The body is whole. What is fed afterwards counts as :attr:`excess`."""
    excess: int
    """Bytes that came after the end of the body. An answer that nobody asked for, or worse: close the connection."""
    def __init__(self, *, length: int | None = None, chunked: bool = False) -> None: ...
    def feed(self, data: bytes, start: int = 0) -> bytes:
        """The bytes of the body that are in ``data`` from ``start`` on, without the framing; ``data`` itself when all of it is body.

        Raises FramingError. Extensions and trailers are skipped, 8 KB of them at most.
        """

    def end(self) -> bool:
        """The connection has ended: whether the body is whole."""

def body_of(head: Head) -> BodyReader:
    """The reader of the body that comes after a head."""
