"""One pass over a request body: strict validation, and the few members that routing, limits and scheduling need."""

from collections.abc import Iterable
from typing import final

class ScanError(Exception):
    """The body cannot be used. ``code`` is a word of the error contract, ``field`` the member at fault or None."""

    code: str
    field: str | None
    position: int
    message: str
    def __init__(self, code: str, field: str | None, position: int, message: str) -> None: ...

@final
class Forbidden:
    """Top-level members that are not a client's to send; made once. A name that ends in ``*`` stands for all that begin so."""

    names: tuple[str, ...]
    def __init__(self, names: Iterable[str]) -> None:
        """ValueError for a name that the gateway itself reads or covers one, that is empty, or that has more than 128 bytes."""

@final
class Scan:
    """What a body says. Positions are byte offsets into it."""

    model: str | None
    stream: bool
    include_usage: bool
    """Whether ``stream_options.include_usage`` is true."""
    max_tokens: int
    """The smallest of the token limits that the body names, -1 when it names none."""
    choices: int
    """``n``, 1 when absent."""
    user: str | None
    prompt_cache_key: str | None
    prompt_start: int
    prompt_end: int
    """Span of ``messages``, ``prompt``, ``input`` or ``query``, whichever comes first in this order; 0, 0 when absent."""
    tools_start: int
    tools_end: int
    """The same of ``tools``."""
    prompt_is_tokens: bool
    """The prompt is an array of numbers."""
    prompt_tokens: int
    """How many numbers that array has."""
    forbidden: int
    """How many members are forbidden, each of those that stand twice counted; :func:`_fastpath.splice.splice` takes them out."""
    def span(self, member: str) -> tuple[int, int] | None:
        """Where a top-level member's value lies. KeyError for a member that the scanner does not look for."""

    def has(self, member: str) -> bool: ...

def scan(
    body: bytes, depth: int = 64, members: int = 10000, digits: int = 40, forbidden: Forbidden | None = None
) -> Scan:
    """Check a body and find its members.

    ``depth``: nesting; ``members``: of the widest object (arrays may have a hundred times as many: prompts as token ids are
    long); ``digits``: characters of the longest number; ``forbidden``: at most 32 of them in one body, in any spelling. Raises
    ScanError.
    """
