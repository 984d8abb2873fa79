"""The HTTP client toward engines: HTTP/1.1 over the loop's transports, kept connections, one write a request, nothing re-encoded."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from collections.abc import Callable
from functools import partial
from typing import cast

from _fastpath.clock import seconds
from _fastpath.request_head import request_head
from gateway.datastore.model import Endpoint, Traffic
from gateway.deadlines import Deadlines
from gateway.errors import UpstreamError, UpstreamTimeout
from gateway.upstream.connection import Answer, Connection
from gateway.upstream.pool import Pool

_OWN_LACKS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)


class UpstreamClient:
    """Sends requests to engines. One a worker, made inside its event loop.

    ``authorities`` is a file of PEM certificates that engines' certificates must lead to, the system's when it is empty. It is read once.
    """

    def __init__(
        self, deadlines: Deadlines, clock: Callable[[], float] = time.monotonic, authorities: str = ""
    ) -> None:
        self._authorities = authorities
        self._deadlines = deadlines
        self._clock = clock
        self._pool = Pool()
        self._tls: ssl.SSLContext | None = None

    async def send(self, endpoint: Endpoint, path: str, headers: str, body: bytes, traffic: Traffic) -> Answer:
        """Send a request and wait for the answer's head; ``headers`` are whole lines.

        Raises UpstreamError (retryable when not a byte of an answer came) and UpstreamTimeout. A kept connection that the engine had
        closed in the meantime is no failure of the engine: the request goes out once more on a fresh one.
        """
        connection = self.kept(endpoint)
        if connection is not None:
            answer = self.ask(connection, path, headers, body, traffic)
            if await self.has_head(answer):
                return answer
        return await self.send_anew(endpoint, path, headers, body, traffic)

    async def send_anew(self, endpoint: Endpoint, path: str, headers: str, body: bytes, traffic: Traffic) -> Answer:
        """The same on a connection of its own."""
        connection = await self._connect(endpoint, traffic)
        answer = self.ask(connection, path, headers, body, traffic)
        try:
            await answer.wait_for_head()
        except BaseException:
            answer.close()
            raise
        return answer

    def kept(self, endpoint: Endpoint) -> Connection | None:
        """A connection that is kept to an endpoint and belongs to the caller from now on, None where there is none."""
        return self._pool.take(endpoint)

    def ask(
        self, connection: Connection, path: str, headers: str, body: bytes, traffic: Traffic, now: float = 0.0
    ) -> Answer:
        """Send a request on a connection, without waiting for anything. ``now``: on this client's clock, which is looked at without it."""
        return connection.ask(
            request_head(connection.start_of(path), headers, len(body)), body, traffic, now or seconds(self._clock)
        )

    async def has_head(self, answer: Answer) -> bool:
        """Wait for the head of what was asked on a kept connection: False when the engine had closed it, and had nothing of the request.

        Raises UpstreamError and UpstreamTimeout.
        """
        try:
            await answer.wait_for_head()
        except BaseException as error:
            answer.close()
            if not _was_closed(error):
                raise
            return False
        return True

    async def close(self) -> None:
        """Close every connection."""
        self._pool.close()

    async def _connect(self, endpoint: Endpoint, traffic: Traffic) -> Connection:
        # a task of its own: connecting is rare, and a run of the request path has no deadlines of asyncio's
        connecting = asyncio.get_running_loop().create_task(self._open(endpoint, traffic))
        try:
            return await connecting
        finally:
            connecting.cancel()

    async def _open(self, endpoint: Endpoint, traffic: Traffic) -> Connection:
        made = partial(Connection, endpoint, self._pool, self._deadlines, self._clock)
        secure = self._context() if endpoint.scheme == "https" else None
        try:
            async with asyncio.timeout(traffic.connect_timeout):
                transport, made_here = await asyncio.get_running_loop().create_connection(
                    cast(Callable[[], asyncio.Protocol], made), endpoint.address, endpoint.port, ssl=secure
                )
        except TimeoutError as error:
            raise _unsent(UpstreamError("The engine does not accept connections.")) from error
        except ssl.SSLError as error:
            raise _unsent(UpstreamError(_handshake_failed(error))) from error
        except OSError as error:
            raise _not_connected(error) from error
        plain: socket.socket | None = transport.get_extra_info("socket")
        if plain is not None:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = cast(Connection, made_here)
        self._pool.add(connection)
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            try:
                self._tls = ssl.create_default_context(cafile=self._authorities or None)
            except OSError as error:  # it could be read when the gateway started
                raise _own_fault("The gateway cannot read its `upstream_ca_file` any more.") from error
        return self._tls


def _was_closed(error: BaseException) -> bool:
    """Whether a kept connection may have been closed before the request came."""
    return isinstance(error, UpstreamError) and not isinstance(error, UpstreamTimeout) and error.retryable


def _not_connected(error: OSError) -> UpstreamError:
    if error.errno in _OWN_LACKS:
        return _own_fault("The gateway can open no further connection.")
    return _unsent(UpstreamError("The engine does not accept connections."))


def _own_fault(message: str) -> UpstreamError:
    failed = UpstreamError(message)
    failed.is_engines_fault = False
    return _unsent(failed)


def _unsent(failed: UpstreamError) -> UpstreamError:
    failed.is_sent = False
    return failed


def _handshake_failed(error: ssl.SSLError) -> str:
    """What a client is told: the reason, without the engine's address that OpenSSL names."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"The engine's certificate cannot be trusted: {error.verify_message.partition(',')[0]}."
    return f"The engine does not speak TLS as it should: {error.reason or 'unknown reason'}."
