"""Where a Redis is, as settings and routes write it. Needs no package of Redis."""

from __future__ import annotations

from typing import NamedTuple


class Address(NamedTuple):
    """Where a Redis is."""

    host: str
    port: int
    tls: bool


def address_of(text: str) -> Address:
    """``host:port``, ``redis://host:port`` or, with TLS, ``rediss://host:port``. Raises ValueError that says the fix."""
    scheme, separator, rest = text.rpartition("://")
    host, colon, port = rest.rstrip("/").rpartition(":")
    if (separator and scheme not in ("redis", "rediss")) or "@" in rest:
        raise ValueError(f"`{text}` must be host:port, redis://host:port or rediss://host:port")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError(f"`{text}` must name a host and a port of 1 to 65535, as in redis:6379")
    return Address(host.strip("[]"), int(port), scheme == "rediss")
