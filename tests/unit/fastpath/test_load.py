"""Load is charged once, released once, and belongs to one endpoint and one worker."""

import pytest

from _fastpath.load import Load
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots

WORKERS = 2
CAPACITY = 64
SCRAPE = (1.0, 2.0, 0.5, 0.25, 0.125, 0.75)
NAMES = ("running", "waiting", "kv_usage", "first_token_seconds", "inter_token_seconds", "prefix_hit_ratio")


@pytest.fixture
def memory(tmp_path):
    return SharedMemory.create(
        str(tmp_path / "memory"), workers=WORKERS, slots=CAPACITY, prefix_bytes=192, counter_cells=1
    )


@pytest.fixture
def slots(memory):
    return Slots(memory)


@pytest.fixture
def endpoint(slots):
    return slots.acquire(0, 1000)


@pytest.fixture
def load(memory):
    return Load(memory, 0)


def replace(slots, endpoint):
    """Another endpoint in the same slot."""
    for row in range(WORKERS + 1):
        slots.drop(row, endpoint[0])
    assert slots.sweep() == [endpoint[0]]
    return slots.acquire(0, 5000)


def test_measured_prefills_add_up_over_the_workers_and_fade(memory, load, endpoint):
    other = Load(memory, 1)
    load.charge(*endpoint, 1, 1)
    other.charge(*endpoint, 1, 1)
    load.prefilled(*endpoint, 1000, 0.5)
    load.prefilled(*endpoint, 1000, 0.25)
    other.prefilled(*endpoint, 500, 0.25)
    assert load.read_prefills(*endpoint) == pytest.approx((1000 * 0.97 + 1000 + 500, 0.5 * 0.97 + 0.25 + 0.25))


@pytest.mark.parametrize(("tokens", "seconds"), [(1000, 0), (1000, -1), (-1, 1), (float("nan"), 1), (1, float("inf"))])
def test_what_is_no_measurement_is_none(load, endpoint, tokens, seconds):
    load.charge(*endpoint, 1, 1)
    assert not load.prefilled(*endpoint, tokens, seconds)
    assert load.read_prefills(*endpoint) == (0.0, 0.0)


def test_a_speed_outlives_its_worker_and_not_its_endpoint(load, endpoint):
    load.charge(*endpoint, 1, 1)
    load.prefilled(*endpoint, 1000, 0.5)
    load.clear_worker(0)
    assert load.read_prefills(*endpoint) == (1000, 0.5)
    assert load.read_prefills(endpoint[0], endpoint[1] + 2) == (0.0, 0.0)


def test_what_is_charged_can_be_read_by_all(memory, load, endpoint):
    assert load.charge(*endpoint, 100, 20)
    assert load.charge(*endpoint, 1, 2)
    assert load.read(*endpoint) == (2, 101, 22)
    assert Load(SharedMemory.attach(memory.path)).read(*endpoint) == (2, 101, 22)


def test_load_is_the_sum_over_workers(memory, load, endpoint):
    other = Load(memory, 1)
    load.charge(*endpoint, 100, 20)
    other.charge(*endpoint, 1, 2)
    assert load.read(*endpoint) == other.read(*endpoint) == (2, 101, 22)
    assert [load.worker_in_flight(worker) for worker in range(WORKERS)] == [1, 1]


def test_endpoints_are_charged_apart(load, slots, endpoint):
    neighbour = slots.acquire(0, 2000)
    load.charge(*endpoint, 100, 20)
    load.charge(*neighbour, 1, 2)
    assert (load.read(*endpoint), load.read(*neighbour)) == ((1, 100, 20), (1, 1, 2))
    assert load.worker_in_flight(0) == 2


def test_the_first_token_ends_the_prefill_alone(load, endpoint):
    load.charge(*endpoint, 100, 20)
    load.charge(*endpoint, 7, 3)
    assert load.first_token(*endpoint, 100)
    assert load.read(*endpoint) == (2, 7, 23)


