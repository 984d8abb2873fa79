"""The replica's sockets, against a publisher of this test's own on real ipc sockets."""

import asyncio
import contextlib
import os

import pytest
import zmq
import zmq.asyncio

from gateway.datastore import subscriber as module
from gateway.datastore.model import Route
from gateway.datastore.replica import Replica, Unusable
from gateway.datastore.subscriber import HEARTBEAT_TIMEOUT_SECONDS, Subscriber
from gateway.datastore.wire import Change, Frame, Kind, encode, whole
from tests.unit.gateway.test_replica import Compiler, Server, endpoint

SOON = 5.0


class Publisher:
    """The other end, by hand."""

    def __init__(self, directory):
        self.context = zmq.asyncio.Context()
        self.updates, self.state = self.context.socket(zmq.PUB), self.context.socket(zmq.ROUTER)
        for socket, name in ((self.updates, "snapshots"), (self.state, "state")):
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(f"ipc://{directory / name}")

    async def question(self):
        """Whoever asks for a whole next."""
        client, empty, question = await asyncio.wait_for(self.state.recv_multipart(), SOON)
        assert (empty, question) == (b"", b"whole")
        return client

    async def answer(self, client, epoch, sequence, endpoints=()):
        for header, body in whole(epoch, sequence, (), [Server("default/s")], endpoints):
            await self.state.send_multipart([client, b"", header, body])

    async def send(self, kind, epoch, sequence, **content):
        await self.updates.send_multipart(encode(Frame(kind, epoch, sequence, **content)))

    async def beat(self, epoch, sequence):
        """Heartbeats until cancelled: a subscription takes a moment to arrive."""
        while True:
            await self.send(Kind.HEARTBEAT, epoch, sequence)
            await asyncio.sleep(0.02)

    def close(self):
        self.updates.close()
        self.state.close()
        self.context.term()


@contextlib.asynccontextmanager
async def running(coroutine):
    task = asyncio.ensure_future(coroutine)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition):
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def directory(tmp_path):
    assert len(os.fsencode(tmp_path / "snapshots")) <= 107
    return tmp_path


@pytest.fixture
async def publisher(directory):
    found = Publisher(directory)
    yield found
    found.close()


@pytest.fixture
def replica():
    return Replica(Compiler())


@pytest.fixture
def applied():
    return []


@pytest.fixture
async def subscriber(directory, replica, applied):
    found = Subscriber(replica, directory, lambda: applied.append(replica.world.sequence))
    async with running(found.run()) as task:
        found.task = task
        yield found


async def test_it_asks_at_once_and_serves_the_answer(publisher, subscriber, replica, applied):
    await publisher.answer(await publisher.question(), 1, 4, [endpoint(1)])
    await until(lambda: replica.world.sequence == 4)
    assert applied == [4]
    assert subscriber.is_heard
    assert not replica.waiting


async def test_changes_are_applied_as_they_come(publisher, subscriber, replica, applied):
    await publisher.answer(await publisher.question(), 1, 4)
    await until(lambda: applied)
    async with running(publisher.beat(1, 4)):
        await asyncio.sleep(0.1)
    for number in range(5, 60):
        await publisher.send(Kind.DELTA, 1, number, change=Change(endpoints=(endpoint(number),)))
    await until(lambda: replica.world.sequence == 59)
    assert len(replica.world.endpoints) == 55
    assert applied == [4, *range(5, 60)]


async def test_a_heartbeat_ahead_makes_it_ask_again(publisher, subscriber, replica):
    await publisher.answer(await publisher.question(), 1, 4)
    await until(lambda: replica.world.sequence == 4)
    async with running(publisher.beat(1, 6)):
        client = await publisher.question()
    await publisher.answer(client, 1, 6, [endpoint(6)])
    await until(lambda: replica.world.sequence == 6)


async def test_a_new_publisher_is_followed(directory, subscriber, replica):
    first = Publisher(directory)
    await first.answer(await first.question(), 1, 4, [endpoint(1)])
    await until(lambda: replica.world.sequence == 4)
    first.close()
    second = Publisher(directory)
    async with running(second.beat(2, 1)):
        await second.answer(await second.question(), 2, 1, [endpoint(2)])
        await until(lambda: replica.world.epoch == 2)
    assert list(replica.world.endpoints) == ["default/s#default/e2"]
    second.close()


async def test_an_answer_that_does_not_come_is_asked_for_again(publisher, subscriber, replica, monkeypatch):
    monkeypatch.setattr(module, "ASK_AGAIN_SECONDS", 0.1)
    await publisher.question()
    await publisher.answer(await publisher.question(), 1, 1)
    await until(lambda: replica.world.epoch == 1)


async def test_a_publisher_that_starts_later_is_found(directory, subscriber, replica):
    await asyncio.sleep(0.2)
    assert not subscriber.is_heard
    publisher = Publisher(directory)
    await publisher.answer(await publisher.question(), 1, 1)
    await until(lambda: replica.world.epoch == 1)
    publisher.close()


