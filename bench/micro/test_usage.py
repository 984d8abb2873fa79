"""Reading usage beside its plain-Python twin, in the last 4 KiB of a stream."""

from collections.abc import Callable
from typing import Any

from _fastpath.usage import scan_usage
from bench.micro.ratio import times_faster
from tests.reference import usage as twin

Benchmark = Callable[..., Any]

CHUNK = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" word"}}],"usage":null}\n\n'
LAST = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":12,"total_tokens":17,"completion_tokens":5}}\n\ndata: [DONE]\n\n'
TAIL = (CHUNK * 40 + LAST)[-4096:]


def test_scan_usage_of_a_stream(benchmark: Benchmark) -> None:
    assert benchmark(scan_usage, TAIL) == (12, 5, -1)


def test_scan_usage_of_a_stream_twin(benchmark: Benchmark) -> None:
    assert benchmark(twin.scan_usage, TAIL) == (12, 5, -1)


def test_scan_usage_is_at_least_five_times_as_fast() -> None:
    assert times_faster(lambda: scan_usage(TAIL), lambda: twin.scan_usage(TAIL)) > 5
