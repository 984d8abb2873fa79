"""The life of a request without sockets: on every way out what was held is released, and everybody is told the truth."""

import asyncio
import json
import time
from collections import Counter

import pytest

from _fastpath.adapters import Adapters
from _fastpath.fair_share import FairShare
from _fastpath.load import Load
from _fastpath.prefix_index import PrefixIndex
from _fastpath.scanner import scan
from _fastpath.slots import endpoint_identity
from _fastpath.token_bucket import TokenBuckets
from gateway.datastore.model import Limit, Match, PrefixCache, Rule, Server, StringMatch, Target, Traffic
from gateway.datastore.model import Route as RouteModel
from gateway.dispatch import waiter_of
from gateway.errors import UpstreamError, UpstreamTimeout
from gateway.identity.gate import Caller
from gateway.observability.exposition import render
from gateway.routing.match import compile_route
from gateway.scheduling.place import Hashers, adapter_of
from gateway.scheduling.pool import Reserved
from gateway.settings import Queue, Requests, Settings
from tests.unit.gateway.fakes import Answer, Protocol, chat, make_exchange
from tests.unit.gateway.fleet import SERVER, Fleet, route

USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
FULL_WITH_ONE = Server(SERVER, traffic=Traffic(maximum_in_flight=1))
WHOLE = json.dumps({"choices": [], "usage": USAGE}).encode()


@pytest.fixture(autouse=True)
def without_sockets(monkeypatch):
    monkeypatch.setattr("gateway.downstream.client_socket.ClientSocket.cut", lambda self: None)
    monkeypatch.setattr("gateway.downstream.stream._FLUSH_SECONDS", 0.0)


@pytest.fixture
def fleet(tmp_path):
    return Fleet(tmp_path)


async def request(fleet, body=None, headers=None, path="/v1/chat/completions", protocol=None):
    """Serve one request; its exchange, and what the client got."""
    body = chat() if body is None else body
    protocol = protocol or Protocol(body)
    headers = {"content-length": str(len(body)), **(headers or {})}
    exchange = make_exchange(protocol, path=path, started=asyncio.get_running_loop().time(), headers=headers)
    await asyncio.ensure_future(fleet.pipeline.handle(exchange))
    status, found, text = protocol.answers[0] if protocol.answers else (None, {}, b"")
    return exchange, status, found, text


def error(text):
    return json.loads(text)["error"]