async def test_a_question_does_not_flood_a_publisher_that_changes_much(publisher, subscriber, replica):
    client = await publisher.question()
    async with running(publisher.beat(1, 1)):
        await asyncio.sleep(0.6)
    waiting = 0
    while await publisher.state.poll(50):
        await publisher.state.recv_multipart()
        waiting += 1
    assert 1 <= waiting <= 4
    await publisher.answer(client, 1, 1)


async def test_damaged_frames_are_dropped_and_it_goes_on(publisher, subscriber, replica, caplog):
    client = await publisher.question()
    header, body = encode(Frame(Kind.HEARTBEAT, 1, 1))
    for parts in ([b"", b"x"], [b"", header[:-1], body], [b"", header], [b"", header, body, b""], [b""]):
        await publisher.state.send_multipart([client, *parts])
    await publisher.answer(client, 1, 1)
    await until(lambda: replica.world.epoch == 1)
    assert caplog.text.count("snapshot frame dropped") == 5


async def test_a_snapshot_that_cannot_be_compiled_leaves_the_old_world_and_the_next_is_taken(
    publisher, subscriber, replica, caplog
):
    replica._compiler.broken = {"default/e2"}
    client = await publisher.question()
    await publisher.answer(client, 1, 1, [endpoint(1)])
    await until(lambda: replica.world.sequence == 1)
    await publisher.answer(client, 1, 2, [endpoint(1), endpoint(2)])
    await until(lambda: "cannot be served" in caplog.text)
    assert replica.world.sequence == 1
    await publisher.answer(client, 1, 3, [endpoint(1), endpoint(3)])
    await until(lambda: replica.world.sequence == 3)
    assert not subscriber.task.done()


async def test_a_listener_that_fails_does_not_end_it(publisher, subscriber, replica, applied):
    def fail(before, after):
        raise ValueError("listener")

    replica.on_route(fail)
    client = await publisher.question()

    for sequence, name in ((1, "default/a"), (2, "default/b")):
        for header, body in whole(1, sequence, [Route(name, "m", ())], (), ()):
            await publisher.state.send_multipart([client, b"", header, body])
        await until(lambda sequence=sequence: replica.world.sequence == sequence)
    assert not subscriber.task.done()


async def test_silence_is_noticed_after_a_while(directory, replica):
    now = [100.0]
    subscriber = Subscriber(replica, directory, clock=lambda: now[0])
    assert not subscriber.is_heard
    await subscriber.take(list(encode(Frame(Kind.HEARTBEAT, 0, 0))))
    assert subscriber.is_heard
    now[0] += HEARTBEAT_TIMEOUT_SECONDS - 0.1
    assert subscriber.is_heard
    now[0] += 0.2
    assert not subscriber.is_heard
    async with running(subscriber.run()):
        await asyncio.sleep(0)


async def test_a_large_snapshot_lets_the_loop_turn(publisher, subscriber, replica, applied):
    endpoints = [endpoint(number) for number in range(5000)]
    client = await publisher.question()
    frames = list(whole(1, 1, (), [Server("default/s")], endpoints))
    turns = 0

    async def watch():
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    def slow(made):
        deadline = asyncio.get_running_loop().time() + 20e-6
        while asyncio.get_running_loop().time() < deadline:
            pass
        return made

    compile_endpoint = replica._compiler.endpoint
    replica._compiler.endpoint = lambda one: slow(compile_endpoint(one))
    async with running(watch()):
        for header, body in frames:
            await publisher.state.send_multipart([client, b"", header, body])
        await until(lambda: applied)
    # 5,000 endpoints at 20 us are 100 ms of work, and 2 ms are done in one turn
    assert turns > 25
    assert len(replica.world.endpoints) == 5000


async def test_when_it_ends_its_sockets_are_closed(directory, replica):
    subscriber = Subscriber(replica, directory)
    async with running(subscriber.run()):
        await asyncio.sleep(0.05)
    assert subscriber._updates.closed
    assert subscriber._state.closed
    assert subscriber._context.closed


class Refusing(Compiler):
    """A gateway with fewer slots than there may be endpoints."""

    most = 2

    def endpoint(self, endpoint):
        if len(self.live) >= self.most:
            raise Unusable("all 2 endpoint slots are taken: raise `shared_memory.slots`")
        return super().endpoint(endpoint)


