"""Counting beside its plain-Python twin: the eight numbers of one request."""

from collections.abc import Callable
from pathlib import Path
from timeit import repeat
from typing import Any

import pytest

from _fastpath.counters import Counters
from _fastpath.shared_memory import SharedMemory

Benchmark = Callable[..., Any]
Record = Callable[[], None]

EDGES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
FAMILIES = (
    ("requests", ("route", "model", "code"), ()),
    ("prompt_tokens", ("route", "model"), ()),
    ("completion_tokens", ("route", "model"), ()),
    ("cached_tokens", ("route", "model"), ()),
    ("seconds", ("route", "model"), EDGES),
    ("first_token_seconds", ("route", "model"), EDGES),
    ("inter_token_seconds", ("route", "model"), EDGES),
    ("queue_seconds", ("route",), EDGES),
)
VALUES = (1.0, 812.0, 256.0, 640.0, 7.25, 0.31, 0.027, 0.0004)


class PlainCounters:
    """What one would write in Python: each number in a dictionary by family and labels."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[int, tuple[str, ...]], float] = {}
        self.buckets: dict[tuple[int, tuple[str, ...]], list[int]] = {}

    def record(self, items: tuple[tuple[tuple[int, tuple[str, ...]], float], ...]) -> None:
        for key, value in items:
            edges = FAMILIES[key[0]][2]
            if edges:
                counts = self.buckets.setdefault(key, [0] * (len(edges) + 1))
                for position, edge in enumerate(edges):
                    if value <= edge:
                        counts[position] += 1
                        break
                else:
                    counts[-1] += 1
            self.numbers[key] = self.numbers.get(key, 0.0) + value


@pytest.fixture
def record(tmp_path: Path) -> Record:
    memory = SharedMemory.create(
        str(tmp_path / "memory"), workers=1, slots=64, buckets=1, journal_records=1, prefix_bytes=192
    )
    counters = Counters(memory, 0, FAMILIES)
    handles = [counters.series(family, ("x",) * len(FAMILIES[family][1])) for family in range(len(FAMILIES))]
    items = tuple(zip(handles, VALUES, strict=True))
    return lambda: counters.record(items)


@pytest.fixture
def record_twin() -> Record:
    counters = PlainCounters()
    items = tuple(((family, ("x",) * len(FAMILIES[family][1])), value) for family, value in enumerate(VALUES))
    return lambda: counters.record(items)


def test_record_request(benchmark: Benchmark, record: Record) -> None:
    benchmark(record)


def test_record_request_twin(benchmark: Benchmark, record_twin: Record) -> None:
    benchmark(record_twin)


def test_record_is_at_least_five_times_as_fast(record: Record, record_twin: Record) -> None:
    compiled = min(repeat(record, number=2000, repeat=5))
    plain = min(repeat(record_twin, number=2000, repeat=5))
    assert plain > 5 * compiled