def counted(fleet, name, **labels):
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    lines = [line for line in render(fleet.memory, 2, ()).splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    return sum(float(line.split()[-1]) for line in lines if all(one in line for one in wanted))


def check_released(fleet):
    assert fleet.is_idle
    assert fleet.pipeline.in_flight == 0
    assert fleet.pipeline._bodies.held == 0
    assert fleet.limiter._journal.in_use == 0


async def test_a_request_is_answered_by_an_engine_and_leaves_nothing_behind(fleet):
    fleet.client.answers = [Answer([WHOLE], headers=[("content-type", "application/json")])]
    exchange, status, headers, text = await request(fleet)
    assert (status, text) == (200, WHOLE)
    assert headers["x-penstock-endpoint"] == fleet.client.sent[0][0]
    assert fleet.client.sent[0][3] == chat()
    assert fleet.log.finished_exchanges == [exchange]
    assert counted(fleet, "penstock_requests_total", model="m", code="200", error_type="") == 1
    assert counted(fleet, "penstock_tokens_total", type="output") == 4
    check_released(fleet)


async def test_while_a_request_is_computed_its_endpoint_carries_it(fleet):
    seen = []

    class Watching(Answer):
        async def chunks(self):
            seen.append(fleet.load())
            yield b"data: {}\n\n"
            seen.append(fleet.load())

    fleet.client.answers = [Watching([], is_event_stream=True)]
    await request(fleet, chat(stream=True, max_tokens=7))
    busy = fleet.client.sent[0][0]
    (in_flight, prefill, decode), after = seen[0][busy], seen[1][busy]
    assert in_flight == 1 and prefill > 0 and decode == 7
    assert after == (1, 0, 7)  # the first byte ends the prefill
    check_released(fleet)


async def test_an_engine_that_refuses_is_followed_by_another(fleet):
    fleet.client.answers = [UpstreamError("refused"), Answer([WHOLE])]
    exchange, status, _, _ = await request(fleet)
    assert status == 200
    assert len({name for name, *_ in fleet.client.sent}) == 2
    assert len(exchange.tried) == 2
    assert counted(fleet, "penstock_upstream_retries_total", server=SERVER, reason="upstream_error") == 1
    check_released(fleet)


async def test_when_every_try_fails_the_client_hears_of_the_last_and_may_try_again(fleet):
    fleet.client.answers = [UpstreamError("first"), UpstreamError("last")]
    _, status, headers, text = await request(fleet)
    assert (status, error(text)["code"], error(text)["message"]) == (502, "upstream_error", "last")
    assert headers["x-should-retry"] == "true"
    assert counted(fleet, "penstock_requests_total", code="502", error_type="upstream_error") == 1
    # sent to a further endpoint once; the second failure had none to go to
    assert counted(fleet, "penstock_upstream_retries_total") == 1
    check_released(fleet)


async def test_no_more_endpoints_are_tried_than_the_server_allows(tmp_path):
    fleet = Fleet(tmp_path, endpoints=5, server=Server(SERVER, traffic=Traffic(attempts=3)))
    fleet.client.answers = [UpstreamError("no")] * 5
    await request(fleet)
    assert len(fleet.client.sent) == 3
    assert counted(fleet, "penstock_upstream_retries_total") == 2
    check_released(fleet)


async def test_with_one_endpoint_there_is_no_second_try(tmp_path):
    fleet = Fleet(tmp_path, endpoints=1)
    fleet.client.answers = [UpstreamError("no")] * 5
    _, status, _, _ = await request(fleet)
    assert (status, len(fleet.client.sent)) == (502, 1)
    assert counted(fleet, "penstock_upstream_retries_total") == 0


async def test_a_time_out_is_not_tried_again(fleet):
    fleet.client.answers = [UpstreamTimeout("slow")]
    _, status, headers, _ = await request(fleet)
    assert (status, headers["x-should-retry"]) == (504, "false")
    check_released(fleet)


async def test_an_answer_that_breaks_off_before_the_client_saw_any_is_an_error(fleet):
    fleet.client.answers = [Answer([WHOLE[:9], UpstreamError("broken")])]
    _, status, _, text = await request(fleet)
    assert (status, error(text)["code"]) == (502, "upstream_error")
    check_released(fleet)


async def test_an_answer_is_always_closed(fleet):
    good, bad = Answer([WHOLE]), Answer([UpstreamError("broken")])
    fleet.client.answers = [good, bad]
    await request(fleet)
    await request(fleet)
    assert (good.closed, bad.closed) == (1, 1)


async def test_an_unknown_model_is_not_found_and_similar_names_are_offered(tmp_path):
    fleet = Fleet(tmp_path, routes=[route(model="llama-3-8b"), route(model="mistral", name="default/q")])
    _, status, _, text = await request(fleet, chat(model="llama-3-9b"))
    assert (status, error(text)["code"], error(text)["param"]) == (404, "model_not_found", "model")
    assert error(text)["message"] == "The model `llama-3-9b` does not exist. Did you mean `llama-3-8b`?"
    assert counted(fleet, "penstock_requests_total", model="_unknown", code="404") == 1
    check_released(fleet)


async def test_a_model_whose_rules_all_refuse_says_so(tmp_path):
    rules = (Rule((Target(SERVER),), match=Match(headers={"x": StringMatch(exact="1")})),)
    fleet = Fleet(tmp_path, routes=[RouteModel("default/r", "m", rules)])
    _, status, _, text = await request(fleet)
    assert (status, error(text)["code"]) == (404, "model_not_found")
    assert "No rule of the routes for model `m`" in error(text)["message"]


async def test_a_body_that_is_none_is_refused_with_its_fault(fleet):
    _, status, _, text = await request(fleet, b'{"model": 5}')
    assert (status, error(text)["param"]) == (400, "model")
    assert fleet.client.sent == []
    check_released(fleet)


async def test_a_route_to_a_server_that_does_not_exist_is_unavailable(tmp_path):
    fleet = Fleet(tmp_path, routes=[route("default/none")])
    _, status, headers, text = await request(fleet)
    assert (status, error(text)["code"], headers["retry-after"]) == (503, "no_ready_endpoints", "5")
    assert "default/none" in error(text)["message"]
    check_released(fleet)


async def test_a_server_without_endpoints_is_unavailable(tmp_path):
    fleet = Fleet(tmp_path, endpoints=0)
    _, status, headers, text = await request(fleet)
    assert (status, error(text)["code"], headers["x-should-retry"]) == (503, "no_ready_endpoints", "true")


async def test_endpoints_that_have_as_many_requests_as_they_may_are_left_alone(tmp_path):
    settings = Settings(queue=Queue(seconds=0.0))
    fleet = Fleet(tmp_path, endpoints=1, server=FULL_WITH_ONE, settings=settings)
    fleet.client.answers = [Answer([b"data: {}\n\n", None], is_event_stream=True)]
    protocol = Protocol(chat(stream=True))
    first = asyncio.ensure_future(request(fleet, protocol=protocol))
    while not protocol.sent:
        await asyncio.sleep(0)
    _, status, headers, text = await request(fleet)
    assert (status, error(text)["code"], headers["retry-after"]) == (429, "queue_full", "1")
    protocol.left.set()
    await first
    check_released(fleet)


async def test_a_rate_limit_is_told_and_counted_with_its_name(tmp_path):
    limited = route(limits=(Limit("per-minute", "requests", 1.0, 60.0, 1.0),))
    fleet = Fleet(tmp_path, routes=[limited])
    fleet.client.answers = [Answer([WHOLE])]
    await request(fleet)
    _, status, headers, text = await request(fleet)
    assert (status, error(text)["type"]) == (429, "rate_limit_error")
    assert 59 <= int(headers["retry-after"]) <= 60
    labels = {"route": "default/r", "scope": "route", "limit": "per-minute", "decision": "refused"}
    assert counted(fleet, "penstock_ratelimit_decisions_total", **labels) == 1
    check_released(fleet)


@pytest.mark.parametrize(
    ("answers", "left"),
    [
        ([Answer([WHOLE])], 87),  # 9 in, 4 out as the engine counted
        ([Answer([b"data: {}\n\n" * 3], is_event_stream=True)], None),  # estimated: prompt as scanned, 3 events
        ([Answer([b"{}"], status=500)], 100),
        ([UpstreamError("no"), UpstreamError("no")], 100),
        ([Answer([WHOLE[:5], UpstreamError("broken")])], 100),
    ],
)
async def test_limits_are_settled_with_what_was_used_and_given_back_when_nothing_was(tmp_path, answers, left):
    limits = (Limit("in", "input", 100.0, 1e7, 100.0), Limit("out", "output", 300.0, 1e7, 300.0))
    limited = route(limits=limits)
    fleet = Fleet(tmp_path, routes=[limited])
    fleet.client.answers = list(answers)
    exchange, *_ = await request(fleet, chat(max_tokens=50))
    check_released(fleet)
    used_in = {87: 9, None: exchange.prompt_tokens, 100: 0}[left]
    used_out = {87: 4, None: 3, 100: 0}[left]
    nothing, compiled = {}.get, compile_route(limited)
    held = fleet.limiter.reserve(compiled, nothing, "", 100 - used_in, 300 - used_out)
    assert held is not None
    fleet.limiter.cancel(held)
    with pytest.raises(Exception, match="`in`"):
        fleet.limiter.reserve(compiled, nothing, "", 101 - used_in, 0)
    with pytest.raises(Exception, match="`out`"):
        fleet.limiter.reserve(compiled, nothing, "", 0, 301 - used_out)


async def test_a_refused_request_does_not_disturb_the_split(tmp_path):
    limited = route(SERVER, SERVER, limits=(Limit("l", "requests", 1.0, 60.0, 1.0),))
    fleet = Fleet(tmp_path, routes=[limited])
    drawn, fleet.client.answers = [], [Answer([WHOLE])]
    object.__setattr__(fleet.pipeline._parts, "random", lambda: drawn.append(1) or 0.5)
    await request(fleet)
    await request(fleet)
    assert len(drawn) == 1


async def leave(fleet, answers, protocol, until):
    fleet.client.answers = answers
    serving = asyncio.ensure_future(request(fleet, protocol=protocol))
    while not until():
        await asyncio.sleep(0)
    protocol.left.set()
    return await serving


async def hanging():
    await asyncio.sleep(3600)


async def test_a_client_that_leaves_while_the_engine_prefills_ends_the_request(fleet):
    exchange, status, _, _ = await leave(fleet, [hanging], Protocol(chat()), lambda: fleet.client.sent)
    assert (status, exchange.status, exchange.error_code) == (None, 499, "client_closed")
    assert counted(fleet, "penstock_client_cancelled_total", phase="prefill") == 1
    check_released(fleet)


async def test_a_client_that_leaves_in_the_middle_of_a_stream_ends_the_engines_answer(fleet):
    answer = Answer([b"data: {}\n\n", None], is_event_stream=True)
    protocol = Protocol(chat(stream=True))
    exchange, *_ = await leave(fleet, [answer], protocol, lambda: protocol.sent)
    assert (exchange.status, answer.closed) == (499, 1)
    assert protocol.sent == [b"data: {}\n\n"]
    assert counted(fleet, "penstock_client_cancelled_total", phase="decode") == 1
    assert counted(fleet, "penstock_requests_total", code="499", error_type="client_closed") == 1
    check_released(fleet)


async def test_a_client_whose_leaving_the_kernel_tells_is_treated_the_same(fleet):
    protocol = Protocol(chat())
    fleet.client.answers = [hanging]
    serving = asyncio.ensure_future(request(fleet, protocol=protocol))
    while not fleet.client.sent:
        await asyncio.sleep(0)
    assert fleet.pipeline.waiting_clients(older_than=60.0) == set()
    assert fleet.pipeline.waiting_clients(older_than=-1.0) == {"127.0.0.1:0"}
    fleet.pipeline.clients_left({"127.0.0.1:9"})
    await asyncio.sleep(0)
    assert fleet.pipeline.in_flight == 1
    fleet.pipeline.clients_left({"127.0.0.1:0"})
    exchange, *_ = await serving
    assert exchange.status == 499
    check_released(fleet)


async def test_a_draining_gateway_refuses_new_requests_and_asks_to_close(fleet):
    fleet.pipeline.draining = True
    _, status, headers, text = await request(fleet)
    assert (status, error(text)["code"], headers["connection"]) == (503, "draining", "close")
    assert headers["x-should-retry"] == "true"
    check_released(fleet)


async def test_what_is_left_at_the_end_of_a_drain_is_cut_and_told(fleet):
    fleet.client.answers = [hanging, Answer([b"data: {}\n\n", None], is_event_stream=True)]
    waiting, streaming = Protocol(chat()), Protocol(chat(stream=True))
    tasks = [asyncio.ensure_future(request(fleet, protocol=one)) for one in (waiting, streaming)]
    while not streaming.sent:
        await asyncio.sleep(0)
    assert fleet.pipeline.cut_all() == 2
    await asyncio.gather(*tasks)
    assert waiting.answers[0][0] == 503
    assert b'"draining"' in streaming.sent[-1]
    assert Counter(one.status for one in fleet.log.finished_exchanges) == {503: 2}
    check_released(fleet)


async def test_a_fault_of_ours_is_a_500_without_details_and_is_logged_with_them(fleet, caplog):
    fleet.client.answers = [KeyError("secret")]
    _, status, _, text = await request(fleet)
    assert (status, error(text)["code"]) == (500, "internal_error")
    assert "secret" not in text.decode()
    assert "secret" in caplog.text
    check_released(fleet)


async def test_a_request_for_which_the_body_broke_off_is_counted_and_holds_nothing(fleet):
    exchange, status, *_ = await request(fleet, protocol=Protocol(breaks=RuntimeError("gone")))
    assert (status, exchange.error_code) == (400, "invalid_body")
    check_released(fleet)


async def test_bodies_are_bounded_over_all_requests(tmp_path):
    fleet = Fleet(tmp_path, settings=Settings(requests=Requests(bodies_in_flight_bytes=len(chat()) + 10)))
    fleet.client.answers = [hanging]
    protocol = Protocol(chat())
    first = asyncio.ensure_future(request(fleet, protocol=protocol))
    while not fleet.client.sent:
        await asyncio.sleep(0)
    _, status, _, text = await request(fleet)
    assert (status, error(text)["code"]) == (503, "overloaded")
    protocol.left.set()
    await first
    check_released(fleet)


async def test_a_servers_own_model_name_replaces_the_clients_and_nothing_else(tmp_path):
    fleet = Fleet(tmp_path, routes=[route(adapters=("m-sql",))], server=Server(SERVER, model='meta/"llama"'))
    fleet.client.answers = [Answer([WHOLE]), Answer([WHOLE])]
    body = b'{ "messages":[ ], "x" : 1e5,"model" :  "m" , "y":"\xc3\xa9"}'
    await request(fleet, body)
    assert fleet.client.sent[0][3] == body.replace(b'"m"', rb'"meta/\"llama\""')
    adapter = body.replace(b'"m"', b'"m-sql"')
    await request(fleet, adapter)
    assert fleet.client.sent[1][3] == adapter


async def test_a_request_for_an_adapter_goes_where_it_is_loaded_and_another_where_it_would_have_gone(tmp_path):
    fleet = Fleet(tmp_path, routes=[route(adapters=("m-sql",))])
    load, adapters = Load(fleet.memory), Adapters(fleet.memory)
    for one in fleet.replica.world.endpoints.values():
        name = one.slot.index, one.slot.generation
        busy = 1.0 if one.endpoint.name == "default/e1" else 0.0
        assert load.write_metrics(*name, busy, 0, 0, 0, 0, 0, time.monotonic())
        assert adapters.write(*name, 1, 0, [adapter_of("m-sql")] if busy else [])
    fleet.client.answers = [Answer([WHOLE]) for _ in range(8)]
    for model in (b'"m-sql"', b'"m"'):
        for number in range(4):
            await request(fleet, b'{"messages":[{"role":"user","content":"%d"}],"model":%b}' % (number, model))
    assert [name for name, *_ in fleet.client.sent] == ["default/e1"] * 4 + ["default/e0"] * 4
    check_released(fleet)


def expecting(fleet, body, age):
    """Both endpoints were sent this prompt so many seconds ago; the index and the hashes, and the slots."""
    hashes = Hashers(fleet.memory).prompt(body, scan(body), PrefixCache())
    prefixes, slots = PrefixIndex(fleet.memory), [one.slot.index for one in fleet.replica.world.endpoints.values()]
    for slot in slots:
        prefixes.learn(hashes, slot, time.monotonic() - age)
    assert len(hashes) > 100
    return lambda: [count > 0 for count in prefixes.match(hashes, slots)]


def found_cached(tokens):
    usage = {"prompt_tokens": 3000, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": tokens}}
    return json.dumps({"choices": [], "usage": usage}).encode()


async def test_an_engine_that_found_much_less_than_expected_is_expected_to_hold_nothing_of_that_age(fleet, monkeypatch):
    monkeypatch.setattr("gateway.scheduling.corrections.SWEEP_SECONDS", 0.01)
    body, older = chat(content="x" * 12_000), chat(content="y" * 12_000)
    expecting(fleet, body, age=100)
    held = expecting(fleet, older, age=200)
    fleet.client.answers = [Answer([found_cached(0)])]
    await request(fleet, body)
    assert counted(fleet, "penstock_prefix_corrections_total", server=SERVER, reason="evicted") == 1
    async with asyncio.timeout(5):
        while all(held()):
            await asyncio.sleep(0.01)
    assert sorted(held()) == [False, True]


@pytest.mark.parametrize("answer", [found_cached(2900), WHOLE], ids=["as expected", "nothing said"])
async def test_without_word_of_less_nothing_is_corrected(fleet, answer):
    body = chat(content="x" * 12_000)
    expecting(fleet, body, age=100)
    fleet.client.answers = [Answer([answer])]
    await request(fleet, body)
    assert counted(fleet, "penstock_prefix_corrections_total") == 0


WORD = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
COUNT = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":1}}\n\n'
DONE = b"data: [DONE]\n\n"


def stream():
    return Answer([WORD, COUNT + DONE], headers=[("content-type", "text/event-stream")], is_event_stream=True)


async def test_a_stream_is_counted_by_its_engine_and_its_client_does_not_see_it(fleet):
    fleet.client.answers = [stream()]
    body = b'{"model":"m","messages":[],"stream":true, "stream_options":{"x":1} }'
    protocol = Protocol(body)
    exchange, *_ = await request(fleet, body, protocol=protocol)
    assert fleet.client.sent[0][3] == body.replace(b'{"x":1}', b'{"x":1,"include_usage":true}')
    assert b"".join(protocol.sent) == WORD + DONE
    assert exchange.usage == (7, 1, -1)
    assert counted(fleet, "penstock_tokens_total", type="output") == 1


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true}}', "/v1/chat/completions"),
        (b'{"model":"m","messages":[],"stream":true}', "/v1/messages"),
        (b'{"model":"m","input":"x","stream":true}', "/v1/responses"),
        (b'{"model":"m","messages":[],"stream":false}', "/v1/chat/completions"),
    ],
)
async def test_where_the_gateway_does_not_ask_for_a_count_nothing_is_changed(fleet, body, path):
    fleet.client.answers = [stream()]
    protocol = Protocol(body)
    await request(fleet, body, path=path, protocol=protocol)
    assert fleet.client.sent[0][3] == body
    assert b"".join(protocol.sent) == WORD + COUNT + DONE


