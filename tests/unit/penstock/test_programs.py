"""Starting and stopping: a stop is heard at any moment, and what cannot start says so at once."""

import asyncio
import errno
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from _fastpath.slots import SlotsFull
from gateway.settings import Settings
from penstock import programs
from penstock.main import UserError

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def hears_hang_ups():
    """Where the tests themselves run under nohup, programs that they start would be right not to hear SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def settings(tmp_path):
    return Settings(port=0, admin_port=0, workers=1, run_directory=str(tmp_path / "run"), drain_seconds=1.0)


@pytest.fixture
def supervisor(monkeypatch):
    """A supervisor that never becomes ready: what it was told, and how its work ends."""

    class Idle(programs.Supervisor):
        stops = 0
        fault = None

        async def run(self):
            if self.fault is not None:
                self.abandon()
                raise self.fault
            await self._stopping.wait()
            self.abandon()

        async def ready(self, seconds):
            await asyncio.sleep(seconds)
            return False

        def stop(self):
            Idle.stops += 1
            super().stop()

    monkeypatch.setattr(programs, "Supervisor", Idle)
    return Idle


async def serve(settings, ready=None, children=()):
    async def nothing(_):
        pytest.fail("it is not ready")

    directory = Path(settings.run_directory)
    directory.mkdir(exist_ok=True)
    await programs.serve(settings, directory, children, ready or nothing)


async def test_a_failure_to_start_is_seen_at_once_and_not_after_the_wait_for_workers(settings, supervisor):
    supervisor.fault = RuntimeError("broken")
    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match="broken"):
            await serve(settings)


async def test_a_snapshot_that_does_not_fit_is_a_users_error_with_the_setting(settings, supervisor):
    supervisor.fault = SlotsFull("all 64 endpoint slots are taken")
    with pytest.raises(UserError, match="all 64 endpoint slots are taken") as raised:
        await serve(settings)
    assert "--shared-memory-slots" in raised.value.hint


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_stop_is_heard_while_workers_start(settings, supervisor, number):
    asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), number)
    async with asyncio.timeout(5):
        await serve(settings)
    assert supervisor.stops == 1


async def test_every_signal_is_passed_on_so_that_a_second_one_can_mean_now(settings, supervisor, monkeypatch):
    async def run(self):
        while supervisor.stops < 3:
            await asyncio.sleep(0.01)
        self.abandon()

    monkeypatch.setattr(supervisor, "run", run)
    loop = asyncio.get_running_loop()
    for delay in (0.1, 0.2, 0.3):
        loop.call_later(delay, os.kill, os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(5):
        await serve(settings)
    assert supervisor.stops == 3


async def test_a_stop_is_heard_while_the_welcome_waits_for_something(settings, supervisor, monkeypatch):
    async def is_ready(self, seconds):
        return True

    monkeypatch.setattr(supervisor, "ready", is_ready)
    ended = []

    async def ready(_):
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(5):
        await serve(settings, ready)
    assert ended


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), MemoryError()])
async def test_shared_memory_that_finds_no_room_is_told_apart_from_a_host_that_is_wrong(settings, monkeypatch, fault):
    def made(*_, **__):
        raise fault

    monkeypatch.setattr(programs, "Supervisor", made)
    with pytest.raises(UserError, match="shared memory cannot be made") as raised:
        await serve(settings)
    assert "--shared-memory-prefix-bytes" in raised.value.hint


async def test_a_port_at_the_top_is_offered_another_that_exists():
    assert [programs._another(port) for port in (8080, 65535)] == [8090, 65525]


# -- the demo


@pytest.fixture
def demo(tmp_path):
    """Start it in a temporary directory of its own; ended with it."""
    children = []

    def start(*arguments, **more):
        temporary = tmp_path / "t"
        temporary.mkdir(exist_ok=True)
        environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1", **more.pop("env", {})}
        command = [sys.executable, "-m", "penstock", "demo", "--port", "0", "--admin-port", "0", *map(str, arguments)]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **more}
        children.append(subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **streams))
        return children[-1], temporary

    yield start
    for child in children:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def wait_for(child, text):
    lines = []
    while not lines or text not in lines[-1]:
        lines.append(child.stdout.readline())
        assert lines[-1], "".join(lines)
    return "".join(lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("delay", [0.05, 0.4])
def test_a_stop_during_the_start_is_quick_and_leaves_nothing(demo, number, delay):
    child, temporary = demo()
    deadline = time.monotonic() + 10
    while not list(temporary.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(delay)
    child.send_signal(number)
    begun = time.monotonic()
    status, took, said = child.wait(10), time.monotonic() - begun, child.stdout.read()
    assert status in (0, 130), said
    assert took < 3
    assert list(temporary.iterdir()) == []
    assert "Traceback" not in said


def test_a_terminal_that_is_closed_ends_it_and_leaves_nothing(demo):
    master, terminal = pty.openpty()
    child, temporary = demo(stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
                            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)))  # fmt: skip
    os.close(terminal)
    shown = b""
    while b"Ctrl-C" not in shown:
        shown += os.read(master, 4096)
    os.close(master)
    child.wait(10)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("by_flag", [True, False])
def test_a_run_directory_that_is_named_is_used_and_kept(demo, tmp_path, by_flag):
    run = tmp_path / "mine"
    arguments, env = (("--run-directory", run), {}) if by_flag else ((), {"PENSTOCK_RUN_DIR": str(run)})
    child, temporary = demo(*arguments, env=env)
    text = wait_for(child, "Ctrl-C")
    assert f"{run}/demo-config" in text
    assert (run / "gateway.json").exists()
    assert list(temporary.iterdir()) == []
    child.terminate()
    child.wait(10)
    assert (run / "demo-config" / "model-route.yaml").exists()


def test_a_temporary_directory_whose_path_is_too_long_is_told_with_the_way_out(demo, tmp_path):
    long = tmp_path / ("x" * 105)
    long.mkdir()
    child, _ = demo(env={"TMPDIR": str(long)})
    assert child.wait(10) == 1
    text = child.stdout.read()
    assert text.startswith("error: run_directory: a socket in ")
    assert "\n\nhint: give another with --run-directory" in text
    assert list(long.iterdir()) == []


def test_on_ipv6_the_urls_that_it_prints_are_urls(demo):
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    child, _ = demo("--host", "::1", "--admin-host", "::1")
    text = wait_for(child, "Ctrl-C")
    assert "http://[::1]:" in text
    assert "http://::1" not in text
