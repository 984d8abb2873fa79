"""Addresses as they are written in a URL."""

from __future__ import annotations


def url(host: str, port: int, scheme: str = "http") -> str:
    """Where a program listens, without a path. An IPv6 address stands in brackets, as a URL wants it."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