async def test_engines_that_refuse_stream_options_are_not_asked(tmp_path):
    fleet = Fleet(tmp_path, server=Server(SERVER, traffic=Traffic(stream_usage=False)))
    fleet.client.answers = [stream()]
    body = chat(stream=True)
    await request(fleet, body)
    assert fleet.client.sent[0][3] == body


async def test_what_no_client_may_say_to_an_engine_is_taken_out(fleet):
    fleet.client.answers = [Answer([WHOLE])]
    await request(
        fleet,
        b'{"model":"m","kv_transfer_params":{"do_remote_prefill":true},"messages":[],"bootstrap_room":7,"boot\\u0073trap_host":"x"}',
    )
    assert fleet.client.sent[0][3] == b'{"model":"m","messages":[]}'


async def test_the_body_is_let_go_of_when_the_engine_answers(fleet):
    held = []

    class Watching(Answer):
        async def whole(self, most):
            held.append(fleet.pipeline._bodies.held)
            return await super().whole(most)

    fleet.client.answers = [Watching([WHOLE])]
    exchange, *_ = await request(fleet)
    assert held == [0]
    assert exchange.bytes_in == len(chat())
    check_released(fleet)


async def test_an_engine_is_told_nothing_of_the_clients_credentials(fleet):
    fleet.client.answers = [Answer([WHOLE])]
    headers = {
        "authorization": "Bearer secret",
        "cookie": "a=b",
        "host": "x",
        "connection": "keep-alive",
        "x-api-key": "secret",
        "accept": "text/event-stream",
        "user-agent": "me/1",
        "traceparent": "00-1-2-3",
        "tracestate": "bad\nvalue",
    }
    await request(fleet, headers=headers)
    assert fleet.client.sent[0][2] == (
        "content-type: application/json\r\naccept-encoding: identity\r\nx-request-id: req_1\r\n"
        "accept: text/event-stream\r\ntraceparent: 00-1-2-3\r\nuser-agent: me/1\r\n"
    )


