"""The world of this gateway: what the datastore's replica makes of decided objects here."""

from __future__ import annotations

import time
from collections.abc import Callable

import re2

from _fastpath.health import Health
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import SlotsFull
from gateway.datastore.model import Endpoint, Route, Server
from gateway.datastore.replica import Replica, Unusable, World
from gateway.routing.match import CompiledRoute, compile_route
from gateway.scheduling.plugins import Plugin, Plugins
from gateway.scheduling.pool import PlacedEndpoint, Reserved, ServerPool, make_pool
from gateway.scheduling.slot_book import SlotBook

GatewayWorld = World[PlacedEndpoint, ServerPool, CompiledRoute]
GatewayReplica = Replica[PlacedEndpoint, ServerPool, CompiledRoute]


class GatewayCompiler:
    """Slots for endpoints, pools for servers, patterns for routes. What cannot be made raises Unusable."""

    def __init__(
        self,
        memory: SharedMemory,
        row: int,
        clock: Callable[[], float] = time.monotonic,
        plugins: Plugins | None = None,
        reserved: Reserved | None = None,
    ) -> None:
        """``plugins``: those of a worker that chooses; without them none is asked. ``reserved``: see :func:`make_pool`."""
        self._book = SlotBook(memory, row)
        self._health = Health(memory)
        self._clock = clock
        self._plugins = plugins
        self._reserved = reserved

    def endpoint(self, endpoint: Endpoint) -> PlacedEndpoint:
        """Give an endpoint its slot. One that nobody has seen before warms up from now."""
        try:
            slot = self._book.acquire(endpoint.identity)
        except SlotsFull as error:
            raise Unusable(str(error)) from error
        self._health.begin(slot.index, slot.generation, self._clock())
        return PlacedEndpoint(endpoint, slot)

    def retire(self, endpoint: PlacedEndpoint) -> None:
        """The world has it no more."""
        self._book.drop(endpoint.endpoint.identity)

    def server(self, server: Server, endpoints: tuple[PlacedEndpoint, ...]) -> ServerPool:
        """Pool a server's endpoints."""
        try:
            return make_pool(server, endpoints, self._plugins_of(server), self._reserved)
        except (ValueError, OverflowError) as error:
            raise Unusable(f"ModelServer `{server.name}`: {error}") from error

    def _plugins_of(self, server: Server) -> tuple[Plugin, ...]:
        return self._plugins.of(server.name, server.scheduling.plugins) if self._plugins is not None else ()

    def route(self, route: Route) -> CompiledRoute:
        """Compile a route's patterns."""
        try:
            return compile_route(route)
        except re2.error as error:
            raise Unusable(f"ModelRoute `{route.name}`: {error}") from error
