"""Streams to clients over real sockets: bounded for readers that are slow, cut for those that failed."""

import asyncio
import contextlib
import socket

import pytest

from gateway.downstream.client_socket import ClientSocket, ClientSockets
from gateway.downstream.stream import ClientStream, SlowClient
from gateway.errors import ClientGone
from gateway.settings import Streams
from tests.unit.gateway.fakes import PyEmptyAwaitable, PyErrAwaitable
from tests.unit.gateway.test_listeners import needs_ipv6


@pytest.fixture
def pair():
    """A client's socket and the server's end of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        with client, server:
            yield client, server


def address(client):
    return "{}:{}".format(*client.getsockname())


class Transport:
    """RSGI's stream: takes whatever it is given, at once, and sends it when it can."""

    def __init__(self, server):
        self._server = server
        self._server.setblocking(False)
        self.given = 0
        self._sending = None
        self._queue = []

    def send_bytes(self, data):
        self.given += len(data)
        self._queue.append(data)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.ensure_future(self._send())
        return PyEmptyAwaitable()

    async def _send(self):
        while self._queue:
            data = self._queue.pop(0)
            framed = b"%x\r\n%b\r\n" % (len(data), data)
            with contextlib.suppress(OSError):
                await asyncio.get_running_loop().sock_sendall(self._server, framed)


class Engine:
    """Where a stream comes from: waits while it is paused."""

    def __init__(self):
        self.may_go = asyncio.Event()
        self.may_go.set()
        self.error = None

    def pause(self):
        self.may_go.clear()

    def resume(self):
        self.may_go.set()

    def fail(self, error):
        self.error = error
        self.may_go.set()

    async def give(self, stream, pieces):
        for piece in pieces:
            await self.may_go.wait()
            if self.error is not None:
                raise self.error
            stream.send(piece)
            await asyncio.sleep(0)


def client_socket(text, since=0.0):
    return ClientSocket(text, since, ClientSockets())


def test_a_client_is_found_by_its_address(pair):
    client, server = pair
    found = client_socket(address(client)).find()
    assert found.getpeername() == client.getsockname()
    assert found.fileno() != server.fileno()  # a duplicate: closing it leaves the connection alone
    found.close()
    client.sendall(b"x")
    assert server.recv(1) == b"x"


@pytest.mark.parametrize("text", ["127.0.0.1:1", "", "unix:", "127.0.0.1:x", "[::1]:1"])
def test_a_client_that_is_not_there_is_not_found(text):
    one = client_socket(text)
    assert one.find() is None
    assert one.acknowledged() is None
    one.cut()
    one.close()


@needs_ipv6
def test_a_client_over_ipv6_is_found():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        client = socket.create_connection(listener.getsockname()[:2])
        server, _ = listener.accept()
        with client, server:
            host, port = client.getsockname()[:2]
            one = client_socket(f"[{host}]:{port}")
            assert one.find() is not None
            one.close()


def test_a_cut_ends_the_connection_for_the_client(pair):
    client, _ = pair
    one = client_socket(address(client))
    one.cut()
    one.close()
    client.settimeout(5)
    assert client.recv(1) == b""


def test_what_the_client_has_received_can_be_asked_of_the_kernel(pair):
    client, server = pair
    one = client_socket(address(client))
    before = one.acknowledged()
    server.sendall(b"x" * 1000)
    assert client.recv(1000, socket.MSG_WAITALL)
    for _ in range(100):
        if one.acknowledged() - before == 1000:
            break
    assert one.acknowledged() - before == 1000
    one.close()


LIMITS = Streams(check_bytes=64 << 10, backlog_bytes=64 << 10, slow_client_seconds=0.3)


async def test_a_client_that_does_not_read_is_waited_for_and_then_cut(pair):
    client, server = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    transport, engine = Transport(server), Engine()
    stream = ClientStream(transport, client_socket(address(client)), LIMITS, engine)
    with pytest.raises(SlowClient) as raised:
        await engine.give(stream, [b"x" * 4096] * 10_000)
    assert (raised.value.code, raised.value.status) == ("slow_client", 499)
    # what the kernels hold, one check's worth that is forgiven, and the backlog
    assert transport.given < 8 << 20
    stream.close()
    pending = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    await asyncio.gather(*pending, return_exceptions=True)


