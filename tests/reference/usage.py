"""Plain-Python twin of ``_fastpath.usage``: the standard library's parser at every ``"usage"``, from the last to the first."""

import json
import re
from typing import Any

_USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')


def _count(usage: dict[str, Any], *names: str) -> int:
    """The first of these members that is a count, -1 when none is."""
    for name in names:
        value = usage.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return -1


def scan_usage(text: bytes) -> tuple[int, int, int] | None:
    """Prompt, completion and cached tokens of the last ``usage`` object that names prompt tokens; -1 cached ones where nothing is said."""
    for found in reversed(list(_USAGE.finditer(text))):
        try:
            usage, _end = json.JSONDecoder().raw_decode(text[found.end() :].decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            continue
        prompt = _count(usage, "prompt_tokens", "input_tokens")
        if prompt < 0:
            continue
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or usage
        completion = _count(usage, "completion_tokens", "output_tokens")
        return prompt, max(completion, 0), _count(details, "cached_tokens")
    return None


def events_in(piece: bytes) -> int:
    """Events that begin in a piece."""
    return piece.count(b"data: {")


def has_no_usage(piece: bytes) -> bool:
    """Whether it ends with an event, and none of it names usage."""
    return piece.endswith(b"\n\n") and b'"usage"' not in piece


class Tail:
    """The end of everything that was added."""

    def __init__(self) -> None:
        self._whole = b""

    def add(self, piece: bytes) -> None:
        """The next piece."""
        self._whole += piece

    def text(self) -> bytes:
        """Up to 4 KB."""
        return self._whole[-4096:]
