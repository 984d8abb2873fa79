"""From an engine's answer to the client: whole, streamed, or broken off so that nobody takes it for whole."""

import asyncio
import json

import pytest

from _fastpath.token_bucket import LimitSet
from gateway.admission.limits import RateLimiter, Reservation
from gateway.datastore.model import Endpoint, Server
from gateway.downstream.client_socket import ClientSockets
from gateway.downstream.coalescer import Coalescer
from gateway.errors import ClientGone, RateLimited, UpstreamError, UpstreamTimeout
from gateway.observability.metrics import RequestMetrics
from gateway.reply import LARGEST_WHOLE, Replier, estimated_output
from gateway.scheduling.place import Placement
from gateway.scheduling.pool import PlacedEndpoint, make_pool
from gateway.scheduling.slot_book import Slot
from gateway.settings import Settings
from tests.unit.gateway.fakes import Answer, Protocol, make_exchange

USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13, "prompt_tokens_details": {"cached_tokens": 3}}
WHOLE = json.dumps({"choices": [], "usage": USAGE}).encode()
EVENTS = [b'data: {"a":%d}\n\n' % number for number in range(3)]


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        self.now += 0.5
        return self.now


class Limiter(RateLimiter):
    def __init__(self):
        """Nothing is kept."""

    def headers(self, reservation):
        return (("x-ratelimit-remaining-tokens", str(reservation.handle)),)


class Gaps(RequestMetrics):
    """Times between pieces."""

    def __init__(self):
        self.seconds = []

    def gap_series(self, exchange):
        return 7

    def gap(self, series, seconds):
        assert series == 7
        self.seconds.append(seconds)


@pytest.fixture
def cuts(monkeypatch):
    """How often a client's connection was cut."""
    found = []
    monkeypatch.setattr("gateway.downstream.client_socket.ClientSocket.cut", lambda self: found.append(self))
    monkeypatch.setattr("gateway.downstream.stream._FLUSH_SECONDS", 0.0)
    return found


@pytest.fixture
def first_tokens():
    return []


@pytest.fixture
def replier(cuts, first_tokens):
    return Replier(Settings(), ClientSockets(), Limiter(), Gaps(), Clock(), first_tokens.append, Coalescer(0.0))


@pytest.fixture
def protocol():
    return Protocol()


@pytest.fixture
def exchange(protocol):
    return make_exchange(protocol)


def events(protocol):
    return b"".join(protocol.sent)


async def test_a_short_answer_goes_out_whole_with_its_status_headers_and_the_requests_id(replier, exchange, protocol):
    answer = Answer(
        [WHOLE[:10], WHOLE[10:]], status=200, headers=[("content-type", "application/json")], length=len(WHOLE)
    )
    await replier.answer(exchange, answer)
    assert protocol.answers == [(200, {"content-type": "application/json", "x-request-id": "req_1"}, WHOLE)]
    assert protocol.sent == []
    assert (exchange.status, exchange.usage, exchange.bytes_out) == (200, (9, 4, 3), len(WHOLE))
    assert exchange.started < exchange.first_byte < exchange.last_byte


async def test_the_first_piece_of_an_answer_ends_the_prefill_once(replier, exchange, first_tokens):
    await replier.answer(exchange, Answer([b"a", b"b", b"c"]))
    assert first_tokens == [exchange]


async def test_an_empty_answer_has_no_first_token(replier, exchange, protocol, first_tokens):
    await replier.answer(exchange, Answer([], status=204))
    assert protocol.answers == [(204, {"x-request-id": "req_1"}, b"")]
    assert (first_tokens, exchange.first_byte) == ([], 0)


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500, 503])
async def test_an_engines_own_error_is_passed_on_as_it_is_and_counts_no_tokens(replier, exchange, protocol, status):
    await replier.answer(exchange, Answer([WHOLE], status=status))
    assert protocol.answers == [(status, {"x-request-id": "req_1"}, WHOLE)]
    assert (exchange.status, exchange.usage) == (status, None)


async def test_a_short_answer_that_breaks_off_is_an_error_that_nobody_has_seen_yet(replier, exchange, protocol):
    with pytest.raises(UpstreamError):
        await replier.answer(exchange, Answer([WHOLE[:10], UpstreamError("broken")]))
    assert (protocol.answers, exchange.responded) == ([], False)


async def test_a_stream_is_passed_on_chunk_by_chunk(replier, exchange, protocol):
    last = b"data: " + WHOLE + b"\n\ndata: [DONE]\n\n"
    headers = [("content-type", "text/event-stream")]
    await replier.answer(exchange, Answer([*EVENTS, last], headers=headers, is_event_stream=True))
    assert protocol.answers == [(200, {"content-type": "text/event-stream", "x-request-id": "req_1"}, None)]
    assert protocol.sent == [*EVENTS, last]
    assert (exchange.usage, exchange.bytes_out) == ((9, 4, 3), len(b"".join(EVENTS)) + len(last))
    assert exchange.error_code == ""


