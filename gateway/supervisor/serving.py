"""Granian inside our own event loop: on an inherited socket, and without an asyncio task a request.

Granian hands a request over by calling a scheduler that makes a task of the application's coroutine. Ours calls the application itself,
which goes on in callbacks: of a short request's time the task was a third. It leans on names that are Granian's own; where one of them is
missing, the public way serves as well, slower.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import resource
from collections.abc import Awaitable, Callable
from typing import Any

from granian import _granian
from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from gateway.app import App
from gateway.downstream.coalescer import Coalescer
from gateway.downstream.entrance import Entrance
from gateway.settings import Settings
from gateway.supervisor.listeners import BACKLOG

_RESERVED_DESCRIPTORS = 256
_ALLOCATOR = ((-3, 1 << 20), (-1, 16 << 20), (-2, 1 << 20))
"""glibc's mallopt: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD. A body of 200 KB is otherwise mapped and unmapped, page by page; with
more than 16 MB free at its end the heap is given back."""

logger = logging.getLogger(__name__)


class InheritedSocketServer(Server):
    """Granian on a socket that was made, and given its options, by the supervisor."""

    def __init__(self, app: App, listener: int, settings: Settings, coalescer: Coalescer) -> None:
        super().__init__(
            target=app,
            address=settings.host,
            port=settings.port,
            interface=Interfaces.RSGI,
            http=HTTPModes.http1,
            websockets=False,
            backpressure=_affordable(settings.connections),
            http1_settings=HTTP1Settings(
                header_read_timeout=int(settings.header_seconds * 1000), max_buffer_size=65536, keep_alive=True
            ),
            log_enabled=False,
        )
        self._app = app
        self._listener = listener
        self._coalescer = coalescer

    def _init_shared_socket(self) -> None:
        self._ssp = None
        self._shd = SocketHolder(self._listener, False, BACKLOG)  # type: ignore[assignment, call-arg]

    async def serve_directly(self) -> None:
        """Serve until stopped."""
        if hasattr(_granian, "RSGIWorker") and hasattr(_granian, "CallbackScheduler"):
            await self.serve(spawn_target=_spawner(self._app, self._coalescer))  # type: ignore[arg-type]
        else:
            logger.warning("this Granian has other names inside: requests are served with a task each")
            await self.serve()


def _spawner(app: App, coalescer: Coalescer) -> Callable[..., Awaitable[None]]:
    """What Granian calls for its one worker: as its own, with our scheduler. The arguments are those of its RSGI worker."""

    async def spawn(worker_id: int, shutdown: Any, _callback: Any, sock: Any, *options: Any) -> None:
        loop = asyncio.get_running_loop()
        *sizes, _task_implementation, mode, http1, http2, websockets, static, _log, tls, _scope = options
        ended = loop.create_future()

        def end() -> None:
            if not ended.done():
                ended.set_result(None)

        shutdown.add_cb(lambda: loop.call_soon_threadsafe(end))
        make: Any = _granian.RSGIWorker  # its stub is of another release
        worker = make(worker_id, sock, None, *sizes, mode, http1, http2, websockets, static, *tls, (None, None))
        entrance = Entrance(loop, coalescer)
        # its runtime of several threads, with one: that does not wake a thread that is awake
        worker.serve_mtr(_scheduler(app, entrance), entrance, shutdown)
        await ended

    return spawn


def _scheduler(app: App, entrance: Entrance) -> Any:
    """Calls the application in the loop's thread, with the request and what to call at its end."""

    class Scheduler(_granian.CallbackScheduler):
        def __init__(self, *_: Any) -> None:
            super().__init__()
            context, begin, enter = self._ctx, app.begin, entrance.call_soon_threadsafe

            def schedule(watcher: Any) -> None:
                # nothing is returned: Granian would let go of the handle, and so of the request, at the next request only
                enter(begin, watcher, context=context)

            self._schedule_fn = schedule

    return Scheduler(entrance, app.begin, None, contextlib.nullcontext, contextlib.nullcontext)


def tune_process() -> None:
    """Allocate large bodies from the heap."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in _ALLOCATOR:
            libc.mallopt(option, value)


def yield_to_loop() -> None:
    """Let no other thread of this process preempt the event loop's: each hand-over between them costs more than what it is for."""
    own = os.getpid()
    try:
        threads = [int(name) for name in os.listdir("/proc/self/task")]  # noqa: PTH208 - names, not paths
    except OSError:
        return  # no descriptor to be had: it costs speed alone
    for thread in threads:
        if thread != own:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))


def _affordable(connections: int) -> int:
    """Connections that the process can have descriptors for, one more each for the engine's side.

    Granian tries again at once, for ever, when it cannot accept for want of descriptors; with fewer permits than descriptors it waits.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return connections
    return max(16, min(connections, (hard - _RESERVED_DESCRIPTORS) // 2))