async def test_equal_prompts_go_to_the_endpoint_that_knows_them(tmp_path):
    fleet = Fleet(tmp_path, endpoints=4)
    fleet.client.answers = [Answer([WHOLE]) for _ in range(40)]
    prompts = [chat("x" * 400 + str(number)) for number in range(4)]
    for body in prompts * 10:
        await request(fleet, body)
    places = {body: {name for name, _, _, sent in fleet.client.sent if sent == body} for body in prompts}
    assert all(len(names) == 1 for names in places.values())


async def test_retries_that_an_sdk_announces_are_counted(fleet):
    fleet.client.answers = [Answer([WHOLE]), Answer([WHOLE])]
    await request(fleet, headers={"x-stainless-retry-count": "0"})
    await request(fleet, headers={"x-stainless-retry-count": "2"})
    assert counted(fleet, "penstock_client_retries_total") == 1


# -- waiting for an endpoint with room


async def held(fleet):
    """A stream that has the only endpoint; its task, and the protocol by which its client leaves."""
    fleet.client.answers.insert(0, Answer([b"data: {}\n\n", None], is_event_stream=True))
    protocol = Protocol(chat(stream=True))
    task = asyncio.ensure_future(request(fleet, protocol=protocol))
    while not protocol.sent:
        await asyncio.sleep(0)
    return task, protocol


