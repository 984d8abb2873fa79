"""The supervisor: makes the run directory's shared memory, keeps the workers running, and buries the dead.

What a dead worker held (load, reservations, named slots) is given back the moment its end is seen, before its successor starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

import msgspec

from _fastpath.health import Health
from _fastpath.load import Load
from _fastpath.prefix_index import PrefixIndex
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots
from _fastpath.token_bucket import Journal, TokenBuckets
from gateway.admission.lease_keeper import LeaseKeeper
from gateway.admission.open_store import open_store
from gateway.datastore import disk, store_states
from gateway.datastore.replica import Replica
from gateway.datastore.store_states import StoreState
from gateway.datastore.subscriber import Subscriber
from gateway.scheduling.pool import Reserved
from gateway.settings import Settings, SettingsError
from gateway.supervisor.listeners import open_listeners
from gateway.supervisor.worker import Orders
from gateway.world import GatewayCompiler, GatewayReplica

SHARED_MEMORY_FILE = "shared-memory"
_LOCK_FILE = "lock"
_INFORMATION_FILE = "gateway.json"
_SWEEP_SECONDS = 1.0
_STUCK_SECONDS = 5.0
_START_SECONDS = 20.0
_QUICK_DEATHS = 5
_QUICK_DEATHS_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 5.0
_FAILURE_PAUSE_SECONDS = 1.0
_HURRY_SECONDS = 1.2

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class WorkerProcess:
    """One row's present process."""

    index: int
    process: asyncio.subprocess.Process | None = None
    started: float = 0.0
    restarts: int = 0
    deaths: list[float] = field(default_factory=list)
    signals: int = 0
    """How often the present process was told to end."""


class SupervisionFailed(Exception):
    """A task of the supervisor ended that must not: the gateway drained and cannot go on."""


