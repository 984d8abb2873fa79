"""A real gateway and engines that publish KV events: requests go where their tokens are, whoever caused that."""

import json
import random
import urllib.request

import pytest

from simulator.tokenizer import FolderTokenizer
from tests.support import config
from tests.support.client import ask, chat
from tests.support.engines import Engines, neighbouring_ports
from tests.support.gateway import Gateway
from tests.support.tokenizer import make_tokenizer
from tests.support.waiting import wait_until

BLOCK = 16
LONG = "The river above the dam carries more water in spring than the turbines can take. " * 20


def server(engines, folder, **more):
    endpoints = [
        {
            "name": f"engine-{number}",
            "address": "127.0.0.1",
            "port": port,
            "events": {"port": live, "replayPort": replay},
        }
        for number, (port, (live, replay)) in enumerate(zip(engines.ports, engines.event_ports, strict=True), 1)
    ]
    cache = {"mode": "tokens", "blockSize": BLOCK, **({"tokenizer": str(folder)} if folder else {}), **more}
    spec = {"inferenceEngine": "vLLM", "endpoints": endpoints, "prefixCache": cache}
    return config.document("ModelServer", "demo", spec)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("model")
    make_tokenizer(found)
    return found


@pytest.fixture(scope="module")
def engines(folder):
    with Engines(
        2, adapters=("demo-sql",), speed=10, kv_events=True, words=FolderTokenizer(folder), block_size=BLOCK
    ) as started:
        yield started


@pytest.fixture(scope="module")
def gateway(engines, folder, tmp_path_factory):
    text = server(engines, folder) + config.route("demo", loraAdapters=["demo-sql"])
    settings = {"tokens.budget_seconds": 5}
    with Gateway(tmp_path_factory.mktemp("gw"), {"demo.yaml": text}, **settings) as started:
        wait_until(lambda: followed(started, 2))
        yield started


def followed(gateway, count):
    return sum(one["connected"] for one in gateway.state()["kv_events"]) == count


