"""A client that sends the bytes it is told to and keeps every byte that it gets."""

import json
import socket
from dataclasses import dataclass, field

CHAT = "/v1/chat/completions"


@dataclass
class Reply:
    """An answer as it came."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""
    is_whole: bool = False
    """Whether the body ended as its framing says, not just with the connection."""
    raw: bytearray = field(default_factory=bytearray)
    """Everything that came on the connection, heads and framing included."""

    def header(self, name):
        """Value of a header that stands at most once, else None."""
        found = [value for one, value in self.headers if one.lower() == name]
        assert len(found) < 2, (name, found)
        return found[0] if found else None

    @property
    def json(self):
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def error(self):
        """The OpenAI error object, checked for its four keys."""
        content = self.json
        assert list(content) == ["error"], content
        assert set(content["error"]) == {"message", "type", "param", "code"}, content
        return content["error"]

    @property
    def endpoint(self):
        """Which endpoint answered, without the namespace."""
        found = self.header("x-penstock-endpoint")
        return found.rpartition("/")[2] if found else None

    @property
    def events(self):
        """Server-sent events: pairs of event name (or None) and data."""
        return parse_events(self.body)


def parse_events(body):
    """Pairs of event name (or None) and data text."""
    found = []
    for block in body.decode().split("\n\n"):
        name, data = None, []
        for line in block.splitlines():
            if line.startswith("event:"):
                name = line[6:].strip()
            elif line.startswith("data:"):
                data.append(line[5:].strip())
        if data:
            found.append((name, "\n".join(data)))
    return found


def request_bytes(body, path=CHAT, headers=None, method="POST"):
    """A request with its length; ``body`` may be bytes or something that JSON can say."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    named = {"host": "gateway", "content-type": "application/json", "content-length": str(len(body))}
    named |= headers or {}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items() if value is not None)]
    return "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body


class Connection:
    """One TCP connection to the gateway."""

    def __init__(self, port, timeout=20.0, receive_buffer=None):
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect(("127.0.0.1", port))
        self.local_port = self.socket.getsockname()[1]
        self._buffer = bytearray()
        self.raw = bytearray()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Close it."""
        self.socket.close()

    def reset(self):
        """Close it with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def send(self, data):
        """Send these bytes."""
        self.socket.sendall(data)

    def ask(self, body, path=CHAT, headers=None, method="POST"):
        """Send a request and read its answer, also one that comes before the whole request was taken."""
        try:
            self.send(request_bytes(body, path, headers, method))
        except (BrokenPipeError, ConnectionResetError):
            pass
        return self.read()

    def _fill(self):
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        self._buffer += data
        self.raw += data
        return bool(data)

    def _take(self, count):
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _line(self):
        while b"\r\n" not in self._buffer:
            if not self._fill():
                return None
        return self._take(self._buffer.index(b"\r\n") + 2)[:-2]

    def read_head(self):
        """Status and headers of the next answer; informational answers are skipped. ConnectionError when there is none."""
        while True:
            first = self._line()
            if first is None:
                raise ConnectionError(f"closed before an answer: {bytes(self.raw)!r}")
            headers = []
            while line := self._line():
                name, _, value = line.decode("latin-1").partition(":")
                headers.append((name, value.strip()))
            status = int(first.split(b" ", 2)[1])
            if status >= 200:
                return Reply(status, headers, raw=self.raw)

    def pieces(self, reply):
        """The body piece by piece as it comes; ``reply.body`` and ``reply.is_whole`` are kept up to date."""
        length = reply.header("content-length")
        if reply.header("transfer-encoding") == "chunked":
            yield from self._chunks(reply)
            return
        left = int(length) if length is not None else None
        while left is None or left > 0:
            if not self._buffer and not self._fill():
                break
            piece = self._take(len(self._buffer) if left is None else left)
            left = None if left is None else left - len(piece)
            reply.body += piece
            yield piece
        reply.is_whole = left == 0

    def _chunks(self, reply):
        while (line := self._line()) is not None:
            size = int(line.split(b";")[0], 16)
            while len(self._buffer) < size + 2:
                if not self._fill():
                    reply.body += bytes(self._buffer[:size])
                    return
            piece = self._take(size)
            self._take(2)
            if size == 0:
                reply.is_whole = True
                return
            reply.body += piece
            yield piece

    def read(self):
        """The next answer, whole or as far as it came."""
        reply = self.read_head()
        for _ in self.pieces(reply):
            pass
        return reply

    def read_events(self, reply, count):
        """Read until so many events of a stream have come (or it ended)."""
        for _ in self.pieces(reply):
            if reply.body.count(b"\n\n") >= count:
                return reply.events
        return reply.events

    def is_closed(self, seconds=5.0):
        """Whether the gateway closes within so many seconds; what comes before that is kept."""
        self.socket.settimeout(seconds)
        try:
            while self._fill():
                pass
        except TimeoutError:
            return False
        return True


def ask(port, body, path=CHAT, headers=None, method="POST", timeout=20.0):
    """One request on a connection of its own."""
    with Connection(port, timeout) as connection:
        return connection.ask(body, path, headers, method)


def get(port, path, headers=None, method="GET"):
    """One request without a body."""
    with Connection(port) as connection:
        connection.send(
            request_bytes(b"", path, {"content-length": None, "content-type": None} | (headers or {}), method)
        )
        return connection.read()


def chat(content="hello", model="demo", **members):
    """Body of a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": content}], **members}
