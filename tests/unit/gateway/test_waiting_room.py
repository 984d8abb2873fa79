"""Waiting for an endpoint: in turn, not for ever, and without a trace of who left."""

import asyncio

import pytest

from gateway.errors import NoEndpoint, QueueFull
from gateway.scheduling.fair_queue import Waiter, weighted_tokens
from gateway.scheduling.waiting_room import WaitingRoom


class Server:
    """A server with so many places."""

    def __init__(self, places=0):
        self.places = places
        self.served = []
        self.error = None

    def waiter(self, name, *, tenant="a", priority=0, deadline=1e9):
        def place():
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
def room(clock):
    return WaitingRoom(longest=3, seconds=10.0, clock=clock)


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
    assert not room.is_waited("s")


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


async def test_without_seconds_nobody_waits(clock):
    room = WaitingRoom(longest=3, seconds=0.0, clock=clock)
    with pytest.raises(QueueFull):
        await room.wait("s", Server(1).waiter("one"))
    assert not room.is_waited("s")


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
