"""Rows of adapters by named behaviour."""

import pytest

from _fastpath.adapters import AFFINITIES, Adapters
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots


@pytest.fixture
def memory(tmp_path):
    return SharedMemory.create(str(tmp_path / "memory"), workers=1, slots=64, prefix_bytes=192)


@pytest.fixture
def named(memory):
    return Slots(memory).acquire(1, 2)


def test_words_of_affinities():
    assert AFFINITIES == ("untold", "loaded", "room", "queued", "taken")


def test_who_was_never_written_says_nothing(memory, named):
    assert Adapters(memory).read(*named) is None
    assert Adapters(memory).affinity_of(*named, 8) == "untold"


def test_each_affinity(memory, named):
    adapters = Adapters(memory)
    assert adapters.write(*named, 2, 1, [8], [10])
    assert [adapters.affinity_of(*named, name) for name in (8, 9, 10, 12)] == ["loaded", "loaded", "queued", "room"]
    assert adapters.write(*named, 2, 2, [8], [10])
    assert adapters.affinity_of(*named, 12) == "taken"
    assert adapters.write(*named, 0, 0, [8])
    assert adapters.affinity_of(*named, 8) == "untold"


def test_a_shorter_row_leaves_nothing_of_the_longer_one(memory, named):
    adapters = Adapters(memory)
    adapters.write(*named, 4, 3, [8, 10, 12])
    adapters.write(*named, 4, 0, [])
    assert adapters.read(*named) == {"capacity": 4, "busy": 0, "loaded": set(), "waited_for": set()}


def test_of_more_names_than_a_row_has_the_first_count(memory, named):
    adapters = Adapters(memory)
    adapters.write(*named, 64, 40, range(2, 82, 2), [1000])
    assert adapters.read(*named)["loaded"] == set(range(2, 62, 2))
    assert adapters.affinity_of(*named, 1000) == "room"


def test_a_row_of_an_earlier_endpoint_does_not_count(memory, named):
    adapters, slots = Adapters(memory), Slots(memory)
    adapters.write(*named, 2, 1, [8])
    slots.drop(1, named[0])
    slots.sweep()
    later = slots.acquire(1, 4)
    assert later[0] == named[0]
    assert adapters.read(*later) is None
    assert adapters.affinity_of(*later, 8) == "untold"
    assert not adapters.write(*named, 2, 1, [8])


def test_slots_that_there_are_not(memory):
    adapters = Adapters(memory)
    for ask in (
        lambda: adapters.read(64, 0),
        lambda: adapters.affinity_of(64, 0, 2),
        lambda: adapters.write(64, 0, 1, 0, []),
    ):
        with pytest.raises(IndexError, match="slot 64 of 64"):
            ask()