def test_a_release_takes_off_what_was_charged(load, endpoint):
    load.charge(*endpoint, 100, 20)
    load.charge(*endpoint, 7, 3)
    assert load.release(*endpoint, 100, 20)
    assert load.read(*endpoint) == (1, 7, 3)
    load.first_token(*endpoint, 7)
    assert load.release(*endpoint, 0, 3)
    assert load.read(*endpoint) == (0, 0, 0)


def test_a_release_too_many_does_nothing(load, endpoint):
    load.charge(*endpoint, 100, 20)
    assert load.release(*endpoint, 100, 20)
    assert not load.release(*endpoint, 100, 20)
    assert load.read(*endpoint) == (0, 0, 0)


def test_tokens_never_fall_below_zero(load, endpoint):
    load.charge(*endpoint, 10, 10)
    load.charge(*endpoint, 10, 10)
    load.first_token(*endpoint, 1000)
    assert load.read(*endpoint) == (2, 0, 20)
    load.release(*endpoint, 1000, 1000)
    assert load.read(*endpoint) == (1, 0, 0)


def test_a_worker_cannot_release_what_another_charged(memory, load, endpoint):
    load.charge(*endpoint, 100, 20)
    assert not Load(memory, 1).release(*endpoint, 100, 20)
    assert load.read(*endpoint) == (1, 100, 20)


def test_a_generation_that_does_not_stand_cannot_be_charged(load, slots, endpoint):
    slot, generation = endpoint
    assert not load.charge(slot, generation + 2, 100, 20)
    newer = replace(slots, endpoint)
    assert not load.charge(*endpoint, 100, 20)
    assert (load.read(*endpoint), load.read(*newer)) == ((0, 0, 0), (0, 0, 0))
    assert load.worker_in_flight(0) == 0


def test_a_new_endpoint_starts_with_no_load_and_its_first_charge_ends_the_former(load, slots, endpoint):
    load.charge(*endpoint, 100, 20)
    newer = replace(slots, endpoint)
    assert load.read(*newer) == (0, 0, 0)
    load.charge(*newer, 7, 3)
    assert (load.read(*endpoint), load.read(*newer)) == ((0, 0, 0), (1, 7, 3))


def test_a_late_release_or_first_token_does_nothing_to_a_new_endpoint(load, slots, endpoint):
    load.charge(*endpoint, 100, 20)
    newer = replace(slots, endpoint)
    load.charge(*newer, 7, 3)
    assert not load.first_token(*endpoint, 100)
    assert not load.release(*endpoint, 100, 20)
    assert load.read(*newer) == (1, 7, 3)


def test_a_late_release_still_counts_for_the_worker_while_its_slot_is_free(load, slots, endpoint):
    load.charge(*endpoint, 100, 20)
    replace(slots, endpoint)
    assert load.worker_in_flight(0) == 1
    load.release(*endpoint, 100, 20)
    assert load.worker_in_flight(0) == 0


def test_clearing_a_worker_forgets_its_load_and_no_other(memory, load, slots, endpoint):
    other = Load(memory, 1)
    last = [slots.acquire(0, 2000 + 2 * i) for i in range(CAPACITY - 1)][-1]
    for target in (endpoint, last):
        load.charge(*target, 100, 20)
        other.charge(*target, 1, 2)
    Load(memory).clear_worker(0)
    assert (load.read(*endpoint), load.read(*last)) == ((1, 1, 2), (1, 1, 2))
    assert [load.worker_in_flight(worker) for worker in range(WORKERS)] == [0, 2]
    assert not load.release(*endpoint, 100, 20)
    assert load.charge(*endpoint, 5, 5)
    assert load.read(*endpoint) == (2, 6, 7)


def test_who_has_no_row_of_its_own_only_reads(memory, endpoint):
    reader = Load(memory)
    for call in (reader.charge, reader.release):
        with pytest.raises(ValueError, match="no load row"):
            call(*endpoint, 1, 1)
    with pytest.raises(ValueError, match="no load row"):
        reader.first_token(*endpoint, 1)
    assert reader.read(*endpoint) == (0, 0, 0)


