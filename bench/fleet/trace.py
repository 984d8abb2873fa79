"""Request traces: one JSON object a line with ``timestamp`` (ms), ``input_length``, ``output_length`` (tokens) and ``hash_ids``.

An id stands for one block of prompt tokens and all before it: equal ids mean an equal prefix. The last id may stand for a part of a block.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_FIELDS = ("timestamp", "input_length", "output_length", "hash_ids")


class BadTrace(Exception):
    """The file is no trace, with the line at fault."""


@dataclass(frozen=True, slots=True)
class Prompted:
    """One request of a trace."""

    number: int
    timestamp: float
    """Seconds since the first request, at the trace's own speed."""
    prompt_tokens: int
    output_tokens: int
    ids: tuple[int, ...]
    """One for each block of the prompt, a last partial one included."""
    whole: tuple[int, ...]
    """The ids of whole blocks: what an engine can reuse."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Some requests in order of their arrival."""

    name: str
    digest: str
    """SHA-256 of what was read."""
    block_size: int
    """Tokens of the block that an id stands for."""
    requests: tuple[Prompted, ...]

    @property
    def rate(self) -> float:
        """Requests a second at the trace's own speed."""
        return (len(self.requests) - 1) / self.requests[-1].timestamp

    def arrivals(self, rate: float) -> list[float]:
        """Seconds of each arrival when the whole is replayed at this many requests a second."""
        scale = self.rate / rate
        return [one.timestamp * scale for one in self.requests]


def read(path: Path, block_size: int, limit: int | None = None) -> Trace:
    """The first ``limit`` requests of a file. Raises BadTrace, or OSError for a file that cannot be read."""
    lines = _lines(path, limit)
    requests = tuple(_requests(lines, block_size))
    if len(requests) < 2 or requests[-1].timestamp <= 0:
        raise BadTrace(f"{path.name}: two requests at different times are the least, to have a rate")
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return Trace(path.name, digest, block_size, requests)


def _lines(path: Path, limit: int | None) -> list[str]:
    found: list[str] = []
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if limit is not None and len(found) >= limit:
                    break
                if line.strip():
                    found.append(line.strip())
    except UnicodeDecodeError as error:
        raise BadTrace(f"{path.name} is no text: {error}") from error
    return found


def _requests(lines: Sequence[str], block_size: int) -> Iterator[Prompted]:
    first = last = 0.0
    for number, line in enumerate(lines):
        where = f"line {number + 1}"
        try:
            row = json.loads(line)
            timestamp, prompt, output, ids = (row[name] for name in _FIELDS)
            moment = float(timestamp) / 1000
            prompt, output, ids = int(prompt), int(output), tuple(int(one) for one in ids)
        except (ValueError, TypeError, KeyError) as error:
            raise BadTrace(f"{where}: not a request with {', '.join(_FIELDS)}: {error}") from error
        if prompt < 1 or output < 1:
            raise BadTrace(f"{where}: input_length and output_length must be 1 or more")
        if len(ids) != -(-prompt // block_size):
            raise BadTrace(f"{where}: {len(ids)} hash_ids for {prompt} tokens; --block-size is {block_size}")
        if number == 0:
            first = last = moment
        if moment < last:
            raise BadTrace(f"{where}: timestamp {timestamp} is before the one of the line above")
        last = moment
        yield Prompted(number, moment - first, prompt, output, ids, ids[: prompt // block_size])
