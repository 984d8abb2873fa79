"""The publisher on real ipc sockets: wholes for who asks, deltas and heartbeats for all."""

import asyncio
import contextlib
import stat

import pytest
import zmq
import zmq.asyncio

from controllers.network.desired import DesiredState
from controllers.network.publisher import Publisher
from gateway.datastore.model import Endpoint, Match, Route, Rule, Server, StringMatch, Target
from gateway.datastore.replica import Replica
from gateway.datastore.subscriber import Subscriber
from gateway.datastore.wire import LARGEST_BODY, Change, Kind, decode


class Compiler:
    """Leaves everything as it is."""

    def endpoint(self, endpoint):
        return endpoint

    def retire(self, endpoint):
        pass

    def server(self, server, endpoints):
        return server, endpoints

    def route(self, route):
        return route


def route(name, **more):
    return Route(name, "m", (Rule((Target("default/s"),), **more),))


def endpoint(number, server="default/s"):
    return Endpoint(f"default/e{number}", server, str(number), "h", 1)


class Listener:
    """A subscriber and asker by hand."""

    def __init__(self, directory):
        self.context = zmq.asyncio.Context()
        self.updates, self.state = self.context.socket(zmq.SUB), self.context.socket(zmq.DEALER)
        self.updates.subscribe(b"")
        for socket, name in ((self.updates, "snapshots"), (self.state, "state")):
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(f"ipc://{directory / name}")

    async def update(self):
        parts = await asyncio.wait_for(self.updates.recv_multipart(), 5)
        return decode(*parts)

    async def update_of(self, kind):
        while (frame := await self.update()).kind is not kind:
            pass
        return frame

    async def ask(self, question=b"whole"):
        await self.state.send_multipart([b"", question])

    async def answer(self):
        frames = []
        while not frames or frames[-1].kind is not Kind.END:
            empty, header, body = await asyncio.wait_for(self.state.recv_multipart(), 5)
            assert empty == b""
            frames.append(decode(header, body))
        return frames

    def close(self):
        self.updates.close()
        self.state.close()
        self.context.term()


def contents(frames):
    """Names of what a whole holds."""
    changes = [frame.change for frame in frames if frame.change]
    return (
        sorted(one.name for change in changes for one in change.routes),
        sorted(one.name for change in changes for one in change.servers),
        sorted(one.key for change in changes for one in change.endpoints),
    )


