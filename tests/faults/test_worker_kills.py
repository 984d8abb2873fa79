"""Workers killed at random moments, under load: the port stays open, and nothing that they held stays held."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from _fastpath.hashing import Hasher
from _fastpath.load import Load
from _fastpath.shared_memory import SharedMemory
from _fastpath.token_bucket import Journal, TokenBuckets
from tests.faults.load import Clients, Prober
from tests.faults.results import write_result
from tests.support import config
from tests.support.client import Connection, chat, request_bytes
from tests.support.engines import Engines
from tests.support.gateway import Gateway, children_of
from tests.support.waiting import wait_until

KILLS = int(os.environ.get("PENSTOCK_KILLS", "20"))
"""Enough to see that it works; CI asks for 1,000, and `make slow` for all."""
ALL_KILLS = 10_000
WORKERS = 4
BATCH = 50
REST_SECONDS = 2.0
MONTH = 30 * 86_400
CLIENTS = 8

pytestmark = pytest.mark.timeout(max(300, KILLS))


class Shared:
    """The gateway's shared memory, looked at from outside."""

    def __init__(self, gateway):
        self.memory = SharedMemory.attach(str(gateway.run_directory / "shared-memory"))
        self._load = Load(self.memory)
        self._buckets = TokenBuckets(self.memory)

    def serving(self):
        """Processes of workers that serve."""
        rows = [self.memory.read_row(worker) for worker in range(WORKERS)]
        return [row["process"] for row in rows if row["process"] and row["state"] == "serving"]

    def charged(self):
        """Requests at engines, by worker."""
        return [self._load.worker_in_flight(worker) for worker in range(WORKERS)]

    def reserved(self):
        """Requests with a reservation in any worker's journal."""
        return sum(Journal(self.memory, worker).in_use for worker in range(WORKERS))

    def missing(self):
        """Requests missing from the route's bucket."""
        hasher = Hasher((0x50656E73746F636B, 0x6C696D697473))
        now = time.monotonic_ns()
        place = self._buckets.open(hasher.seed("default/demo", "monthly", "requests", ""), now)
        state = self._buckets.describe(place, now)
        return state["burst"] - state["available"]


