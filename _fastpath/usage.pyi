"""How many tokens an answer used, from the last bytes of it; those bytes of a stream, and its events."""

from typing import final

def scan_usage(text: bytes) -> tuple[int, int, int] | None:
    """Prompt, completion and cached tokens of the last ``usage`` object in the tail of an answer, None when there is none.

    Cached tokens are -1 where the engine does not say. Never raises: an engine's answer may be anything.
    """

def events_in(piece: bytes) -> int:
    """Server-sent events with a JSON object that begin in a piece of a stream. An event whose beginning is cut in two counts nowhere."""

def has_no_usage(piece: bytes) -> bool:
    """Whether a piece of a stream ends with an event, and holds no ``"usage"``: nothing of it need be held back or looked into."""

@final
class Tail:
    """The last 4 KB of a stream, where engines say what they counted."""

    def add(self, piece: bytes) -> None:
        """The next piece; what is too far back is forgotten."""

    def text(self) -> bytes:
        """Up to 4 KB."""