@contextlib.asynccontextmanager
async def running(publisher):
    task = asyncio.ensure_future(publisher.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def desired():
    found = DesiredState()
    found.put_route(route("default/r"))
    found.put_server(Server("default/s"), [endpoint(1), endpoint(2)])
    return found


@pytest.fixture
async def publisher(desired, tmp_path):
    found = Publisher(desired, tmp_path, epoch=77)
    async with running(found) as task:
        found.task = task
        yield found


@pytest.fixture
async def listener(publisher, tmp_path):
    found = Listener(tmp_path)
    yield found
    found.close()


async def test_who_asks_gets_the_whole(listener):
    await listener.ask()
    frames = await listener.answer()
    assert {(frame.epoch, frame.sequence) for frame in frames} == {(77, 1)}
    assert contents(frames) == (["default/r"], ["default/s"], ["default/s#default/e1", "default/s#default/e2"])


async def test_an_empty_state_is_a_whole_with_an_end_alone(tmp_path):
    async with running(Publisher(DesiredState(), tmp_path, epoch=1)):
        listener = Listener(tmp_path)
        await listener.ask()
        (end,) = await listener.answer()
        assert end.counts.parts == 0
        listener.close()


async def test_everybody_who_asks_is_answered(listener, publisher, tmp_path):
    other = Listener(tmp_path)
    for one in (listener, other, listener):
        await one.ask()
    assert await listener.answer() == await other.answer() == await listener.answer()
    other.close()


async def test_heartbeats_say_where_the_publisher_stands(listener, publisher):
    frames = [await listener.update_of(Kind.HEARTBEAT) for _ in range(2)]
    assert {(frame.epoch, frame.sequence) for frame in frames} == {(77, 1)}


async def test_what_stood_at_the_start_is_in_no_delta(listener, publisher, desired):
    await listener.update_of(Kind.HEARTBEAT)
    desired.put_route(route("default/q"))
    assert (await listener.update_of(Kind.DELTA)).change == Change(routes=(route("default/q"),))


async def test_each_change_is_a_delta_of_the_next_sequence(listener, publisher, desired):
    await listener.update_of(Kind.HEARTBEAT)
    desired.put_route(route("default/q"))
    desired.drop_route("default/r")
    first = await listener.update_of(Kind.DELTA)
    assert (first.epoch, first.sequence) == (77, 2)
    assert first.change == Change(routes=(route("default/q"),), gone_routes=("default/r",))
    desired.drop_server("default/s")
    second = await listener.update_of(Kind.DELTA)
    assert second.sequence == 3
    assert second.change.gone_endpoints == ("default/s#default/e1", "default/s#default/e2")
    await listener.ask()
    assert contents(await listener.answer()) == (["default/q"], [], [])


async def test_without_a_change_the_sequence_stands(listener, publisher, desired):
    desired.put_route(route("default/r"))
    for _ in range(3):
        assert (await listener.update_of(Kind.HEARTBEAT)).sequence == 1


async def test_a_change_too_large_for_a_frame_is_a_gap_that_makes_replicas_ask(listener, publisher, desired):
    await listener.update_of(Kind.HEARTBEAT)
    count = LARGEST_BODY // 60
    desired.put_server(Server("default/s"), [endpoint(number) for number in range(count)])
    while (frame := await listener.update()).sequence == 1:
        pass
    assert (frame.kind, frame.sequence) == (Kind.HEARTBEAT, 2)
    await listener.ask()
    assert len(contents(await listener.answer())[2]) == count
    # and it is over the bound on the way down as well
    desired.put_server(Server("default/s"), [])
    while (frame := await listener.update()).sequence == 2:
        pass
    assert frame.sequence == 3
    assert not publisher.task.done()


async def test_an_object_that_no_frame_can_hold_silences_nobody(listener, publisher, desired):
    """The store refuses such an object; should one come all the same, the others are still served."""
    huge = route("default/huge", match=Match(path=StringMatch(exact="x" * (LARGEST_BODY + 1))))
    desired.put_route(huge)
    await listener.update_of(Kind.HEARTBEAT)
    await listener.ask()
    await asyncio.sleep(0.3)
    desired.drop_route("default/huge")
    while (frame := await listener.update()).sequence < 3:
        pass
    await listener.ask()
    frames = await listener.answer()
    assert (frames[-1].sequence, contents(frames)[0]) == (frame.sequence, ["default/r"])
    assert not publisher.task.done()


@pytest.mark.parametrize("question", [b"", b"everything", b"x" * 5000])
async def test_a_question_that_is_none_is_dropped_and_the_next_is_answered(listener, question):
    await listener.ask(question)
    await listener.state.send_multipart([b"whole"])
    await listener.state.send_multipart([b"", b"whole", b"more"])
    await listener.ask()
    assert len(await listener.answer()) == 4


async def test_a_client_that_asks_and_goes_disturbs_nobody(listener, publisher, tmp_path):
    for _ in range(5):
        other = Listener(tmp_path)
        await other.ask()
        other.close()
    await listener.ask()
    assert await listener.answer()


async def test_the_sockets_are_for_their_user_alone(publisher, tmp_path):
    for name in ("snapshots", "state"):
        mode = (tmp_path / name).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600


async def test_a_publisher_that_starts_again_has_a_later_epoch_and_takes_over_the_sockets(desired, tmp_path):
    epochs = []
    for _ in range(2):
        publisher = Publisher(desired, tmp_path)
        epochs.append(publisher.epoch)
        async with running(publisher):
            listener = Listener(tmp_path)
            await listener.ask()
            assert (await listener.answer())[0].epoch == publisher.epoch
            listener.close()
    assert epochs[0] < epochs[1]


async def test_a_whole_is_encoded_once_for_all_who_ask(listener, publisher, monkeypatch):
    made = []
    real = Publisher._frames.__globals__["whole"]
    monkeypatch.setitem(Publisher._frames.__globals__, "whole", lambda *a: made.append(1) or real(*a))
    for _ in range(5):
        await listener.ask()
        await listener.answer()
    assert len(made) == 1


async def test_a_real_replica_follows_every_change(publisher, desired, tmp_path):
    replica = Replica(Compiler())
    subscriber = Subscriber(replica, tmp_path)
    task = asyncio.ensure_future(subscriber.run())
    for number in range(20):
        desired.put_route(route(f"default/r{number}"))
        if number % 3 == 0:
            desired.put_server(
                Server(f"default/s{number}"), [endpoint(one, f"default/s{number}") for one in range(number)]
            )
        if number % 5 == 4:
            desired.drop_server(f"default/s{number - 1}")
        await asyncio.sleep(0.03)
    async with asyncio.timeout(5):
        while (replica.world.epoch, replica.world.routes) != (77, desired.routes):
            await asyncio.sleep(0.01)
    assert {name: one[0] for name, one in replica.world.servers.items()} == desired.servers
    assert replica.world.endpoints == desired.endpoints
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
