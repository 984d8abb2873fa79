"""Writing a line of the access log, beside a dictionary and the standard library's JSON."""

from collections.abc import Callable
from typing import Any

import pytest

from _fastpath.log_line import LogLines
from bench.micro.ratio import times_faster
from tests.reference import log_line as reference

LINE: tuple[Any, ...] = (
    1_700_000_000.0, "req_0123456789abcdef00000001", "/v1/chat/completions", 200, "chat", "model",
    "default/route", "default/server", "default/endpoint-1", False, 0.36, 0.006, 0.0002, 1, 1200, 700, 0.5, (312, 64, 256), 300, 0,
    False, "", "", "", "", "", 0.0,
)  # fmt: skip

pytestmark = pytest.mark.benchmark(max_time=0.5)


def written(lines: Any) -> bytes:
    """One line, taken at once."""
    lines.add(*LINE)
    taken: bytes = lines.take()
    return taken


def test_log_line(benchmark: Callable[..., Any]) -> None:
    assert benchmark(written, LogLines()).endswith(b"}\n")


def test_log_line_twin(benchmark: Callable[..., Any]) -> None:
    assert benchmark(written, reference.LogLines()).endswith(b"}\n")


def test_log_line_is_at_least_four_times_as_fast() -> None:
    compiled, plain = LogLines(), reference.LogLines()
    assert times_faster(lambda: written(compiled), lambda: written(plain)) > 4
