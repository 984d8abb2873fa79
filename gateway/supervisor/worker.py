"""One worker process: wires the request path, serves it with Granian on an inherited socket, and drains on SIGTERM.

Started by the supervisor with its orders on standard input.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec
import uvloop
from msgspec import Struct

from _fastpath.fair_share import FairShare
from _fastpath.shared_memory import STATES, SharedMemory
from gateway.admission.limits import RateLimiter
from gateway.admission.output_estimates import OutputEstimates
from gateway.app import App
from gateway.datastore import disk
from gateway.datastore.epochs import generation
from gateway.datastore.replica import Replica
from gateway.datastore.subscriber import Subscriber
from gateway.deadlines import Deadlines
from gateway.downstream.client_socket import ClientSockets
from gateway.downstream.coalescer import Coalescer
from gateway.downstream.half_closed import half_closed_clients
from gateway.identity.check import is_configured
from gateway.identity.keeper import Keeper
from gateway.observability.access_log import AccessLog
from gateway.observability.metrics import RequestMetrics
from gateway.observability.worker_report import Report, Reporter
from gateway.pipeline import Parts, Pipeline
from gateway.scheduling.place import Placer
from gateway.scheduling.plugins import Plugins, find_factories
from gateway.scheduling.pool import Reserved
from gateway.scheduling.waiting_room import WaitingRoom
from gateway.settings import Settings
from gateway.supervisor.serving import InheritedSocketServer, tune_process, yield_to_loop
from gateway.tokens.service import PromptTokens
from gateway.upstream.client import UpstreamClient
from gateway.world import GatewayCompiler, GatewayReplica

BEAT_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1
_THREADS_STARTED_SECONDS = 0.5
_COLLECT_AFTER = 5_000
"""Objects more than were freed, before the collector looks at the youngest: requests leave few cycles, and each look holds up all."""
_LOOK_FOR_LEFT_SECONDS = 1.0
_LAST_ANSWERS_SECONDS = 0.05
_REPORT_SECONDS = 1.0
_PAGE = resource.getpagesize()

logger = logging.getLogger(__name__)


class Orders(Struct, frozen=True):
    """What the supervisor tells a worker."""

    index: int
    listener: int
    shared_memory: str
    run_directory: str
    settings: Settings
    bell: int
    """Descriptor that calls the keeper of leases."""


class Worker:
    """One worker: everything that serves, and the tasks around it."""

    def __init__(self, orders: Orders) -> None:
        settings = orders.settings
        self._orders = orders
        self._memory = SharedMemory.attach(orders.shared_memory)
        self._memory.claim_row(orders.index, os.getpid(), 0)
        metrics = RequestMetrics(self._memory, orders.index)
        plugins = Plugins(find_factories(settings.scheduling_plugins), metrics.plugin_failed)
        reserved = Reserved(settings.queue.reserved_percent, settings.queue.reserved_prefill_seconds)
        self._replica: GatewayReplica = Replica(
            GatewayCompiler(self._memory, orders.index, plugins=plugins, reserved=reserved)
        )
        ring = partial(os.eventfd_write, orders.bell, 1)
        limiter = RateLimiter(self._memory, orders.index, self._generation, time.monotonic_ns, ring)
        self._replica.on_route(limiter.route_changed)
        self._access_log = AccessLog(enabled=settings.access_log)
        self._deadlines = Deadlines()
        self._client = UpstreamClient(self._deadlines, authorities=settings.upstream_ca_file)
        self._keeper = _keeper(settings, Path(orders.run_directory), limiter.callers_changed)
        gate = self._keeper.gate if self._keeper is not None else None
        self._tokens = PromptTokens(settings.tokens)
        self._subscriber = Subscriber(self._replica, Path(orders.run_directory), self._note_snapshot)
        queue = settings.queue
        share = FairShare(self._memory, orders.index)
        self._room = WaitingRoom(
            queue.length, queue.seconds, time.monotonic, share, queue.session_seconds, queue.credit_tokens
        )
        coalescer = Coalescer(settings.streams.coalesce_seconds)
        self._pipeline = Pipeline(
            Parts(
                settings=settings,
                world=partial(getattr, self._replica, "world"),
                limiter=limiter,
                estimates=OutputEstimates(self._memory, settings.expected_output_tokens),
                placer=Placer(self._memory, orders.index, time.monotonic),
                client=self._client,
                room=self._room,
                metrics=metrics,
                access_log=self._access_log,
                deadlines=self._deadlines,
                sockets=ClientSockets(),
                gate=gate,
                tokens=self._tokens,
                coalescer=coalescer,
            )
        )
        app = App(self._pipeline, lambda: self._replica.world, self._readiness, gate=gate)
        self._server = InheritedSocketServer(app, orders.listener, settings, coalescer)
        self._term = asyncio.Event()
        self._hurry = asyncio.Event()
        self._fault_on_disk = ""

    async def run(self) -> int:
        """Serve until SIGTERM, then drain until a second one cuts it short. The exit status: 1 when something ended by itself."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._told_to_end)
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # the terminal sends it to all: the supervisor decides
        self._fault_on_disk = disk.restore_if_possible(self._replica, Path(self._orders.run_directory))
        self._note_snapshot()
        core = [loop.create_task(one) for one in (self._subscriber.run(), self._beat())]
        others = [loop.create_task(one) for one in (self._look_for_left(), self._report())]
        if self._keeper is not None:
            core.append(loop.create_task(self._keeper.run()))
        tasks = [*core, *others]
        serving = loop.create_task(self._server.serve_directly())
        loop.call_later(_THREADS_STARTED_SECONDS, yield_to_loop)
        self._memory.set_state(self._orders.index, STATES.index("serving"))
        gc.collect()
        gc.freeze()  # what stands now is never garbage: the collector need not look at it again
        gc.set_threshold(_COLLECT_AFTER)
        term = loop.create_task(self._term.wait())
        ended, _ = await asyncio.wait([term, serving, *core], return_when=asyncio.FIRST_COMPLETED)
        for task in ended - {term}:
            logger.error("the worker cannot go on", exc_info=task.exception())
        await self._drain(serving)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()
        self._tokens.close()
        self._deadlines.close()
        self._access_log.close()
        return 0 if term in ended else 1

    def _told_to_end(self) -> None:
        (self._hurry if self._term.is_set() else self._term).set()

    async def _drain(self, serving: asyncio.Task[None]) -> None:
        self._memory.set_state(self._orders.index, STATES.index("draining"))
        await self._hurried_within(self._orders.settings.drain_delay_seconds)
        # whoever asks from here on is told to go elsewhere, and for a moment those are answered too whom the kernel has accepted
        self._pipeline.draining = True
        await self._hurried_within(_LAST_ANSWERS_SECONDS)
        self._server.stop()  # type: ignore[no-untyped-call] # accepts nothing more; what is in flight goes on
        deadline = time.monotonic() + self._orders.settings.drain_seconds
        while self._pipeline.in_flight and time.monotonic() < deadline and not self._hurry.is_set():
            await self._hurried_within(0.02)
        if self._pipeline.cut_all():
            await asyncio.sleep(0.2)
        await asyncio.wait([serving], timeout=1.0)

    async def _hurried_within(self, seconds: float) -> None:
        """Sleep, unless the drain is cut short."""
        try:
            await asyncio.wait_for(self._hurry.wait(), seconds)
        except TimeoutError:
            pass

    async def _beat(self) -> None:
        index = self._orders.index
        worst_lag, since = 0.0, time.monotonic()
        # opened once: a worker that is out of descriptors must go on beating
        with Path("/proc/self/statm").open("rb", buffering=0) as statm:  # noqa: ASYNC230 - procfs
            while True:
                before = time.monotonic()
                await asyncio.sleep(BEAT_SECONDS)
                now = time.monotonic()
                if now - since > 1.0:
                    worst_lag, since = 0.0, now
                worst_lag = max(worst_lag, now - before - BEAT_SECONDS)
                resident = int(os.pread(statm.fileno(), 100, 0).split()[1]) * _PAGE
                self._memory.beat(
                    index,
                    time.monotonic_ns(),
                    self._pipeline.in_flight,
                    resident,
                    int(worst_lag * 1e9),
                    sum(self._room.lengths().values()),
                )

    async def _report(self) -> None:
        reporter = Reporter(Path(self._orders.run_directory), self._orders.index)
        while True:
            issuer = self._keeper.issuer_report() if self._keeper is not None else None
            report = Report(os.getpid(), self._room.report(), issuer)
            try:
                await asyncio.to_thread(reporter.write, report)
            except OSError as error:
                logger.warning("the worker's report cannot be written: %s", error)
            await asyncio.sleep(_REPORT_SECONDS)

    async def _look_for_left(self) -> None:
        with socket.socket(fileno=os.dup(self._orders.listener)) as listener:
            port = listener.getsockname()[1]
        while True:
            await asyncio.sleep(_LOOK_FOR_LEFT_SECONDS)
            waiting = self._pipeline.waiting_clients(older_than=_LOOK_FOR_LEFT_SECONDS)
            if waiting:
                left = waiting & half_closed_clients(self._orders.settings.host, port)
                if left:
                    self._pipeline.clients_left(left)

    def _note_snapshot(self) -> None:
        world = self._replica.world
        self._memory.set_snapshot(self._orders.index, world.epoch, world.sequence, time.monotonic_ns())

    def _generation(self) -> int:
        return generation(self._replica.world.epoch, self._replica.world.sequence)

    def _readiness(self) -> tuple[bool, str]:
        if self._term.is_set():
            return False, "draining"
        fault = self._subscriber.refusal or self._fault_on_disk
        if self._replica.world.epoch == 0 and fault:
            return False, f"no snapshot can be served: {fault}"
        if self._replica.world.epoch == 0:
            return False, "no snapshot yet: start `penstock controllers`, or give `penstock run` a folder"
        return True, "ready"


def _keeper(settings: Settings, run_directory: Path, replaced: Callable[[], object]) -> Keeper | None:
    if not is_configured(settings.identity):
        return None
    fetch = _fetcher() if settings.identity.jwks_url else None
    return Keeper(settings.identity, run_directory, fetch, time.time, time.monotonic, replaced=replaced)


def _fetcher() -> Callable[[str], Awaitable[bytes]]:
    # a client of HTTP that nobody needs shall take no memory
    from gateway.identity.fetching import fetch  # noqa: PLC0415

    return fetch


def die_with_parent(parent: int) -> None:
    """End this process when its parent ends, however that happens."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def main() -> None:
    """The process."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    orders = msgspec.json.decode(sys.stdin.buffer.read(), type=Orders)
    die_with_parent(int(sys.argv[1]))
    tune_process()

    async def serve() -> int:
        return await Worker(orders).run()

    status = uvloop.run(serve())
    logging.shutdown()
    os._exit(status)  # Granian's threads do not always end by themselves, and everything of ours is closed


if __name__ == "__main__":
    main()