async def test_whoever_finds_every_endpoint_full_waits_and_is_next(tmp_path):
    fleet = Fleet(tmp_path, endpoints=1, server=FULL_WITH_ONE)
    first, protocol = await held(fleet)
    fleet.client.answers += [Answer([WHOLE], headers=[("content-type", "application/json")])] * 1
    second = asyncio.ensure_future(request(fleet))
    await asyncio.sleep(0.05)
    assert not second.done()
    protocol.left.set()
    await first
    exchange, status, headers, text = await second
    assert (status, text) == (200, WHOLE)
    assert 0.04 < exchange.waited < 5
    assert "queue;dur=" in headers["server-timing"]
    assert counted(fleet, "penstock_queue_duration_seconds_count", outcome="served") == 1
    check_released(fleet)


async def test_nobody_waits_longer_than_its_client_does(tmp_path):
    fleet = Fleet(tmp_path, endpoints=1, server=FULL_WITH_ONE)
    first, protocol = await held(fleet)
    exchange, status, headers, text = await request(fleet, headers={"x-stainless-read-timeout": "0.05"})
    assert (status, error(text)["code"], headers["x-should-retry"]) == (429, "queue_full", "true")
    assert "had room for 0." in error(text)["message"]
    assert 0 < exchange.waited < 5  # its client counts from its arrival: some of its time was gone before the queue
    assert counted(fleet, "penstock_queue_duration_seconds_count", outcome="late") == 1
    protocol.left.set()
    await first
    check_released(fleet)