async def test_the_events_of_a_stream_are_its_estimated_tokens(replier, exchange):
    await replier.answer(exchange, Answer([*EVENTS, b"data: [DONE]\n\n"], is_event_stream=True))
    assert exchange.usage is None
    assert estimated_output(exchange) == 3


async def test_the_usage_is_found_when_it_comes_in_small_pieces(replier, exchange):
    text = b"data: " + WHOLE + b"\n\n"
    pieces = [text[at : at + 3] for at in range(0, len(text), 3)]
    await replier.answer(exchange, Answer([*EVENTS, *pieces], is_event_stream=True))
    assert exchange.usage == (9, 4, 3)


async def test_an_answer_as_long_as_a_whole_may_be_goes_out_whole(replier, exchange, protocol):
    body = b"x" * (LARGEST_WHOLE - len(WHOLE)) + WHOLE
    await replier.answer(exchange, Answer([body[:1000], body[1000:]]))
    assert [len(answer[2]) for answer in protocol.answers] == [LARGEST_WHOLE]
    assert exchange.usage == (9, 4, 3)


async def test_a_longer_one_is_streamed_from_where_it_grew_too_long(replier, exchange, protocol):
    body = b"x" * LARGEST_WHOLE + WHOLE
    pieces = [body[at : at + 65536] for at in range(0, len(body), 65536)]
    await replier.answer(exchange, Answer([*pieces, b"more" + WHOLE]))
    assert protocol.answers == [(200, {"x-request-id": "req_1"}, None)]
    assert events(protocol) == body + b"more" + WHOLE
    assert exchange.usage == (9, 4, 3)
    assert exchange.bytes_out == len(events(protocol))


async def test_the_usage_is_found_when_the_last_piece_is_what_made_an_answer_too_long(replier, exchange, protocol):
    body = b"x" * LARGEST_WHOLE + WHOLE
    await replier.answer(exchange, Answer([body[:-500], body[-500:]]))
    assert events(protocol) == body
    assert exchange.usage == (9, 4, 3)


async def test_an_answer_that_announces_to_be_long_is_streamed_at_once(replier, exchange, protocol):
    body = b"x" * (LARGEST_WHOLE + 1)
    await replier.answer(exchange, Answer([body[:5], body[5:]], length=len(body)))
    assert protocol.sent == [body[:5], body[5:]]


@pytest.mark.parametrize("error", [UpstreamError("broken"), UpstreamTimeout("stalled")])
async def test_a_stream_that_fails_ends_with_an_error_event_and_a_cut_connection(
    replier, exchange, protocol, cuts, error
):
    await replier.answer(exchange, Answer([*EVENTS[:2], error], is_event_stream=True))
    assert protocol.sent[:2] == EVENTS[:2]
    name, data = protocol.sent[2].decode().split("\n")[:2]
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == error.code
    assert len(protocol.sent) == 3
    assert len(cuts) == 1
    assert (exchange.status, exchange.error_code, exchange.error_source) == (error.status, error.code, "upstream")


async def test_a_long_answer_that_fails_is_cut_without_an_event_in_its_body(replier, exchange, protocol, cuts):
    await replier.answer(exchange, Answer([b"[1,", UpstreamError("broken")], length=LARGEST_WHOLE + 1))
    assert events(protocol) == b"[1,"
    assert len(cuts) == 1


async def cancelled(replier, exchange, answer, protocol):
    task = asyncio.ensure_future(replier.answer(exchange, answer))
    while not protocol.sent:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_stream_that_the_gateways_end_cuts_off_says_so(replier, exchange, protocol, cuts):
    await cancelled(replier, exchange, Answer([EVENTS[0], None], is_event_stream=True), protocol)
    assert b"event: error" in protocol.sent[-1]
    assert b'"draining"' in protocol.sent[-1]
    assert len(cuts) == 1


async def test_a_long_answer_that_the_gateways_end_cuts_off_gets_no_event_into_its_body(
    replier, exchange, protocol, cuts
):
    await cancelled(replier, exchange, Answer([b"[1,", None], length=LARGEST_WHOLE + 1), protocol)
    assert events(protocol) == b"[1,"
    assert len(cuts) == 1


async def test_a_client_that_left_gets_nothing_more(replier, exchange, protocol):
    exchange.client_gone = True
    await cancelled(replier, exchange, Answer([EVENTS[0], None], is_event_stream=True), protocol)
    assert protocol.sent == [EVENTS[0]]


