"""Engines: simulated ones in a thread of their own, and one that answers with whatever bytes a test wants."""

import asyncio
import dataclasses
import json
import logging
import socket
import threading
from dataclasses import dataclass, field
from time import monotonic

from simulator.bodies import WORDS
from simulator.engine import Profile
from simulator.server import Options, SimulatedEngine

logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # clients that leave are what many tests are about


def free_ports(count):
    """Ports that nobody listens on just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def neighbouring_ports(count):
    """The first of so many free ports in a row."""
    while True:
        (first,) = free_ports(1)
        if first + count < 65536 and all(_is_free(first + number) for number in range(count)):
            return first


def _is_free(port):
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Engines:
    """Simulated engines on free ports, in one thread. With ``kv_events``, ``event_ports`` has pairs of live and replay port."""

    def __init__(self, count, model="demo", adapters=(), speed=1.0, kv_events=False, words=WORDS, **profile):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engines", daemon=True)
        self._options = Options(
            model=model,
            adapters=tuple(adapters),
            port=0,
            speed=speed,
            profile=Profile(**profile),
            maximum_length=10**7,
            words=words,
        )
        self.event_ports = [tuple(free_ports(2)) for _ in range(count)] if kv_events else []
        self._count = count
        self.engines = []
        self.ports = []

    def __enter__(self):
        self._thread.start()
        for position in range(self._count):
            engine = SimulatedEngine(self._options_of(position))
            self.ports.append(self._do(engine.start()))
            self.engines.append(engine)
        return self

    def __exit__(self, *_):
        for engine in self.engines:
            self._do(engine.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _options_of(self, position, **more):
        if self.event_ports:
            live, replay = (f"tcp://127.0.0.1:{port}" for port in self.event_ports[position])
            more |= {"events_endpoint": live, "replay_endpoint": replay}
        return dataclasses.replace(self._options, **more)

    def _do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=10)

    def stop(self, position):
        """End one engine: its port refuses connections."""
        self._do(self.engines[position].stop())

    def restart(self, position):
        """Start an engine anew on the port it had."""
        self.engines[position] = SimulatedEngine(self._options_of(position, port=self.ports[position]))
        self._do(self.engines[position].start())

    def fault(self, position, **content):
        """Let an engine misbehave."""
        self.engines[position].faults.add(json.dumps(content).encode())

    def heal(self):
        """No engine misbehaves any more."""
        for engine in self.engines:
            engine.faults.clear()

    @property
    def held(self):
        """Requests that any engine runs or queues."""
        return sum(len(one.engine.running) + len(one.engine.waiting) for one in self.engines)


@dataclass
class Received:
    """A request as the engine got it."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    head: bytes
    connection: int
    arrived: float = field(default_factory=monotonic)

    def header(self, name):
        """Value of a header that stands once, or None."""
        found = [value for one, value in self.headers if one.lower() == name]
        assert len(found) < 2, found
        return found[0] if found else None

    @property
    def json(self):
        """The body."""
        return json.loads(self.body)


class ScriptedEngine:
    """A TCP server that reads requests and hands each to ``script(connection, received)``.

    The script writes what it likes to the socket. When it returns a true value, the connection is closed; else the next request
    on it is read. Scrapes are answered with 404, or by ``scrape(connection)``, and not recorded. With ``tls`` (an ``ssl.SSLContext``)
    connections are secured first.
    """

    def __init__(self, script, tls=None, scrape=None):
        self.script = script
        self._scrape = scrape
        self._tls = tls
        self.received = []
        self.closed = []
        """When each connection that a script waited on (:meth:`until_closed`) was seen closed."""
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._socket.getsockname()[1]
        self._threads = []
        self._connections = set()
        self._lock = threading.Lock()
        self._ending = False

    def __enter__(self):
        thread = threading.Thread(target=self._accept, daemon=True)
        thread.start()
        self._threads.append(thread)
        return self

    def __exit__(self, *_):
        self._ending = True
        # a thread in accept() does not notice a close: wake it
        with socket.socket() as waker:
            waker.connect_ex(("127.0.0.1", self.port))
        with self._lock:
            for one in self._connections:
                try:
                    socket.socket.shutdown(one, socket.SHUT_RDWR)  # TLS or not, the thread that reads is in the kernel
                except OSError:
                    pass
        for thread in self._threads:
            thread.join(timeout=5)
        self._socket.close()

    def _accept(self):
        while True:
            connection, _ = self._socket.accept()
            if self._ending:
                connection.close()
                return
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            with self._lock:
                self._connections.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _serve(self, connection):
        try:
            if self._tls is not None:
                connection.do_handshake()
            with connection.makefile("rb") as reader:
                while (received := _read_request(reader, connection.fileno())) is not None:
                    if received.path == "/metrics" and self._scrape is not None:
                        self._scrape(connection)
                        return
                    if received.path == "/metrics":
                        connection.sendall(answer(404, b"", "text/plain"))
                        continue
                    self.received.append(received)
                    if self.script(connection, received):
                        return
        except OSError:
            pass
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    def until_closed(self, connection, seconds=20.0):
        """Wait until the other side closes, and note when."""
        connection.settimeout(seconds)
        try:
            while connection.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        self.closed.append(monotonic())
        return True


def _read_request(reader, number):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = reader.readline()
        if not line:
            return None
        head += line
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    lengths = [int(value) for name, value in headers if name.lower() == "content-length"]
    body = reader.read(lengths[0]) if lengths else b""
    return Received(method, path, headers, body, head, number)


def answer(status, body, content_type="application/json", headers=(), reason="X"):
    """Bytes of an answer with its length."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} {reason}", f"content-type: {content_type}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"


def chunk(data):
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(content):
    """A server-sent event in the manner of OpenAI."""
    if isinstance(content, str):
        content = {
            "id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "demo",
            "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}],
        }  # fmt: skip
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def completion(text="hello", model="demo"):
    """A whole chat completion."""
    return {
        "id": "c-1", "object": "chat.completion", "created": 1, "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }  # fmt: skip
