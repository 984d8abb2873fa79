"""Kept connections, by endpoint: the one used last is used next, so that those that are not needed grow old and go."""

from __future__ import annotations

from collections import deque

from gateway.datastore.model import Endpoint
from gateway.upstream.connection import Connection


class Pool:
    """Idle connections of one worker, bound to their endpoint's identity."""

    def __init__(self) -> None:
        self._idle: dict[str, deque[Connection]] = {}
        self.connections: set[Connection] = set()
        """All that stand, in use or not."""

    def take(self, endpoint: Endpoint) -> Connection | None:
        """A kept connection to this very endpoint, or None."""
        idle = self._idle.get(endpoint.identity)
        while idle:
            connection = idle.pop()
            if not connection.is_closed and _same_place(connection.endpoint, endpoint):
                return connection
            connection.drop()
        return None

    def add(self, connection: Connection) -> None:
        """A new one, in use."""
        self.connections.add(connection)

    def give(self, connection: Connection) -> None:
        """It can take another request."""
        identity = connection.endpoint.identity
        idle = self._idle.get(identity)
        if idle is None:
            idle = self._idle[identity] = deque()
        idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """It is closed."""
        self.connections.discard(connection)
        idle = self._idle.get(connection.endpoint.identity)
        if idle is not None:
            try:
                idle.remove(connection)
            except ValueError:
                pass  # it was in use
            if not idle:
                del self._idle[connection.endpoint.identity]

    def close(self) -> None:
        """Drop every connection."""
        for connection in list(self.connections):
            connection.drop()


def _same_place(one: Endpoint, other: Endpoint) -> bool:
    return one is other or (one.address, one.port, one.scheme) == (other.address, other.port, other.scheme)
