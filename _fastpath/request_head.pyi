"""The head of a request to an engine."""

from collections.abc import Callable

def passed_on(request_id: str, header: Callable[[str], str | None], with_authorization: bool) -> str:
    """The lines that an engine is told of a request, each with its end: never the client's host or hop-by-hop headers.

    ``header`` looks up what the client sent. Of its own go on ``accept``, ``traceparent``, ``tracestate``, ``user-agent`` and, only where
    ``with_authorization`` says so, its credentials; a value that is not printable ASCII does not. ValueError for an id that is not
    printable ASCII; raises what ``header`` raises, and TypeError when that gives anything else than text.
    """

def request_head(start: bytes, lines: str, length: int) -> bytes:
    """A whole head: its first lines, further lines, and how long its body is. ValueError for lines that are not ASCII."""