def threads_of(process):
    """States of a process's threads, one letter each."""
    return {stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{process}/task").glob("*/stat")}


def monthly(kills):
    """The route's limit in a month: none is refused, and next to nothing flows back into the bucket while the test runs."""
    return max(100_000, 200 * kills)


@pytest.fixture
def kills():
    return KILLS


@pytest.fixture
def gateway(tmp_path, kills):
    limits = [{"name": "monthly", "unit": "month", "requests": monthly(kills)}]
    with Engines(2, speed=4) as engines:
        text = config.simple("demo", engines.ports, limits=limits)
        with Gateway(tmp_path, {"demo.yaml": text}, workers=WORKERS, access_log=False) as started:
            yield started


@pytest.mark.parametrize(
    "kills", [KILLS, pytest.param(ALL_KILLS, marks=[pytest.mark.slow, pytest.mark.timeout(3 * ALL_KILLS)])]
)
def test_killed_workers_leave_nothing_behind(gateway, kills):
    seed = random.randrange(1 << 32)
    run = Run(gateway, kills, seed)
    try:
        run.kill_all()
        run.check_what_is_left()
        run.outcome = "passed"
    finally:
        facts = run.facts()
        print(facts)
        if kills == ALL_KILLS:
            write_result("worker-kills", facts)


class Run:
    """Kills under load, in batches, with a rest after each, in which nothing may be held any more."""

    def __init__(self, gateway, kills, seed):
        self._gateway, self._kills, self._seed = gateway, kills, seed
        self._chance = random.Random(seed)
        self._shared = Shared(gateway)
        self._started = time.monotonic()
        self._victims = []
        self._rests = 0
        self._restarts = 0
        self._descriptors = open_descriptors(gateway.process.pid)
        self._prober, self._clients = Prober(gateway.port), Clients(gateway.port, CLIENTS)
        self.outcome = "failed"

    def kill_all(self):
        with self._prober, self._clients:
            while (killed := len(self._victims)) < self._kills:
                for _ in range(min(BATCH, self._kills - killed)):
                    kill_one(self._shared, self._chance, self._victims)
                with self._clients.resting():
                    self._rest()

    def _rest(self):
        killed, clients = len(self._victims), self._clients
        told = f"seed {self._seed}, after {killed} kills, {clients.statuses}, {clients.cut} cut"
        rest(self._gateway, self._shared, told)
        flowed_back = monthly(self._kills) / MONTH * (time.monotonic() - self._started)
        # what was answered is spent; what died with its worker was given back, save for the instant between
        # answer and settlement
        self._rests += 1
        spent = clients.statuses[200] + self._rests
        slack = 2 + killed / 20
        assert spent - flowed_back - slack <= self._shared.missing() <= spent + slack, told
        assert set(clients.statuses) == {200}, told
        assert not self._prober.failures, (told, self._prober.failures[:3])

    def check_what_is_left(self):
        gateway, killed, told = self._gateway, len(self._victims), self.facts()
        assert self._clients.statuses[200] > killed / 2, f"too little load: {told}"
        assert self._clients.cut > killed / 5, f"too few kills hit a request: {told}"
        wait_until(gateway.is_settled, 20, message=lambda: str(gateway.state()))
        self._restarts = sum(one["restarts"] for one in gateway.state()["workers"])
        assert self._restarts == killed
        assert [gateway.ask().status for _ in range(40)] == [200] * 40
        assert len(children_of(gateway.process.pid)) == WORKERS + 1, "workers and controllers, and nobody unburied"
        assert open_descriptors(gateway.process.pid) <= self._descriptors + 8
        assert "Traceback" not in gateway.stderr

    def facts(self):
        """What a reader wants to know of the run."""
        clients = self._clients
        return {
            "outcome": self.outcome,
            "seed": self._seed,
            "kills": len(self._victims),
            "restarts": self._restarts,
            "seconds": round(time.monotonic() - self._started),
            "connections opened": self._prober.connected,
            "connections refused": len(self._prober.failures),
            "whole answers by status": {str(status): count for status, count in sorted(clients.statuses.items())},
            "requests cut": clients.cut,
            "longest whole answer, seconds": round(clients.longest, 2),
        }


def open_descriptors(process):
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def kill_one(shared, chance, victims):
    """Kill a worker, a random moment after all but one serve."""

    def serving():
        # a process that was killed a moment ago still has its row, and can be killed again
        return [process for process in shared.serving() if process not in victims[-100:]]

    wait_until(lambda: len(serving()) >= WORKERS - 1, 60, pause=0.005)
    time.sleep(chance.random() * 0.1)
    process = chance.choice(wait_until(serving, 60))
    os.kill(process, signal.SIGKILL)
    victims.append(process)


def rest(gateway, shared, told):
    """Nothing is held any more, within two seconds of rest."""
    started = time.monotonic()
    wait_until(lambda: not any(shared.charged()), REST_SECONDS, message=lambda: f"{told}: charged {shared.charged()}")
    wait_until(lambda: not shared.reserved(), REST_SECONDS, message=lambda: f"{told}: reserved {shared.reserved()}")
    wait_until(gateway.is_idle, REST_SECONDS, message=lambda: f"{told}: {gateway.state()}")
    assert time.monotonic() - started < REST_SECONDS, told
    assert gateway.ask(chat(max_tokens=1), timeout=30).status == 200, told


def test_what_a_killed_worker_held_returns_within_two_seconds(gateway):
    """One kill of each, looked at closely: workers that hold open streams."""
    shared = Shared(gateway)
    connections = [gateway.connect_to(number % WORKERS) for number in range(2 * WORKERS)]
    try:
        for connection in connections:
            connection.send(request_bytes(chat(stream=True, max_tokens=9000)))
        wait_until(lambda: shared.charged() == [2] * WORKERS, message=lambda: str(shared.charged()))
        assert shared.reserved() == 2 * WORKERS
        for worker in range(WORKERS):
            os.kill(shared.memory.read_row(worker)["process"], signal.SIGKILL)
            wanted = [0] * (worker + 1) + [2] * (WORKERS - worker - 1)
            # its own, and nobody else's
            wait_until(lambda wanted=wanted: shared.charged() == wanted, 0.5, message=lambda: str(shared.charged()))
            assert shared.reserved() == sum(wanted)
        assert shared.missing() < 1
        wait_until(gateway.is_idle, REST_SECONDS)
    finally:
        for connection in connections:
            connection.close()


def test_a_kill_does_not_disturb_the_streams_of_others(gateway):
    with gateway.connect_to(1) as connection:
        connection.send(request_bytes(chat(stream=True, max_tokens=800)))
        reply = connection.read_head()
        for worker in (0, 2, 3):
            os.kill(gateway.worker_processes()[worker], signal.SIGKILL)
        for _ in connection.pieces(reply):
            pass
        assert reply.is_whole
        assert len(reply.events) == 801


def test_connections_that_wait_in_a_dead_workers_queue_are_served_by_its_successor(gateway):
    shared = Shared(gateway)
    victim = gateway.worker_processes()[2]
    os.kill(victim, signal.SIGSTOP)  # it accepts nothing more, and the kernel goes on queueing for it
    wait_until(lambda: threads_of(victim) == {"T"})  # a thread on another core runs on for a moment, and would accept
    connections = [Connection(gateway.port, timeout=20) for _ in range(40)]
    try:
        for connection in connections:
            connection.send(request_bytes(chat(max_tokens=2)))
        os.kill(victim, signal.SIGKILL)
        assert [connection.read().status for connection in connections] == [200] * 40
    finally:
        for connection in connections:
            connection.close()
    wait_until(lambda: not any(shared.charged()) and not shared.reserved())
