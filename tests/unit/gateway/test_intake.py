"""What is checked of a request before it is routed, and what is estimated of it."""

import asyncio
import json
import time

import pytest

from _fastpath.shared_memory import SharedMemory
from gateway.admission.output_estimates import OutputEstimates
from gateway.errors import ClientError, Overloaded, TooLarge, UnsupportedMedia
from gateway.exchange import RequestIds
from gateway.intake import BodyLedger, BodyRules, check_headers, choices_of, scan_body
from gateway.intake import read_body as read_checked
from gateway.routing.kinds import Kind
from gateway.settings import Requests, Settings
from gateway.waiting import Run
from tests.unit.gateway.fakes import CHAT, Protocol, chat, make_exchange

DEFAULTS = Settings()
SMALL = Requests(body_bytes=100, body_seconds=0.05)


def scanned(body, path=CHAT, settings=DEFAULTS):
    exchange = make_exchange(path=path)
    exchange.body = body if isinstance(body, bytes) else json.dumps(body).encode()
    scan_body(exchange, BodyRules(settings))
    return exchange


def refused(body, path=CHAT, settings=DEFAULTS):
    with pytest.raises(ClientError) as raised:
        scanned(body, path, settings)
    return raised.value


async def read_body(exchange, requests, ledger):
    check_headers(exchange, requests.body_bytes)
    await read_checked(exchange, requests, ledger)


# -- headers


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "GZIP", "x" * 500])
def test_a_compressed_body_is_refused_before_it_is_read(encoding):
    with pytest.raises(UnsupportedMedia) as raised:
        check_headers(make_exchange(headers={"content-encoding": encoding}), SMALL.body_bytes)
    assert raised.value.status == 415
    assert ("connection", "close") in raised.value.extra_headers
    assert len(raised.value.message) < 200


@pytest.mark.parametrize("encoding", [None, "", "identity", "Identity"])
def test_a_plain_body_is_let_through(encoding):
    check_headers(make_exchange(headers={"content-encoding": encoding}), SMALL.body_bytes)


def test_a_form_is_refused():
    with pytest.raises(UnsupportedMedia, match="takes a JSON body"):
        check_headers(make_exchange(headers={"content-type": "multipart/form-data; boundary=x"}), SMALL.body_bytes)


@pytest.mark.parametrize("content_type", [None, "application/json", "text/plain", "application/x-www-form-urlencoded"])
def test_what_clients_call_json_is_not_looked_at(content_type):
    check_headers(make_exchange(headers={"content-type": content_type}), SMALL.body_bytes)


@pytest.mark.parametrize(
    ("length", "fits"),
    [
        ("100", True),
        ("101", False),
        ("0", True),
        (None, True),
        *((str(2**power + more), False) for power in (62, 63, 64) for more in (-3, 0, 5)),
        ("9" * 40, False),
    ],
)
def test_an_announced_length_is_compared_before_the_body_is_read(length, fits):
    exchange = make_exchange(headers={"content-length": length})
    if fits:
        check_headers(exchange, SMALL.body_bytes)
    else:
        with pytest.raises(TooLarge) as raised:
            check_headers(exchange, SMALL.body_bytes)
        assert ("connection", "close") in raised.value.extra_headers


# -- the body


async def test_an_announced_body_is_read_and_counted():
    ledger = BodyLedger(1000, time.monotonic)
    exchange = make_exchange(Protocol(b"x" * 40), headers={"content-length": "40"})
    await read_body(exchange, SMALL, ledger)
    assert (exchange.body, ledger.held) == (b"x" * 40, 40)


async def test_a_body_shorter_than_announced_is_counted_as_it_is():
    ledger = BodyLedger(1000, time.monotonic)
    exchange = make_exchange(Protocol(b"x" * 10), headers={"content-length": "40"})
    await read_body(exchange, SMALL, ledger)
    assert ledger.held == 10


async def test_a_body_without_a_length_is_counted_while_it_comes():
    ledger = BodyLedger(1000, time.monotonic)
    exchange = make_exchange(Protocol(pieces=[b"x" * 60, b"y" * 40]))
    await read_body(exchange, SMALL, ledger)
    assert (exchange.body, ledger.held) == (b"x" * 60 + b"y" * 40, 100)


