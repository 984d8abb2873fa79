"""Plain-Python twin of ``_fastpath.scanner``: the standard library's parser, and what it lets pass checked afterwards."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

NAMES = (
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "user",
    "prompt_cache_key",
    "messages",
    "prompt",
    "input",
    "tools",
    "system",
    "instructions",
    "query",
    "documents",
)
PROMPTS = ("messages", "prompt", "input", "query")
TOKEN_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
ARRAY_FACTOR = 100
LARGEST_WHOLE = 2**62
DEEPEST = 250
MOST_FORBIDDEN = 32
LONGEST_NAME = 128
LONGEST_TEXT = {"model": 512, "user": 1024, "prompt_cache_key": 1024}

_SPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile("[\ud800-\udfff]")


class ScanError(Exception):
    """The body cannot be used."""

    def __init__(self, code: str, field: str | None = None) -> None:
        super().__init__(code, field)
        self.code = code
        self.field = field


class Number(str):
    """A number as it is spelled."""

    __slots__ = ()


class Members(list[tuple[str, Any]]):
    """An object as the list of its members, so that those that stand twice stay visible."""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=Members, parse_int=Number, parse_float=Number, parse_constant=_refuse_constant
)


class Forbidden:
    """Names, and beginnings of names, that a client may not send."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(dict.fromkeys(names))
        for name in self.names:
            stem = name.removesuffix("*")
            if not stem or len(stem.encode()) > LONGEST_NAME or any(map(self._covers(name), NAMES)):
                raise ValueError(name)

    @staticmethod
    def _covers(entry: str) -> Any:
        return (lambda name: name.startswith(entry[:-1])) if entry.endswith("*") else entry.__eq__

    def covers(self, name: str) -> bool:
        """Whether a member of this name is forbidden."""
        return any(self._covers(entry)(name) for entry in self.names)


@dataclass
class Scan:
    """What a body says. Positions are byte offsets into it."""

    model: str | None = None
    stream: bool = False
    include_usage: bool = False
    max_tokens: int = -1
    choices: int = 1
    user: str | None = None
    prompt_cache_key: str | None = None
    prompt_start: int = 0
    prompt_end: int = 0
    prompt_is_tokens: bool = False
    prompt_tokens: int = 0
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    cuts: list[tuple[int, int]] = field(default_factory=list)

    @property
    def forbidden(self) -> int:
        """How many members are forbidden."""
        return len(self.cuts)

    def span(self, member: str) -> tuple[int, int] | None:
        if member not in NAMES:
            raise KeyError(member)
        return self.spans.get(member)

    def has(self, member: str) -> bool:
        return self.span(member) is not None


def _parse(body: bytes) -> tuple[str, Members]:
    """The text and its object; whatever is not one strict JSON object is invalid."""
    try:
        text = body.decode("utf-8")
        value = _DECODER.decode(text)
    except RecursionError:
        raise ScanError("json_too_deep") from None
    except ValueError:
        raise ScanError("invalid_json") from None
    if not isinstance(value, Members):
        raise ScanError("invalid_json")
    return text, value


def _check(whole: Members, depth: int, members: int, digits: int) -> None:
    """Surrogates and limits, everywhere in the body."""
    waiting: list[tuple[Any, int]] = [(whole, 1)]
    while waiting:
        value, level = waiting.pop()
        if isinstance(value, Number):
            if len(value) > digits:
                raise ScanError("json_number_too_long")
        elif isinstance(value, str):
            if _SURROGATE.search(value):
                raise ScanError("invalid_json")
        elif isinstance(value, list):
            if level > min(depth, DEEPEST):
                raise ScanError("json_too_deep")
            if len(value) > (members if isinstance(value, Members) else members * ARRAY_FACTOR):
                raise ScanError("json_too_wide")
            items = [part for pair in value for part in pair] if isinstance(value, Members) else value
            waiting.extend((item, level + 1) for item in items)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def places(text: str) -> Iterator[tuple[str, int, int, int]]:
    """Name, its start, the value's start and end, in characters, of the members of a text that is known to be a valid object."""
    at = _after_space(text, text.index("{") + 1)
    while text[at] != "}":
        key = at
        name, at = _DECODER.raw_decode(text, at)
        start = _after_space(text, _after_space(text, at) + 1)
        _value, end = _DECODER.raw_decode(text, start)
        yield name, key, start, end
        at = _after_space(text, end)
        if text[at] == ",":
            at = _after_space(text, at + 1)


