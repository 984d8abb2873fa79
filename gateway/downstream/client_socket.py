"""The sockets of clients, which RSGI names by address alone: to ask the kernel what they have read, and to cut them."""

from __future__ import annotations

import os
import socket
import stat
import struct
import time
from collections.abc import Callable

_BYTES_ACKED_AT = 120
"""Offset of ``tcpi_bytes_acked`` in ``struct tcp_info`` (linux/tcp.h)."""

Peer = tuple[str, int]


class ClientSockets:
    """Descriptors of this process's connections by their peer. One look at all of them serves everybody who asks for one of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._by_peer: dict[Peer, int] = {}
        self._looked_at = float("-inf")

    def find(self, peer: Peer, since: float) -> socket.socket | None:
        """A duplicate of the connection's descriptor, checked by its peer after it was made; None when there is none.

        ``since``: a time at which the connection stood already. A look after that has seen it, if it still stands.
        """
        found = self._duplicate(peer)
        if found is None and self._looked_at <= since:
            self._look()
            found = self._duplicate(peer)
        return found

    def _duplicate(self, peer: Peer) -> socket.socket | None:
        descriptor = self._by_peer.get(peer)
        if descriptor is None:
            return None
        try:
            duplicate = socket.socket(fileno=os.dup(descriptor))
        except OSError:
            return None
        if _peer_of(duplicate) == peer:
            return duplicate
        duplicate.close()
        del self._by_peer[peer]
        return None

    def _look(self) -> None:
        self._looked_at = self._clock()
        self._by_peer = {}
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names, not paths
            descriptor = int(name)
            try:
                if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                    continue
                # named so, an address of either family fits
                looking = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, fileno=descriptor)
            except OSError:
                continue
            peer = _peer_of(looking)
            looking.detach()
            if peer is not None:
                self._by_peer[peer] = descriptor


def _peer_of(one: socket.socket) -> Peer | None:
    try:
        name = one.getpeername()
    except OSError:
        return None
    return (name[0], name[1]) if isinstance(name, tuple) and len(name) >= 2 else None


class ClientSocket:
    """One client's socket, looked for when it is first needed: few requests need it."""

    def __init__(self, client: str, since: float, sockets: ClientSockets) -> None:
        host, _, port = client.rpartition(":")
        self._peer: Peer = (host.strip("[]"), int(port)) if port.isdigit() else ("", 0)
        self._since = since
        self._sockets = sockets
        self._socket: socket.socket | None = None

    def find(self) -> socket.socket | None:
        """The socket, None when the connection is gone."""
        if self._socket is None:
            self._socket = self._sockets.find(self._peer, self._since)
        return self._socket

    def acknowledged(self) -> int | None:
        """Bytes that the client's kernel has acknowledged since the connection began; None when they cannot be known."""
        found = self.find()
        if found is None:
            return None
        try:
            information = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        except OSError:
            return None
        if len(information) < _BYTES_ACKED_AT + 8:
            return None
        acknowledged: int = struct.unpack_from("=Q", information, _BYTES_ACKED_AT)[0]
        return acknowledged

    def cut(self) -> None:
        """End the connection in the middle: no client takes what it got for a whole answer."""
        found = self.find()
        if found is not None:
            try:
                found.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        """Let go of the duplicate."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
