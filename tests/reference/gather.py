"""Two pieces in one call, by the standard library."""

from __future__ import annotations

import socket


def send_both(descriptor, head, body):
    """How many bytes went out."""
    with socket.socket(fileno=descriptor) as one:
        try:
            return one.sendmsg([head, body], [], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return 0
        finally:
            one.detach()