async def test_a_body_that_grows_too_large_is_refused_and_forgotten():
    ledger = BodyLedger(1000, time.monotonic)
    exchange = make_exchange(Protocol(pieces=[b"x" * 60, b"y" * 41]))
    with pytest.raises(TooLarge):
        await read_body(exchange, SMALL, ledger)
    assert (exchange.body, ledger.held) == (b"", 0)


async def test_when_there_is_no_room_the_body_that_has_been_coming_for_longest_is_given_up():
    now = [100.0]
    ledger = BodyLedger(70, lambda: now[0])
    slow = make_exchange(Protocol(hangs=True), headers={"content-length": "60"})
    slow.run = Run(read_body(slow, SMALL, ledger))
    slow.run.start()
    late = make_exchange(Protocol(b"x" * 40), headers={"content-length": "40"})
    with pytest.raises(Overloaded):
        await read_body(late, SMALL, ledger)
    now[0] += 1.5
    await read_body(late, SMALL, ledger)
    assert (late.body, ledger.held) == (b"x" * 40, 40)
    assert slow.run.finished.is_set


async def test_a_body_of_pieces_that_ends_twice_has_broken_off():
    ledger = BodyLedger(1000, time.monotonic)
    with pytest.raises(ClientError, match="broke off"):
        await read_body(make_exchange(Protocol(pieces=[b"x", b"", b""])), SMALL, ledger)
    assert ledger.held == 0
    await read_body(make_exchange(Protocol(pieces=[b"x", b""])), SMALL, ledger)


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_that_breaks_off_is_refused_and_forgotten(announced):
    ledger = BodyLedger(1000, time.monotonic)
    broken = RuntimeError("broken")
    exchange = make_exchange(
        Protocol(breaks=broken, pieces=[b"x", broken]), headers={"content-length": "40"} if announced else {}
    )
    with pytest.raises(ClientError) as raised:
        await read_body(exchange, SMALL, ledger)
    assert (raised.value.status, raised.value.code) == (400, "invalid_body")
    assert ledger.held == 0


@pytest.mark.parametrize("announced", [True, False])
async def test_a_request_that_is_cancelled_while_its_body_comes_holds_nothing(announced):
    ledger = BodyLedger(1000, time.monotonic)
    exchange = make_exchange(
        Protocol(hangs=True, pieces=[b"x", None]), headers={"content-length": "40"} if announced else {}
    )
    reading = asyncio.ensure_future(read_body(exchange, Requests(body_seconds=60), ledger))
    await asyncio.sleep(0.01)
    assert ledger.held > 0
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert ledger.held == 0


@pytest.mark.parametrize("announced", [True, False])
async def test_no_more_bodies_are_held_at_once_than_the_worker_may(announced):
    ledger = BodyLedger(70, time.monotonic)
    ledger.take(50)
    exchange = make_exchange(
        Protocol(b"x" * 40, pieces=[b"x" * 10, b"x" * 30]), headers={"content-length": "40"} if announced else {}
    )
    with pytest.raises(Overloaded) as raised:
        await read_body(exchange, SMALL, ledger)
    assert (raised.value.status, raised.value.code, raised.value.retry_after) == (503, "overloaded", 1.0)
    assert ledger.held == 50
    ledger.give(50)
    await read_body(exchange, SMALL, ledger)
    assert ledger.held == 40


# -- what the body says


@pytest.mark.parametrize(
    ("path", "body", "estimate"),
    [
        (CHAT, {"model": "m", "messages": []}, 1),
        ("/v1/completions", {"model": "m", "prompt": "x" * 398}, 100),
        ("/v1/completions", {"model": "m", "prompt": [7] * 33}, 33),
        ("/v1/completions", {"model": "m", "prompt": []}, 1),
        ("/v1/embeddings", {"model": "m", "input": "x" * 38}, 10),
        ("/v1/rerank", {"model": "m", "query": "xx", "documents": []}, 1),
        ("/v1/score", {"model": "m"}, 1),
        ("/tokenize", {"model": "m", "prompt": "x" * 78}, 20),
    ],
)
def test_prompt_tokens_are_estimated_from_the_bytes_of_the_prompt_or_counted(path, body, estimate):
    assert scanned(body, path).prompt_tokens == estimate


