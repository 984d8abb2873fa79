"""One process that pushes requests through the application: a connection of Granian and an engine stand in, everything between is real.

python -m bench.path.drive KIND COUNT
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvloop

from _fastpath.fair_share import FairShare
from _fastpath.shared_memory import SharedMemory
from bench.load.bodies import MODEL, chat
from bench.load.granian_alone import ANSWER, DONE, EVENT
from gateway.admission.limits import RateLimiter
from gateway.admission.output_estimates import OutputEstimates
from gateway.app import App
from gateway.datastore.model import Endpoint, Limit, Route, Rule, Server, Target
from gateway.datastore.replica import Replica, load
from gateway.datastore.wire import decode, whole
from gateway.deadlines import Deadlines
from gateway.downstream.client_socket import ClientSockets
from gateway.downstream.coalescer import Coalescer
from gateway.observability.access_log import AccessLog
from gateway.observability.metrics import RequestMetrics
from gateway.pipeline import Parts, Pipeline
from gateway.scheduling.place import Placer
from gateway.scheduling.waiting_room import WaitingRoom
from gateway.settings import Settings
from gateway.tokens.service import PromptTokens
from gateway.upstream.client import UpstreamClient
from gateway.upstream.connection import Connection
from gateway.world import GatewayCompiler, GatewayReplica

SIZES = {"unary-1k": 1200, "unary-200k": 200_000, "stream": 1200}
_BODIES = 16
_ENDPOINTS = 4
_SERVER = "default/bench"
_PLENTY = 10**12
_USAGE = b',"usage":{"prompt_tokens":300,"completion_tokens":64,"total_tokens":364,"prompt_tokens_details":{"cached_tokens":0}}}'
_UNARY = ANSWER[:-1] + _USAGE
_SERVED_BY = b"date: Sat, 28 Nov 2026 12:00:00 GMT\r\nserver: uvicorn\r\n"
_WHOLE = b"HTTP/1.1 200 OK\r\n%scontent-length: %d\r\ncontent-type: application/json\r\n\r\n%s" % (
    _SERVED_BY,
    len(_UNARY),
    _UNARY,
)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\n%scontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    % _SERVED_BY
)


class Body:
    """The future of a request's body, as RSGI gives it."""

    def __init__(self, content: bytes) -> None:
        self._asyncio_future_blocking = False
        self._content = content
        self._callback: Callable[[Any], object] | None = None

    def add_done_callback(self, callback: Callable[[Any], object], context: object = None) -> None:
        """Who waits."""
        self._callback = callback

    def arrive(self) -> None:
        """Wake who waits."""
        assert self._callback is not None
        self._callback(self)

    def __await__(self) -> Generator[Any, None, bytes]:
        self._asyncio_future_blocking = True
        yield self
        return self._content


class Protocol:
    """A connection of RSGI, which is its own stream and takes whatever it is given."""

    def __init__(self, content: bytes) -> None:
        self.body = Body(content)
        self.status = 0
        self.chunks = 0

    def __call__(self) -> Body:
        return self.body

    def response_bytes(self, status: int, _headers: object, _body: bytes) -> None:
        """A whole answer."""
        self.status = status

    def response_stream(self, status: int, _headers: object) -> Protocol:
        """The head of a stream."""
        self.status = status
        return self

    def send_bytes(self, _data: bytes) -> None:
        """A piece of a stream."""
        self.chunks += 1


class Scope:
    """What RSGI says of a request."""

    proto = "http"
    method = "POST"
    path = "/v1/chat/completions"
    client = "127.0.0.1:50000"

    def __init__(self, length: int) -> None:
        self.headers = {"host": "127.0.0.1", "content-type": "application/json", "content-length": str(length)}


class Watcher:
    """What Granian's scheduler is given of a request."""

    def __init__(self, content: bytes) -> None:
        self.scope = Scope(len(content))
        self.proto = Protocol(content)
        self.is_done = False

    def done(self) -> None:
        """The request is over."""
        self.is_done = True


class Wire:
    """The transport of a connection to an engine, which notes that a request went out on it."""

    def __init__(self, connection: Connection, sent: list[Connection]) -> None:
        self._connection = connection
        self._sent = sent

    def get_extra_info(self, _name: str) -> object:
        """It has no descriptor of its own, as a connection with TLS."""
        return self

    def get_write_buffer_size(self) -> int:
        """Everything is on its way."""
        return 0

    def writelines(self, _pieces: Iterable[bytes]) -> None:
        """A request."""
        self._sent.append(self._connection)

    def abort(self) -> None:
        """The end of it."""


