"""What the queue costs that all workers share, beside its twin."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from _fastpath.fair_share import FairShare
from _fastpath.shared_memory import SharedMemory
from tests.reference import fair_share as reference
from tests.reference import shared_memory as reference_memory

SERVER, TENANT, NOW = 1234567, 7654321, 1.0

pytestmark = pytest.mark.benchmark(max_time=0.3)


@pytest.fixture
def compiled(tmp_path: Path) -> FairShare:
    return FairShare(SharedMemory.create(str(tmp_path / "memory"), workers=4, slots=64, prefix_bytes=192), 0)


@pytest.fixture
def plain() -> reference.FairShare:
    return reference.FairShare(reference_memory.SharedMemory(workers=4), 0)


def turn(share: FairShare | reference.FairShare) -> None:
    """A request joins, is first, and is served."""
    tag = share.join(SERVER, TENANT, 300.0, 1000.0, NOW)
    share.show(SERVER, 0, tag, NOW)
    share.is_first(SERVER, 0, tag, NOW)
    share.served(SERVER, tag)


def test_is_waited(benchmark: Callable[..., Any], compiled: FairShare) -> None:
    benchmark(compiled.is_waited, SERVER, NOW)


def test_turn_in_the_queue(benchmark: Callable[..., Any], compiled: FairShare) -> None:
    benchmark(turn, compiled)


def test_turn_in_the_queue_twin(benchmark: Callable[..., Any], plain: reference.FairShare) -> None:
    benchmark(turn, plain)
