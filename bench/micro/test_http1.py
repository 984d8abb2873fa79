"""The framing of a streamed answer, read by read, beside its plain-Python twin."""

from typing import Any

import pytest

from _fastpath import http1 as compiled
from bench.micro.ratio import times_faster
from tests.reference import http1 as reference

EVENT = b"data: " + b"x" * 240 + b"\n\n"
READ = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
READS = 64

pytestmark = pytest.mark.benchmark(max_time=0.5)


def stream(module: Any) -> bytes:
    """64 reads of one event each, as an engine sends them."""
    reader = module.BodyReader(chunked=True)
    piece = b""
    for _ in range(READS):
        piece = reader.feed(READ)
    return piece


def test_stream_of_64_events(benchmark: Any) -> None:
    assert benchmark(stream, compiled) == EVENT


def test_stream_of_64_events_twin(benchmark: Any) -> None:
    assert benchmark(stream, reference) == EVENT


def test_compiled_is_at_least_twice_as_fast() -> None:
    assert times_faster(lambda: stream(compiled), lambda: stream(reference)) > 2
