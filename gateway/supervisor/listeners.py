"""The listening sockets: one a worker on one port, with the options that RSGI cannot set."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

BACKLOG = 4096
_SEND_BUFFER_BYTES = 128 << 10
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
_USER_TIMEOUT_MILLISECONDS = 30_000


class PortInUse(Exception):
    """Somebody listens there already."""

    def __init__(self, host: str, port: int, owner: str | None) -> None:
        super().__init__(f"port {port} is in use" + (f" by {owner}" if owner else ""))
        self.host = host
        self.port = port
        self.owner = owner


def open_listeners(host: str, port: int, count: int) -> list[socket.socket]:
    """``count`` sockets that share a port; accepted connections inherit their options. Raises PortInUse."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    _check_free(host, port, family)
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            sockets.append(_open(host, sockets[0].getsockname()[1] if sockets else port, family))
    except BaseException:
        for one in sockets:
            one.close()
        raise
    return sockets


def _open(host: str, port: int, family: socket.AddressFamily) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            one.setsockopt(socket.IPPROTO_TCP, option, value)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MILLISECONDS)
        one.setblocking(False)
        one.bind((host, port))
        one.listen(BACKLOG)
    except BaseException:
        one.close()
        raise
    return one


def _check_free(host: str, port: int, family: socket.AddressFamily) -> None:
    # with SO_REUSEPORT a second gateway of the same user would bind without a word and take half of the connections
    if port == 0:
        return
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(host, port, port_owner(port)) from error
            raise OSError(error.errno, f"{host} port {port}: {error.strerror}") from error


def port_owner(port: int) -> str | None:
    """Who listens on a TCP port, as far as this user may see: `` `name` (pid 1) ``."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for descriptor in (process / "fd").iterdir():
                if os.readlink(descriptor) in inodes:  # noqa: PTH115 - a link of procfs, not a path
                    return f"`{(process / 'comm').read_text().strip()}` (pid {process.name})"
        except OSError:
            continue
    return None
