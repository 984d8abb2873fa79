"""The admin port's HTTP server."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable
from functools import partial
from importlib import resources
from typing import Any

import orjson
from aiohttp import web

from gateway import errors
from gateway.admin import controllers_file
from gateway.admin.explain import Explainer
from gateway.admin.limits_left import LimitsLeft
from gateway.admin.state import State
from gateway.deadlines import Deadlines
from gateway.errors import PenstockError
from gateway.exchange import OPERATIONS
from gateway.identity.check import is_configured
from gateway.identity.gate import Caller
from gateway.identity.keeper import read_directory
from gateway.observability import worker_report
from gateway.observability.exposition import render
from gateway.settings import Settings
from gateway.supervisor.listeners import PortInUse, port_owner
from gateway.supervisor.supervisor import Supervisor
from gateway.upstream.client import UpstreamClient

_DEFAULT_PATH = "/v1/chat/completions"
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; style-src 'self' 'unsafe-inline'",
    "x-frame-options": "DENY",
}


class AdminServer:
    """Metrics, health, debug documents and the page."""

    def __init__(self, supervisor: Supervisor, version: str) -> None:
        self._supervisor = supervisor
        self._state = State(
            supervisor,
            version,
            partial(controllers_file.read, supervisor.directory),
            partial(worker_report.read, supervisor.directory),
        )
        self._deadlines = Deadlines()
        self._client = UpstreamClient(self._deadlines, authorities=supervisor.settings.upstream_ca_file)
        self._explainer = Explainer(
            supervisor.memory, supervisor.settings, _caller_of(supervisor.settings), self._client
        )
        self._limits = LimitsLeft(supervisor.memory, supervisor.settings.identity, time.monotonic_ns)
        self._explaining = asyncio.Lock()
        self._runner: web.AppRunner | None = None

    async def start(self) -> int:
        """Listen; the port. Raises PortInUse."""
        application = web.Application(client_max_size=self._supervisor.settings.requests.body_bytes)
        application.add_routes(
            [
                web.get("/", self._page),
                web.get("/page.js", self._script),
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._health),
                web.get("/readyz", self._ready),
                web.get("/debug/state", _document(self._state.document)),
                web.get("/debug/endpoints", _document(self._state.endpoints)),
                web.get("/debug/snapshot", _document(self._state.snapshot)),
                web.get("/debug/limits", self._limits_left),
                web.post("/debug/explain", self._explain),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        settings = self._supervisor.settings
        site = web.TCPSite(self._runner, settings.admin_host, settings.admin_port)
        try:
            await site.start()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(settings.admin_host, settings.admin_port, port_owner(settings.admin_port)) from error
            raise
        port: int = self._runner.addresses[0][1]
        return port

    async def stop(self) -> None:
        """Close it."""
        if self._runner is not None:
            await self._runner.cleanup()
        self._explainer.close()
        await self._client.close()
        self._deadlines.close()

    async def _page(self, _: web.Request) -> web.Response:
        return web.Response(text=_asset("page.html"), content_type="text/html", headers=_PAGE_HEADERS)

    async def _script(self, _: web.Request) -> web.Response:
        return web.Response(text=_asset("page.js"), content_type="text/javascript")

    async def _metrics(self, _: web.Request) -> web.Response:
        text = render(self._supervisor.memory, len(self._supervisor.workers), self._state.gauges())
        return web.Response(body=text.encode(), headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _ready(self, _: web.Request) -> web.Response:
        ready, reason = self._state.readiness()
        return web.Response(text=reason + "\n", status=200 if ready else 503)

    async def _limits_left(self, request: web.Request) -> web.Response:
        world, tenant = self._supervisor.replica.world, request.query.get("tenant")
        return _json(await asyncio.to_thread(self._limits.document, world, tenant))

    async def _explain(self, request: web.Request) -> web.Response:
        path = request.query.get("path", _DEFAULT_PATH)
        try:
            if path not in OPERATIONS:
                raise errors.NotFound(f"Unknown path `{path[:100]}`.")
            world = self._supervisor.replica.world
            asked = await request.read(), path, request.headers, request.query.get("tenant", "")
            told = await self._explainer.tokenise(world, *asked)
            # plugins may take their time; the scheduler of explanations is for one thread at a time
            async with self._explaining:
                document = await asyncio.to_thread(self._explainer.explain, world, *asked, told)
        except PenstockError as error:
            return web.Response(status=error.status, body=errors.body(error), content_type="application/json")
        return _json(document)


def _caller_of(settings: Settings) -> Callable[[str], Caller] | None:
    """What a tenant may, as the files say when it is asked."""
    if not is_configured(settings.identity):
        return None
    return lambda name: read_directory(settings.identity).caller_of(name)


def _document(make: Callable[[], Any]) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler that answers with what ``make`` gives."""

    async def handle(_: web.Request) -> web.Response:
        return _json(make())

    return handle


def _json(content: Any) -> web.Response:
    return web.Response(body=orjson.dumps(content, option=orjson.OPT_INDENT_2), content_type="application/json")


def _asset(name: str) -> str:
    return resources.files("gateway.admin").joinpath(name).read_text(encoding="utf-8")
