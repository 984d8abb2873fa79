"""Waiting for an endpoint: in turn, not for ever, and without a trace of who left."""

import asyncio

import pytest

from _fastpath.fair_share import FairShare
from _fastpath.shared_memory import SharedMemory
from gateway.errors import NoEndpoint, QueueFull
from gateway.scheduling.fair_queue import Waiter, weighted_tokens
from gateway.scheduling.waiting_room import GIVE_WAY_SECONDS, MOST_TENANTS, WaitingRoom


class Server:
    """A server with so many places."""

    def __init__(self, places=0):
        self.places = places
        self.served = []
        self.error = None

    def waiter(self, name, *, tenant="a", priority=0, deadline=1e9):
        def place(is_owed):
            if self.error is not None:
                raise self.error
            if not self.places:
                raise QueueFull("full")
            self.places -= 1
            self.served.append(name)

        return Waiter(tenant, priority, 1.0, deadline, place)


class Clock:
    """Seconds that a test moves on."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def memory(tmp_path):
    return SharedMemory.create(
        str(tmp_path / "memory"), workers=2, slots=64, buckets=1, journal_records=1, prefix_bytes=192
    )


def make_room(memory, clock, worker=0, longest=3, seconds=10.0):
    return WaitingRoom(longest, seconds, clock, FairShare(memory, worker), session_seconds=60.0)


@pytest.fixture
def room(memory, clock):
    return make_room(memory, clock)


async def waiting(room, *waiters):
    """Tasks of those who wait, once they do."""
    tasks = [asyncio.ensure_future(room.wait("s", one)) for one in waiters]
    await asyncio.sleep(0)
    return tasks


async def test_who_gives_an_endpoint_back_lets_the_next_one_in_at_once(room):
    server = Server()
    tasks = await waiting(room, server.waiter("first"), server.waiter("second"))
    assert room.lengths() == {"s": 2}
    server.places = 1
    room.move("s")
    assert server.served == ["first"]
    assert room.lengths() == {"s": 1}
    server.places = 1
    room.move("s")
    await asyncio.gather(*tasks)
    assert server.served == ["first", "second"]
    assert not room.comes("s", "a")


async def test_what_another_worker_gave_back_is_seen_while_somebody_waits(room):
    server = Server()
    (task,) = await waiting(room, server.waiter("one"))
    server.places = 1
    await asyncio.wait_for(task, 5)
    assert server.served == ["one"]


async def test_a_deadline_refuses_with_the_time_that_it_waited(room, clock):
    server = Server()
    early, late = await waiting(room, server.waiter("early", deadline=102.0), server.waiter("late"))
    clock.now = 102.5
    with pytest.raises(QueueFull, match=r"No endpoint of ModelServer `s` had room for 2\.5 s") as raised:
        await early
    assert raised.value.retry_after == 1.0
    clock.now = 110.5
    with pytest.raises(QueueFull, match=r"10\.5 s"):
        await late
    assert room.lengths() == {}


async def test_when_as_many_wait_as_may_whoever_has_most_waiting_gives_way(room):
    server = Server()
    flood = await waiting(room, *[server.waiter(f"flood {number}", tenant="flood") for number in range(3)])
    with pytest.raises(QueueFull, match="As many requests as may wait"):
        await room.wait("s", server.waiter("one more", tenant="flood"))
    (victim,) = await waiting(room, server.waiter("victim", tenant="victim"))
    with pytest.raises(QueueFull):
        await flood[2]
    server.places = 3
    room.move("s")
    await asyncio.gather(victim, *flood[:2])
    assert sorted(server.served) == ["flood 0", "flood 1", "victim"]


async def test_who_leaves_frees_its_place_at_once(room):
    server = Server()
    first, second = await waiting(room, server.waiter("first"), server.waiter("second"))
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert room.lengths() == {"s": 1}
    server.places = 2
    room.move("s")
    await second
    assert server.served == ["second"]


async def test_what_will_never_come_is_not_waited_for(room):
    server = Server()
    (task,) = await waiting(room, server.waiter("one"))
    server.error = NoEndpoint("gone")
    room.move("s")
    with pytest.raises(NoEndpoint, match="gone"):
        await task


async def waiting_tags(room, server, tenant="a"):
    """The tag of the tenant's next request, which leaves again."""
    one = server.waiter("next", tenant=tenant)
    (task,) = await waiting(room, one)
    tag = one.tag
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return tag


