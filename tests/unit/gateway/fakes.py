"""Stand-ins for what surrounds a request: its connection, and an engine's answer."""

import asyncio
import json
import time

from gateway.exchange import OPERATIONS, Exchange
from gateway.upstream import connection

CHAT = "/v1/chat/completions"


class Scope:
    client = "127.0.0.1:0"
    proto = "http"

    def __init__(self, method="POST", path=CHAT, headers=None):
        self.method, self.path, self.headers = method, path, headers or {}


class PyEmptyAwaitable:
    """What RSGI's stream returns when it took a piece."""


class PyErrAwaitable:
    """What it returns when the client is gone."""


class Transport:
    """The stream of an RSGI answer."""

    def __init__(self, protocol):
        self._protocol = protocol

    def send_bytes(self, data):
        if self._protocol.is_gone:
            return PyErrAwaitable()
        self._protocol.sent.append(bytes(data))
        return PyEmptyAwaitable()


class Protocol:
    """An RSGI connection: gives a body, keeps what is answered."""

    def __init__(self, body=b"", pieces=None, hangs=False, breaks=None):
        self._body, self._pieces, self._hangs, self._breaks = body, pieces, hangs, breaks
        self.is_gone = False
        self.left = asyncio.Event()
        self.answers = []
        """Status, headers and body of whole answers; body None for streams."""
        self.sent = []
        """Chunks of a stream."""

    async def __call__(self):
        if self._hangs:
            await asyncio.sleep(3600)
        if self._breaks is not None:
            raise self._breaks
        return self._body

    async def _all_pieces(self):
        for piece in self._pieces:
            if isinstance(piece, BaseException):
                raise piece
            if piece is None:
                await asyncio.sleep(3600)
            yield piece

    def __aiter__(self):
        return self._all_pieces()

    async def client_disconnect(self):
        await self.left.wait()

    def response_bytes(self, status, headers, body):
        if self.is_gone:
            raise RuntimeError("the client is gone")
        self.answers.append((status, dict(headers), body))

    def response_stream(self, status, headers):
        if self.is_gone:
            raise RuntimeError("the client is gone")
        self.answers.append((status, dict(headers), None))
        return Transport(self)


class Answer(connection.Answer):
    """An engine's answer in the pieces given; an exception among them is raised in its place, None hangs."""

    status = headers = length = is_event_stream = None

    def __init__(self, pieces, status=200, headers=(), length=None, is_event_stream=False):
        self._pieces = iter(pieces)  # as in an engine's connection, what was read is gone
        self.status, self.headers, self.length, self.is_event_stream = status, list(headers), length, is_event_stream
        self.closed = 0
        self.paused = 0
        self.is_complete = False
        self._failing = None
        self._chunks = None

    async def chunks(self):
        for piece in self._pieces:
            await asyncio.sleep(0)
            if isinstance(piece, BaseException):
                raise piece
            if piece is None:
                await asyncio.sleep(3600)
            yield piece

    async def whole(self, most):
        found = b""
        self._chunks = self.chunks()
        async for piece in self._chunks:
            found += piece
            if len(found) > most:
                return found
        self.is_complete = True
        return found

    async def forward(self, sink):
        async for piece in self._chunks or self.chunks():
            sink.take(piece, time.monotonic())
            if self._failing is not None:
                raise self._failing
        self.is_complete = True

    def pause(self):
        self.paused += 1

    def resume(self):
        self.paused -= 1

    def fail(self, error):
        self._failing = error

    def close(self):
        self.closed += 1


def make_exchange(protocol=None, path=CHAT, started=100.0, headers=None, request_id="req_1"):
    headers = headers or {}
    return Exchange(
        scope=Scope(path=path, headers=headers),
        protocol=protocol or Protocol(),
        path=path,
        operation=OPERATIONS[path],
        request_id=request_id,
        started=started,
        header=headers.get,
    )


def chat(content="hello", **more):
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": content}], **more}).encode()