class Site:
    """A worker's request path, wired as the worker does it, with a kept connection to each of its endpoints."""

    def __init__(self, folder: Path) -> None:
        settings = Settings()
        memory = SharedMemory.create(str(folder / "memory"), workers=1, slots=64, buckets=64, journal_records=64)
        self._replica: GatewayReplica = Replica(GatewayCompiler(memory, 0))
        limiter = RateLimiter(memory, 0, lambda: self._replica.world.sequence, time.monotonic_ns)
        self._replica.on_route(limiter.route_changed)
        self._deadlines = Deadlines()
        self._log = AccessLog(os.open("/dev/null", os.O_WRONLY))
        client = UpstreamClient(self._deadlines)
        self.sent: list[Connection] = []
        pipeline = Pipeline(
            Parts(
                coalescer=Coalescer(0.0),
                settings=settings,
                world=partial(getattr, self._replica, "world"),
                limiter=limiter,
                estimates=OutputEstimates(memory, settings.expected_output_tokens),
                placer=Placer(memory, 0, time.monotonic),
                client=client,
                room=WaitingRoom(settings.queue.length, settings.queue.seconds, time.monotonic, FairShare(memory, 0)),
                metrics=RequestMetrics(memory, 0),
                access_log=self._log,
                deadlines=self._deadlines,
                sockets=ClientSockets(),
                tokens=PromptTokens(settings.tokens),
            )
        )
        self.app = App(pipeline, lambda: self._replica.world, lambda: (True, "ready"))
        self._serve()
        for placed in self._replica.world.endpoints.values():
            self._connect(client, placed.endpoint)

    def close(self) -> None:
        """End its thread and its timer."""
        self._deadlines.close()
        self._log.close()

    def _serve(self) -> None:
        limits = tuple(Limit(kind, kind, _PLENTY, 1.0, _PLENTY) for kind in ("input", "output"))
        route = Route("default/bench", MODEL, (Rule((Target(_SERVER),)),), limits=limits)
        endpoints = [
            Endpoint(f"default/e{one}", _SERVER, f"10.0.0.{one}:8000", f"10.0.0.{one}", 8000)
            for one in range(_ENDPOINTS)
        ]
        load(self._replica, (decode(*one) for one in whole(1, 1, [route], [Server(_SERVER)], endpoints)))

    def _connect(self, client: UpstreamClient, endpoint: Endpoint) -> None:
        connection = Connection(endpoint, client._pool, self._deadlines, time.monotonic)
        connection.connection_made(cast(asyncio.BaseTransport, Wire(connection, self.sent)))
        client._pool.add(connection)
        client._pool.give(connection)


def _ask(site: Site, body: bytes) -> tuple[Watcher, Connection]:
    """A request on its way to an engine."""
    watcher = Watcher(body)
    site.app.begin(watcher)
    watcher.proto.body.arrive()
    return watcher, site.sent.pop()


def _check(watcher: Watcher, chunks: int) -> None:
    if not watcher.is_done or watcher.proto.status != 200 or watcher.proto.chunks != chunks:
        raise RuntimeError(f"a request went wrong: status {watcher.proto.status}, {watcher.proto.chunks} chunks")


def _requests(site: Site, bodies: list[bytes], count: int) -> None:
    for turn in range(count):
        watcher, connection = _ask(site, bodies[turn % _BODIES])
        connection.data_received(_WHOLE)
        _check(watcher, 0)


def _chunks(site: Site, body: bytes, count: int) -> None:
    watcher, connection = _ask(site, body)
    connection.data_received(_STREAM_HEAD)
    chunk = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)
    for _ in range(count):
        connection.data_received(chunk)
    connection.data_received(b"%x\r\n%s\r\n0\r\n\r\n" % (len(DONE), DONE))
    _check(watcher, count + 1)


async def drive(kind: str, count: int) -> None:
    """Push ``count`` requests, or a stream of ``count`` chunks. Nothing waits meanwhile: timers look at all of it once, in the end."""
    streams = kind == "stream"
    bodies = [chat(SIZES[kind], seed, streams).encode() for seed in range(_BODIES)]
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder))
        gc.collect()
        gc.freeze()
        gc.set_threshold(5_000)
        if streams:
            _chunks(site, bodies[0], count)
        else:
            _requests(site, bodies, count)
        await asyncio.sleep(0.1)
        site.close()


if __name__ == "__main__":
    uvloop.run(drive(sys.argv[1], int(sys.argv[2])))
