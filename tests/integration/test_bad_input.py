"""What a client can get wrong, by mistake or on purpose: the right status, an error that names the field, and a gateway as before."""

import gzip
import json
import socket
import threading
from time import monotonic, sleep

import openai
import pytest

from tests.support import config
from tests.support.client import CHAT, Connection, chat, request_bytes
from tests.support.engines import ScriptedEngine, answer, completion
from tests.support.gateway import Gateway
from tests.support.waiting import wait_until

MEGABYTE = 1 << 20
BODY_SECONDS = 1.0


@pytest.fixture(scope="module")
def engine():
    """Answers everything, so that whatever gets through is seen."""
    with ScriptedEngine(lambda connection, _: connection.sendall(answer(200, completion()))) as started:
        yield started


@pytest.fixture(scope="module")
def gateway(engine, tmp_path_factory):
    text = config.simple("demo", [engine.port])
    with Gateway(tmp_path_factory.mktemp("gw"), {"demo.yaml": text}, requests_body_seconds=BODY_SECONDS) as started:
        yield started


@pytest.fixture(autouse=True)
def workers_as_before(gateway, engine):
    """Nothing that a client sends ends a worker, or leaves it holding anything."""
    before = gateway.worker_processes()
    yield
    assert gateway.ask(chat("is it still there?")).status == 200
    state = wait_until(
        lambda: (s := gateway.state()) and not any(one["in_flight"] or one["charged"] for one in s["workers"]) and s,
        message=lambda: str(gateway.state()["workers"]),
    )
    assert [one["process"] for one in state["workers"]] == before
    assert not any(one["restarts"] for one in state["workers"])
    assert "Traceback" not in gateway.stderr


def refused(reply, status, code, parameter=None):
    """Check a refusal; its message."""
    assert reply.status == status, reply
    assert reply.is_whole
    assert reply.header("content-type") == "application/json"
    assert reply.header("x-request-id")
    assert reply.header("x-should-retry") in ("true", "false")
    error = reply.error
    assert (error["code"], error["param"]) == (code, parameter), error
    assert error["message"]
    return error["message"]


