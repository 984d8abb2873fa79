"""Writing a line of the access log, beside a dictionary and the standard library's JSON."""

from collections.abc import Callable
from typing import Any

import pytest

from _fastpath.log_line import request_line
from bench.micro.ratio import times_faster
from tests.reference.log_line import request_line as plain_line

LINE: tuple[Any, ...] = (
    "2023-11-14T22:13:20.000+00:00", "req_0123456789abcdef00000001", "/v1/chat/completions", 200, "chat", "model",
    "default/route", "default/server", "default/endpoint-1", False, 0.36, 0.006, 0.0002, 1, 1200, 700, 0.5, (312, 64, 256), 300, 0,
    False, "", "", "", "", "", 0.0,
)  # fmt: skip

pytestmark = pytest.mark.benchmark(max_time=0.5)


def test_log_line(benchmark: Callable[..., Any]) -> None:
    assert benchmark(request_line, *LINE).endswith(b"}\n")


def test_log_line_twin(benchmark: Callable[..., Any]) -> None:
    assert benchmark(plain_line, *LINE).endswith(b"}\n")


def test_log_line_is_at_least_four_times_as_fast() -> None:
    assert times_faster(lambda: request_line(*LINE), lambda: plain_line(*LINE)) > 4