async def test_whoever_leaves_while_it_waits_frees_its_place_and_takes_no_endpoint(tmp_path):
    fleet = Fleet(tmp_path, endpoints=1, server=FULL_WITH_ONE)
    first, protocol = await held(fleet)
    waiting = Protocol(chat())
    second = asyncio.ensure_future(request(fleet, protocol=waiting))
    await asyncio.sleep(0.02)
    waiting.is_gone = True
    waiting.left.set()
    exchange, *_ = await asyncio.wait_for(second, 5)
    assert (exchange.status, exchange.tried) == (499, ())
    assert counted(fleet, "penstock_queue_duration_seconds_count", outcome="left") == 1
    assert counted(fleet, "penstock_client_cancelled_total", phase="queued") == 1
    protocol.left.set()
    await first
    check_released(fleet)


@pytest.mark.parametrize("how", ["left", "late"])
async def test_whoever_goes_without_an_endpoint_has_everything_back_of_its_limits(tmp_path, how):
    kinds = ("requests", "input", "output")
    limits = tuple(Limit(kind, kind, 1e4, 30 * 86_400.0, 1e4) for kind in kinds)
    fleet = Fleet(tmp_path, endpoints=1, server=FULL_WITH_ONE, routes=[route(limits=limits)])
    first, protocol = await held(fleet)
    buckets = TokenBuckets(fleet.memory)

    def available():
        return [buckets.available(number, time.monotonic_ns()) for number in range(3)]

    before = available()
    waiting = Protocol(chat())
    headers = {"x-stainless-read-timeout": "0.2"} if how == "late" else {}
    second = asyncio.ensure_future(request(fleet, protocol=waiting, headers=headers))
    await asyncio.sleep(0.05)
    assert [had - left > 0.9 for had, left in zip(before, available(), strict=True)] == [True] * 3
    if how == "left":
        waiting.is_gone = True
        waiting.left.set()
    exchange, *_ = await asyncio.wait_for(second, 5)
    assert exchange.status == (499 if how == "left" else 429)
    assert available() == pytest.approx(before, abs=0.1)  # not even the request is counted
    protocol.left.set()
    await first
    check_released(fleet)


