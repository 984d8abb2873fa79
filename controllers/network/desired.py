"""What the gateway should serve, and what changed of it since it was last asked."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.datastore.model import Endpoint, Route, Server
from gateway.datastore.wire import Change


@dataclass(slots=True)
class DesiredState:
    """All routes, servers and endpoints by name; endpoints by server."""

    routes: dict[str, Route] = field(default_factory=dict)
    servers: dict[str, Server] = field(default_factory=dict)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    _changed: set[tuple[str, str]] = field(default_factory=set)

    def put_route(self, route: Route) -> None:
        """A route as it should be."""
        if self.routes.get(route.name) != route:
            self.routes[route.name] = route
            self._changed.add(("route", route.name))

    def drop_route(self, name: str) -> None:
        """No such route."""
        if self.routes.pop(name, None) is not None:
            self._changed.add(("route", name))

    def put_server(self, server: Server, endpoints: list[Endpoint]) -> None:
        """A server with all its endpoints; those that are not named any more are gone."""
        if self.servers.get(server.name) != server:
            self.servers[server.name] = server
            self._changed.add(("server", server.name))
        wanted = {endpoint.key: endpoint for endpoint in endpoints}
        for key in [key for key, one in self.endpoints.items() if one.server == server.name and key not in wanted]:
            del self.endpoints[key]
            self._changed.add(("endpoint", key))
        for key, endpoint in wanted.items():
            if self.endpoints.get(key) != endpoint:
                self.endpoints[key] = endpoint
                self._changed.add(("endpoint", key))

    def drop_server(self, name: str) -> None:
        """No such server, and none of its endpoints."""
        if self.servers.pop(name, None) is not None:
            self._changed.add(("server", name))
        for key in [key for key, one in self.endpoints.items() if one.server == name]:
            del self.endpoints[key]
            self._changed.add(("endpoint", key))

    def take_change(self) -> Change | None:
        """What changed since the last call, None when nothing did."""
        if not self._changed:
            return None
        changed, self._changed = sorted(self._changed), set()
        names = {kind: [name for one, name in changed if one == kind] for kind in ("route", "server", "endpoint")}
        return Change(
            routes=tuple(self.routes[name] for name in names["route"] if name in self.routes),
            servers=tuple(self.servers[name] for name in names["server"] if name in self.servers),
            endpoints=tuple(self.endpoints[name] for name in names["endpoint"] if name in self.endpoints),
            gone_routes=tuple(name for name in names["route"] if name not in self.routes),
            gone_servers=tuple(name for name in names["server"] if name not in self.servers),
            gone_endpoints=tuple(name for name in names["endpoint"] if name not in self.endpoints),
        )
