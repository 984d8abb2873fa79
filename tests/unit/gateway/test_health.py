"""What outcomes of requests say of the engine, noted once on every way out; who is told."""

import asyncio
import errno
import logging
import time

import pytest

from _fastpath.health import Health
from gateway.datastore.model import Endpoint, Outlier, Server, Traffic
from gateway.deadlines import Deadlines
from gateway.errors import ClientGone, Draining, PenstockError, UpstreamError, UpstreamTimeout
from gateway.reply import note
from gateway.scheduling.health import FAILED, NEUTRAL, SERVED, outcome_of
from gateway.upstream.client import UpstreamClient
from tests.unit.gateway.fakes import Answer, Protocol, chat, make_exchange
from tests.unit.gateway.fleet import SERVER, Fleet
from tests.unit.gateway.test_pipeline import WHOLE, counted, request

RULES = Outlier(failures=2, base_ejection=0.05, maximum_ejection=60.0, slow_start=0.0)


@pytest.fixture(autouse=True)
def without_sockets(monkeypatch):
    monkeypatch.setattr("gateway.downstream.client_socket.ClientSocket.cut", lambda self: None)
    monkeypatch.setattr("gateway.downstream.stream._FLUSH_SECONDS", 0.0)


@pytest.fixture
def fleet(tmp_path):
    """One endpoint, and no panic: it can be ejected although it is the only one."""
    rules = Outlier(2, 60.0, 60.0, 100.0, 0.0)
    return Fleet(tmp_path, server=Server(SERVER, traffic=Traffic(outlier=rules, attempts=1)), endpoints=1)


def reading(fleet, name="default/e0"):
    placed = next(one for one in fleet.replica.world.endpoints.values() if one.endpoint.name == name)
    outlier = fleet.replica.world.servers[SERVER].pool.outlier
    return Health(fleet.memory).read(placed.slot.index, placed.slot.generation, outlier, time.monotonic())


# -- what an outcome says


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, SERVED), (204, SERVED), (302, SERVED), (400, NEUTRAL), (404, NEUTRAL), (429, NEUTRAL), (499, NEUTRAL),
     (500, FAILED), (501, NEUTRAL), (502, FAILED), (503, FAILED), (504, FAILED), (599, FAILED), (0, NEUTRAL)],
)  # fmt: skip
def test_an_engine_s_status(status, outcome):
    exchange = make_exchange()
    exchange.status = status
    assert outcome_of(exchange) == outcome


def test_an_engine_that_says_when_to_come_again_is_not_broken():
    exchange = make_exchange()
    exchange.status, exchange.pushes_back = 503, True
    assert outcome_of(exchange) == NEUTRAL


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(UpstreamError("broke off"), FAILED), (UpstreamTimeout("stalled"), FAILED), (Draining("bye"), NEUTRAL),
     (PenstockError("a mistake of ours"), NEUTRAL)],
)  # fmt: skip
def test_an_error_after_a_good_head(error, outcome):
    exchange = make_exchange()
    exchange.status = 200
    note(exchange, error)
    assert outcome_of(exchange) == outcome


@pytest.mark.parametrize("status", [200, 500])
def test_a_client_that_left_says_nothing(status):
    exchange = make_exchange()
    exchange.status, exchange.client_gone = status, True
    assert outcome_of(exchange) == NEUTRAL


# -- noted on every way out


@pytest.mark.parametrize(
    "answer",
    [
        lambda: UpstreamError("refused"),
        lambda: UpstreamTimeout("no first byte"),
        lambda: Answer([b"{}"], status=500),
        lambda: Answer([b"{}"], status=503),
        lambda: Answer([b"{", UpstreamError("broke off")]),
        lambda: Answer([b"data: {}\n\n", UpstreamError("broke off")], is_event_stream=True),
        lambda: Answer([b"data: {}\n\n", UpstreamTimeout("stalled")], is_event_stream=True),
    ],
    ids=["refuses", "no-head", "500", "503", "truncated", "truncated-stream", "stalled-stream"],
)
async def test_an_engine_s_fault_counts_once(fleet, answer):
    fleet.client.answers = [answer(), answer()]
    await request(fleet)
    assert reading(fleet)["failures"] == 1
    await request(fleet)
    assert reading(fleet)["state"] == "ejected"
    assert fleet.is_idle


@pytest.mark.parametrize(
    "answer",
    [
        lambda: Answer([b"{}"], status=400),
        lambda: Answer([b"{}"], status=404),
        lambda: Answer([b"{}"], status=429),
        lambda: Answer([b"{}"], status=503, headers=[("Retry-After", "3")]),
        lambda: Answer([b"data: {}\n\n", ClientGone()], is_event_stream=True),
        lambda: asyncio.CancelledError(),
        lambda: ValueError("a mistake of ours"),
    ],
    ids=["400", "404", "429", "503-retry-after", "client-left", "cancelled", "our-mistake"],
)
async def test_what_is_not_the_engine_s_fault_never_counts(fleet, answer):
    for _ in range(4):
        fleet.client.answers = [answer()]
        await request(fleet)
    assert reading(fleet)["failures"] == 0
    assert reading(fleet)["state"] == "serving"


async def test_a_client_that_is_gone_when_the_answer_comes(fleet):
    for _ in range(4):
        protocol = Protocol(chat())
        protocol.is_gone = True
        fleet.client.answers = [Answer([WHOLE])]
        await request(fleet, protocol=protocol)
    assert reading(fleet)["failures"] == 0


