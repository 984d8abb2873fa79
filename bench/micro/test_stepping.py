"""Moving a coroutine to its end, beside the plain-Python twin."""

from collections.abc import Callable
from typing import Any

import pytest

from _fastpath import stepping
from tests.reference import stepping as plain

pytestmark = pytest.mark.benchmark(max_time=0.5)


async def _nothing() -> None:
    pass


def test_step(benchmark: Callable[..., Any]) -> None:
    assert benchmark(lambda: stepping.step(_nothing())) is stepping.ENDED


def test_step_twin(benchmark: Callable[..., Any]) -> None:
    assert benchmark(lambda: plain.step(_nothing())) is plain.ENDED