async def test_who_waits_is_not_overtaken_by_who_comes_when_there_is_room(tmp_path):
    fleet = Fleet(tmp_path, endpoints=1, server=FULL_WITH_ONE)
    first, protocol = await held(fleet)
    whole = [("content-type", "application/json")]
    fleet.client.answers += [Answer([WHOLE], headers=whole) for _ in range(6)]
    order = []

    async def one(name):
        await request(fleet)
        order.append(name)

    tasks = []
    for name in range(5):
        tasks.append(asyncio.ensure_future(one(name)))
        await asyncio.sleep(0.01)
    protocol.left.set()
    await first
    await asyncio.gather(*tasks, one("last"))
    assert order[:5] == [0, 1, 2, 3, 4]
    check_released(fleet)


@pytest.mark.parametrize(
    ("allowed", "asked", "found"),
    [(3, None, 3), (3, "1", 1), (3, "9", 3), (0, "-2", -2), (0, "soon", 0), (0, "nan", 0)],
)
def test_a_request_may_ask_for_less_than_its_tenants_priority(allowed, asked, found):
    headers = {} if asked is None else {"x-penstock-priority": asked}
    exchange = make_exchange(Protocol(), headers=headers)
    exchange.caller = Caller("a", weight=2.0, priority=allowed)
    exchange.prompt_tokens, exchange.output_tokens = 100, 50
    waiter = waiter_of(exchange, lambda: None)
    assert (waiter.priority, waiter.tenant, waiter.tokens, waiter.deadline) == (found, "a", 150.0, float("inf"))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-stainless-read-timeout": "5"}, 5.0),
        ({"x-stainless-timeout": "600", "x-stainless-read-timeout": "30.5"}, 30.5),
        ({"x-envoy-expected-rq-timeout-ms": "1500"}, 1.5),
        ({"x-stainless-timeout": "0", "x-stainless-read-timeout": "nan"}, float("inf")),
        ({"x-stainless-timeout": "-1"}, float("inf")),
        ({"x-stainless-timeout": "NOT_GIVEN"}, float("inf")),
    ],
)
def test_a_request_waits_no_longer_than_its_client(headers, seconds):
    exchange = make_exchange(Protocol(), headers=headers)
    assert waiter_of(exchange, lambda: None).deadline == exchange.started + seconds


