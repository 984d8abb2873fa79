"""Epochs of a run directory only rise, and the generation of a world with them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _fastpath.shared_memory import SharedMemory
from gateway.admission.limits import RateLimiter
from gateway.datastore.epochs import FILE_NAME, LONGEST_EPOCH, generation, next_epoch
from gateway.datastore.model import Limit, Route
from gateway.datastore.replica import Replica, load
from gateway.datastore.wire import decode, whole
from gateway.errors import RateLimited
from gateway.routing.match import compile_route
from gateway.world import GatewayCompiler

NOW = 1_790_000_000_000_000_000


def test_the_first_epoch_is_the_time(tmp_path):
    assert next_epoch(tmp_path, NOW) == NOW
    assert int((tmp_path / FILE_NAME).read_text()) == NOW


def test_after_an_hour_it_is_the_time_again(tmp_path):
    next_epoch(tmp_path, NOW)
    assert next_epoch(tmp_path, NOW + 3600 * 10**9) == NOW + 3600 * 10**9


@pytest.mark.parametrize("passed", [0, 1, 10**9, -(3600 * 10**9)])
def test_a_restart_at_once_or_after_the_clock_went_back_has_a_later_one(tmp_path, passed):
    first = next_epoch(tmp_path, NOW)
    second = next_epoch(tmp_path, NOW + passed)
    third = next_epoch(tmp_path, NOW)
    assert second >= first + LONGEST_EPOCH
    assert third >= second + LONGEST_EPOCH


@pytest.mark.parametrize("content", ["", "no number", "-7", "9" * 60, "\0"])
def test_a_damaged_record_is_replaced(tmp_path, content):
    (tmp_path / FILE_NAME).write_text(content)
    epoch = next_epoch(tmp_path, NOW)
    assert NOW <= epoch < 1 << 64
    assert next_epoch(tmp_path, NOW) > epoch


def test_a_disk_that_is_full_is_no_reason_not_to_publish(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("pathlib.Path.write_text", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    assert next_epoch(tmp_path, NOW) == NOW
    assert "disk full" in caplog.text


@given(st.lists(st.tuples(st.integers(-(10**12), 10**12), st.integers(1, LONGEST_EPOCH - 1)), max_size=10))
def test_a_later_world_has_a_larger_generation_whatever_the_clock_does(tmp_path_factory, publishers):
    """Each publisher starts so many nanoseconds after the one before, and makes so many changes."""
    directory = tmp_path_factory.mktemp("run")
    now, last = NOW, 0
    for passed, changes in publishers:
        now += passed
        epoch = next_epoch(directory, now)
        for sequence in sorted({1, 1 + changes // 2, changes}):
            place = generation(epoch, sequence)
            assert place > last
            last = place


def test_a_generation_fits_its_word():
    assert generation((1 << 64) - 1, (1 << 64) - 1) == (1 << 64) - 1


def test_limits_of_controllers_that_were_restarted_at_once_stand(tmp_path):
    # found in acceptance: a restart in the same second, or after the clock went back, brought limits that were ignored
    memory = SharedMemory.create(
        str(tmp_path / "memory"), workers=1, slots=64, buckets=64, journal_records=64, prefix_bytes=1 << 20
    )
    replica = Replica(GatewayCompiler(memory, 0))
    limiter = RateLimiter(memory, 0, lambda: generation(replica.world.epoch, replica.world.sequence), lambda: 10**12)
    replica.on_route(limiter.route_changed)
    admitted = []
    for sequence, amount, clock in ((50, 5, NOW), (1, 9, NOW + 1), (1, 2, NOW - 3600 * 10**9), (3, 7, NOW)):
        epoch = next_epoch(tmp_path, clock)
        limit = Limit("burst", "requests", 1.0, 3600.0, float(amount))
        route = Route("default/r", "m", (), limits=(limit,))
        load(replica, (decode(*one) for one in whole(epoch, sequence, (route,), (), ())))
        held = []
        with pytest.raises(RateLimited):
            while True:
                held.append(limiter.reserve(compile_route(route), lambda name: None, "", 1, 1))
        admitted.append(len(held))
        for one in held:
            limiter.cancel(one)
    assert admitted == [5, 9, 2, 7]