class TestBodies:
    def test_none(self, gateway):
        refused(gateway.ask(b""), 400, "invalid_json")

    def test_neither_body_nor_length(self, gateway):
        refused(gateway.get(CHAT, method="POST"), 400, "invalid_json")

    @pytest.mark.parametrize(
        ("body", "parameter"),
        [
            (b"{", None), (b"}", None), (b'{"model":"demo"', None), (b"null", None), (b"[]", None), (b'"text"', None),
            (b"\x00", None), (b"1", None), (b'{"model":"demo","messages":[]}}', None), (b"{'model':'demo'}", None),
            (b'\xef\xbb\xbf{"model":"demo","messages":[]}', None), (b"model=demo", None), (b"\r\n\r\n", None),
            (b"\xfe\xff", None), (b'{"\x80":1}', None),
            (b'{"model":"demo","messages":[}', "messages"), (b'{"model":"demo","messages":[1,]}', "messages"),
            (b'{"model":"demo","messages":NaN}', "messages"), (b'{"model":"demo","messages":"\x01"}', "messages"),
            (b'{"model":"demo","messages":"\\ud800"}', "messages"), (b'{"model":"demo","messages":"\xff"}', "messages"),
            (b'{"model":"\xc3("}', "model"),
        ],
    )  # fmt: skip
    def test_broken(self, gateway, engine, body, parameter):
        before = len(engine.received)
        refused(gateway.ask(body), 400, "invalid_json", parameter)
        assert len(engine.received) == before

    @pytest.mark.parametrize("key", [r"model", r"mod\u0065l", r"\u006d\u006f\u0064\u0065\u006c", r"\u006Dodel"])
    def test_two_models(self, gateway, engine, key):
        before = len(engine.received)
        body = b'{"model":"demo","messages":[],"%s":"other"}' % key.encode()
        refused(gateway.ask(body), 400, "duplicate_parameter", "model")
        assert len(engine.received) == before

    @pytest.mark.parametrize("brackets", [(b"[", b"]"), (b'{"a":', b"1}")], ids=["arrays", "objects"])
    @pytest.mark.parametrize("depth", [65, 100_000])
    def test_too_deep(self, gateway, brackets, depth):
        opening, closing = brackets
        body = b'{"model":"demo","messages":' + opening * depth + closing.replace(b"1", b"") * depth + b"}"
        refused(gateway.ask(body), 400, "json_too_deep", "messages")

    def test_too_wide(self, gateway):
        wide = b",".join(b'"%d":0' % number for number in range(10_001))
        refused(gateway.ask(b'{"model":"demo","messages":[{' + wide + b"}]}"), 400, "json_too_wide", "messages")

    def test_array_too_long(self, gateway):
        started = monotonic()
        refused(
            gateway.ask(b'{"model":"demo","prompt":[' + b"1," * 1_000_001 + b"1]}", "/v1/completions"),
            400,
            "json_too_wide",
            "prompt",
        )
        assert monotonic() - started < 5

    def test_number_too_long(self, gateway):
        refused(gateway.ask(b'{"model":"demo","messages":[],"seed":' + b"1" * 41 + b"}"), 400, "json_number_too_long")

    @pytest.mark.parametrize(
        ("path", "body", "parameter"),
        [
            (CHAT, {"messages": []}, "model"),
            (CHAT, {"model": "", "messages": []}, "model"),
            (CHAT, {"model": "demo"}, "messages"),
            ("/v1/completions", {"model": "demo", "messages": []}, "prompt"),
            ("/v1/embeddings", {"model": "demo", "prompt": "x"}, "input"),
            ("/v1/responses", {"model": "demo"}, "input"),
            ("/v1/rerank", {"model": "demo"}, "query"),
            ("/v1/messages", {"model": "demo"}, "messages"),
        ],
    )  # fmt: skip
    def test_missing_member(self, gateway, path, body, parameter):
        assert f"`{parameter}`" in refused(gateway.ask(body, path), 400, "missing_required_parameter", parameter)

    @pytest.mark.parametrize(
        ("members", "code", "parameter"),
        [
            ({"model": 5}, "invalid_type", "model"),
            ({"model": None}, "missing_required_parameter", "model"),
            ({"model": ["demo"]}, "invalid_type", "model"),
            ({"model": "d" * 5000}, "invalid_value", "model"),
            ({"stream": "yes"}, "invalid_type", "stream"),
            ({"n": -1}, "invalid_type", "n"),
            ({"max_tokens": -5}, "invalid_type", "max_tokens"),
            ({"max_completion_tokens": "many"}, "invalid_type", "max_completion_tokens"),
            ({"stream_options": 3}, "invalid_type", "stream_options"),
        ],
    )  # fmt: skip
    def test_wrong_value(self, gateway, members, code, parameter):
        reply = gateway.ask(chat(**members))
        assert f"`{parameter}`" in refused(reply, 400, code, parameter)
        assert reply.header("x-should-retry") == "false"

    def test_unknown_model(self, gateway):
        message = refused(gateway.ask(chat(model="demmo")), 404, "model_not_found", "model")
        assert "Did you mean `demo`?" in message


