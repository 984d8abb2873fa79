"""The supervisor's own decisions, with processes of this test in place of workers; the real ones are in tests/integration."""

import asyncio
import errno
import fcntl
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from _fastpath.shared_memory import STATES
from gateway.datastore import disk
from gateway.datastore.model import Endpoint, Server
from gateway.settings import Settings, SharedMemory
from gateway.supervisor import supervisor as module
from gateway.supervisor.listeners import PortInUse
from gateway.supervisor.supervisor import SHARED_MEMORY_FILE, SupervisionFailed, Supervisor

SIZES = SharedMemory(
    slots=64, buckets=64, journal_records=64, prefix_bytes=1 << 20, counter_series=16, counter_cells=1024
)
SLEEPS = "import time; time.sleep(60)"
COUNTS_SIGNALS = """
import signal, sys, time
heard = []
def hear(*_):
    heard.append(1)
    if len(heard) == 2:
        sys.exit(0)
signal.signal(signal.SIGTERM, hear)
open(sys.argv[1], "w").close()
while True:
    time.sleep(60)
"""


def settings(**changed):
    return Settings(
        **({"port": 0, "admin_port": 0, "workers": 1, "shared_memory": SIZES, "drain_seconds": 30.0} | changed)
    )


class Starter:
    """Starts what the test says in place of a worker: programs in order, the last of them over and over; an error is raised."""

    def __init__(self, monkeypatch):
        self.programs = [SLEEPS]
        self.asked = 0
        self.started = []
        self.pause = 0.0
        self._start = asyncio.create_subprocess_exec
        monkeypatch.setattr("asyncio.create_subprocess_exec", self)

    async def __call__(self, *_, **options):
        self.asked += 1
        program = self.programs.pop(0) if len(self.programs) > 1 else self.programs[0]
        if isinstance(program, Exception):
            raise program
        await asyncio.sleep(self.pause)
        words = (program,) if isinstance(program, str) else program
        process = await self._start(sys.executable, "-c", *words, stdin=options["stdin"], start_new_session=True)
        self.started.append(process)
        return process


@pytest.fixture
def starter(monkeypatch):
    return Starter(monkeypatch)


@pytest.fixture
async def supervisor(tmp_path, starter):
    found = Supervisor(settings(), tmp_path)
    yield found
    for process in starter.started:
        assert process.returncode is not None, "a process is left"


