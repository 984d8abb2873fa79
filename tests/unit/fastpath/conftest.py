"""What tests of the choice share."""

from pathlib import Path

import pytest

from _fastpath.scheduler import Scheduler
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots
from tests.unit.fastpath.fleets import Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    memory = SharedMemory.create(
        str(tmp_path / "memory"), workers=2, slots=64, buckets=1, journal_records=1, prefix_bytes=1 << 16,
        counter_series=1, counter_cells=1,
    )  # fmt: skip
    return Fleet(memory, Slots(memory), Scheduler(memory, 0, random_seed=1))