def test_a_chat_of_400_bytes_counts_as_100_tokens():
    messages = [{"role": "user", "content": ""}]
    messages[0]["content"] = "x" * (400 - len(json.dumps(messages)))
    assert scanned({"model": "m", "messages": messages}).prompt_tokens == 100


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, 50),
        ({"max_tokens": 10}, 10),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": 10, "max_completion_tokens": 5}, 5),
        ({"max_tokens": 1_000_000}, 50),
        ({"n": 3}, 150),
        ({"n": 3, "max_tokens": 10}, 30),
        ({"n": 1_000_000, "max_tokens": 1}, 128),
    ],
)
def test_output_tokens_are_the_least_of_what_is_wanted_and_what_is_usual_times_the_choices(tmp_path, more, expected):
    found = scanned({"model": "m", "messages": [], **more}).scan
    memory = SharedMemory.create(str(tmp_path / "memory"), workers=1, slots=64, prefix_bytes=192)
    estimates = OutputEstimates(memory, 50)
    assert estimates.expected(Kind("route", "m", "chat"), found.max_tokens, choices_of(found)) == expected


def test_the_exchange_knows_the_model_and_whether_a_stream_is_wanted():
    exchange = scanned(chat(stream=True))
    assert (exchange.model, exchange.is_stream) == ("m", True)
    assert make_exchange().model == ""
    assert make_exchange().is_stream is False


@pytest.mark.parametrize(
    ("body", "path", "code", "parameter"),
    [
        (b"", CHAT, "invalid_json", None),
        (b"{", CHAT, "invalid_json", None),
        (b"[]", CHAT, "invalid_json", None),
        ({"messages": []}, CHAT, "missing_required_parameter", "model"),
        ({"model": "", "messages": []}, CHAT, "missing_required_parameter", "model"),
        ({"model": None, "messages": []}, CHAT, "missing_required_parameter", "model"),
        ({"model": "m"}, CHAT, "missing_required_parameter", "messages"),
        ({"model": "m", "messages": []}, "/v1/completions", "missing_required_parameter", "prompt"),
        ({"model": "m", "messages": []}, "/v1/embeddings", "missing_required_parameter", "input"),
        ({"model": "m", "messages": []}, "/v1/rerank", "missing_required_parameter", "query"),
        ({"model": 5, "messages": []}, CHAT, "invalid_type", "model"),
        ({"model": "m", "messages": [], "stream": "yes"}, CHAT, "invalid_type", "stream"),
    ],
)
def test_what_is_wrong_with_a_body_is_said_with_the_member_at_fault(body, path, code, parameter):
    error = refused(body, path)
    assert (error.status, error.code, error.parameter) == (400, code, parameter)


@pytest.mark.parametrize("path", ["/v1/score", "/tokenize", "/detokenize"])
def test_some_operations_need_nothing_but_a_model(path):
    assert scanned({"model": "m"}, path).model == "m"


def test_the_bounds_of_the_settings_hold():
    deep = b'{"model":"m","messages":' + b"[" * 10 + b"]" * 10 + b"}"
    assert scanned(deep).model == "m"
    refused(deep, settings=Settings(requests=Requests(json_depth=5)))
    refused({"model": "m", "messages": [], "x": 123456}, settings=Settings(requests=Requests(json_digits=5)))
    many = {"model": "m", "messages": [], **{str(number): 1 for number in range(20)}}
    refused(many, settings=Settings(requests=Requests(json_members=10)))


# -- the request's id


@pytest.mark.parametrize("sent", ["a", "req-1.2:3_4", "x" * 128])
def test_a_well_formed_id_of_the_client_is_kept(sent):
    assert RequestIds().of(sent) == sent


@pytest.mark.parametrize("sent", [None, "", "x" * 129, "a b", "a\n", "a\r\nx: y", "ä", '"', "a/b"])
def test_any_other_id_is_replaced_by_a_new_one(sent):
    ids = RequestIds()
    first, second = ids.of(sent), ids.of(sent)
    assert first != second
    assert first.startswith("req_")
    assert len(first) == 28