@pytest.mark.parametrize("how", ["left", "late", "refused"])
async def test_who_goes_without_an_endpoint_has_its_tenant_s_share_back(memory, clock, how):
    room = make_room(memory, clock, longest=4)
    server, other = Server(), Server()
    stays = await waiting(room, other.waiter("z", tenant="z"))
    assert await waiting_tags(room, server) == 0.0
    goes, behind = (server.waiter(name, deadline=deadline) for name, deadline in (("goes", 105.0), ("behind", 1e9)))
    goes.tokens = 64.0
    went, stayed = await waiting(room, goes, behind)
    assert (goes.tag, behind.tag) == (0.0, 64.0)
    assert await waiting_tags(room, server) == 65.0
    if how == "left":
        went.cancel()
    elif how == "late":
        clock.now = 106.0
    else:
        goes.place = lambda is_owed: (_ for _ in ()).throw(NoEndpoint("gone"))
        other.places = 1
        room.move("s")
    await asyncio.wait_for(asyncio.gather(went, return_exceptions=True), 5)
    assert behind.tag == 0.0
    assert await waiting_tags(room, server) == 1.0
    assert goes.outcome == how
    for task in (stayed, *stays):
        task.cancel()
    await asyncio.gather(stayed, *stays, return_exceptions=True)


async def test_without_seconds_nobody_waits(memory, clock):
    room = make_room(memory, clock, seconds=0.0)
    with pytest.raises(QueueFull):
        await room.wait("s", Server(1).waiter("one"))
    assert not room.comes("s", "a")


async def test_it_says_when_to_come_back_from_how_fast_it_moves(room, clock):
    server = Server()
    tasks = await waiting(room, *[server.waiter(str(number)) for number in range(3)])
    for _ in range(2):
        clock.now += 4.0
        server.places = 1
        room.move("s")
    tasks += await waiting(room, server.waiter("3"), server.waiter("4"))
    with pytest.raises(QueueFull) as raised:
        await room.wait("s", server.waiter("5"))
    assert raised.value.retry_after == pytest.approx(12.0)
    server.places = 3
    room.move("s")
    await asyncio.gather(*tasks)


def test_output_weighs_more_than_input_and_a_heavy_tenants_tokens_less():
    assert weighted_tokens(100, 50, 1.0) == 300
    assert weighted_tokens(100, 50, 2.0) == 150


