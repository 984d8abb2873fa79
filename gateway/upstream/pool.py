"""Kept connections, by endpoint: the one used last is used next, so that those that are not needed grow old and go."""

from __future__ import annotations

from gateway.datastore.model import Endpoint
from gateway.upstream.connection import Connection, Keeper


class Pool(Keeper):
    """Idle connections of one worker, bound to their endpoint's identity."""

    def __init__(self) -> None:
        self._idle: dict[str, list[Connection]] = {}
        self.connections: set[Connection] = set()
        """All that stand, in use or not."""

    def take(self, endpoint: Endpoint) -> Connection | None:
        """A kept connection to this very endpoint, or None."""
        idle = self._idle.get(endpoint.identity)
        while idle:
            connection = idle.pop()
            # the endpoint itself is another object when anything about it was written anew
            known = connection.endpoint
            if not connection.is_closed and (known is endpoint or _same_place(known, endpoint)):
                return connection
            connection.drop()
        return None

    def add(self, connection: Connection) -> None:
        """A new one, in use."""
        self.connections.add(connection)

    def give(self, connection: Connection) -> None:
        """It can take another request."""
        idle = self._idle.get(connection.identity)
        if idle is None:
            idle = self._idle[connection.identity] = []
        idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """It is closed."""
        self.connections.discard(connection)
        idle = self._idle.get(connection.identity)
        if idle is not None:
            try:
                idle.remove(connection)
            except ValueError:
                pass  # it was in use
            if not idle:
                del self._idle[connection.identity]

    def close(self) -> None:
        """Drop every connection."""
        for connection in list(self.connections):
            connection.drop()


def _same_place(one: Endpoint, other: Endpoint) -> bool:
    return (one.address, one.port, one.scheme) == (other.address, other.port, other.scheme)
