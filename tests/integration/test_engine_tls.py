"""Engines behind TLS: as any other when their certificate is trusted, never sent a byte of a request when it is not."""

import json
import socket
import threading
from time import sleep

import pytest

from tests.support import config
from tests.support.certificates import Authority
from tests.support.client import chat
from tests.support.engines import STREAM_END, STREAM_HEAD, ScriptedEngine, answer, chunk, completion, event
from tests.support.gateway import Gateway, run
from tests.support.waiting import wait_until

HTTPS = {"port": 8000, "protocol": "https"}
LARGE = b"0123456789abcdef" * 300_000
WORDS = 5


def script(connection, received):
    """A stream, or a large answer, or a small one."""
    if received.json.get("stream"):
        connection.sendall(STREAM_HEAD)
        for number in range(WORDS):
            connection.sendall(chunk(event(f" word-{number}")))
            sleep(0.01)
        connection.sendall(chunk(b"data: [DONE]\n\n") + STREAM_END)
    elif received.json.get("n") == 7:
        connection.sendall(answer(200, LARGE, "application/octet-stream"))
    else:
        connection.sendall(answer(200, completion(), headers=[("x-peer", connection.getpeername()[1])]))


def secured(name, *ports, address="127.0.0.1"):
    """A server of https and the route to it."""
    endpoints = [{"name": f"{name}-{number}", "address": address, "port": port} for number, port in enumerate(ports, 1)]
    spec = {"inferenceEngine": "vLLM", "workloadPort": HTTPS, "endpoints": endpoints}
    return config.document("ModelServer", name, spec) + config.route(name)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def ours(directory):
    """The authority that the gateway is told of."""
    return Authority(directory, "ours")


@pytest.fixture(scope="module")
def theirs(directory):
    """Another, which the gateway's system trusts: it must not count beside ours."""
    return Authority(directory, "theirs")


@pytest.fixture(scope="module")
def engines(ours, theirs):
    """By what their certificates are: good ones, one of another authority, one for another address, one for a name."""
    contexts = {
        "demo": ours.server("IP:127.0.0.1"),
        "stranger": theirs.server("IP:127.0.0.1"),
        "elsewhere": ours.server("IP:127.0.0.2", "DNS:engine.example"),
        "named": ours.server("DNS:localhost"),
    }
    started = {name: ScriptedEngine(script, tls) for name, tls in contexts.items()}
    for engine in started.values():
        engine.__enter__()
    yield started
    for engine in started.values():
        engine.__exit__()


@pytest.fixture(scope="module")
def gateway(engines, ours, theirs, tmp_path_factory):
    """A route to each engine, ``mixed`` to the stranger and a good one, ``by-name`` to the one for a name, ``plain`` to no TLS."""
    text = "".join(secured(name, engine.port) for name, engine in engines.items())
    text += secured("mixed", engines["stranger"].port, engines["demo"].port)
    text += secured("by-name", engines["named"].port, address="localhost")
    text += secured("wrong-name", engines["demo"].port, address="localhost")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(theirs.file))
        settings = {"workers": 1, "upstream_ca_file": ours.file}
        with Gateway(tmp_path_factory.mktemp("gw"), {"demo.yaml": text}, **settings) as started:
            yield started


@pytest.fixture(autouse=True)
def nothing_is_held(gateway):
    before = gateway.worker_processes()
    yield
    wait_until(gateway.is_idle, message=lambda: str(gateway.state()))
    assert gateway.worker_processes() == before
    assert "Traceback" not in gateway.stderr


def refused(gateway, model, reason):
    reply = gateway.ask(chat(model=model))
    assert reply.status == 502, reply.body
    assert reply.error["code"] == "upstream_error"
    assert reply.error["message"].startswith(reason), reply.error
    assert "127.0.0.1" not in reply.error["message"]
    assert reply.header("x-should-retry") == "true"


def test_a_request_passes(gateway, engines):
    before = len(engines["demo"].received)
    reply = gateway.ask()
    assert reply.status == 200
    assert reply.json == completion()
    assert [one.json for one in engines["demo"].received[before:]] == [chat()]


