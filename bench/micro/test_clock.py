"""Reading the clock, beside the plain-Python twin."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from _fastpath.clock import seconds
from tests.reference.clock import seconds as plain_seconds

pytestmark = pytest.mark.benchmark(max_time=0.5)


def test_read_clock(benchmark: Callable[..., Any]) -> None:
    assert benchmark(seconds, time.monotonic) > 0


def test_read_clock_twin(benchmark: Callable[..., Any]) -> None:
    assert benchmark(plain_seconds, time.monotonic) > 0
