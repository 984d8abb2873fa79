"""The control plane killed, restarted, or with a great deal to say: serving goes on, and the loop is not held."""

import asyncio
import gc
import subprocess
import time
from pathlib import Path

import pytest

from _fastpath.shared_memory import SharedMemory
from controllers.network.desired import DesiredState
from gateway.admission.limits import RateLimiter
from gateway.datastore.epochs import generation
from gateway.datastore.model import Endpoint, Limit, Match, Route, Rule, Server, StringMatch, Target
from gateway.datastore.replica import Replica
from gateway.datastore.subscriber import Subscriber
from gateway.datastore.wire import Change, Frame, Kind, encode, whole
from gateway.world import GatewayCompiler
from tests.support import config
from tests.support.client import chat
from tests.support.engines import Engines
from tests.support.gateway import Gateway, program
from tests.support.waiting import wait_until

ENDPOINTS = 5000
ROUTES = 2000
LONGEST_HOLD_SECONDS = 0.005


@pytest.fixture
def engines():
    with Engines(2, speed=20) as started:
        yield started


def test_serving_goes_on_without_controllers(engines, tmp_path):
    with Gateway(tmp_path, command="gateway") as gateway:
        (gateway.folder / "demo.yaml").write_text(config.simple("demo", engines.ports))
        controllers = program("controllers", "-f", gateway.folder, "--run-directory", gateway.run_directory)
        try:
            wait_until(lambda: gateway.state()["routes"] and gateway.is_settled())
            controllers.kill()
            controllers.wait()
            for _ in range(50):
                assert gateway.ask().status == 200
            wait_until(lambda: not gateway.state()["snapshot"]["controllers_heard"])
            assert gateway.get("/readyz").status == 200
            assert gateway.ask().status == 200
        finally:
            controllers.kill()
            controllers.wait()


def test_a_restarted_gateway_serves_from_disk(engines, tmp_path):
    with Gateway(tmp_path, {"demo.yaml": config.simple("demo", engines.ports)}) as gateway:
        wait_until((gateway.run_directory / "last-snapshot").exists)
        gateway.kill()
    alone = Gateway(tmp_path, command="gateway")
    with alone:
        wait_until(lambda: alone.state()["routes"])
        assert alone.ask().status == 200
        assert not alone.state()["snapshot"]["controllers_heard"]


def test_restarted_controllers_converge_within_a_second(engines, tmp_path):
    with Gateway(tmp_path, command="gateway") as gateway:
        (gateway.folder / "demo.yaml").write_text(config.simple("demo", engines.ports))
        words = ("controllers", "-f", gateway.folder, "--run-directory", gateway.run_directory)
        controllers = program(*words, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: gateway.state()["routes"])
            controllers.kill()
            controllers.wait()
            (gateway.folder / "second.yaml").write_text(config.simple("second", engines.ports, model="demo"))
            controllers = program(*words, stderr=subprocess.DEVNULL)
            # from the moment at which they hold the run directory: the interpreter's own start is not theirs to converge
            wait_until(lambda: _holds(gateway.run_directory / "controllers.lock", controllers.pid))
            started = time.monotonic()
            wait_until(lambda: gateway.ask(chat(model="second")).status == 200, seconds=5)
            wait_until(lambda: len({one["sequence"] for one in gateway.state()["workers"]}) == 1)
            assert time.monotonic() - started < 1.0
        finally:
            controllers.kill()
            controllers.wait()


def _holds(lock, process):
    inode = lock.stat().st_ino if lock.exists() else 0
    held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return any(fields[4] == str(process) and fields[5].endswith(f":{inode}") for fields in held)


def fill(desired, revision=0):
    """5,000 endpoints on 50 servers, and as many on one server; 2,000 routes of 400 models, with patterns, half of them with a limit."""
    for number in range(50):
        name = f"default/server-{number}"
        desired.put_server(Server(name), [_endpoint(name, number * 100 + one, revision) for one in range(100)])
    large = "default/large"
    desired.put_server(Server(large), [_endpoint(large, one, revision) for one in range(ENDPOINTS)])
    for number in range(ROUTES):
        desired.put_route(_route(number, revision))


def _endpoint(server, number, revision):
    return Endpoint(
        f"default/pod-{number}",
        server,
        f"uid-{number}-{revision}",
        f"10.{revision}.{number // 250}.{number % 250}",
        8000,
    )


def _route(number, revision):
    pattern = StringMatch(regex=f"^user-{revision}-[0-9]{{1,8}}(eu|us)?-{number}$")
    rules = (
        Rule((Target("default/large"),), match=Match(headers={"x-user": pattern})),
        Rule((Target("default/large"),)),
    )
    limits = (Limit("minute", "input", 1000.0 + revision, 60.0, 1000.0),) if number % 2 else ()
    return Route(
        f"default/route-{number}", f"model-{number % 400}", rules, limits=limits, created=str(revision + number)
    )


class LoopProbe:
    """The longest time for which the event loop was held, by the thread's own clock: what other processes take is not counted."""

    def __init__(self):
        self.longest = 0.0
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self):
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            self.longest = max(self.longest, time.thread_time() - before)

    def stop(self):
        self._task.cancel()
        return self.longest


async def test_ten_thousand_endpoints_and_two_thousand_routes_hold_the_loop_for_five_milliseconds_at_most(tmp_path):
    """A whole from nothing, a change of one endpoint in a pool of 5,000, and a whole in which everything is another.

    Three runs; the machine may disturb two of them, so the best one's longest turn counts.
    """
    runs = [await one_run(tmp_path / f"memory-{number}", tmp_path) for number in range(3)]
    shown = "; ".join(", ".join(f"{what} {held * 1000:.2f} ms" for what, held in run.items()) for run in runs)
    print(f"longest turns of three runs: {shown}")
    assert min(max(run.values()) for run in runs) <= LONGEST_HOLD_SECONDS, shown


async def one_run(path, run_directory):
    """The longest turn of each step."""
    memory = SharedMemory.create(str(path), workers=2, slots=32768, prefix_bytes=1 << 20)
    replica = Replica(GatewayCompiler(memory, 0))
    limiter = RateLimiter(memory, 0, lambda: generation(replica.world.epoch, replica.world.sequence), time.monotonic_ns)
    replica.on_route(limiter.route_changed)
    subscriber = Subscriber(replica, run_directory)
    desired = DesiredState()
    fill(desired)
    held = {"whole": await hold_of(subscriber, frames(desired, 1))}
    assert (len(replica.world.endpoints), len(replica.world.routes)) == (ENDPOINTS * 2, ROUTES)
    changed = Change(endpoints=(_endpoint("default/large", 7, 1),))
    held["delta"] = await hold_of(subscriber, [encode(Frame(Kind.DELTA, 1, 2, change=changed))])
    assert replica.world.sequence == 2
    fill(desired, revision=2)
    held["replaced"] = await hold_of(subscriber, frames(desired, 3))
    assert replica.world.sequence == 3
    subscriber.close()
    return held


def frames(desired, sequence):
    objects = (tuple(desired.routes.values()), tuple(desired.servers.values()), tuple(desired.endpoints.values()))
    return list(whole(1, sequence, *objects))


async def hold_of(subscriber, sent):
    """The longest hold of the loop while these frames are applied."""
    gc.collect()
    gc.freeze()  # as a worker does: what stands is not looked at again
    probe = LoopProbe()
    await asyncio.sleep(0.01)
    for parts in sent:
        await subscriber.take(list(parts))
        await asyncio.sleep(0)
    return probe.stop()