def test_a_stream_passes_piece_by_piece(gateway):
    reply = gateway.ask(chat(stream=True))
    assert reply.is_whole
    *words, (_, done) = reply.events
    found = [json.loads(data)["choices"][0]["delta"]["content"] for _, data in words]
    assert found == [f" word-{number}" for number in range(WORDS)]
    assert done == "[DONE]"
    assert reply.raw.count(b"\r\ndata:") > 1, "it came in one piece"


def test_bodies_larger_than_a_record_pass_both_ways(gateway, engines):
    prompt = "water " * 50_000
    reply = gateway.ask(chat(prompt, n=7))
    assert reply.is_whole
    assert reply.body == LARGE
    assert engines["demo"].received[-1].json["messages"][0]["content"] == prompt


def test_connections_are_used_again(gateway):
    assert gateway.ask(chat(stream=True)).is_whole  # a connection that has carried a stream counts too
    (peer,) = {gateway.ask().header("x-peer") for _ in range(20)}
    assert peer is not None


def test_a_certificate_for_a_name_serves_by_that_name(gateway):
    assert gateway.ask(chat(model="by-name")).json == completion()


@pytest.mark.parametrize(
    ("model", "engine", "reason"),
    [
        ("stranger", "stranger", "The engine's certificate cannot be trusted: unable to get local issuer certificate."),
        ("elsewhere", "elsewhere", "The engine's certificate cannot be trusted: IP address mismatch."),
        ("named", "named", "The engine's certificate cannot be trusted: IP address mismatch."),
        ("wrong-name", "demo", "The engine's certificate cannot be trusted: Hostname mismatch."),
    ],
    ids=[
        "of another authority",
        "for another address",
        "for a name, reached by address",
        "for an address, reached by name",
    ],
)
def test_a_certificate_that_does_not_fit_is_refused_before_anything_is_sent(gateway, engines, model, engine, reason):
    before = len(engines[engine].received)
    refused(gateway, model, reason)
    assert len(engines[engine].received) == before


def test_a_certificate_that_does_not_fit_is_refused_for_a_stream_too(gateway):
    assert gateway.ask(chat(model="stranger", stream=True)).error["code"] == "upstream_error"


def test_another_endpoint_takes_over_where_one_is_not_trusted(gateway, engines):
    replies = [gateway.ask(chat(f"{number}", model="mixed")) for number in range(20)]
    assert [(reply.status, reply.endpoint) for reply in replies] == [(200, "mixed-2")] * 20
    assert engines["stranger"].received == []
    attempts = [gateway.log_line(reply.header("x-request-id"))["upstream_attempts"] for reply in replies]
    assert 2 in attempts, "the endpoint that is not trusted was never tried"


def test_an_engine_that_does_not_speak_tls_gives_an_error(gateway):
    with socket.create_server(("127.0.0.1", 0)) as plain:
        stopped = threading.Event()

        def answer_in_plain():
            while not stopped.is_set():
                with plain.accept()[0] as connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

        thread = threading.Thread(target=answer_in_plain)
        thread.start()
        try:
            gateway.put("plain.yaml", secured("plain", plain.getsockname()[1]))
            refused(gateway, "plain", "The engine does not speak TLS as it should: ")
        finally:
            stopped.set()
            socket.create_connection(plain.getsockname()).close()
            thread.join(timeout=5)


def test_without_the_setting_the_systems_authorities_count(engines, theirs, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(theirs.file))
    text = secured("demo", engines["demo"].port) + secured("stranger", engines["stranger"].port)
    with Gateway(tmp_path, {"demo.yaml": text}, workers=1) as gateway:
        assert gateway.ask(chat(model="stranger")).json == completion()
        assert gateway.ask(chat(model="demo")).status == 502


def test_a_file_of_authorities_that_cannot_be_used_is_told_at_the_start_with_the_other_faults(tmp_path):
    missing = tmp_path / "missing.pem"
    status, _, errors = run(
        "gateway", "--upstream-ca-file", missing, "--workers", "0", "--run-directory", tmp_path / "run"
    )
    assert status == 1
    assert f"`upstream_ca_file`: {missing} cannot be read: No such file or directory" in errors
    assert "`workers` must be 1 to 63, not 0" in errors