def directly(engines, position, body, path="/v1/chat/completions"):
    """A request that the gateway knows nothing of. Its engine's own count of cached tokens."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{engines.ports[position]}{path}",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        return json.load(response)["usage"]["prompt_tokens_details"]["cached_tokens"]


def expected(gateway, body, endpoint=None):
    """Tokens that the gateway expects to be cached at an endpoint, or at each by name."""
    (found,) = gateway.explain(body)["servers"]
    assert found["matched_by"] == "tokens"
    by_name = {one["endpoint"].rpartition("/")[2]: one["matched_blocks"] * BLOCK for one in found["candidates"]}
    return by_name[endpoint] if endpoint else by_name


def outcomes(gateway):
    page = gateway.admin("/metrics").decode()
    lines = [line for line in page.splitlines() if line.startswith("penstock_prompts_tokenised_total{")]
    return {line.partition('outcome="')[2].partition('"')[0]: float(line.rpartition(" ")[2]) for line in lines}


@pytest.mark.parametrize("position", [0, 1])
def test_a_request_goes_where_an_event_says_that_its_prompt_is(gateway, engines, position):
    body = chat(f"{position} {LONG}", max_tokens=2)
    directly(engines, position, body)
    name = f"engine-{position + 1}"
    wait_until(lambda: expected(gateway, body, name) > 300)
    assert expected(gateway, body, f"engine-{2 - position}") < 3 * BLOCK
    for question in range(5):
        longer = chat(f"{position} {LONG} Question {question}?", max_tokens=2)
        assert gateway.ask(longer).endpoint == name
    assert outcomes(gateway)["tokens"] >= 5


def test_what_is_expected_is_what_the_engine_counts(gateway, engines):
    chosen = random.Random(1)
    texts = [f"{number} {LONG}"[: chosen.randrange(200, 1600)] for number in range(6)]
    differ, cached = 0, 0
    for _ in range(200):
        messages = [{"role": "system", "content": chosen.choice(texts)}]
        messages += [{"role": "user", "content": "x " * chosen.randrange(40)}] * chosen.randrange(1, 4)
        body = {"model": "demo", "messages": messages, "max_tokens": 2}
        if chosen.random() < 0.3:
            body["tools"] = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}]
        wanted = expected(gateway, body)
        answer = gateway.ask(body)
        found = answer.json["usage"]["prompt_tokens_details"]["cached_tokens"]
        cached += found
        differ += abs(wanted[answer.endpoint] - found)
    assert cached > 10_000
    assert differ <= 0.02 * cached, (differ, cached)


def test_prompts_of_token_ids_are_matched_as_they_are(gateway, engines):
    ids = [random.Random(2).randrange(500) for _ in range(400)]
    body = {"model": "demo", "prompt": ids, "max_tokens": 2}
    directly(engines, 1, body, "/v1/completions")

    def matched():
        (found,) = json.loads(gateway.admin("/debug/explain?path=/v1/completions", json.dumps(body).encode()))[
            "servers"
        ]
        return {one["endpoint"].rpartition("/")[2]: one["matched_blocks"] for one in found["candidates"]}

    wait_until(lambda: matched() == {"engine-1": 0, "engine-2": 24})
    assert gateway.ask(body, "/v1/completions").endpoint == "engine-2"


def test_what_cannot_be_tokenised_is_matched_by_text_and_counted(gateway):
    before = outcomes(gateway).get("unsupported", 0)
    body = {"model": "demo", "prompt": [LONG, LONG], "max_tokens": 2}
    answers = [gateway.ask(body, "/v1/completions") for _ in range(3)]
    assert [one.status for one in answers] == [200] * 3
    assert len({one.endpoint for one in answers}) == 1
    wait_until(lambda: outcomes(gateway).get("unsupported", 0) == before + 3)


def test_an_engine_that_restarts_holds_nothing(gateway, engines):
    body = chat(f"restart {LONG}", max_tokens=2)
    directly(engines, 0, body)
    wait_until(lambda: expected(gateway, body, "engine-1") > 300)
    engines.stop(0)
    wait_until(lambda: expected(gateway, body, "engine-1") == 0)
    engines.restart(0)
    wait_until(lambda: followed(gateway, 2))
    assert expected(gateway, body, "engine-1") == 0
    directly(engines, 0, body)
    wait_until(lambda: expected(gateway, body, "engine-1") > 300)


def test_the_sidecar_that_restarts_learns_by_replay_what_engines_hold(gateway, engines):
    body = chat(f"sidecar {LONG}", max_tokens=2)
    directly(engines, 1, body)
    wait_until(lambda: expected(gateway, body, "engine-2") > 300)
    gateway.kill_controllers()
    wait_until(lambda: sum(one["replayed"] > 0 for one in gateway.state()["kv_events"]) == 2, seconds=20)
    wait_until(lambda: expected(gateway, body, "engine-2") > 300)


@pytest.fixture(scope="module")
def without_tokenizer(engines, tmp_path_factory):
    text = server(engines, "") + config.route("demo", loraAdapters=["demo-sql"])
    settings = {"tokens.budget_seconds": 5, "workers": 1}
    with Gateway(tmp_path_factory.mktemp("without"), {"demo.yaml": text}, **settings) as started:
        wait_until(lambda: followed(started, 2))
        yield started


@pytest.mark.parametrize("position", [0, 1])
def test_without_a_tokenizer_engines_are_asked_for_the_ids(without_tokenizer, engines, position):
    gateway = without_tokenizer
    engines.heal()
    body = chat(f"asked {position} {LONG}", max_tokens=2)
    directly(engines, position, body)
    name = f"engine-{position + 1}"
    wait_until(lambda: expected(gateway, body, name) > 300)
    before = outcomes(gateway).get("engine", 0)
    for question in range(3):
        assert gateway.ask(chat(f"asked {position} {LONG} Question {question}?", max_tokens=2)).endpoint == name
    wait_until(lambda: outcomes(gateway).get("engine", 0) == before + 3)


def test_what_engines_say_is_what_they_count(without_tokenizer, engines):
    gateway = without_tokenizer
    engines.heal()
    for number in range(4):
        body = chat(f"counted {number % 2} {LONG}", max_tokens=2)
        wanted = expected(gateway, body)
        answer = gateway.ask(body)
        assert answer.json["usage"]["prompt_tokens_details"]["cached_tokens"] == wanted[answer.endpoint]
        wait_until(lambda body=body, at=answer.endpoint: expected(gateway, body, at) > 300)


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [({"status": 404}, "engine_missing"), ({"status": 500}, "engine_failed"), ({"status": 400}, "engine_refused")],
)
def test_an_engine_that_does_not_tokenise_costs_no_request(engines, tmp_path, fault, outcome):
    text = server(engines, "") + config.route("demo")
    settings = {"tokens.budget_seconds": 5, "workers": 1}
    with Gateway(tmp_path, {"demo.yaml": text}, **settings) as gateway:
        for position in range(2):
            engines.fault(position, kind="bad_tokenize", count=-1, **fault)
        try:
            body = chat(f"{outcome} {LONG}", max_tokens=2)
            answers = [gateway.ask(body) for _ in range(3)]
            assert [one.status for one in answers] == [200] * 3
            assert len({one.endpoint for one in answers}) == 1
            wait_until(lambda: sum(outcomes(gateway).values()) == 3)
            assert set(outcomes(gateway)) <= {outcome, "no_engine"}
            assert outcomes(gateway)[outcome] >= 2
            assert gateway.explain(body)["servers"][0]["matched_by"].startswith(f"text ({outcome}")
        finally:
            engines.heal()


def test_an_engine_that_tokenises_slowly_is_not_waited_for(engines, tmp_path):
    text = server(engines, "") + config.route("demo")
    with Gateway(tmp_path, {"demo.yaml": text}, **{"tokens.budget_seconds": 0.05, "workers": 1}) as gateway:
        for position in range(2):
            engines.fault(position, kind="bad_tokenize", count=-1, status=500, seconds=30)
        try:
            assert gateway.ask(chat(f"slow {LONG}", max_tokens=2)).status == 200
            wait_until(lambda: outcomes(gateway) == {"engine_late": 1})
        finally:
            engines.heal()


def test_what_any_rank_of_an_engine_holds_counts_until_all_have_given_it_away(folder, tmp_path):
    """The second engine stands for the second rank of the first: it publishes at the ports behind."""
    first = neighbouring_ports(4)
    made = Engines(2, speed=10, kv_events=True, words=FolderTokenizer(folder), block_size=BLOCK)
    made.event_ports = [(first + rank, first + 2 + rank) for rank in range(2)]
    with made as engines:
        cache = {"mode": "tokens", "tokenizer": str(folder), "blockSize": BLOCK}
        events = {"port": first, "replayPort": first + 2, "ranks": 2}
        one = {"name": "engine-1", "address": "127.0.0.1", "port": engines.ports[0], "events": events}
        spec = {"inferenceEngine": "vLLM", "endpoints": [one], "prefixCache": cache}
        text = config.document("ModelServer", "demo", spec) + config.route("demo")
        with Gateway(tmp_path, {"demo.yaml": text}) as gateway:
            wait_until(lambda: followed(gateway, 2))
            assert {(row["endpoint"], row["rank"]) for row in gateway.state()["kv_events"]} == {
                ("default/engine-1", 0),
                ("default/engine-1", 1),
            }
            body, other = chat(f"ranks {LONG}", max_tokens=2), chat(f"other {LONG}", max_tokens=2)
            directly(engines, 1, body)
            wait_until(lambda: expected(gateway, body, "engine-1") > 300)
            directly(engines, 0, body)
            directly(engines, 0, other)
            wait_until(lambda: expected(gateway, other, "engine-1") > 300)
            engines.stop(0)
            wait_until(lambda: expected(gateway, other, "engine-1") < 3 * BLOCK)
            assert expected(gateway, body, "engine-1") > 300
            engines.stop(1)
            wait_until(lambda: expected(gateway, body, "engine-1") == 0)


@pytest.mark.thorough
def test_a_folder_without_a_tokenizer_leaves_a_gateway_that_matches_by_text(engines, tmp_path):
    text = server(engines, tmp_path / "missing") + config.route("demo")
    with Gateway(tmp_path, {"demo.yaml": text}, **{"tokens.engine_requests": 0}) as gateway:
        answers = [ask(gateway.port, chat(f"missing {LONG}", max_tokens=2)) for _ in range(3)]
        assert [one.status for one in answers] == [200] * 3
        assert len({one.endpoint for one in answers}) == 1
        assert gateway.explain(chat(LONG))["servers"][0]["matched_by"] == "text (no_tokenizer)"
        # the first in a worker may be late: it waits for the library
        wait_until(lambda: sum(outcomes(gateway).values()) == 3)
        assert set(outcomes(gateway)) <= {"no_tokenizer", "late"}
        assert "tokenizer.json" in gateway.stderr