async def until(condition, seconds=5.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def seconds_to_end(task):
    started = time.monotonic()
    await asyncio.wait_for(task, 10)
    return time.monotonic() - started


class TestStart:
    async def test_a_port_in_use_leaves_nothing_behind(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortInUse):
            Supervisor(settings(port=taken.getsockname()[1]), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]
        with (tmp_path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the directory can be used at once

    async def test_memory_that_cannot_be_had_leaves_the_port_free(self, tmp_path, monkeypatch):
        opened = []
        open_listeners = module.open_listeners
        monkeypatch.setattr(module, "open_listeners", lambda *words: opened.extend(open_listeners(*words)) or opened)
        monkeypatch.setattr(module, "Slots", lambda memory: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Supervisor(settings(), tmp_path)
        assert [one.fileno() for one in opened] == [-1]
        assert not (tmp_path / SHARED_MEMORY_FILE).exists()

    async def test_a_snapshot_with_more_endpoints_than_slots_is_named_and_not_died_of(
        self, tmp_path, supervisor, caplog
    ):
        endpoints = [Endpoint(f"default/e{number}", "default/s", str(number), "h", 1) for number in range(100)]
        disk.save(1, 5, ((), (Server("default/s"),), endpoints), tmp_path)
        task = asyncio.create_task(supervisor.run())
        await until(lambda: "all 64 endpoint slots are taken: raise `shared_memory.slots`" in caplog.text)
        assert supervisor.replica.world.epoch == 0
        assert "Traceback" not in caplog.text
        supervisor.stop()
        await task

    async def test_what_such_a_snapshot_had_named_is_given_back(self, tmp_path, supervisor):
        endpoints = [Endpoint(f"default/e{number}", "default/s", str(number), "h", 1) for number in range(100)]
        disk.save(1, 5, ((), (Server("default/s"),), endpoints), tmp_path)
        disk.restore_if_possible(supervisor.replica, tmp_path)
        for _ in range(3):
            supervisor._slots.sweep()
        assert supervisor._slots.in_use == 0
        supervisor.abandon()


class TestWorkers:
    async def test_a_worker_that_cannot_be_started_is_tried_again(self, supervisor, starter, monkeypatch, caplog):
        monkeypatch.setattr(module, "_FAILURE_PAUSE_SECONDS", 0.01)
        starter.programs = [
            OSError(errno.EAGAIN, "Resource temporarily unavailable"), ValueError("what else may be"), SLEEPS,
        ]  # fmt: skip
        task = asyncio.create_task(supervisor.run())
        await until(lambda: starter.started)
        assert "Resource temporarily unavailable" in caplog.text
        assert "what else may be" in caplog.text
        supervisor.stop()
        assert await seconds_to_end(task) < 1

    async def test_a_sweep_that_fails_is_not_the_last(self, supervisor, starter, monkeypatch, caplog):
        monkeypatch.setattr(module, "_SWEEP_SECONDS", 0.01)
        sweeps = []

        class Buckets:
            def sweep(self):
                sweeps.append(1)
                raise OSError("sweep")

        supervisor._buckets = Buckets()
        task = asyncio.create_task(supervisor.run())
        await until(lambda: len(sweeps) > 3)
        assert "the sweep failed" in caplog.text
        supervisor.stop()
        await task

    async def test_a_task_that_ends_by_itself_ends_the_gateway_with_an_error(self, supervisor, starter, caplog):
        def fail(index):
            raise ValueError("bury")

        supervisor.bury = fail
        starter.programs = ["pass"]
        with pytest.raises(SupervisionFailed) as raised:
            await asyncio.wait_for(supervisor.run(), 10)
        assert isinstance(raised.value.__cause__, ValueError)
        assert "the supervisor cannot go on" in caplog.text
        assert not (supervisor.directory / SHARED_MEMORY_FILE).exists()


class TestStop:
    async def test_while_a_worker_is_being_started(self, supervisor, starter):
        # found in acceptance: the new process was never told, and the drain waited 33 s for it
        starter.pause = 0.2
        task = asyncio.create_task(supervisor.run())
        await asyncio.sleep(0.05)
        supervisor.stop()
        assert await seconds_to_end(task) < 2
        assert [process.returncode for process in starter.started] == [-signal.SIGTERM]

    async def test_a_moment_after_a_worker_died(self, supervisor, starter):
        starter.programs = [SLEEPS, SLEEPS]
        task = asyncio.create_task(supervisor.run())
        await until(lambda: starter.started)
        starter.pause = 0.1
        starter.started[0].kill()
        await until(lambda: starter.asked == 2)
        supervisor.stop()
        assert await seconds_to_end(task) < 2
        assert [process.returncode for process in starter.started] == [-signal.SIGKILL, -signal.SIGTERM]

    async def test_while_a_worker_that_keeps_dying_is_given_a_rest(self, supervisor, starter, monkeypatch):
        monkeypatch.setattr(module, "_QUICK_DEATHS", 0)
        monkeypatch.setattr(module, "_LONGEST_PAUSE_SECONDS", 60.0)
        supervisor.workers[0].deaths = [time.monotonic()] * 9
        supervisor.memory.claim_row(0, 1, 0)  # "starting", until it is buried
        starter.programs = ["pass"]
        task = asyncio.create_task(supervisor.run())
        await until(lambda: supervisor.workers[0].restarts)
        await asyncio.sleep(0.05)
        supervisor.stop()
        assert await seconds_to_end(task) < 1
        assert len(starter.started) == 1

    async def test_the_second_time_cuts_the_drain_short(self, supervisor, starter, tmp_path):
        heeds = tmp_path / "heeds"
        starter.programs = [(COUNTS_SIGNALS, str(heeds))]
        task = asyncio.create_task(supervisor.run())
        await until(heeds.exists)
        supervisor.memory.set_state(0, STATES.index("draining"))
        supervisor.stop()
        await asyncio.sleep(0.3)
        assert not task.done()
        supervisor.stop()
        supervisor.stop()
        assert await seconds_to_end(task) < 1
        assert starter.started[0].returncode == 0

    async def test_twice_in_the_same_instant_counts_as_twice(self, supervisor, starter, tmp_path):
        heeds = tmp_path / "heeds"
        starter.programs = [(COUNTS_SIGNALS, str(heeds))]
        task = asyncio.create_task(supervisor.run())
        await until(heeds.exists)
        supervisor.stop()
        supervisor.stop()
        await asyncio.sleep(0.1)
        supervisor.memory.set_state(0, STATES.index("draining"))  # as a worker does once it has heard of it
        assert await seconds_to_end(task) < 1
        assert starter.started[0].returncode == 0

    async def test_the_second_time_ends_a_worker_that_hears_nothing(self, supervisor, starter):
        task = asyncio.create_task(supervisor.run())
        await until(lambda: starter.started)
        process = starter.started[0].pid
        os.kill(process, signal.SIGSTOP)
        # of signals that wait together the one with the lower number comes first
        await until(lambda: Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        supervisor.stop()
        await asyncio.sleep(0.05)
        supervisor.stop()
        assert await seconds_to_end(task) < 2
        assert starter.started[0].returncode == -signal.SIGKILL
