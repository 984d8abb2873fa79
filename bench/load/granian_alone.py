"""Granian answering by itself: served as our worker serves, with nothing of the gateway behind it.

    granian_alone.py PORT ENGINE_PORT

What it costs is the least that any gateway on this server costs, before it has looked at a request or chosen an engine. Answers are made in
advance, chunks too, and coalesced as ours are. The engine only beats time for streams: each read from it lets as many chunks go as it
held, because when chunks come, and how many at once, is most of what one costs. A timer in its place costs more than the whole gateway on a
crowded machine.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from typing import Any, cast

import uvloop

from gateway.downstream.coalescer import Coalescer
from gateway.settings import Settings
from gateway.supervisor.listeners import open_listeners
from gateway.supervisor.serving import InheritedSocketServer, tune_process, yield_to_loop

ANSWER_BYTES = 700
_STREAMS_SAID = (b'"stream": true', b'"stream":true')
_SNIFFED_BYTES = 16384
_THREADS_STARTED_SECONDS = 0.5
_COMMON = {"id": "chatcmpl-8f2c4e6a91d34b0fa7c5e2d1b3a49687", "created": 1767225600, "model": "bench"}
_BEAT_BODY = b'{"stream":true}'
_BEAT = b"POST /v1/chat/completions HTTP/1.1\r\nhost: engine\r\ncontent-length: %d\r\n\r\n%s" % (
    len(_BEAT_BODY),
    _BEAT_BODY,
)


def _completion(content: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return json.dumps(_COMMON | {"object": "chat.completion", "choices": [choice]}).encode()


def _event(content: str) -> bytes:
    delta = {"content": content, "reasoning_content": None}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, "token_ids": None}
    document = _COMMON | {"object": "chat.completion.chunk", "choices": [choice]}
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


ANSWER = _completion("w" * (ANSWER_BYTES - len(_completion(""))))
EVENT = _event(" water")
DONE = b"data: [DONE]\n\n"


class Beat(asyncio.Protocol):
    """A connection to the engine, which beats time for one stream after another."""

    def __init__(self, idle: list[Beat], coalescer: Coalescer) -> None:
        self._idle = idle
        self._coalescer = coalescer
        self._watcher: Any = None
        self._send: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast(asyncio.Transport, transport)

    def begin(self, watcher: Any, transport: Any) -> None:
        """Beat for this stream, to its end."""
        self._watcher, self._send = watcher, transport.send_bytes
        self._transport.write(_BEAT)

    def data_received(self, data: bytes) -> None:
        """So many chunks are due."""
        events = data.count(b"\n\ndata") + data.count(b"\r\ndata")
        if not events or self._send is None:
            return
        is_last = data.find(DONE, -40) >= 0
        self._send(EVENT * (events - 1) + DONE if is_last else EVENT * events)
        self._coalescer.note(time.monotonic())
        if is_last:
            watcher, self._watcher, self._send = self._watcher, None, None
            watcher.done()
            self._idle.append(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        """The engine left: what is being streamed ends short, and the rig's client counts it as failed."""
        if self in self._idle:
            self._idle.remove(self)
        if self._watcher is not None:
            self._watcher.done()


class Alone:
    """What Granian calls for each request."""

    def __init__(self, engine_port: int, coalescer: Coalescer) -> None:
        self._engine_port = engine_port
        self._coalescer = coalescer
        self._idle: list[Beat] = []
        self._connecting: set[asyncio.Task[None]] = set()

    def begin(self, watcher: Any) -> None:
        """Answer once the body is there."""
        protocol = watcher.proto

        def read(body: Any) -> None:
            try:
                self._answer(watcher, protocol, body.result())
            except Exception:  # the client left
                watcher.done()

        protocol().add_done_callback(read, context=None)

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """Not what our worker uses: Granian with a task for each request."""
        raise NotImplementedError("this Granian has other names inside: see gateway/supervisor/serving.py")

    def _answer(self, watcher: Any, protocol: Any, body: bytes) -> None:
        if all(body.find(said, 0, _SNIFFED_BYTES) < 0 for said in _STREAMS_SAID):
            protocol.response_bytes(200, [("content-type", "application/json")], ANSWER)
            watcher.done()
            return
        transport = protocol.response_stream(200, [("content-type", "text/event-stream; charset=utf-8")])
        if self._idle:
            self._idle.pop().begin(watcher, transport)
            return
        task = asyncio.get_running_loop().create_task(self._connect(watcher, transport))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, watcher: Any, transport: Any) -> None:
        loop = asyncio.get_running_loop()
        _, beat = await loop.create_connection(
            lambda: Beat(self._idle, self._coalescer), "127.0.0.1", self._engine_port
        )
        beat.begin(watcher, transport)


async def _serve(port: int, engine_port: int) -> None:
    (listener,) = open_listeners("127.0.0.1", port, 1)
    settings = Settings()
    coalescer = Coalescer(settings.streams.coalesce_seconds)
    alone: Any = Alone(engine_port, coalescer)
    server = InheritedSocketServer(alone, listener.fileno(), settings, coalescer)
    asyncio.get_running_loop().call_later(_THREADS_STARTED_SECONDS, yield_to_loop)
    gc.collect()
    gc.freeze()
    await server.serve_directly()


if __name__ == "__main__":
    tune_process()
    uvloop.run(_serve(*map(int, sys.argv[1:])))
