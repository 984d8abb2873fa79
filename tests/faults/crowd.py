"""A crowd in a process of its own, for its descriptors: thousands of clients of a gateway, and the engine that answers them.

The engine answers at once, or streams without end. The process takes commands and gives answers as lines of JSON; :class:`Crowd` is its
other end.
"""

import asyncio
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from tests.support.client import chat, request_bytes
from tests.support.engines import STREAM_HEAD, answer, chunk, completion, event

ROOT = Path(__file__).parents[2]
CHUNK_SECONDS = 0.5
AT_ONCE = 50
"""Clients that connect at the same time: fewer than the gateway's queue has room for."""
PROMPT = "water " * 180
"""About 1.2 KB of request, as in the load benchmark."""


class Crowd:
    """The process, as a context manager; ``engine_port`` is where its engine listens."""

    def __enter__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.engine_port = self._answer()["port"]
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()

    def connect(self, port, count, *, stream=False, prompt=PROMPT):
        """So many further clients, each on its own connection with one request, answered whole or streaming; all stay open."""
        told = {"port": port, "count": count, "body": chat(prompt, stream=stream)}
        self._tell(told)
        found = self._answer()
        assert found == {"connected": count}, found

    def look(self):
        """How many connections are open, and how many of them have got a piece of a stream lately."""
        self._tell({})
        found = self._answer()
        return found["open"], found["streaming"]

    def _tell(self, command):
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def _answer(self):
        line = self._process.stdout.readline()
        assert line, f"the crowd ended with {self._process.wait()}"
        return json.loads(line)


class Engine(asyncio.Protocol):
    """One connection of the engine."""

    def connection_made(self, transport):
        self._transport = transport
        self._read = b""

    def data_received(self, data):
        self._read += data
        head, blank, body = self._read.partition(b"\r\n\r\n")
        if not blank or len(body) < _length(head):
            return
        self._read = b""
        if head.startswith(b"GET"):
            self._transport.write(answer(404, b"", "text/plain"))
        elif json.loads(body).get("stream"):
            self._transport.write(STREAM_HEAD)
            self._go_on()
        else:
            self._transport.write(answer(200, completion("word " * 100)))

    def _go_on(self):
        if not self._transport.is_closing():
            self._transport.write(chunk(event(" water")))
            asyncio.get_running_loop().call_later(CHUNK_SECONDS, self._go_on)


class Client(asyncio.Protocol):
    """One client: asks once, and stays."""

    def __init__(self, request):
        self._request = request
        self._read = b""
        self.answered = asyncio.get_running_loop().create_future()
        self.is_open = True
        self.last_piece = 0.0

    def connection_made(self, transport):
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data):
        if self.answered.done():
            self.last_piece = time.monotonic()
            return
        self._read += data
        head, blank, body = self._read.partition(b"\r\n\r\n")
        if blank and (b"event-stream" in head or len(body) >= _length(head)):
            self._read = b""
            self.answered.set_result(head.split(b" ", 2)[1])

    def connection_lost(self, error):
        self.is_open = False
        if not self.answered.done():
            self.answered.set_result(f"closed: {error}".encode())


def _length(head):
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    return 0


async def _connect(clients, command):
    request = request_bytes(command["body"])
    loop = asyncio.get_running_loop()
    free = asyncio.Semaphore(AT_ONCE)

    async def one():
        async with free:
            _, client = await loop.create_connection(lambda: Client(request), "127.0.0.1", command["port"])
            clients.append(client)
            return await client.answered

    statuses = await asyncio.gather(*(one() for _ in range(command["count"])), return_exceptions=True)
    wrong = [str(status) for status in statuses if status != b"200"]
    return {"failed": len(wrong), "first": wrong[0]} if wrong else {"connected": len(statuses)}


async def _serve():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Engine, "127.0.0.1", 0, backlog=1024)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    clients = []
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        if command:
            found = await _connect(clients, command)
        else:
            lately = time.monotonic() - 3 * CHUNK_SECONDS
            still = [client for client in clients if client.is_open]
            found = {"open": len(still), "streaming": sum(client.last_piece > lately for client in still)}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_serve())
