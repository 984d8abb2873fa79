"""Engines and clients that break off, stall or lie: nobody takes half an answer for a whole one, and nothing stays held."""

import json
import socket
import statistics
import threading
from time import monotonic, sleep

import httpx
import openai
import pytest

from tests.support import config
from tests.support.client import Connection, ask, chat, request_bytes
from tests.support.engines import (
    STREAM_END,
    STREAM_HEAD,
    ScriptedEngine,
    answer,
    chunk,
    completion,
    event,
)
from tests.support.gateway import Gateway
from tests.support.waiting import wait_until

MEGABYTE = 1 << 20
TRAFFIC = {"timeout": "1s", "idleTimeout": "800ms", "connect": "500ms"}
SLOW_CLIENT_SECONDS = 2.0


def good(connection, _):
    connection.sendall(answer(200, completion()))


@pytest.fixture(scope="module")
def pair():
    """Two engines; a test says what they do by setting ``script`` of one or both."""
    with ScriptedEngine(good) as first, ScriptedEngine(good) as second:
        yield first, second


@pytest.fixture(scope="module")
def gateway(pair, tmp_path_factory):
    """``demo`` on both engines, ``single`` on the first alone, ``nobody`` on a port that refuses."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        ports = [one.port for one in pair]
        text = config.simple("demo", ports, traffic=TRAFFIC)
        text += config.simple("single", ports[:1], traffic=TRAFFIC)
        text += config.simple("nobody", [unused.getsockname()[1]], traffic=TRAFFIC)
        settings = {"streams_slow_client_seconds": SLOW_CLIENT_SECONDS}
        with Gateway(tmp_path_factory.mktemp("gw"), {"demo.yaml": text}, **settings) as started:
            yield started


@pytest.fixture(autouse=True)
def as_before(gateway, pair):
    """After each test both engines are good again, no worker was replaced, and no load is left anywhere."""
    before = gateway.worker_processes()
    yield
    for engine in pair:
        engine.script = good
    assert gateway.ask(timeout=5).status == 200
    wait_until(gateway.is_idle, message=lambda: str(gateway.state()))
    assert gateway.worker_processes() == before
    assert "Traceback" not in gateway.stderr


def both(pair, script):
    for engine in pair:
        engine.script = script


class FirstOnly:
    """A script that does something to the first request, whichever engine has it, and answers the others."""

    def __init__(self, script):
        self._script = script
        self._lock = threading.Lock()
        self.hit = None

    def __call__(self, connection, received):
        with self._lock:
            is_first, self.hit = self.hit is None, self.hit or received
        return self._script(connection, received) if is_first else good(connection, received)


class FirstEngine:
    """A script that does something to every request of the engine that has the first, and answers the other's."""

    def __init__(self, script):
        self._script = script
        self._lock = threading.Lock()
        self._place = None

    def __call__(self, connection, received):
        with self._lock:
            self._place = self._place or connection.getsockname()
        return (self._script if connection.getsockname() == self._place else good)(connection, received)


def close(connection, _):
    return True


def reset(connection, _):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    return True


def send(data, then=close):
    """A script that sends these bytes."""

    def script(connection, received):
        connection.sendall(data)
        sleep(0.05)
        return then(connection, received)

    return script


def stall(connection, _):
    sleep(5)
    return True


def failed(reply, status, code):
    assert reply.status == status, reply
    assert reply.is_whole
    assert reply.error["code"] == code
    assert reply.error["param"] is None
    return reply


