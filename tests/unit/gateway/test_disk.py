"""The last good snapshot on disk: comes back as it was, or not at all."""

import pytest

from gateway.datastore import disk
from gateway.datastore.model import Route, Rule, Server, Target
from gateway.datastore.replica import Next, Replica, Unusable
from gateway.datastore.wire import Frame, Kind, WireError, encode, to_bytes, whole
from tests.unit.gateway.test_replica import Compiler, endpoint, feed, frames

ROUTES = (Route("default/r", "m", (Rule((Target("default/s"),)),)),)
CONTENT = (ROUTES, (Server("default/s"),), tuple(endpoint(number) for number in range(700)))


@pytest.fixture
def replica():
    return Replica(Compiler())


@pytest.fixture
def saved(tmp_path):
    disk.save(5, 9, CONTENT, tmp_path)
    return tmp_path / disk.FILE_NAME


def test_a_process_that_starts_serves_what_was_saved(saved, replica):
    heard = []
    replica.on_route(lambda before, after: heard.append((before, after)))
    assert disk.restore(replica, saved.parent) is True
    assert (replica.world.epoch, replica.world.sequence) == (5, 9)
    assert tuple(map(tuple, replica.whole())) == CONTENT
    assert replica.world.by_model == {"m": ("default/r",)}
    assert heard == [(None, ROUTES[0])]


def test_what_was_restored_can_be_saved_and_restored_again(saved, replica, tmp_path):
    disk.restore(replica, saved.parent)
    data = saved.read_bytes()
    disk.save(replica.world.epoch, replica.world.sequence, replica.whole(), tmp_path)
    assert saved.read_bytes() == data


def test_without_a_file_nothing_is_restored(tmp_path, replica):
    assert disk.restore(replica, tmp_path) is False
    assert replica.world.epoch == 0


def test_an_empty_world_is_a_world(tmp_path, replica):
    disk.save(5, 9, ((), (), ()), tmp_path)
    assert disk.restore(replica, tmp_path) is True
    assert (replica.world.epoch, replica.world.routes) == (5, {})


def test_saving_again_replaces_the_file_and_leaves_nothing_else(saved):
    disk.save(5, 10, ((), (), ()), saved.parent)
    assert [one.name for one in saved.parent.iterdir()] == [disk.FILE_NAME]
    assert len(saved.read_bytes()) < 200


def test_a_save_that_fails_leaves_the_file_before(saved, replica, monkeypatch):
    before = saved.read_bytes()
    monkeypatch.setattr("pathlib.Path.write_bytes", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        disk.save(5, 10, ((), (), ()), saved.parent)
    assert saved.read_bytes() == before


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_is_refused_and_the_world_stays(saved, replica, share):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(WireError):
        disk.restore(replica, saved.parent)
    assert replica.world.epoch == 0


@pytest.mark.parametrize("place", [0, 3, 5, 12, 40, 1000, -1, -30])
def test_a_file_with_a_wrong_byte_is_refused_and_the_world_stays(saved, replica, place):
    data = bytearray(saved.read_bytes())
    data[place] ^= 0x10
    saved.write_bytes(data)
    with pytest.raises(WireError):
        disk.restore(replica, saved.parent)
    assert replica.world.epoch == 0


def test_a_file_whose_last_part_is_missing_is_refused(saved, replica):
    parts = list(whole(5, 9, *CONTENT))
    assert len(parts) > 3
    saved.write_bytes(to_bytes([*parts[:1], *parts[2:]]))
    with pytest.raises(WireError):
        disk.restore(replica, saved.parent)
    assert replica.world.epoch == 0


def test_a_file_that_ends_with_something_else_than_an_end_mark_is_refused(saved, replica):
    saved.write_bytes(to_bytes([*whole(5, 9, *CONTENT), encode(Frame(Kind.HEARTBEAT, 5, 9))]))
    with pytest.raises(WireError):
        disk.restore(replica, saved.parent)


def test_a_replica_that_was_restored_follows_its_publisher_without_asking(saved, replica):
    disk.restore(replica, saved.parent)
    assert feed(replica, Frame(Kind.HEARTBEAT, 5, 9))[0] is Next.NOTHING
    assert feed(replica, Frame(Kind.HEARTBEAT, 5, 10))[0] is Next.ASK


def test_a_replica_that_was_restored_goes_over_to_a_new_publisher(saved, replica):
    disk.restore(replica, saved.parent)
    assert feed(replica, Frame(Kind.HEARTBEAT, 6, 1))[0] is Next.ASK
    *parts, end = frames(6, 1, [endpoint(1)])
    for part in parts:
        feed(replica, part)
    assert feed(replica, end)[0] is Next.APPLIED
    assert list(replica.world.endpoints) == ["default/s#default/e1"]


class TestIfPossible:
    def test_what_was_saved_is_served(self, saved, replica):
        assert disk.restore_if_possible(replica, saved.parent) == ""
        assert replica.world.sequence == 9

    def test_without_a_file_it_says_nothing(self, tmp_path, replica, caplog):
        disk.restore_if_possible(replica, tmp_path)
        assert not caplog.records

    def test_a_damaged_file_is_no_reason_to_die(self, saved, replica, caplog):
        saved.write_bytes(b"x" * 100)
        disk.restore_if_possible(replica, saved.parent)
        assert replica.world.epoch == 0
        assert len(caplog.records) == 1

    def test_a_snapshot_that_cannot_be_served_is_no_reason_to_die(self, saved, replica, caplog):
        def refuse(endpoint):
            raise Unusable("all 64 endpoint slots are taken: raise `shared_memory.slots`")

        replica._compiler.endpoint = refuse
        fault = disk.restore_if_possible(replica, saved.parent)
        assert fault == "all 64 endpoint slots are taken: raise `shared_memory.slots`"
        assert replica.world.epoch == 0
        assert "raise `shared_memory.slots`" in caplog.text
        assert len(caplog.records) == 1