async def test_a_client_that_is_gone_when_the_answer_comes_is_noticed(replier, exchange, protocol):
    protocol.is_gone = True
    with pytest.raises(ClientGone):
        await replier.answer(exchange, Answer([WHOLE]))
    with pytest.raises(ClientGone):
        await replier.answer(exchange, Answer(EVENTS, is_event_stream=True))


async def test_a_client_that_goes_in_the_middle_of_a_stream_is_noticed(replier, exchange, protocol):
    class Leaving(Answer):
        async def chunks(self):
            yield EVENTS[0]
            protocol.is_gone = True
            yield EVENTS[1]
            pytest.fail("read on for nobody")

    with pytest.raises(ClientGone):
        await replier.answer(exchange, Leaving([], is_event_stream=True))
    assert protocol.sent == [EVENTS[0]]


async def test_a_refusal_is_openais_error_with_its_headers_and_is_noted(replier, exchange, protocol):
    replier.refuse(exchange, RateLimited("wait", retry_after=2.0))
    ((status, headers, body),) = protocol.answers
    assert status == exchange.status == 429
    assert (headers["retry-after"], headers["x-request-id"]) == ("2", "req_1")
    assert json.loads(body)["error"]["code"] == exchange.error_code == "rate_limit_exceeded"
    assert (exchange.error_source, exchange.error_message) == ("client", "wait")


@pytest.mark.parametrize("details", [True, False])
async def test_an_answer_says_who_gave_it_and_how_long_that_took_unless_it_should_not(
    cuts, exchange, protocol, details
):
    settings = Settings(response_details=details)
    replier = Replier(settings, ClientSockets(), Limiter(), Gaps(), Clock(), lambda _: None, Coalescer(0.0))
    endpoint = Endpoint("default/e1", "default/s", "i", "127.0.0.1", 1)
    pool = make_pool(Server("default/s"), (PlacedEndpoint(endpoint, Slot(0, 0)),))
    exchange.placement = Placement(pool, position=0, blocks=0, matched_blocks=0, prefill_tokens=0, output_tokens=0)
    exchange.started, exchange.sent = 100.0, 100.25
    await replier.answer(exchange, Answer([WHOLE]))
    headers = protocol.answers[0][1]
    assert headers.get("x-penstock-endpoint") == ("default/e1" if details else None)
    assert headers.get("server-timing") == ("penstock;dur=250.000, engine;dur=250.000" if details else None)


@pytest.mark.parametrize(
    ("status", "chunks", "bytes_out", "estimate"), [(200, 0, 0, 0), (200, 0, 9, 3), (200, 5, 900, 5), (500, 0, 900, 0)]
)
def test_output_is_estimated_by_events_or_by_length(exchange, status, chunks, bytes_out, estimate):
    exchange.status, exchange.chunks, exchange.bytes_out = status, chunks, bytes_out
    assert estimated_output(exchange) == estimate


async def test_a_whole_answer_is_estimated_by_its_length_although_it_speaks_of_data(replier, exchange):
    body = b'{"text":"data: {data: {"}'
    await replier.answer(exchange, Answer([body]))
    assert estimated_output(exchange) == -(-len(body) // 4)


async def test_an_answer_of_a_limited_route_says_what_is_left(replier, exchange, protocol):
    exchange.reservation = Reservation(LimitSet([]), 7)
    await replier.answer(exchange, Answer([WHOLE]))
    assert protocol.answers[0][1]["x-ratelimit-remaining-tokens"] == "7"


async def test_the_time_between_pieces_of_a_stream_is_counted(cuts, exchange):
    gaps = Gaps()
    replier = Replier(Settings(), ClientSockets(), Limiter(), gaps, Clock(), lambda _: None, Coalescer(0.0))
    await replier.answer(exchange, Answer(EVENTS, is_event_stream=True))
    assert len(gaps.seconds) == len(EVENTS) - 1
    assert min(gaps.seconds) > 0


@pytest.mark.parametrize("is_event_stream", [True, False])
async def test_pieces_of_event_streams_alone_may_be_let_gather(cuts, exchange, is_event_stream):
    coalescer = Noting()
    replier = Replier(Settings(), ClientSockets(), Limiter(), Gaps(), Clock(), lambda _: None, coalescer)
    await replier.answer(exchange, Answer(EVENTS, is_event_stream=is_event_stream, length=LARGEST_WHOLE + 1))
    assert len(coalescer.noted) == (len(EVENTS) if is_event_stream else 0)


class Noting(Coalescer):
    def __init__(self):
        super().__init__(0.0)
        self.noted = []

    def note(self, now):
        self.noted.append(now)
