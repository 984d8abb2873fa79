"""Faults on command: what an engine does wrong with the next requests, as a test or a demonstration asks."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

Kind = Literal[
    "status",  # answer with this status and body
    "raw",  # write these bytes instead of an answer, and close
    "die_before_headers",  # close the connection without an answer
    "die_after",  # close it after so many events of a stream
    "stall_after",  # send nothing more after so many events
    "hang",  # never answer
    "slow_metrics",  # /metrics answers only after so many seconds
    "bad_tokenize",  # /tokenize answers with this status, after so many seconds
]
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_AT_FIELD = re.compile(r"^(.*?)(?: - at `(?:key in )?\$\.?(.*?)`)?$", re.DOTALL)


class FaultError(Exception):
    """No fault: which member of the object is wrong (empty: the object), and why."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


class Fault(Struct, forbid_unknown_fields=True):
    """One fault, for the next ``count`` requests (-1: all)."""

    kind: Kind
    count: Annotated[int, Meta(ge=-1)] = 1
    after: Annotated[int, Meta(ge=0)] = 0
    status: Annotated[int, Meta(ge=200, le=599)] = 500
    body: str = ""
    headers: dict[str, str] = {}
    seconds: Annotated[float, Meta(ge=0)] = 0.0


class Faults:
    """The faults that wait for a request."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, content: bytes) -> Fault:
        """From a JSON object. Raises FaultError for one that is none."""
        try:
            fault = msgspec.json.decode(content, type=Fault)
        except msgspec.ValidationError as error:
            raise _located(str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FaultError("", f"not JSON: {error}") from error
        _check(fault)
        self._waiting.append(fault)
        return fault

    def clear(self) -> None:
        """No faults any more."""
        self._waiting.clear()

    def take(self, metrics: bool = False, tokenize: bool = False) -> Fault | None:
        """The fault for this request, if any: of answers, unless it is one for ``/metrics`` or ``/tokenize``."""
        wanted = (metrics, tokenize)
        for fault in self._waiting:
            if (fault.kind == "slow_metrics", fault.kind == "bad_tokenize") == wanted and fault.count != 0:
                if fault.count > 0:
                    fault.count -= 1
                return fault
        return None


def _located(text: str) -> FaultError:
    found = _AT_FIELD.match(text)
    assert found is not None
    message, field = found[1], found[2] or ""
    missing = re.search(r"(?:required|unknown) field `([^`]+)`", message)
    return FaultError(missing[1] if missing and not field else field, message[0].lower() + message[1:])


def _check(fault: Fault) -> None:
    if fault.kind == "raw" and not all(ord(one) < 256 for one in fault.body):
        raise FaultError("body", "the bytes of a raw answer are given as characters up to U+00FF")
    for name, value in fault.headers.items():
        if not _HEADER_NAME.fullmatch(name) or any(one in value for one in "\r\n\0"):
            raise FaultError(f"headers.{name}", "no header of HTTP")