class TestMetadata:
    @pytest.mark.parametrize(
        ("method", "path", "allow"),
        [
            ("GET", CHAT, "POST"), ("PUT", CHAT, "POST"), ("DELETE", "/v1/completions", "POST"), ("OPTIONS", CHAT, "POST"),
            ("POST", "/v1/models", "GET, HEAD"), ("DELETE", "/v1/models/demo", "GET, HEAD"), ("POST", "/healthz", "GET, HEAD"),
        ],
    )  # fmt: skip
    def test_wrong_method(self, gateway, method, path, allow):
        reply = gateway.ask(b"{}", path, method=method)
        refused(reply, 405, "method_not_allowed")
        assert reply.header("allow") == allow

    @pytest.mark.parametrize(
        "path",
        [
            "/", "/v1", "/v1/chat/completions/", "/v1//chat/completions", "/v2/chat/completions", "/metrics", "/debug/state",
            "/v1/chat/completions/../../../admin", "/sim/faults", "/" + "a" * 5000,
            "/v1/chat/completions%0d%0ax-evil:%201", "/tokenize/x", "/v1/models2",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_unknown_path(self, gateway, engine, method, path):
        before = len(engine.received)
        reply = gateway.ask(chat(), path, method=method)
        refused(reply, 404, "unknown_url")
        assert not any(name.lower() == "x-evil" for name, _ in reply.headers)
        assert len(engine.received) == before

    def test_path_with_needless_escapes_is_that_path(self, gateway, engine):
        assert gateway.ask(path="/v1/%63hat/completions?a=b").status == 200
        assert engine.received[-1].path == CHAT

    @pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "GZIP", "gzip, identity"])
    def test_compressed_body(self, gateway, encoding):
        body = gzip.compress(json.dumps(chat()).encode())
        refused(gateway.ask(body, headers={"content-encoding": encoding}), 415, "unsupported_media_type")

    def test_multipart(self, gateway):
        reply = gateway.ask(b"--x--", headers={"content-type": "multipart/form-data; boundary=x"})
        refused(reply, 415, "unsupported_media_type")

    @pytest.mark.parametrize(
        "content_type", [None, "application/x-www-form-urlencoded", "text/plain", "application/JSON; charset=x"]
    )
    def test_content_type_does_not_matter(self, gateway, engine, content_type):
        assert gateway.ask(headers={"content-type": content_type}).status == 200
        assert engine.received[-1].header("content-type") == "application/json"

    @pytest.mark.parametrize(
        "sent", ["", "a b", "a" * 129, "ü", "a;b", '"quoted"', "<script>", "a\tb", "a%0d%0ab", "${jndi:x}", "../../x"]
    )
    def test_bad_request_id_is_replaced(self, gateway, engine, sent):
        reply = gateway.ask(headers={"x-request-id": sent})
        assert reply.status == 200
        assert reply.header("x-request-id").startswith("req_")
        assert engine.received[-1].header("x-request-id") == reply.header("x-request-id")

    @pytest.mark.parametrize("separator", [b"\r\n", b"\n", b"\r", b"\r\n ", b"\0", b"%0d%0a", b"\\r\\n"])
    def test_no_header_can_be_injected_by_request_id(self, gateway, engine, separator):
        body = json.dumps(chat()).encode()
        before = len(engine.received)
        with Connection(gateway.port) as connection:
            connection.send(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\nx-request-id: id%sx-evil: 1\r\n\r\n%s"
                % (len(body), separator, body)
            )
            try:
                reply = connection.read()
            except ConnectionError:
                return
        assert reply.status in (200, 400)
        assert not any("evil" in name + value for name, value in reply.headers)
        assert not any("evil" in name + value for one in engine.received[before:] for name, value in one.headers)

    @pytest.mark.parametrize(
        "model", ["demo\r\nx-evil: 1", "demo\nx-evil: 1", "demo\0", "<b>demo", '"', "\u2028", "demo\x85"]
    )
    def test_no_header_can_be_injected_by_model(self, gateway, model):
        reply = gateway.ask(chat(model=model))
        refused(reply, 404, "model_not_found", "model")
        assert not any("evil" in name + value for name, value in reply.headers)
        reply = gateway.ask(b"", f"/v1/models/{''.join(f'%{byte:02x}' for byte in model.encode())}", method="GET")
        assert reply.status == 404
        assert not any("evil" in name + value for name, value in reply.headers)

    def test_log_stays_one_line_a_request(self, gateway):
        reply = gateway.ask(chat(model='x\n{"event":"forged"}'))
        line = gateway.log_line(reply.header("x-request-id"))
        assert line["model_name"] == 'x\ufffd{"event":"forged"}'
        assert not any(one["event"] == "forged" for one in gateway.log_lines())

    def test_metrics_know_no_name_that_a_client_made_up(self, gateway):
        gateway.ask(chat(model="made-up-by-client"))
        page = wait_until(
            lambda: (found := gateway.admin("/metrics").decode()) and "_unknown" in found and found,
            message="not counted",
        )
        assert "made-up-by-client" not in page

    @pytest.mark.parametrize("count", [1, 200])
    def test_large_headers(self, gateway, count):
        with Connection(gateway.port) as connection:
            try:
                connection.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n")
                connection.send(
                    b"".join(b"x-%d: %s\r\n" % (i, b"a" * (100_000 // count)) for i in range(count)) + b"\r\n"
                )
                status = connection.read().status
            except (ConnectionError, OSError):
                status = 0
        assert status in (0, 400, 431)

    @pytest.mark.parametrize(
        "head",
        [
            b"content-length: 5\r\ncontent-length: 6", b"content-length: -1", b"content-length: 0x10", b"content-length: 1,1",
            b"content-length: 99999999999999999999999", b"transfer-encoding: gzip", b"transfer-encoding: chunked, gzip",
            b"bad header", b" folded: 1", b"a\0b: 1", b"content-length: +5",
        ],
    )  # fmt: skip
    def test_broken_head(self, gateway, engine, head):
        before = len(engine.received)
        with Connection(gateway.port) as connection:
            connection.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n\r\nhello")
            try:
                status = connection.read().status
            except (ConnectionError, TimeoutError):
                status = 0
        assert status in (0, 400, 413)
        assert len(engine.received) == before

    @pytest.mark.parametrize(
        "garbage", [b"\x16\x03\x01\x02\x00\x01\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0" * 100, b"SSH-2.0\r\n"]
    )
    def test_not_http(self, gateway, garbage):
        with Connection(gateway.port) as connection:
            connection.send(garbage)
            connection.socket.shutdown(socket.SHUT_WR)
            assert connection.is_closed()


class TestSize:
    """Bodies that are too large are refused before they are held."""

    LIMIT = 32 * MEGABYTE

    @pytest.fixture(autouse=True)
    def memory(self, gateway):
        """No worker grows by anything like the body."""
        peak = list(gateway.resident())
        before, running = list(peak), True

        def watch():
            while running:
                peak[:] = map(max, peak, gateway.resident())
                sleep(0.02)

        watcher = threading.Thread(target=watch)
        watcher.start()
        self.allowed = 40 * MEGABYTE
        yield
        running = False
        watcher.join()
        grown = [now - then for now, then in zip(peak, before, strict=True)]
        assert max(grown) < self.allowed, f"workers grew by {[one / MEGABYTE for one in grown]} MB"

    def send_all(self, connection, pieces):
        """Send until it is over or the gateway has had enough."""
        try:
            for piece in pieces:
                connection.send(piece)
        except OSError:
            pass

    def test_announced(self, gateway):
        self.allowed = 8 * MEGABYTE
        with Connection(gateway.port) as connection:
            head = request_bytes(b"", headers={"content-length": str(100 * MEGABYTE)})
            self.send_all(connection, [head, *[b" " * MEGABYTE] * 100])
            reply = connection.read()
            refused(reply, 413, "request_too_large")
            assert reply.header("connection") == "close"
            assert connection.is_closed()

    def test_announced_and_waited_for(self, gateway):
        with Connection(gateway.port) as connection:
            headers = {"content-length": str(100 * MEGABYTE), "expect": "100-continue"}
            connection.send(request_bytes(b"", headers=headers))
            refused(connection.read(), 413, "request_too_large")
            assert b"100 Continue" not in connection.raw

    def test_by_the_package(self, gateway):
        with gateway.openai() as client, pytest.raises(openai.APIStatusError) as raised:
            client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "a" * 40_000_000}])
        assert raised.value.status_code == 413
        assert raised.value.code == "request_too_large"

    @pytest.mark.parametrize("also", [b"", b"content-length: 5\r\n"], ids=["alone", "with-a-length"])
    def test_chunked(self, gateway, also):
        piece = b"%x\r\n%s\r\n" % (MEGABYTE, b" " * MEGABYTE)
        for head in (also + b"transfer-encoding: chunked\r\n", b"transfer-encoding: chunked\r\n" + also):
            with Connection(gateway.port) as connection:
                start = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n"
                self.send_all(connection, [start, *[piece] * 100, b"0\r\n\r\n"])
                try:
                    reply = connection.read()
                except ConnectionError:
                    assert also, "only a head that contradicts itself may be cut without a word"
                    continue
                if also and reply.status == 400:
                    continue
                refused(reply, 413, "request_too_large")

    def test_just_small_enough(self, gateway, engine):
        self.allowed = 200 * MEGABYTE
        body = json.dumps(chat("x")).encode()
        body += b" " * (self.LIMIT - len(body))
        before = len(engine.received)
        assert gateway.ask(body).status == 200
        assert engine.received[before].body == body
        refused(gateway.ask(body + b" "), 413, "request_too_large")