async def test_a_client_that_reads_slowly_is_not_cut_and_gets_everything(pair):
    client, server = pair
    client.setblocking(False)
    engine = Engine()
    stream = ClientStream(Transport(server), client_socket(address(client)), LIMITS, engine)
    loop = asyncio.get_running_loop()
    pieces = [bytes([number % 256]) * 4096 for number in range(512)]
    whole = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    received = bytearray()

    async def read():
        while len(received) < len(whole):
            received.extend(await loop.sock_recv(client, 1 << 16))
            await asyncio.sleep(0.005)

    reading = asyncio.ensure_future(read())
    await engine.give(stream, pieces)
    await reading
    assert received == whole
    stream.close()


async def test_small_pieces_are_measured_with_their_framing(pair):
    client, server = pair
    client.setblocking(False)
    engine, loop = Engine(), asyncio.get_running_loop()
    stream = ClientStream(Transport(server), client_socket(address(client)), LIMITS, engine)
    for _ in range(20_000):
        stream.send(b"data: x\n\n")
        if not engine.may_go.is_set():
            break
    received = 0
    with contextlib.suppress(TimeoutError):
        while True:
            received += len(await asyncio.wait_for(loop.sock_recv(client, 1 << 20), 0.3))
    assert abs(stream._backlog()) < 16
    stream.close()


async def test_a_stream_that_is_too_short_to_check_asks_the_kernel_nothing(pair, monkeypatch):
    client, server = pair
    monkeypatch.setattr(
        "gateway.downstream.client_socket.ClientSockets.find", lambda *_: pytest.fail("looked for the socket")
    )
    stream = ClientStream(Transport(server), client_socket(address(client)), LIMITS, Engine())
    for _ in range(15):
        stream.send(b"x" * 4096)
    stream.close()


async def test_a_client_whose_socket_cannot_be_found_is_not_held_up(pair):
    _, server = pair
    engine = Engine()
    stream = ClientStream(Transport(server), client_socket("127.0.0.1:1"), LIMITS, engine)
    for _ in range(40):
        stream.send(b"x" * 4096)
    assert engine.may_go.is_set()
    stream.close()


async def test_a_client_that_is_gone_is_noticed_when_it_is_sent_to():
    class Gone:
        def send_bytes(self, data):
            return PyErrAwaitable()

    stream = ClientStream(Gone(), client_socket("127.0.0.1:1"), LIMITS, Engine())
    with pytest.raises(ClientGone):
        stream.send(b"x")
    await stream.fail(b"event: error\n\n")  # and failing it raises nothing


async def test_a_failed_stream_gets_its_event_and_then_its_end(pair):
    client, server = pair
    client.setblocking(False)
    stream = ClientStream(Transport(server), client_socket(address(client)), LIMITS, Engine())
    stream.send(b"data: 1\n\n")
    await stream.fail(b"event: error\n\n")
    stream.close()
    loop, received = asyncio.get_running_loop(), b""
    while piece := await asyncio.wait_for(loop.sock_recv(client, 1000), 5):
        received += piece
    assert received == b"9\r\ndata: 1\n\n\r\ne\r\nevent: error\n\n\r\n"


def test_one_look_finds_every_client_that_was_there(monkeypatch):
    looks = []
    real = ClientSockets._look
    monkeypatch.setattr(ClientSockets, "_look", lambda self: (looks.append(1), real(self)))
    sockets = ClientSockets(clock=lambda: 10.0)
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(listener.getsockname())) for _ in range(50)]
        servers = [stack.enter_context(listener.accept()[0]) for _ in range(50)]
        for client in clients:
            one = ClientSocket(address(client), 5.0, sockets)
            assert one.find() is not None
            one.close()
        assert len(looks) == 1
        assert ClientSocket("127.0.0.1:1", 5.0, sockets).find() is None
        assert len(looks) == 1  # who was there before the look and is not found is gone
        assert ClientSocket("127.0.0.1:1", 11.0, sockets).find() is None
        assert len(looks) == 2
        assert len(servers) == 50


def test_a_descriptor_that_went_to_another_client_is_not_taken_for_the_former(monkeypatch):
    sockets = ClientSockets(clock=lambda: 10.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        first = socket.create_connection(listener.getsockname())
        served, _ = listener.accept()
        text = address(first)
        one = ClientSocket(text, 5.0, sockets)
        assert one.find() is not None
        one.close()
        served.close()
        first.close()
        second = socket.create_connection(listener.getsockname())
        replaced, _ = listener.accept()
        assert ClientSocket(text, 5.0, sockets).find() is None
        second.close()
        replaced.close()
