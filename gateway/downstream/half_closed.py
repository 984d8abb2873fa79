"""Clients that closed their side while the server could not see it: asked of the kernel, once a second.

The HTTP server stops reading a connection that has more bytes than the request it serves (a pipelined one), and so misses its end; the
engine would go on generating for nobody. The kernel knows: such a socket is in state CLOSE_WAIT.
"""

from __future__ import annotations

import socket
import struct

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x1 | 0x300
_NLMSG_DONE = 3
_NLMSG_ERROR = 2
_CLOSE_WAIT = 8
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI")
_ADDRESSES = struct.Struct("!HH16s16s")
_MESSAGE_ADDRESSES_AT = 4
_TIMEOUT_SECONDS = 0.05


def half_closed_clients(host: str, port: int) -> set[str]:
    """Addresses, as RSGI writes them, of clients of this port that sent their last byte; empty where the kernel does not tell."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    identity = struct.pack("!HH", port, 0) + bytes(32) + struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << _CLOSE_WAIT) + identity
    question = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0) + body
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as kernel:
            kernel.settimeout(_TIMEOUT_SECONDS)
            kernel.send(question)
            return _read(kernel, family)
    except OSError:
        return set()


def _read(kernel: socket.socket, family: socket.AddressFamily) -> set[str]:
    found: set[str] = set()
    while True:
        data = kernel.recv(1 << 18)
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, _, _, _ = _HEADER.unpack_from(data, at)
            if kind in (_NLMSG_DONE, _NLMSG_ERROR) or length < _HEADER.size:
                return found
            found.add(_client(data, at + _HEADER.size + _MESSAGE_ADDRESSES_AT, family))
            at += (length + 3) & ~3


def _client(data: bytes, at: int, family: socket.AddressFamily) -> str:
    _, port, _, address = _ADDRESSES.unpack_from(data, at)
    if family == socket.AF_INET:
        return f"{socket.inet_ntop(family, address[:4])}:{port}"
    return f"[{socket.inet_ntop(family, address)}]:{port}"