class TestRefusal:
    """More than this process can serve: found in acceptance as 65 tracebacks in 8 s, one a question."""

    @pytest.fixture
    def replica(self):
        return Replica(Refusing())

    @pytest.fixture
    def now(self):
        return [100.0]

    @pytest.fixture
    def subscriber(self, directory, replica, applied, now):
        """Driven by hand: ``asked`` says at which times it asked."""
        found = Subscriber(replica, directory, lambda: applied.append(replica.world.sequence), clock=lambda: now[0])
        found.asked = []

        async def ask(reconnect=None):
            found.asked.append(now[0])
            found._asked_at = now[0]

        found._ask = ask
        yield found
        found.close()

    async def take(self, subscriber, *frames):
        for frame in frames:
            await subscriber.take(list(frame))

    def whole(self, sequence, count):
        return whole(1, sequence, (), [Server("default/s")], [endpoint(number) for number in range(count)])

    async def test_the_world_before_stays_and_the_reason_is_said_once(self, subscriber, replica, applied, caplog):
        await self.take(subscriber, *self.whole(1, 2))
        for _ in range(10):
            await self.take(subscriber, *self.whole(2, 3))
        assert (replica.world.sequence, applied) == (1, [1])
        assert "raise `shared_memory.slots`" in subscriber.refusal
        (record,) = caplog.records
        assert "snapshot 2 of epoch 1 cannot be served" in record.getMessage()
        assert "raise `shared_memory.slots`" in record.getMessage()
        assert record.exc_info in (None, False)

    async def test_it_asks_less_and_less_often(self, subscriber, replica, now):
        heartbeat = encode(Frame(Kind.HEARTBEAT, 1, 2))
        for _ in range(1200):  # two minutes
            now[0] += 0.1
            asked = len(subscriber.asked)
            await self.take(subscriber, heartbeat)
            if len(subscriber.asked) > asked:
                await self.take(subscriber, *self.whole(2, 3))
        pauses = [round(after - before) for before, after in zip(subscriber.asked, subscriber.asked[1:], strict=False)]
        assert pauses == [1, 2, 4, 8, 16, 30, 30]

    async def test_something_newer_is_asked_for_soon(self, subscriber, replica, now, caplog):
        for _ in range(6):
            await self.take(subscriber, *self.whole(2, 3))
        asked = len(subscriber.asked)
        now[0] += 0.5
        await self.take(subscriber, encode(Frame(Kind.HEARTBEAT, 1, 3)))
        assert len(subscriber.asked) == asked
        now[0] += 0.6
        await self.take(subscriber, encode(Frame(Kind.HEARTBEAT, 1, 3)))
        assert len(subscriber.asked) == asked + 1
        await self.take(subscriber, *self.whole(3, 2))
        assert replica.world.sequence == 3
        assert subscriber.refusal == ""

    async def test_a_change_that_cannot_be_served_is_refused_too_and_asked_for(self, subscriber, replica, now):
        await self.take(subscriber, *self.whole(1, 2))
        await self.take(subscriber, encode(Frame(Kind.DELTA, 1, 2, change=Change(endpoints=(endpoint(2),)))))
        assert (replica.world.sequence, len(replica.world.endpoints)) == (1, 2)
        now[0] += 1.1
        await self.take(subscriber, encode(Frame(Kind.HEARTBEAT, 1, 2)))
        assert subscriber.asked == [now[0]]

    async def test_what_was_refused_and_can_be_served_later_is(self, subscriber, replica, caplog):
        caplog.set_level("INFO")
        await self.take(subscriber, *self.whole(2, 3))
        assert replica.world.epoch == 0
        replica._compiler.most = 3
        await self.take(subscriber, *self.whole(2, 3))
        assert (replica.world.sequence, subscriber.refusal) == (2, "")
        assert "snapshot 2 of epoch 1 is served" in caplog.text

    async def test_of_a_backlog_what_can_be_served_is_noted(self, subscriber, replica, applied):
        late = encode(Frame(Kind.DELTA, 1, 2, change=Change(endpoints=(endpoint(2),))))
        await self.take(subscriber, late, *self.whole(1, 2))
        assert applied == [1]
        assert subscriber.refusal


async def test_sockets_that_fail_are_tried_again(publisher, directory, replica, monkeypatch, caplog):
    monkeypatch.setattr(module, "_MEND_SECONDS", 0.01)
    subscriber = Subscriber(replica, directory)
    ask, failures = subscriber._ask, [OSError("too many open files"), zmq.ZMQError(24, "Too many open files")]

    async def fail_first(reconnect=None):
        if failures:
            raise failures.pop(0)
        await ask(reconnect)

    subscriber._ask = fail_first
    async with running(subscriber.run()):
        await publisher.answer(await publisher.question(), 1, 4)
        await until(lambda: replica.world.sequence == 4)
    assert caplog.text.count("following the publisher failed") == 2


async def test_a_callback_that_fails_does_not_end_it(publisher, directory, replica, monkeypatch):
    monkeypatch.setattr(module, "_MEND_SECONDS", 0.01)

    def fail():
        raise OSError("disk full")

    subscriber = Subscriber(replica, directory, fail)
    async with running(subscriber.run()) as task:
        client = await publisher.question()
        for sequence in (1, 2):
            await publisher.answer(client, 1, sequence)
            await until(lambda sequence=sequence: replica.world.sequence == sequence)
        assert not task.done()