def _find(text: str, found: Scan, forbidden: Forbidden | None) -> None:
    for name, *characters in places(text):
        key, start, end = (len(text[:at].encode()) for at in characters)
        if name in found.spans:
            raise ScanError("duplicate_parameter", name)
        if name in NAMES:
            found.spans[name] = (start, end)
        elif forbidden is not None and forbidden.covers(name):
            found.cuts.append((key, end))
    if len(found.cuts) > MOST_FORBIDDEN:
        raise ScanError("json_too_wide")


def _read_text(values: dict[str, Any], spans: dict[str, tuple[int, int]], name: str) -> str | None:
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, Number) or not isinstance(value, str):
        raise ScanError("invalid_type", name)
    if spans[name][1] - spans[name][0] > LONGEST_TEXT[name]:
        raise ScanError("invalid_value", name)
    return value


def _read_boolean(values: dict[str, Any], name: str) -> bool:
    value = values.get(name)
    if value is not None and not isinstance(value, bool):
        raise ScanError("invalid_type", name)
    return value is True


def _read_include_usage(values: dict[str, Any]) -> bool:
    value = values.get("stream_options")
    if value is None:
        return False
    if not isinstance(value, Members):
        raise ScanError("invalid_type", "stream_options")
    found = [one for name, one in value if name == "include_usage"]
    if len(found) > 1:
        raise ScanError("duplicate_parameter", "stream_options")
    return found == [True]


def _read_whole(values: dict[str, Any], name: str, absent: int) -> int:
    value = values.get(name)
    if value is None:
        return absent
    if not isinstance(value, Number) or value.startswith("-"):
        raise ScanError("invalid_type", name)
    if value.isdigit() and len(value) <= 18:
        return int(value)
    # as an engine reads it, with the precision of a float; what is not whole it refuses itself
    number = float(value)
    if number >= LARGEST_WHOLE:
        return LARGEST_WHOLE
    return int(number) if number.is_integer() else absent


def scan(
    body: bytes, depth: int = 64, members: int = 10000, digits: int = 40, forbidden: Forbidden | None = None
) -> Scan:
    """Check a body and find its members. Raises ScanError."""
    text, whole = _parse(body)
    _check(whole, depth, members, digits)
    values = dict(whole)
    found = Scan()
    _find(text, found, forbidden)
    spans = found.spans
    found.model = _read_text(values, spans, "model")
    found.user = _read_text(values, spans, "user")
    found.prompt_cache_key = _read_text(values, spans, "prompt_cache_key")
    found.stream = _read_boolean(values, "stream")
    found.include_usage = _read_include_usage(values)
    found.choices = _read_whole(values, "n", 1)
    limits = [_read_whole(values, name, -1) for name in TOKEN_LIMITS]
    found.max_tokens = min((limit for limit in limits if limit >= 0), default=-1)
    prompt = next((name for name in PROMPTS if values.get(name) is not None), None)
    if prompt is not None:
        value = values[prompt]
        found.prompt_start, found.prompt_end = spans[prompt]
        found.prompt_is_tokens = (
            isinstance(value, list)
            and len(value) > 0
            and not isinstance(value, Members)
            and all(isinstance(item, Number) and item.isdigit() for item in value)
        )
        found.prompt_tokens = len(value) if found.prompt_is_tokens else 0
    return found