def test_the_sidecar_has_no_load_row(memory):
    with pytest.raises(IndexError):
        Load(memory, WORKERS)


def test_slots_and_workers_out_of_range_are_refused(load):
    for call in (
        lambda: load.charge(CAPACITY, 0, 1, 1),
        lambda: load.first_token(CAPACITY, 0, 1),
        lambda: load.release(CAPACITY, 0, 1, 1),
        lambda: load.read(CAPACITY, 0),
        lambda: load.read((1 << 64) - 1, 0),
        lambda: load.clear_worker(WORKERS),
        lambda: load.worker_in_flight(WORKERS),
        lambda: load.write_metrics(CAPACITY, 0, *SCRAPE, 1.0),
        lambda: load.read_metrics(CAPACITY, 0),
    ):
        with pytest.raises(IndexError):
            call()


def test_an_endpoint_has_no_metrics_before_its_first_scrape(load, endpoint):
    assert load.read_metrics(*endpoint) is None


def test_a_scrape_can_be_read_by_all_and_the_next_replaces_it(memory, load, endpoint):
    sidecar = Load(SharedMemory.attach(memory.path))
    assert sidecar.write_metrics(*endpoint, *SCRAPE, 10.0)
    assert load.read_metrics(*endpoint) == dict(zip(NAMES, SCRAPE, strict=True)) | {
        "time": 10.0,
        "others": 3.0,
        "kv_tokens": 0.0,
    }
    assert sidecar.write_metrics(*endpoint, *reversed(SCRAPE), 11.0, kv_tokens=4096.0)
    assert load.read_metrics(*endpoint) == dict(zip(NAMES, reversed(SCRAPE), strict=True)) | {
        "time": 11.0,
        "others": 0.875,
        "kv_tokens": 4096.0,
    }


def others(load, endpoint, running, waiting=0, before=0):
    """Requests of others there, after a scrape that says so many."""
    assert load.write_metrics(*endpoint, running, waiting, 0, 0, 0, 0, 10.0, before)
    return load.read_metrics(*endpoint)["others"]


def test_what_the_engine_has_beyond_what_was_sent_from_here_is_of_others(load, memory, endpoint):
    for one in (load, Load(memory, 1)):
        for _ in range(2):
            one.charge(*endpoint, 0, 0)
    assert others(load, endpoint, running=5, waiting=2) == 3
    load.release(*endpoint, 0, 0)
    # requests end and begin between two scrapes, and nobody has to hear of it
    assert load.read_metrics(*endpoint)["others"] == 3


def test_requests_that_ended_while_the_page_was_on_its_way_are_not_of_others(load, endpoint):
    assert others(load, endpoint, running=6, before=6) == 0


def test_fewer_than_were_sent_from_here_are_none_of_others(load, endpoint):
    load.charge(*endpoint, 0, 0)
    assert others(load, endpoint, running=0) == 0


def test_of_two_scrapes_the_one_with_fewer_of_others_counts(load, endpoint):
    assert [others(load, endpoint, running) for running in (4, 9, 9, 2, 9, 8)] == [4, 4, 9, 2, 2, 8]


def test_others_of_a_former_endpoint_are_not_there_any_more(load, slots, endpoint):
    assert others(load, endpoint, running=1) == 1
    assert others(load, replace(slots, endpoint), running=7) == 7


def test_metrics_of_a_former_endpoint_are_not_those_of_the_next(load, slots, endpoint):
    load.write_metrics(*endpoint, *SCRAPE, 10.0)
    newer = replace(slots, endpoint)
    assert load.read_metrics(*newer) is None
    assert not load.write_metrics(*endpoint, *SCRAPE, 11.0)
    assert load.read_metrics(*newer) is None
    assert load.write_metrics(*newer, *SCRAPE, 12.0)
    assert load.read_metrics(*newer)["time"] == 12.0
    assert load.read_metrics(*endpoint) is None