class TestSeveralWorkers:
    """What either gives back belongs to the first of all."""

    @pytest.fixture
    def rooms(self, memory, clock):
        return [make_room(memory, clock, worker, longest=100) for worker in range(2)]

    async def test_who_floods_one_worker_does_not_keep_another_tenant_waiting_in_the_next(self, rooms, clock):
        server = Server()
        flood = await waiting(rooms[1], *[server.waiter(f"flood {number}", tenant="flood") for number in range(20)])
        server.places = 1
        rooms[1].move("s")
        (victim,) = await waiting(rooms[0], server.waiter("victim", tenant="victim"))
        server.places = 1
        rooms[1].move("s")  # the flood's worker gives an endpoint back, and leaves it alone
        assert server.served == ["flood 0"]
        await asyncio.wait_for(victim, 5)
        assert server.served == ["flood 0", "victim"]
        server.places = 19
        rooms[1].move("s")
        await asyncio.gather(*flood)

    async def test_what_another_worker_does_not_take_is_kept_from_nobody(self, rooms, clock):
        server, blind = Server(), Server()
        (stuck,) = await waiting(rooms[0], blind.waiter("never has room", priority=1))
        (task,) = await waiting(rooms[1], server.waiter("one"))
        server.places = 1
        rooms[1].move("s")
        assert server.served == []
        clock.now += GIVE_WAY_SECONDS
        await asyncio.wait_for(task, 5)
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)

    async def test_a_worker_that_died_waits_for_nothing(self, rooms, memory, clock):
        FairShare(memory, 0).show(rooms[1]._room("s").queue.server, 100, 0.0, clock())
        assert rooms[1].comes("s", "a")
        clock.now += 0.1
        assert not rooms[1].comes("s", "a")
        server = Server(1)
        await rooms[1].wait("s", server.waiter("one"))
        assert server.served == ["one"]

    async def test_who_comes_where_nobody_waits_does_not_overtake_who_waits_elsewhere(self, rooms):
        server = Server()
        (first,) = await waiting(rooms[0], server.waiter("first"))
        assert rooms[1].comes("s", "a")
        server.places = 1
        (second,) = await waiting(rooms[1], server.waiter("second"))
        await asyncio.wait_for(first, 5)
        assert server.served == ["first"]
        server.places = 1
        await asyncio.wait_for(second, 5)
        assert not rooms[0].comes("s", "a")


async def test_it_reports_who_waits_by_tenant(memory, clock):
    room = make_room(memory, clock, longest=1000)
    server = Server()
    tasks = await waiting(room, *[server.waiter(str(number), tenant="flood") for number in range(5)])
    clock.now += 1.5
    tasks += await waiting(room, *[server.waiter(f"t{number}", tenant=f"t{number}") for number in range(30)])
    (report,) = room.report()
    assert (report["server"], report["waiting"], report["estimated_seconds"]) == ("s", 35, 0.0)
    assert report["tenants"][0] == {"tenant": "flood", "waiting": 5, "longest_seconds": 1.5}
    assert len(report["tenants"]) == MOST_TENANTS
    assert report["waiting_of_others"] == 30 - MOST_TENANTS + 1
    server.places = 35
    room.move("s")
    await asyncio.gather(*tasks)
    assert room.report() == []


async def test_who_waits_is_told_its_position_and_how_long_that_takes(room, clock):
    server = Server()
    waiters = [server.waiter(str(number)) for number in range(3)]
    tasks = await waiting(room, *waiters)
    assert [one.position for one in waiters] == [0, 1, 2]
    assert [one.estimate for one in waiters] == [0.0, 0.0, 0.0]
    for _ in range(2):
        clock.now += 2.0
        server.places = 1
        room.move("s")
    late = server.waiter("late")
    tasks += await waiting(room, late)
    assert (late.position, late.estimate) == (1, 2.0)
    server.places = 2
    room.move("s")
    await asyncio.gather(*tasks)


async def test_a_conversation_s_last_answer_counts_for_a_while_in_every_worker(memory, clock):
    first, second = make_room(memory, clock), make_room(memory, clock, worker=1)
    assert second.last_answer("s", 7) == 0.0
    first.answered("s", 7)
    assert (second.last_answer("s", 7), second.last_answer("t", 7), second.last_answer("s", 8)) == (100.0, 0.0, 0.0)
    clock.now += 60.1
    assert second.last_answer("s", 7) == 0.0


async def test_a_fault_in_placing_one_that_waits_is_its_own_and_not_of_whoever_makes_room(room):
    broken, sound = Server(), Server(places=1)
    broken.error = ZeroDivisionError("a fault")
    first, second = await waiting(room, Server().waiter("first"), sound.waiter("second", priority=-1))
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    (third,) = await waiting(room, broken.waiter("third", priority=1))
    room.move("s")
    with pytest.raises(ZeroDivisionError):
        await third
    await second
    assert sound.served == ["second"]
    assert room.lengths() == {"s": 0} or room.lengths() == {}
