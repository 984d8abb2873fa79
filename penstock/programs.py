"""Programs wired together: the gateway in this process, others as children that end with it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from _fastpath.slots import SlotsFull
from gateway.admin.server import AdminServer
from gateway.settings import Settings, SettingsError
from gateway.supervisor.listeners import PortInUse
from gateway.supervisor.supervisor import Supervisor
from penstock import __version__
from penstock.main import UserError
from penstock.process import on_stop_signals

READY_SECONDS = 20.0
_PR_SET_PDEATHSIG = 1
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM)
_SMALLER = "make it smaller, for example with --shared-memory-prefix-bytes, or take another --run-directory"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Child:
    """A program beside the gateway: the words of its command."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Running:
    """Where the gateway is."""

    settings: Settings
    directory: Path
    port: int
    admin_port: int
    supervisor: Supervisor


async def serve(
    settings: Settings,
    directory: Path,
    children: Sequence[Child],
    ready: Callable[[Running], Awaitable[None]],
    worker_output: int | None = None,
) -> None:
    """Run gateway and children until a stop signal; ``ready`` is called when every worker serves, and cancelled by a stop.

    Raises UserError for what the user can mend.
    """
    supervisor = _made(settings, directory, worker_output)
    stopped = asyncio.Event()

    def stop() -> None:
        stopped.set()
        supervisor.stop()  # each signal: the supervisor takes the second one as `now`

    on_stop_signals(stop)
    admin, admin_port = await _administered(supervisor)
    supervisor.announce(admin_port)
    serving = asyncio.create_task(supervisor.run())
    keepers = [asyncio.create_task(_keep(child)) for child in children]
    running = Running(settings, directory, supervisor.port, admin_port, supervisor)
    try:
        await _announced(running, ready, stopped, serving)
        await serving
    except SlotsFull as error:
        raise UserError(
            f"the last snapshot in {directory} does not fit: {error}", "give it room with --shared-memory-slots"
        ) from error
    finally:
        if not stopped.is_set():
            stop()
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        await asyncio.gather(serving, return_exceptions=True)
        await admin.stop()


def _made(settings: Settings, directory: Path, worker_output: int | None) -> Supervisor:
    try:
        return Supervisor(settings, directory, worker_output=worker_output)
    except PortInUse as error:
        raise UserError(str(error), f"take another port: `--port {_another(error.port)}`") from error
    except SettingsError as error:
        raise UserError(str(error), "another directory: `--run-directory DIR`") from error
    except (MemoryError, OverflowError) as error:
        detail = str(error) or "not enough memory"
        raise UserError(f"the shared memory cannot be made: {detail}", _SMALLER) from error
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise UserError(f"the shared memory cannot be made in {directory}: {error.strerror}", _SMALLER) from error
        raise UserError(
            f"cannot serve on {settings.host}: {error.strerror or error}",
            "`penstock gateway --help` shows what can be set",
        ) from error


async def _administered(supervisor: Supervisor) -> tuple[AdminServer, int]:
    """The admin port's server, started, and its port."""
    admin = AdminServer(supervisor, __version__)
    try:
        return admin, await admin.start()
    except PortInUse as error:
        supervisor.abandon()
        raise UserError(str(error), f"take another port: `--admin-port {_another(error.port)}`") from error
    except OSError as error:
        supervisor.abandon()
        raise UserError(
            f"the admin port cannot be served: {error.strerror or error}", "give another address with --admin-host"
        ) from error


def _another(port: int) -> int:
    return port + 10 if port + 10 <= 65535 else port - 10


async def _announced(
    running: Running, ready: Callable[[Running], Awaitable[None]], stopped: asyncio.Event, serving: asyncio.Task[None]
) -> None:
    """Call ``ready`` when every worker serves, unless a stop or the end of serving comes first. Raises what it raises."""
    starting = asyncio.create_task(_started(running, ready))
    stopping = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({starting, stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        starting.cancel()
        stopping.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
    if not starting.cancelled():
        starting.result()


async def _started(running: Running, ready: Callable[[Running], Awaitable[None]]) -> None:
    if await running.supervisor.ready(READY_SECONDS):
        await ready(running)
    else:
        logger.warning("not every worker serves after %.0f s: going on", READY_SECONDS)


async def _keep(child: Child) -> None:
    """Run a child, and another when it ends, with pauses from 0.1 to 5 s."""
    pause = 0.1
    loop = asyncio.get_running_loop()
    while True:
        started = loop.time()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "penstock", *child.arguments, stdin=subprocess.DEVNULL, start_new_session=True,
            preexec_fn=_die_with_parent,
        )  # fmt: skip
        try:
            status = await process.wait()
        except asyncio.CancelledError:
            await _end(process)
            raise
        pause = 0.1 if loop.time() - started > 10 else min(5.0, pause * 2)
        logger.warning("%s ended with status %d: starting it again in %.1f s", child.name, status, pause)
        await asyncio.sleep(pause)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), 3.0)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