class TestTime:
    def test_slow_body(self, gateway):
        started = monotonic()
        with Connection(gateway.port) as connection:
            body = json.dumps(chat()).encode()
            connection.send(request_bytes(body)[: -len(body)] + body[:10])
            reply = connection.read()
            took = monotonic() - started
            refused(reply, 408, "request_timeout")
            assert reply.header("connection") == "close"
            assert connection.is_closed()
        assert BODY_SECONDS * 0.9 < took < BODY_SECONDS + 1.5

    def test_body_that_drips(self, gateway):
        with Connection(gateway.port) as connection:
            connection.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            started = monotonic()
            try:
                while monotonic() - started < 4 * BODY_SECONDS:
                    connection.send(b"1\r\n \r\n")
                    sleep(0.05)
            except OSError:
                pass
            assert monotonic() - started < 3 * BODY_SECONDS
            refused(connection.read(), 408, "request_timeout")

    def test_client_that_leaves_in_the_middle_of_its_body(self, gateway, engine):
        before = len(engine.received)
        for leave in ("close", "reset"):
            for _ in range(20):
                connection = Connection(gateway.port)
                body = json.dumps(chat()).encode()
                connection.send(request_bytes(body)[:-5])
                getattr(connection, leave)()
        sleep(0.2)
        assert len(engine.received) == before

    def test_body_in_pieces(self, gateway, engine):
        body = json.dumps(chat("in pieces")).encode()
        with Connection(gateway.port) as connection:
            for byte in request_bytes(body):
                connection.send(bytes([byte]))
            assert connection.read().status == 200
        assert engine.received[-1].body == body
        with Connection(gateway.port) as connection:
            connection.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            for byte in body:
                connection.send(b"1\r\n%c\r\n" % byte)
            connection.send(b"0\r\n\r\n")
            assert connection.read().status == 200
        assert engine.received[-1].body == body

    def test_requests_one_after_the_other_on_one_connection(self, gateway):
        with Connection(gateway.port) as connection:
            for number in range(50):
                assert connection.ask(chat(f"number {number}")).status == 200
                refused(connection.ask(b"{"), 400, "invalid_json")

    def test_pipelined_requests(self, gateway):
        with Connection(gateway.port) as connection:
            connection.send(b"".join(request_bytes(chat(), headers={"x-request-id": f"p{i}"}) for i in range(5)))
            assert [connection.read().header("x-request-id") for _ in range(5)] == [f"p{i}" for i in range(5)]


@pytest.mark.thorough
class TestBodiesHeld:
    """The bound on bodies that a worker holds at once."""

    def test_refuses_beyond_it_and_recovers(self, engine, tmp_path):
        text = config.simple("demo", [engine.port])
        settings = {"workers": 1, "requests_bodies_in_flight_bytes": MEGABYTE, "requests_body_seconds": 20}
        with Gateway(tmp_path, {"demo.yaml": text}, **settings) as gateway:
            large = json.dumps(chat("a" * 900_000)).encode()
            with Connection(gateway.port) as holder:
                holder.send(request_bytes(large)[:-1])
                wait_until(lambda: gateway.state()["workers"][0]["in_flight"] == 1)
                reply = gateway.ask(large)
                refused(reply, 503, "overloaded")
                assert reply.header("retry-after") == "1"
                assert gateway.ask().status == 200
            wait_until(
                lambda: gateway.ask(large).status == 200, message="what the client that left held is not given back"
            )
            for _ in range(5):
                assert gateway.ask(large).status == 200
