"""Plain-Python twin of ``_fastpath.splice``: the members in a list, each with the white space around it, edited and joined again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from tests.reference.scanner import NAMES, Scan, places


@dataclass
class Part:
    """A member as it is spelled, up to its value, and what is around it."""

    name: str
    before: str
    key: str
    value: str
    after: str
    key_at: int

    def __str__(self) -> str:
        return self.before + self.key + self.value + self.after


def _parts(text: str) -> tuple[str, list[Part], str]:
    """What stands before the members, they, and the space behind the last."""
    start, end = text.index("{") + 1, text.rindex("}")
    parts = []
    at = start
    for name, key, value, value_end in places(text):
        after = value_end + len(text[value_end:end]) - len(text[value_end:end].lstrip(" \t\r\n"))
        parts.append(Part(name, text[at:key], text[key:value], text[value:value_end], text[value_end:after], key))
        at = after + 1
    if not parts:
        return text[:start], parts, text[start:end]
    space, parts[-1].after = parts[-1].after, ""
    return text[:start], parts, space


def splice(body: bytes, found: Scan, changes: Mapping[str, bytes | None]) -> bytes:
    """The body without its forbidden members and with these changes."""
    text = body.decode()
    head, parts, space = _parts(text)
    cuts = {len(body[:start].decode()) for start, _end in found.cuts}
    kept: list[Part] = []
    before = ""
    for part in parts:
        if part.key_at in cuts or (part.name in changes and changes[part.name] is None):
            before += part.before
            continue
        part.before, before = before + part.before, ""
        kept.append(part)
    known = {part.name: part for part in kept if part.name in NAMES}
    added = []
    for name, value in changes.items():
        if value is None:
            if name not in NAMES:
                raise ValueError(name)
        elif name in known:
            known[name].value = value.decode()
        else:
            added.append(json.dumps(name, ensure_ascii=False) + ":" + value.decode())
    return (head + ",".join([*map(str, kept), *added]) + space + text[text.rindex("}") :]).encode()


def with_usage(body: bytes, found: Scan) -> bytes:
    """The value of ``stream_options`` with ``include_usage`` true."""
    span = found.span("stream_options")
    options = body[slice(*span)].decode() if span is not None else "null"
    if options == "null":
        return b'{"include_usage":true}'
    for name, _key, start, end in places(options):
        if name == "include_usage":
            return (options[:start] + "true" + options[end:]).encode()
    members = options[:-1].rstrip(" \t\r\n")
    space = options[len(members) : -1]
    return (members + ("," if members != "{" else "") + '"include_usage":true' + space + "}").encode()