class TestBeforeTheHead:
    @pytest.mark.parametrize(
        "data",
        [
            b"HTTP/1.1 99 Low\r\ncontent-length: 2\r\n\r\n{}", b"HTTP/1.1 1000 High\r\ncontent-length: 2\r\n\r\n{}",
            b"HTTP/1.1 600 Beyond\r\ncontent-length: 2\r\n\r\n{}", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 -200 OK\r\n\r\n",
            b"this is not HTTP\r\n\r\n", b"\x16\x03\x01\x00\x05hello\r\n\r\n", b"\0" * 1000 + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nx: " + b"a" * 1_000_000 + b"\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        ],
        ids=lambda data: repr(data[:24]),
    )  # fmt: skip
    def test_answer_that_no_client_may_see(self, gateway, pair, data):
        both(pair, send(data))
        failed(gateway.ask(), 502, "upstream_error")

    @pytest.mark.parametrize("die", [close, reset], ids=["close", "reset"])
    @pytest.mark.parametrize("stream", [False, True])
    def test_dies_and_another_takes_over(self, gateway, pair, die, stream):
        both(pair, FirstEngine(die))
        reply = gateway.ask(chat(stream=stream))
        assert reply.status == 200
        assert reply.json == completion()
        line = gateway.log_line(reply.header("x-request-id"))
        assert line["upstream_attempts"] == 2
        assert line["selected_pod"].endswith(reply.endpoint)
        assert b'penstock_upstream_retries_total{server="default/demo",reason="upstream_error"}' in gateway.admin(
            "/metrics"
        )

    def test_half_a_head_and_another_takes_over(self, gateway, pair):
        both(pair, FirstOnly(send(b"HTTP/1.1 200 OK\r\ncontent-ty")))
        assert gateway.ask().json == completion()

    def test_all_die(self, gateway, pair):
        both(pair, close)
        before = [len(one.received) for one in pair]
        reply = failed(gateway.ask(), 502, "upstream_error")
        assert reply.header("x-should-retry") == "true"
        # an engine whose kept connection ended is asked once more on a fresh one: the old one may just have been closed
        assert all(len(one.received) - count in (1, 2) for one, count in zip(pair, before, strict=True))

    def test_package_sees_the_error(self, gateway, pair):
        both(pair, close)
        with gateway.openai() as client, pytest.raises(openai.InternalServerError) as raised:
            client.chat.completions.create(model="demo", messages=[])
        assert raised.value.status_code == 502
        assert raised.value.code == "upstream_error"

    def test_nobody_listens(self, gateway):
        started = monotonic()
        reply = failed(gateway.ask(chat(model="nobody")), 502, "upstream_error")
        assert reply.header("x-should-retry") == "true"
        assert monotonic() - started < 0.5

    def test_stalls(self, gateway, pair):
        both(pair, stall)
        before = [len(one.received) for one in pair]
        started = monotonic()
        failed(gateway.ask(), 504, "upstream_timeout")
        assert 0.9 < monotonic() - started < 1.8
        assert sum(len(one.received) for one in pair) == sum(before) + 1, (
            "a timeout is not tried again: it may still run"
        )

    def test_engine_that_closes_after_each_answer(self, gateway, pair):
        both(pair, lambda connection, _: connection.sendall(answer(200, completion())) or True)
        assert [gateway.ask().status for _ in range(40)] == [200] * 40

    def test_early_hints_are_skipped(self, gateway, pair):
        both(pair, send(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + answer(200, completion())))
        assert gateway.ask().json == completion()

    def test_old_protocol_without_length(self, gateway, pair):
        both(pair, send(b'HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{"a":1}'))
        reply = gateway.ask()
        assert reply.json == {"a": 1}
        assert reply.is_whole

    def test_second_answer_that_nobody_asked_for_goes_to_nobody(self, gateway, pair):
        both(pair, lambda connection, _: connection.sendall(answer(200, {"mine": 1}) + answer(200, {"stolen": 1})))
        for _ in range(30):
            reply = gateway.ask(chat(model="single"))
            assert reply.status == 502 or reply.json == {"mine": 1}

    def test_bytes_on_an_idle_connection_go_to_nobody(self, gateway, pair):
        def late(connection, _):
            connection.sendall(answer(200, {"mine": 1}))
            sleep(0.1)
            connection.sendall(answer(200, {"stolen": 1}))

        both(pair, late)
        for _ in range(5):
            reply = gateway.ask(chat(model="single"))
            assert reply.status == 502 or reply.json == {"mine": 1}
            sleep(0.15)

    def test_headers_that_would_break_the_clients_answer(self, gateway, pair):
        headers = [
            ("x-good", "1"),
            ("x-latin", "\xe9"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("x-request-id", "theirs"),
        ]
        data = answer(200, completion(), headers=headers).decode().encode("latin-1")
        both(pair, send(data))
        reply = gateway.ask(headers={"x-request-id": "ours"})
        assert reply.status == 200
        assert reply.header("x-good") == "1"
        assert reply.header("x-hop") is None
        assert reply.header("x-request-id") == "ours"


class TestUnstreamedAnswer:
    @pytest.mark.parametrize(
        "data",
        [
            answer(200, completion())[:-7],
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
            + chunk(b'{"half":'),
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n",
            answer(500, {"error": "half of it"})[:-7],
        ],
        ids=["length", "chunked", "bad-chunk", "error"],
    )
    def test_cut_short(self, gateway, pair, data):
        both(pair, send(data))
        failed(gateway.ask(), 502, "upstream_error")

    def test_stalls_in_the_middle(self, gateway, pair):
        both(pair, send(answer(200, completion())[:-7], then=stall))
        started = monotonic()
        failed(gateway.ask(), 504, "upstream_timeout")
        assert 0.7 < monotonic() - started < 1.6

    def test_large_one_cut_short_is_cut_for_the_client_too(self, gateway, pair):
        whole = answer(200, b"x" * (3 * MEGABYTE))
        both(pair, send(whole[: 2 * MEGABYTE]))
        with Connection(gateway.port) as connection:
            reply = connection.ask(chat())
            assert reply.status == 200
            assert not reply.is_whole
            assert connection.is_closed()
        assert not connection.raw.endswith(STREAM_END)

    def test_large_one_arrives(self, gateway, pair):
        content = b"0123456789abcdef" * 300_000
        for data in (
            answer(200, content, "application/octet-stream"),
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(content) + STREAM_END,
        ):
            both(pair, send(data))
            reply = gateway.ask()
            assert reply.is_whole
            assert reply.body == content


def events_then(count, end):
    """A script that streams so many events and then does ``end``."""

    def script(connection, received):
        connection.sendall(STREAM_HEAD)
        for number in range(count):
            connection.sendall(chunk(event(f" word-{number}")))
            sleep(0.01)
        return end(connection, received)

    return script


class TestStream:
    @pytest.mark.parametrize("die", [close, reset, send(b"zz\r\nnot a chunk\r\n")], ids=["close", "reset", "bad-chunk"])
    def test_dies_in_the_middle(self, gateway, pair, die):
        both(pair, events_then(5, die))
        with Connection(gateway.port) as connection:
            reply = connection.ask(chat(stream=True))
            assert connection.is_closed(), "the connection must be cut"
        assert reply.status == 200
        assert not reply.is_whole
        assert not connection.raw.endswith(STREAM_END)
        assert b"[DONE]" not in connection.raw
        *words, (name, data) = reply.events
        assert [json.loads(text)["choices"][0]["delta"]["content"] for _, text in words] == [
            f" word-{i}" for i in range(5)
        ]
        assert name == "error"
        assert json.loads(data)["error"]["code"] == "upstream_error"
        line = gateway.log_line(reply.header("x-request-id"))
        assert (line["status_code"], line["error.code"], line["error.origin"]) == (502, "upstream_error", "upstream")

    def test_dies_right_after_its_head(self, gateway, pair):
        both(pair, events_then(0, close))
        with Connection(gateway.port) as connection:
            reply = connection.ask(chat(stream=True))
            assert connection.is_closed()
        assert not reply.is_whole
        assert [name for name, _ in reply.events] == ["error"]

    def test_package_raises(self, gateway, pair):
        both(pair, events_then(3, close))
        with gateway.openai() as client:
            stream = client.chat.completions.create(model="demo", messages=[], stream=True)
            words = []
            with pytest.raises((openai.APIError, httpx.RemoteProtocolError)):
                words += [part.choices[0].delta.content for part in stream if words.append(part) is None]
        assert len(words) == 3

    async def test_package_raises_in_asyncio_too(self, gateway, pair):
        both(pair, events_then(3, close))
        async with gateway.async_openai() as client:
            stream = await client.chat.completions.create(model="demo", messages=[], stream=True)
            words = []
            with pytest.raises((openai.APIError, httpx.RemoteProtocolError)):
                async for part in stream:
                    words.append(part.choices[0].delta.content)
        assert words == [" word-0", " word-1", " word-2"]

    def test_stalls_in_the_middle(self, gateway, pair):
        both(pair, events_then(2, stall))
        started = monotonic()
        with Connection(gateway.port) as connection:
            reply = connection.ask(chat(stream=True))
            assert connection.is_closed()
        assert 0.7 < monotonic() - started < 1.8
        assert not reply.is_whole
        assert b"[DONE]" not in connection.raw
        assert [name for name, _ in reply.events] == [None, None, "error"]
        assert json.loads(reply.events[-1][1])["error"]["code"] == "upstream_timeout"

    def test_goes_on_as_long_as_something_comes(self, gateway, pair):
        def slow(connection, _):
            connection.sendall(STREAM_HEAD)
            for number in range(6):
                sleep(0.5)
                connection.sendall(chunk(event(f" {number}")))
            connection.sendall(chunk(b"data: [DONE]\n\n") + STREAM_END)

        both(pair, slow)
        reply = gateway.ask(chat(stream=True))
        assert reply.is_whole
        assert len(reply.events) == 7

    def test_bytes_of_a_good_stream_arrive_unchanged(self, gateway, pair):
        pieces = [
            b'data: {"a"',
            b":1}\n\n: comment\n\n",
            "data: ü😀".encode()[:9],
            "data: ü😀".encode()[9:],
            b"\r\n\r\n",
        ]

        def script(connection, _):
            connection.sendall(STREAM_HEAD)
            for piece in pieces:
                connection.sendall(chunk(piece))
                sleep(0.02)
            connection.sendall(STREAM_END)

        both(pair, script)
        reply = gateway.ask(chat(stream=True))
        assert reply.body == b"".join(pieces)
        assert reply.is_whole

    def test_error_status_with_a_stream_asked_for(self, gateway, pair):
        both(pair, send(answer(400, {"error": {"message": "no"}})))
        reply = gateway.ask(chat(stream=True))
        assert (reply.status, reply.is_whole) == (400, True)

    def test_the_connection_before_the_cut_served_well(self, gateway, pair):
        """The socket that is cut must be this client's, also when its connection has served others before."""
        with Connection(gateway.port) as bystander, Connection(gateway.port) as connection:
            assert connection.ask(chat()).is_whole
            assert bystander.ask(chat()).is_whole
            both(pair, events_then(2, close))
            assert not connection.ask(chat(stream=True)).is_whole
            both(pair, good)
            assert bystander.ask(chat()).is_whole


class Endless:
    """A script that streams until the other side is gone, and keeps when that was."""

    def __init__(self, engine, head=STREAM_HEAD):
        self._engine = engine
        self._head = head
        self.begun = threading.Event()

    def __call__(self, connection, _):
        if self._head is None:
            self.begun.set()
            self._engine.until_closed(connection)
            return True
        connection.sendall(self._head + chunk(event("one")))
        self.begun.set()
        self._engine.until_closed(connection)
        return True


class TestClientThatLeaves:
    def delays(self, gateway, pair, head, stream, leave, tries=5):
        """Seconds from the client's leaving to the engine's noticing."""
        engine = pair[0]
        found = []
        for _ in range(tries):
            script = engine.script = Endless(engine, head)
            connection = Connection(gateway.port)
            connection.send(request_bytes(chat(model="single", stream=stream)))
            assert script.begun.wait(5)
            if head is not None:
                connection.read_events(connection.read_head(), 1)
            count = len(engine.closed)
            left = monotonic()
            getattr(connection, leave)()
            wait_until(lambda count=count: len(engine.closed) > count, 5, pause=0.005)
            found.append(engine.closed[-1] - left)
            wait_until(gateway.is_idle, message=lambda: str(gateway.state()))
        return found

    @pytest.mark.parametrize("leave", ["close", "reset"])
    @pytest.mark.parametrize("stream", [False, True])
    def test_before_the_head(self, gateway, pair, leave, stream):
        found = self.delays(gateway, pair, None, stream, leave)
        assert statistics.median(found) < 0.1, found
        assert max(found) < 1.0, found

    @pytest.mark.parametrize("leave", ["close", "reset"])
    def test_in_the_middle_of_a_stream(self, gateway, pair, leave):
        found = self.delays(gateway, pair, STREAM_HEAD, True, leave)
        assert statistics.median(found) < 0.1, found
        assert max(found) < 1.0, found

    def test_is_logged_and_counted_and_others_are_not(self, gateway, pair):
        pair[0].script = script = Endless(pair[0])
        with Connection(gateway.port) as connection:
            connection.send(request_bytes(chat(model="single", stream=True), headers={"x-request-id": "leaver"}))
            assert script.begun.wait(5)
            connection.read_events(connection.read_head(), 1)
        line = gateway.log_line("leaver")
        assert (line["status_code"], line["cancelled"], line["error.origin"]) == (499, True, "client")
        pair[0].script = good
        with Connection(gateway.port) as connection:
            replies = [connection.ask(chat(model="single")) for _ in range(200)]
        gateway.log_line(replies[-1].header("x-request-id"))
        own = {reply.header("x-request-id") for reply in replies}
        lines = [one for one in gateway.log_lines() if one["request_id"] in own]
        assert len(lines) == 200
        assert not [one for one in lines if one.get("cancelled") or one["status_code"] != 200]

    def test_with_more_bytes_sent_than_the_request(self, gateway, pair):
        """A pipelined request hides the client's leaving from the HTTP server; the kernel is asked once a second."""
        engine = pair[0]
        engine.script = script = Endless(engine)
        request = request_bytes(chat(model="single", stream=True))
        with Connection(gateway.port) as connection:
            connection.send(request + request)
            assert script.begun.wait(5)
            connection.read_events(connection.read_head(), 1)
            count = len(engine.closed)
        wait_until(lambda: len(engine.closed) > count, 4)

    def test_many_at_once(self, gateway, pair):
        both(pair, lambda connection, received: Endless(pair[0])(connection, received))
        connections = [Connection(gateway.port) for _ in range(60)]
        try:
            for connection in connections:
                connection.send(request_bytes(chat(stream=True)))
            wait_until(lambda: gateway.charged() >= 60, message=lambda: str(gateway.state()))
        finally:
            for number, connection in enumerate(connections):
                connection.reset() if number % 2 else connection.close()
        wait_until(gateway.is_idle, 3, message=lambda: str(gateway.state()))


class TestClientThatReadsSlowly:
    PIECE = b"data: " + b"x" * 16_000 + b"\n\n"
    PIECES = 20 * MEGABYTE // 16_000

    def flood(self, connection, _):
        connection.sendall(STREAM_HEAD)
        for _ in range(self.PIECES):
            connection.sendall(chunk(self.PIECE))
        connection.sendall(chunk(b"data: [DONE]\n\n") + STREAM_END)

    @pytest.mark.parametrize(("readers", "allowed"), [(1, 8 * MEGABYTE), (10, 24 * MEGABYTE)])
    def test_does_not_make_the_worker_grow_and_is_cut(self, gateway, pair, readers, allowed):
        both(pair, self.flood)
        before = gateway.resident()
        peak = list(before)
        started = monotonic()
        connections = [Connection(gateway.port, receive_buffer=4096) for _ in range(readers)]
        try:
            for number, connection in enumerate(connections):
                headers = {"x-request-id": f"slow-{readers}-{number}"}
                connection.send(request_bytes(chat(stream=True), headers=headers))
            wait_until(lambda: gateway.charged() == readers)
            while gateway.charged():
                peak = list(map(max, peak, gateway.resident()))
                assert monotonic() - started < 4 * SLOW_CLIENT_SECONDS, "not cut"
                sleep(0.05)
            assert monotonic() - started > SLOW_CLIENT_SECONDS * 0.9
            grown = [now - then for now, then in zip(peak, before, strict=True)]
            assert max(grown) < allowed, f"{[one / MEGABYTE for one in grown]} MB"
            for connection in connections:
                reply = connection.read()
                assert not reply.is_whole
                assert b"[DONE]" not in reply.body
        finally:
            for connection in connections:
                connection.close()
        line = gateway.log_line(f"slow-{readers}-0")
        assert (line["error.code"], line["status_code"]) == ("slow_client", 499)

    def test_that_pauses_and_then_reads_gets_everything(self, gateway, pair):
        both(pair, self.flood)
        with Connection(gateway.port) as connection:
            connection.send(request_bytes(chat(stream=True)))
            sleep(SLOW_CLIENT_SECONDS * 0.5)
            reply = connection.read()
        assert reply.is_whole
        assert reply.body == self.PIECE * self.PIECES + b"data: [DONE]\n\n"

    def test_holds_up_nobody_else(self, gateway, pair):
        both(pair, FirstOnly(self.flood))
        with gateway.connect_to(0, receive_buffer=4096) as slow, gateway.connect_to(0) as other:
            slow.send(request_bytes(chat(stream=True)))
            wait_until(lambda: gateway.charged() == 1)
            took = []
            for _ in range(20):
                started = monotonic()
                assert other.ask(chat()).status == 200
                took.append(monotonic() - started)
        assert statistics.median(took) < 0.1, took


@pytest.mark.thorough
def test_engines_come_back(tmp_path):
    """A dead engine is asked again, and serves, as soon as it is there."""
    with ScriptedEngine(good) as engine:
        port = engine.port
        text = config.simple("demo", [port], traffic=TRAFFIC)
        gateway = Gateway(tmp_path, {"demo.yaml": text}, workers=1)
        gateway.start()
    try:
        failed(ask(gateway.port, chat()), 502, "upstream_error")
        with socket.create_server(("127.0.0.1", port), reuse_port=False) as listener:
            thread = threading.Thread(target=lambda: _serve_once(listener))
            thread.start()
            assert gateway.ask().status == 200
            thread.join()
    finally:
        gateway.stop()


def _serve_once(listener):
    while True:
        connection, _ = listener.accept()
        with connection:
            if not connection.recv(65536).startswith(b"GET /metrics"):
                connection.sendall(answer(200, completion()))
                return