async def test_an_answer_ends_the_row(fleet):
    for _ in range(3):
        fleet.client.answers = [UpstreamError("refused"), Answer([WHOLE])]
        await request(fleet)
        await request(fleet)
    assert reading(fleet)["failures"] == 0


async def test_a_request_that_is_tried_twice_is_noted_at_both(tmp_path):
    fleet = Fleet(tmp_path, server=Server(SERVER, traffic=Traffic(outlier=RULES)))
    fleet.client.answers = [UpstreamError("refused"), UpstreamError("refused")]
    await request(fleet)
    assert [reading(fleet, f"default/e{number}")["failures"] for number in (0, 1)] == [1, 1]


# -- left alone, tried, back


async def test_a_dead_engine_is_left_alone_tried_and_comes_back(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    fleet = Fleet(tmp_path, server=Server(SERVER, traffic=Traffic(outlier=RULES)))
    dead = "default/e0"

    class Client:
        asked = 0

        async def send(self, endpoint, *_):
            if endpoint.name == dead:
                self.asked += 1
                raise UpstreamError("refused")
            return Answer([WHOLE])

    client = Client()
    fleet.client.send_anew = client.send

    async def serve(times):
        for _ in range(times):
            _, status, _, _ = await request(fleet)
            assert status == 200

    while reading(fleet, dead)["state"] != "ejected":
        await serve(1)
    assert client.asked == 2
    assert counted(fleet, "penstock_upstream_ejections_total", server=SERVER, reason="upstream_error") == 1
    assert "endpoint default/e0 of default/s is ejected for 0.05 s: upstream_error" in caplog.text
    await asyncio.sleep(0.06)
    await serve(5)
    assert client.asked == 3, "one request tried, and the ejection is twice as long"
    assert 0 < reading(fleet, dead)["seconds_left"] <= 0.1
    dead = "nobody"
    await asyncio.sleep(0.11)
    exchange, *_ = await request(fleet)
    assert exchange.placement.probe != 0
    assert exchange.placement.placed.endpoint.name == "default/e0"
    assert reading(fleet)["state"] == "serving"
    assert "endpoint default/e0 of default/s is back" in caplog.text


async def test_a_probe_whose_client_leaves_leaves_it_to_the_next(tmp_path):
    rules = Outlier(1, 0.02, 60.0, 100.0, 0.0)
    fleet = Fleet(tmp_path, server=Server(SERVER, traffic=Traffic(outlier=rules, attempts=1)), endpoints=1)
    fleet.client.answers = [UpstreamError("refused")]
    await request(fleet)
    await asyncio.sleep(0.03)
    for _ in range(3):
        fleet.client.answers = [asyncio.CancelledError()]
        exchange, *_ = await request(fleet)
        assert exchange.placement.probe != 0
        assert (reading(fleet)["state"], reading(fleet)["seconds_left"]) == ("ejected", 0)


async def test_a_probe_returns_its_engine_with_the_first_piece(tmp_path):
    rules = Outlier(1, 0.02, 60.0, 100.0, 30.0)
    fleet = Fleet(tmp_path, server=Server(SERVER, traffic=Traffic(outlier=rules, attempts=1)), endpoints=1)
    fleet.client.answers = [UpstreamError("refused")]
    await request(fleet)
    await asyncio.sleep(0.03)
    seen = []

    class Streaming(Answer):
        async def chunks(self):
            seen.append(reading(fleet)["state"])
            yield b"data: {}\n\n"
            seen.append(reading(fleet)["state"])

    fleet.client.answers = [Streaming([], is_event_stream=True)]
    await request(fleet, chat(stream=True))
    assert seen == ["probing", "warming"]


async def test_when_every_engine_fails_all_are_asked(tmp_path):
    """More than half of them out: ejection is ignored, and whoever answers is back."""
    rules = Outlier(1, 60.0, 60.0, 50.0, 0.0)
    fleet = Fleet(tmp_path, server=Server(SERVER, traffic=Traffic(outlier=rules)))
    fleet.client.answers = [UpstreamError("refused")] * 2
    await request(fleet)
    assert [reading(fleet, f"default/e{number}")["state"] for number in (0, 1)] == ["ejected"] * 2
    fleet.client.answers = [UpstreamError("refused"), Answer([WHOLE])]
    exchange, status, *_ = await request(fleet)
    assert status == 200
    assert reading(fleet, exchange.placement.placed.endpoint.name)["state"] == "serving"


# -- faults of our own


@pytest.mark.parametrize(
    ("number", "is_engines"),
    [(errno.ECONNREFUSED, True), (errno.EHOSTUNREACH, True), (errno.EMFILE, False), (errno.ENFILE, False),
     (errno.EADDRNOTAVAIL, False)],
)  # fmt: skip
async def test_a_gateway_that_lacks_descriptors_does_not_blame_engines(monkeypatch, number, is_engines):
    loop = asyncio.get_running_loop()

    async def refuse(*_, **__):
        raise OSError(number, "no")

    monkeypatch.setattr(type(loop), "create_connection", refuse)
    client = UpstreamClient(Deadlines())
    with pytest.raises(UpstreamError) as raised:
        await client.send(Endpoint("default/e0", SERVER, "e", "10.0.0.1", 8000), "/", "", b"", Traffic())
    assert raised.value.is_engines_fault is is_engines
    assert raised.value.retryable
