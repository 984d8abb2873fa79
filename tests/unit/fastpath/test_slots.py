"""Slots: who names an endpoint keeps it, and a freed slot is not what it was."""

import mmap
from pathlib import Path

import pytest

from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots, SlotsFull, endpoint_identity
from tests.reference import slots as reference
from tests.reference.shared_memory import read_header

WORKERS = 2
SIDECAR = WORKERS
CAPACITY = 64


@pytest.fixture
def memory(tmp_path):
    return SharedMemory.create(
        str(tmp_path / "memory"), workers=WORKERS, slots=CAPACITY, prefix_bytes=192, counter_cells=1
    )


@pytest.fixture
def slots(memory):
    return Slots(memory)


def write_word(memory, part, at, word):
    """What a killed process would have left there."""
    with Path(memory.path).open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        place = read_header(memory.path)[part] + at
        mapped[place : place + 8] = word.to_bytes(8, "little")


def leave_claim(memory, slot, identity):
    """As a process does that is killed between its claim and its confirmation."""
    write_word(memory, "slots_at", 64 + 8 * slot, identity | 1)
    write_word(memory, "slots_at", 0, slot + 1)  # high water


def test_an_identity_keeps_its_slot_whoever_asks(memory, slots):
    acquired = slots.acquire(0, 1000)
    assert acquired == (0, 0)
    assert slots.acquire(0, 1000) == acquired
    assert Slots(SharedMemory.attach(memory.path)).acquire(SIDECAR, 1000) == acquired
    assert slots.in_use == 1


def test_identities_get_the_lowest_free_slots(slots):
    assert [slots.acquire(0, 1000 + 2 * i)[0] for i in range(5)] == [0, 1, 2, 3, 4]
    slots.drop(0, 3)
    slots.drop(0, 1)
    slots.sweep()
    assert [slots.acquire(0, 2000 + 2 * i) for i in range(3)] == [(1, 2), (3, 2), (5, 0)]


def test_the_low_bit_of_an_identity_does_not_tell_endpoints_apart(slots):
    assert slots.acquire(0, 1001) == slots.acquire(0, 1000)
    assert slots.acquire(0, 0) == slots.acquire(0, 1) == slots.acquire(0, 2)
    assert slots.acquire(0, (1 << 64) - 1) == slots.acquire(0, (1 << 64) - 2)
    assert slots.in_use == 3


def test_find_neither_claims_nor_names(slots):
    assert slots.find(1000) is None
    acquired = slots.acquire(0, 1000)
    assert slots.find(1000) == acquired
    slots.drop(0, acquired[0])
    assert slots.find(1000) == acquired
    slots.sweep()
    assert slots.find(1000) is None
    assert slots.in_use == 0


def test_a_slot_is_freed_when_the_last_row_drops_it(slots):
    for row in range(WORKERS + 1):
        slots.acquire(row, 1000)
    for row in range(WORKERS + 1):
        assert slots.sweep() == []
        slots.drop(row, 0)
    assert slots.sweep() == [0]
    assert slots.sweep() == []


def test_dropping_twice_or_what_was_never_named_does_nothing(slots):
    slots.acquire(0, 1000)
    slots.drop(1, 0)
    slots.drop(0, 63)
    assert slots.sweep() == []
    slots.drop(0, 0)
    slots.drop(0, 0)
    assert slots.sweep() == [0]


def test_an_endpoint_that_is_acquired_again_before_the_sweep_stays_what_it_was(slots):
    acquired = slots.acquire(0, 1000)
    slots.drop(0, acquired[0])
    assert slots.acquire(1, 1000) == acquired
    assert slots.sweep() == []
    assert slots.is_live(*acquired)


def test_a_freed_slot_goes_on_to_another_generation(slots):
    generations = []
    for identity in (1000, 2000, 1000):
        slot, generation = slots.acquire(0, identity)
        assert slot == 0
        generations.append(generation)
        slots.drop(0, slot)
        slots.sweep()
        assert not slots.is_live(slot, generation)
    assert len(set(generations)) == 3
    assert all(generation % 2 == 0 for generation in generations)