@pytest.mark.parametrize("asked", ["-9223372036854775808", "-1e300", "1e300", "-5", "nan", "much"])
async def test_whatever_priority_a_client_names_it_waits_in_turn_and_nobody_else_suffers(tmp_path, asked):
    fleet = Fleet(tmp_path, endpoints=1, server=FULL_WITH_ONE)
    first, protocol = await held(fleet)
    whole = [("content-type", "application/json")]
    fleet.client.answers += [Answer([WHOLE], headers=whole) for _ in range(3)]
    waiting = [asyncio.ensure_future(request(fleet, headers={"x-penstock-priority": asked}))]
    await asyncio.sleep(0.01)
    waiting.append(asyncio.ensure_future(request(fleet)))
    await asyncio.sleep(0.01)
    protocol.left.set()
    await first
    assert [status for _, status, *_ in await asyncio.gather(*waiting)] == [200, 200]
    check_released(fleet)


async def test_where_nobody_may_wait_a_full_server_refuses(tmp_path):
    fleet = Fleet(tmp_path, endpoints=1, server=FULL_WITH_ONE, settings=Settings(queue=Queue(length=0)))
    first, protocol = await held(fleet)
    _, status, _, text = await request(fleet)
    assert (status, error(text)["code"]) == (429, "queue_full")
    protocol.left.set()
    await first
    check_released(fleet)


async def test_a_request_that_no_engine_had_costs_nothing_of_its_limits(tmp_path):
    limits = (Limit("calls", "requests", 10, 3600, 10),)
    fleet = Fleet(tmp_path, routes=[route(limits=limits)])
    refused = UpstreamError("The engine does not accept connections.")
    refused.is_sent = False
    fleet.client.answers = [refused, refused]
    exchange, status, *_ = await request(fleet)
    assert (status, exchange.sent) == (502, 0.0)
    fleet.client.answers = [refused, Answer([WHOLE], headers=[("content-type", "application/json")])]
    _, status, headers, _ = await request(fleet)
    assert (status, headers["x-ratelimit-remaining-requests"]) == (200, "9")
    fleet.client.answers = [UpstreamError("It broke off."), refused]
    exchange, status, *_ = await request(fleet)
    assert (status, exchange.sent > 0) == (502, True)
    check_released(fleet)


async def test_what_a_tokenizer_answers_is_no_output(tmp_path):
    fleet = Fleet(tmp_path, routes=[route(limits=(Limit("out", "output", 1_000_000, 3600, 1_000_000),))])
    ids = json.dumps({"tokens": list(range(10_000))}).encode()
    fleet.client.answers = [Answer([ids], headers=[("content-type", "application/json")])] * 1
    await request(fleet, body=json.dumps({"model": "m", "prompt": "x"}).encode(), path="/tokenize")
    fleet.client.answers = [Answer([WHOLE], headers=[("content-type", "application/json")])]
    _, status, headers, _ = await request(fleet)
    assert status == 200
    assert int(headers["x-ratelimit-remaining-tokens"]) > 999_000


async def test_without_a_queue_no_place_is_kept(tmp_path):
    """Who is owed one is known of those that wait."""
    server = Server(SERVER, traffic=Traffic(maximum_in_flight=4))
    fleet = Fleet(
        tmp_path, endpoints=1, server=server, settings=Settings(queue=Queue(seconds=0.0)), reserved=Reserved(25.0)
    )
    share = FairShare(fleet.memory, 1)
    for tenant in (1, 2):
        share.note(endpoint_identity(SERVER), tenant, asyncio.get_running_loop().time())
    assert share.is_contested(endpoint_identity(SERVER), asyncio.get_running_loop().time())
    streams = [await held(fleet) for _ in range(4)]
    assert {protocol.answers[0][0] for _, protocol in streams} == {200}
    for task, protocol in streams:
        protocol.left.set()
        await task
    check_released(fleet)


async def test_the_prompt_of_an_answer_in_one_piece_is_taken_to_be_computed_when_that_was_expected(tmp_path):
    """Or an endpoint that writes a long one would seem late for as long as it does."""
    fleet, gate = Fleet(tmp_path, endpoints=1), asyncio.Event()

    async def slowly():
        await gate.wait()
        return Answer([WHOLE], headers=[("content-type", "application/json")])

    fleet.client.answers = [slowly]
    asking = asyncio.ensure_future(request(fleet, body=chat("x" * 1600)))  # some 400 tokens: 50 ms
    await asyncio.sleep(0.02)
    ((in_flight, prefill, _),) = fleet.load().values()
    assert (in_flight, prefill > 300) == (1, True)
    async with asyncio.timeout(5):
        while next(iter(fleet.load().values()))[1]:
            await asyncio.sleep(0.01)
    assert next(iter(fleet.load().values()))[0] == 1
    gate.set()
    await asking
    await asyncio.sleep(0.1)
    check_released(fleet)