def test_an_engine_begins_the_next_prefill_when_the_one_before_is_over(memory, load, endpoint):
    other = Load(memory, 1)
    assert load.read_prefill_since(*endpoint) == 0.0
    load.charge(*endpoint, 100, 0, 10.0)
    other.charge(*endpoint, 100, 0, 12.0)
    assert load.read_prefill_since(*endpoint) == 10.0
    load.first_token(*endpoint, 100, 15.0)
    assert load.read_prefill_since(*endpoint) == 15.0
    other.first_token(*endpoint, 100, 17.0)
    assert load.read_prefill_since(*endpoint) == 0.0
    load.charge(*endpoint, 100, 0, 20.0)
    load.charge(*endpoint, 100, 0, 25.0)
    assert load.read_prefill_since(*endpoint) == 20.0


def test_when_a_prefill_began_is_not_known_of_charges_without_a_time(load, endpoint):
    load.charge(*endpoint, 100, 0)
    assert load.read_prefill_since(*endpoint) == 0.0
    assert load.read_recent(*endpoint, 10.0) == 0.0


def test_what_was_sent_lately_fades(memory, load, endpoint):
    load.charge(*endpoint, 900, 100, 10.0)
    assert load.read_recent(*endpoint, 10.0) == 1000.0
    assert load.read_recent(*endpoint, 100.0) == 500.0
    load.charge(*endpoint, 1000, 0, 100.0)
    assert load.read_recent(*endpoint, 100.0) == 1500.0
    Load(memory, 1).charge(*endpoint, 300, 0, 100.0)
    assert load.read_recent(*endpoint, 280.0) == 600.0
    load.release(*endpoint, 900, 100)
    assert load.read_recent(*endpoint, 280.0) == 600.0


def test_requests_sent_lately_fade_and_are_counted_over_workers(memory, load, endpoint):
    load.charge(*endpoint, 900, 100)
    assert load.read_recent_requests(*endpoint, 10.0) == 0.0
    load.charge(*endpoint, 900, 100, 10.0)
    assert load.read_recent_requests(*endpoint, 10.0) == 1.0
    assert load.read_recent_requests(*endpoint, 100.0) == 0.5
    Load(memory, 1).charge(*endpoint, 0, 0, 100.0)
    load.charge(*endpoint, 0, 0, 100.0)
    assert load.read_recent_requests(*endpoint, 100.0) == 2.5
    load.release(*endpoint, 900, 100)
    assert load.read_recent_requests(*endpoint, 280.0) == pytest.approx(2.5 / 3)
    with pytest.raises(IndexError):
        load.read_recent_requests(1 << 40, 2, 10.0)


def test_more_than_a_word_can_count_is_its_most(load, endpoint):
    load.charge(*endpoint, 1 << 40, 0, 10.0)
    assert load.read_recent(*endpoint, 10.0) == 2.0**32 - 1


def test_what_an_engine_says_it_computed_fades_and_adds_up(load, endpoint):
    assert load.read_computed(*endpoint, 10.0) == 0.0
    assert load.write_metrics(*endpoint, *SCRAPE, 10.0, computed_tokens=1000.0)
    assert load.write_metrics(*endpoint, *SCRAPE, 100.0, computed_tokens=100.0)
    assert load.read_computed(*endpoint, 100.0) == 600.0
    assert load.write_metrics(*endpoint, *SCRAPE, 100.0, computed_tokens=-50.0)
    assert load.read_computed(*endpoint, 100.0) == 600.0
    assert not load.write_metrics(*endpoint, *SCRAPE, 101.0, computed_tokens=float("nan"))
    assert load.read_computed(endpoint[0], endpoint[1] + 1, 100.0) == 0.0
    with pytest.raises(IndexError):
        load.read_computed(CAPACITY, 0, 1.0)