def test_dropping_a_row_drops_all_that_it_alone_named(slots):
    for identity in (1000, 2000, 3000):
        slots.acquire(0, identity)
    slots.acquire(1, 2000)
    slots.drop_row(0)
    assert slots.sweep() == [0, 2]
    assert slots.find(2000) == (1, 0)


def test_only_the_generation_that_stands_is_live(slots):
    slot, generation = slots.acquire(0, 1000)
    assert slots.is_live(slot, generation)
    assert not slots.is_live(slot, generation + 1)
    assert not slots.is_live(slot, generation + 2)
    assert not slots.is_live(CAPACITY, 0)
    assert not slots.is_live((1 << 64) - 1, 0)


def test_all_slots_can_be_taken_and_one_more_is_refused(slots):
    taken = [slots.acquire(0, 1000 + 2 * i)[0] for i in range(CAPACITY)]
    assert taken == list(range(CAPACITY))
    with pytest.raises(SlotsFull, match=r"all 64 endpoint slots are taken: raise `shared_memory\.slots`"):
        slots.acquire(0, 5000)
    assert slots.acquire(1, 1000) == (0, 0)
    slots.drop(0, 10)
    slots.sweep()
    assert slots.acquire(0, 5000) == (10, 2)


def test_rows_and_slots_out_of_range_are_refused(slots):
    for call in (
        lambda: slots.acquire(WORKERS + 1, 1000),
        lambda: slots.drop(WORKERS + 1, 0),
        lambda: slots.drop(0, CAPACITY),
        lambda: slots.drop_row(WORKERS + 1),
    ):
        with pytest.raises(IndexError):
            call()
    assert slots.in_use == 0


@pytest.mark.parametrize("number", [-1, 1 << 64])
def test_identities_that_are_no_64_bit_words_are_refused(slots, number):
    with pytest.raises(OverflowError):
        slots.acquire(0, number)


def test_slots_need_a_memory():
    with pytest.raises(TypeError):
        Slots(None)


def test_a_claim_left_by_a_killed_process_goes_at_the_second_sweep_that_sees_it(memory, slots):
    leave_claim(memory, 0, 1000)
    assert slots.find(1000) is None
    with pytest.raises(SlotsFull, match="died while it claimed"):
        slots.acquire(0, 1000)
    assert slots.acquire(0, 2000) == (1, 0)
    assert slots.sweep() == []
    assert slots.in_use == 2
    assert slots.sweep() == []
    assert slots.in_use == 1
    assert slots.acquire(0, 1000) == (0, 0)


def test_a_claim_that_another_process_made_since_the_last_sweep_is_left_alone(memory, slots):
    leave_claim(memory, 0, 1000)
    slots.sweep()
    leave_claim(memory, 0, 2000)
    slots.sweep()
    assert slots.in_use == 1


def test_an_endpoint_confirmed_but_not_named_by_a_killed_process_is_swept(memory, slots):
    write_word(memory, "slots_at", 64, 1000)
    write_word(memory, "slots_at", 0, 1)
    assert slots.sweep() == [0]


def test_a_sweep_that_was_killed_halfway_is_finished_by_the_next(memory, slots):
    slot, generation = slots.acquire(0, 1000)
    slots.drop(0, slot)
    write_word(memory, "slots_at", 64 + 8 * CAPACITY, generation | 1)  # marked as dying, identity not yet cleared
    assert slots.find(1000) is None
    assert not slots.is_live(slot, generation)
    assert Slots(memory).sweep() == [slot]
    assert slots.acquire(0, 1000) == (slot, generation + 2)


def test_identities_of_endpoints_are_the_same_in_every_process():
    names = ["", "http://10.0.0.1:8000", "http://10.0.0.1:8001", "größe", "x" * 1000]
    assert [endpoint_identity(name) for name in names] == [reference.endpoint_identity(name) for name in names]
    assert len({endpoint_identity(f"http://10.0.{i >> 8}.{i & 255}:8000") >> 1 for i in range(20_000)}) == 20_000
    with pytest.raises(TypeError):
        endpoint_identity(None)