class Supervisor:
    """Runs the gateway of one run directory."""

    def __init__(
        self,
        settings: Settings,
        directory: Path,
        clock: Callable[[], float] = time.monotonic,
        worker_output: int | None = None,
    ) -> None:
        """``worker_output``: descriptor for the workers' access log, standard output when it is None.

        Raises SettingsError when another gateway has the directory, PortInUse, and OSError; nothing is left behind then.
        """
        self.settings = settings
        self._worker_output = worker_output
        self.directory = directory
        self._clock = clock
        self.started = clock()
        self._stopping = asyncio.Event()
        self._hurry_at: float | None = None
        self._saving: asyncio.Task[None] | None = None
        self.workers = [WorkerProcess(index) for index in range(settings.workers)]
        with contextlib.ExitStack() as undo:
            self._lock = undo.enter_context(_lock(directory))
            # before the memory: of a gateway that cannot have its port nothing remains
            self.listeners: list[socket.socket] = open_listeners(settings.host, settings.port, settings.workers)
            for listener in self.listeners:
                undo.callback(listener.close)
            undo.callback((directory / SHARED_MEMORY_FILE).unlink, missing_ok=True)
            self._make_memory()
            undo.callback(self.leases.close)
            self._note_stores([])
            self.subscriber = Subscriber(self.replica, directory, self._keep_snapshot)
            undo.pop_all()

    def _make_memory(self) -> None:
        settings, size = self.settings, self.settings.shared_memory
        self.memory = SharedMemory.create(
            str(self.directory / SHARED_MEMORY_FILE),
            # one further row: the supervisor's own replica names slots too, so that it can explain decisions
            workers=settings.workers + 1,
            slots=size.slots,
            buckets=size.buckets,
            journal_records=size.journal_records,
            prefix_bytes=size.prefix_bytes,
            counter_series=size.counter_series,
            counter_cells=size.counter_cells,
        )
        self._slots = Slots(self.memory)
        self._load = Load(self.memory)
        self._health = Health(self.memory)
        self._prefixes = PrefixIndex(self.memory)
        self._buckets = TokenBuckets(self.memory)
        reserved = Reserved(
            settings.queue.reserved_percent, settings.queue.reserved_prefill_seconds
        )  # for explanations
        self.replica: GatewayReplica = Replica(GatewayCompiler(self.memory, settings.workers, reserved=reserved))
        self.leases = LeaseKeeper(
            self._buckets,
            partial(open_store, settings=settings.redis, environment=os.environ),
            self._note_stores,
            gateways=settings.redis.gateways,
        )
        self.replica.on_route(self.leases.route_changed)
        if settings.identity.limits_redis:
            self.leases.wants("identity", [settings.identity.limits_redis])

    @property
    def port(self) -> int:
        """The inference port, also when the system chose it."""
        port: int = self.listeners[0].getsockname()[1]
        return port

    async def run(self) -> None:
        """Serve until :meth:`stop`, then drain. Raises SupervisionFailed when it had to end by itself."""
        disk.restore_if_possible(self.replica, self.directory)
        keepers = [asyncio.create_task(self._keep(worker)) for worker in self.workers]
        loops = (self.subscriber.run(), self._watch(), self.leases.run())
        tasks = [*keepers, *(asyncio.create_task(one) for one in loops)]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            ended, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
            # a keeper that was between two steps when the gateway was told to stop ends as early as that word is heard
            failed = [] if self._stopping.is_set() else list(ended)
            for task in failed:
                logger.error("the supervisor cannot go on: draining", exc_info=task.exception())
            self._stopping.set()
            await self._drain(keepers)
        finally:
            for task in (stopping, *tasks):
                task.cancel()
            await asyncio.gather(stopping, *tasks, return_exceptions=True)
            await self._end_workers()
            await self.leases.stop()
            if self._saving is not None:
                await asyncio.gather(self._saving, return_exceptions=True)
            self.abandon()
        if failed:
            raise SupervisionFailed("a task of the supervisor ended by itself") from failed[0].exception()

    def abandon(self) -> None:
        """Let go of everything that the run directory and the ports hold."""
        self.subscriber.close()
        self.leases.close()
        for listener in self.listeners:
            listener.close()
        (self.directory / _INFORMATION_FILE).unlink(missing_ok=True)
        (self.directory / SHARED_MEMORY_FILE).unlink(missing_ok=True)
        self._lock.close()

    def stop(self) -> None:
        """Drain and end; called once more, cut what still goes on."""
        if self._stopping.is_set() and self._hurry_at is None:
            self._hurry_at = self._clock()
        self._stopping.set()

    def announce(self, admin_port: int) -> None:
        """Leave word in the run directory of where this gateway is."""
        content = {"process": os.getpid(), "host": self.settings.host, "port": self.port, "admin_port": admin_port}
        (self.directory / _INFORMATION_FILE).write_text(json.dumps(content) + "\n")

    async def ready(self, seconds: float) -> bool:
        """Wait until every worker serves."""
        deadline = self._clock() + seconds
        while self._clock() < deadline:
            if self._stopping.is_set():
                return False
            if all(self.memory.read_row(worker.index)["state"] == "serving" for worker in self.workers):
                return True
            await asyncio.sleep(0.01)
        return False

    async def _keep(self, worker: WorkerProcess) -> None:
        """Have a worker run, whatever happens, until the gateway stops and its last process has ended."""
        while not self._stopping.is_set():
            if not await self._has_started(worker):
                await self._stopped_within(_FAILURE_PAUSE_SECONDS)
                continue
            if self._stopping.is_set():
                self._tell_to_end(worker)  # it was not there yet when the others were told
            await self._stopped_within(await self._outlive(worker))

    async def _has_started(self, worker: WorkerProcess) -> bool:
        try:
            await self._start(worker)
        except OSError as error:
            # no process, memory or descriptor to be had: what runs goes on
            logger.warning("worker %d cannot be started, trying again: %s", worker.index, error)
            return False
        except Exception:
            logger.exception("worker %d cannot be started, trying again", worker.index)
            return False
        return True

    async def _outlive(self, worker: WorkerProcess) -> float:
        """Wait for the end of a worker's process and bury it: seconds until another may be started."""
        assert worker.process is not None
        status = await worker.process.wait()
        has_served = self.memory.read_row(worker.index)["state"] != "starting"
        self.bury(worker.index)
        if self._stopping.is_set():
            return 0.0
        logger.warning("worker %d ended with status %d: starting another", worker.index, status)
        worker.restarts += 1
        now = self._clock()
        worker.deaths = [death for death in worker.deaths if now - death < _QUICK_DEATHS_SECONDS] + [now]
        if has_served or len(worker.deaths) <= _QUICK_DEATHS:
            return 0.0
        return float(min(_LONGEST_PAUSE_SECONDS, 0.1 * 2 ** (len(worker.deaths) - _QUICK_DEATHS)))

    async def _stopped_within(self, seconds: float) -> None:
        """Sleep, unless the gateway is told to stop."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            pass

    async def _start(self, worker: WorkerProcess) -> None:
        listener = self.listeners[worker.index].fileno()
        orders = Orders(worker.index, listener, self.memory.path, str(self.directory), self.settings, self.leases.bell)
        worker.started, worker.signals = self._clock(), 0
        worker.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway.supervisor.worker",
            str(os.getpid()),
            stdin=subprocess.PIPE,
            stdout=self._worker_output,
            pass_fds=(listener, self.leases.bell),
            start_new_session=True,  # Ctrl-C in a terminal is for the supervisor, which drains
        )
        assert worker.process.stdin is not None
        worker.process.stdin.write(msgspec.json.encode(orders))
        worker.process.stdin.close()

    def bury(self, index: int) -> None:
        """Give back what a dead worker held."""
        self._load.clear_worker(index)
        self._health.clear_worker(index, time.monotonic())
        Journal(self.memory, index).recover(time.monotonic_ns())
        self._slots.drop_row(index)
        self.memory.release_row(index)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                await self._look_after()
            except Exception:
                # the next second's turn may do better; without any, workers that hang would stay
                logger.exception("the sweep failed")

    async def _look_after(self) -> None:
        for worker in self.workers:
            self._kill_when_stuck(worker)
        self._buckets.sweep()
        for slot in self._slots.sweep():
            await asyncio.to_thread(self._prefixes.forget, slot)

    def _kill_when_stuck(self, worker: WorkerProcess) -> None:
        heartbeat = self.memory.read_row(worker.index)["heartbeat"]
        if heartbeat:
            silent, patience = (time.monotonic_ns() - heartbeat) / 1e9, _STUCK_SECONDS
        else:
            silent, patience = self._clock() - worker.started, _START_SECONDS
        if silent > patience and self._is_running(worker):
            logger.error("worker %d has not turned its loop for %.1f s: killed", worker.index, silent)
            self._signal(worker, signal.SIGKILL)

    async def _drain(self, keepers: list[asyncio.Task[None]]) -> None:
        for worker in self.workers:
            self._tell_to_end(worker)
        delay_ends = self._clock() + self.settings.drain_delay_seconds
        while self._clock() < delay_ends and self._hurry_at is None:
            await asyncio.sleep(0.02)
        # the workers stop accepting now: nobody shall queue where nobody will accept
        for listener in self.listeners:
            listener.close()
        deadline = self._clock() + self.settings.drain_seconds + 3.0
        # the keepers, not the processes: one may be about to start another
        while self._clock() < deadline and not all(keeper.done() for keeper in keepers):
            if self._hurry_at is not None:
                deadline = min(deadline, self._hurry_at + _HURRY_SECONDS)
                self._cut_short()
            await asyncio.sleep(0.02)

    def _cut_short(self) -> None:
        """Have every worker end what it still serves, once."""
        for worker in self.workers:
            # one that has not come to its drain has not taken the first signal in, and two at once count as one
            if worker.signals == 1 and self.memory.read_row(worker.index)["state"] == "draining":
                worker.signals = 2
                self._signal(worker, signal.SIGTERM)

    def _tell_to_end(self, worker: WorkerProcess) -> None:
        if worker.signals == 0 and self._is_running(worker):
            worker.signals = 1
            self._signal(worker, signal.SIGTERM)

    async def _end_workers(self) -> None:
        for worker in self.workers:
            self._signal(worker, signal.SIGKILL)
            if worker.process is not None:
                await worker.process.wait()

    def _signal(self, worker: WorkerProcess, number: signal.Signals) -> None:
        if self._is_running(worker):
            with contextlib.suppress(ProcessLookupError):
                worker.process.send_signal(number)  # type: ignore[union-attr]

    def _is_running(self, worker: WorkerProcess) -> bool:
        return worker.process is not None and worker.process.returncode is None

    def _note_stores(self, stores: list[StoreState]) -> None:
        try:
            store_states.write(self.directory, stores)
        except OSError as error:
            logger.warning("the state of shared limits cannot be kept on disk: %s", error)

    def _keep_snapshot(self) -> None:
        if self._saving is None or self._saving.done():
            self._saving = asyncio.get_running_loop().create_task(self._save())

    async def _save(self) -> None:
        sequence = -1
        while sequence != self.replica.world.sequence:
            epoch, sequence = self.replica.world.epoch, self.replica.world.sequence
            try:
                await asyncio.to_thread(disk.save, epoch, sequence, self.replica.whole(), self.directory)
            except OSError as error:
                logger.warning("the snapshot cannot be kept on disk: %s", error)
                return


def _lock(directory: Path) -> IO[str]:
    handle = (directory / _LOCK_FILE).open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise SettingsError(
            [f"another gateway runs in {directory}: give this one a directory of its own with --run-directory"]
        ) from error
    return handle
