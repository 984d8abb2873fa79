"""What the gateway says of itself on its admin port: its state, and why a request would go where."""

import asyncio
import json
import time

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from _fastpath.health import OUTCOMES, Health
from _fastpath.load import Load
from _fastpath.scanner import scan
from _fastpath.shared_memory import STATES
from gateway.admin.explain import Explainer
from gateway.admin.state import STATE_VERSION, State
from gateway.datastore.model import Limit, Match, Rule, Scheduling, Server, StringMatch, Target
from gateway.datastore.model import Route as RouteModel
from gateway.datastore.replica import World
from gateway.datastore.store_states import StoreState
from gateway.errors import ClientError, ModelNotAllowed
from gateway.identity.gate import Caller, Models
from gateway.observability.exposition import render
from gateway.observability.worker_report import Report
from gateway.routing.kinds import Kind
from gateway.settings import Settings
from tests.unit.gateway.fakes import Answer, chat
from tests.unit.gateway.fleet import SERVER, Fleet, route
from tests.unit.gateway.test_pipeline import request

CHAT = "/v1/chat/completions"


class Worker:
    def __init__(self, index, restarts=0):
        self.index, self.restarts = index, restarts


class Heard:
    is_heard = True
    heard_at = 0.0


class Leases:
    def states(self):
        return [StoreState("redis:6379", False, "refused", 2)]

    def failures(self):
        return {"redis:6379": 3}


class Supervisor:
    """What the admin port reads of the real one."""

    def __init__(self, fleet):
        self.memory, self.replica, self.settings = fleet.memory, fleet.replica, fleet.settings
        self.workers = [Worker(0), Worker(1, restarts=3)]
        self.subscriber = Heard()
        self.leases = Leases()
        self.started = time.monotonic() - 10


@pytest.fixture
def fleet(tmp_path):
    return Fleet(tmp_path)


@pytest.fixture
def supervisor(fleet):
    return Supervisor(fleet)


@pytest.fixture
def state(supervisor):
    return State(supervisor, "1.2.3")


def scrape(fleet, name="default/e0", **values):
    slot = next(one.slot for one in fleet.replica.world.endpoints.values() if one.endpoint.name == name)
    found = {
        "running": 5,
        "waiting": 2,
        "kv_usage": 0.5,
        "first": 0.1,
        "inter": 0.01,
        "hits": 0.25,
        "now": time.monotonic(),
    }
    found |= values
    assert Load(fleet.memory).write_metrics(slot.index, slot.generation, *found.values())


# -- state


def test_the_document_is_versioned_and_is_json(state):
    document = json.loads(json.dumps(state.document()))
    assert (document["version"], document["penstock"]) == (STATE_VERSION, "1.2.3")
    assert 9 < document["uptime_seconds"] < 60
    assert document["snapshot"] == {"epoch": 1, "sequence": 1, "controllers_heard": True, "age_seconds": None}
    assert set(document) == {
        "version", "penstock", "uptime_seconds", "process", "snapshot", "workers", "routes", "servers", "endpoints",
        "queues", "limit_stores", "objects", "problems", "kv_events",
    }  # fmt: skip


def test_the_age_of_the_snapshot_is_that_of_the_last_word_of_the_controllers(state, supervisor):
    supervisor.subscriber.heard_at = time.monotonic() - 2
    assert 2 <= state.document()["snapshot"]["age_seconds"] < 10


def test_routes_say_where_they_lead_and_what_is_missing(tmp_path):
    limit = Limit("l", "requests", 1.0, 60.0, 2.0)
    fleet = Fleet(tmp_path, routes=[route(SERVER, "default/none", adapters=("x",), limits=(limit,))])
    (found,) = State(Supervisor(fleet), "1").document()["routes"]
    assert found["name"] == "default/r"
    assert (found["model"], found["adapters"]) == ("m", ["x"])
    assert (found["targets"], found["missing_servers"]) == ([SERVER, "default/none"], ["default/none"])
    assert found["limits"] == [{"name": "l", "kind": "requests", "amount": 1.0, "seconds": 60.0, "burst": 2.0}]


def test_servers_say_how_they_choose(state):
    assert state.document()["servers"] == [
        {"name": SERVER, "engine": "vLLM", "model": None, "policy": "cost", "endpoints": 2}
    ]


def test_endpoints_say_what_is_sent_to_them_and_what_they_say_of_themselves(state, fleet):
    scrape(fleet)
    first, second = sorted(state.document()["endpoints"], key=lambda one: one["name"])
    assert first["scrape_age_seconds"] < 10
    first.pop("scrape_age_seconds")
    assert 0 < first.pop("state_seconds_left") <= 30
    assert first == {
        "name": "default/e0",
        "server": SERVER,
        "url": "http://10.0.0.0:8000",
        "role": "both",
        "state": "warming",
        "failures": 0,
        "ejections": 0,
        "in_flight": 0,
        "prefill_tokens": 0,
        "decode_tokens": 0,
        "running": 5,
        "waiting": 2,
        "kv_usage": 0.5,
        "prefix_hit_ratio": 0.25,
    }
    assert [second[name] for name in ("running", "waiting", "kv_usage", "scrape_age_seconds")] == [None] * 4


def eject(fleet, name):
    placed = next(one for one in fleet.replica.world.endpoints.values() if one.endpoint.name == name)
    outlier = fleet.replica.world.servers[placed.endpoint.server].pool.outlier
    for _ in range(3):
        now = time.monotonic()
        Health(fleet.memory).note(*msgspec.structs.astuple(placed.slot), outlier, OUTCOMES.index("failed"), now, now)


def test_endpoints_say_whether_they_are_ejected(state, fleet):
    eject(fleet, "default/e0")
    first, second = sorted(state.endpoints(), key=lambda one: one["name"])
    assert (first["state"], first["ejections"], second["state"]) == ("ejected", 1, "warming")
    assert 9 < first["state_seconds_left"] <= 10
    page = render(fleet.memory, 2, state.gauges())
    ready = {
        sample.labels["pod"]: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "penstock_endpoint_ready"
    }
    assert ready == {"default/e0": 0, "default/e1": 1}


def test_an_endpoint_whose_server_is_gone_has_no_state_but_serving(state, fleet):
    endpoint = fleet.endpoint(0)
    fleet.serve([], [], [endpoint])
    (one,) = state.endpoints()
    assert (one["state"], one["state_seconds_left"]) == ("serving", 0)


async def test_requests_in_flight_are_seen_at_their_endpoint_and_their_worker(state, fleet):
    seen = []

    class Watching(Answer):
        async def chunks(self):
            seen.append(state.document())
            yield b"{}"

    fleet.client.answers = [Watching([])]
    await request(fleet, chat(max_tokens=5))
    busy = next(one for one in seen[0]["endpoints"] if one["in_flight"])
    assert (busy["in_flight"], busy["decode_tokens"]) == (1, 5)
    assert [worker["charged"] for worker in seen[0]["workers"]] == [1, 0]
    assert not any(one["in_flight"] for one in state.document()["endpoints"])


def test_workers_say_who_they_are_and_how_they_are(state, fleet):
    fleet.memory.claim_row(1, 4242, 7)
    fleet.memory.set_state(1, STATES.index("serving"))
    fleet.memory.set_snapshot(1, 1, 9, 1)
    fleet.memory.beat(1, time.monotonic_ns(), 3, 5 << 20, 2_000_000)
    worker = state.document()["workers"][1]
    assert worker == {
        "index": 1,
        "process": 4242,
        "state": "serving",
        "sequence": 9,
        "in_flight": 3,
        "waiting": 0,
        "charged": 0,
        "resident_bytes": 5 << 20,
        "loop_lag_seconds": 0.002,
        "restarts": 3,
        "issuer": None,
    }


def test_the_snapshot_document_is_what_was_decided(state):
    document = json.loads(json.dumps(state.snapshot()))
    assert (document["epoch"], document["sequence"]) == (1, 1)
    assert document["servers"] == [{"name": SERVER}]
    assert [one["address"] for one in document["endpoints"]] == ["10.0.0.0", "10.0.0.1"]
    assert document["routes"][0]["rules"] == [{"targets": [{"server": SERVER, "weight": 100}]}]


def test_the_gateway_is_ready_when_every_worker_serves_some_snapshot(state, supervisor, fleet, tmp_path):
    assert state.readiness() == (False, "0 of 2 workers serve")
    for index in (0, 1):
        fleet.memory.claim_row(index, 1, 1)
        fleet.memory.set_state(index, STATES.index("serving"))
    assert state.readiness() == (True, "ready")
    fleet.memory.set_state(1, STATES.index("draining"))
    assert state.readiness() == (False, "1 of 2 workers serve")
    fleet.memory.set_state(1, STATES.index("serving"))
    (tmp_path / "other").mkdir()
    empty = Fleet(tmp_path / "other")

    empty.replica.world = World()
    supervisor.replica = empty.replica
    assert state.readiness() == (False, "no snapshot yet")


def test_the_gauges_are_a_page_that_prometheus_reads(state, supervisor, fleet):
    scrape(fleet)
    found = {}
    for family in text_string_to_metric_families(render(fleet.memory, 2, state.gauges())):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    pods = {labels: value for (name, labels), value in found.items() if name == "penstock_endpoint_in_flight"}
    assert len(pods) == 2
    pod = (("pod", "default/e0"), ("role", "both"), ("server", SERVER))
    assert found["penstock_endpoint_running", pod] == 5
    assert found["penstock_endpoint_kv_usage_ratio", pod] == 0.5
    assert found["penstock_worker_restarts_total", (("worker", "1"),)] == 3
    assert found["penstock_config_generation", ()] == 1
    assert found["penstock_build_info", (("version", "1.2.3"),)] == 1
    store = (("address", "redis:6379"),)
    names = ("reachable", "gateways", "failures_total")
    assert [found[f"penstock_limit_store_{name}", store] for name in names] == [0, 2, 3]
    never = (("pod", "default/e1"), ("role", "both"), ("server", SERVER))
    assert ("penstock_endpoint_running", never) not in found


# -- explain


@pytest.fixture
def explain(fleet):
    explainer = Explainer(fleet.memory, Settings())
    return lambda body=None, path=CHAT, headers=(): explainer.explain(
        fleet.replica.world, chat() if body is None else body, path, dict(headers)
    )


def test_an_explanation_names_route_rule_servers_and_every_candidate(fleet, explain):
    scrape(fleet, "default/e0", running=50, waiting=20)
    scrape(fleet, "default/e1")
    document = json.loads(json.dumps(explain(chat("x" * 640, max_tokens=7))))
    assert (document["model"], document["route"], document["rule"]) == ("m", "default/r", "")
    assert (document["output_tokens"], document["prompt_tokens"] > 100) == (7, True)
    (server,) = document["servers"]
    assert (server["server"], server["share"], server["policy"]) == (SERVER, 1.0, "cost")
    assert server["blocks"] >= 9
    assert server["choice"] == "default/e1"
    assert [one["endpoint"] for one in server["candidates"]] == ["default/e1", "default/e0"]
    assert server["candidates"][0]["score"] > server["candidates"][1]["score"]
    assert [one["scraped"] for one in server["candidates"]] == [True, True]


def test_explaining_charges_and_learns_nothing(fleet, explain):
    for _ in range(5):
        document = explain(chat("x" * 640))
    assert fleet.is_idle
    assert [one["matched_blocks"] for one in document["servers"][0]["candidates"]] == [0, 0]


async def test_an_explanation_is_what_happens(fleet, explain):
    for number in range(10):
        body = chat(f"{number % 3}" * 640)
        wanted = explain(body)
        fleet.client.answers = [Answer([b"{}"])]
        exchange, *_ = await request(fleet, body)
        scores = [one["score"] for one in wanted["servers"][0]["candidates"]]
        if scores[0] > scores[1]:  # equals are chosen at random
            assert exchange.placement.placed.endpoint.name == wanted["servers"][0]["choice"]
    assert wanted["servers"][0]["candidates"][0]["matched_blocks"] > 0


def test_shares_are_the_weights_and_servers_that_are_missing_are_marked(tmp_path):
    targets = (Target(SERVER, 30), Target("default/none", 10))
    fleet = Fleet(tmp_path, routes=[RouteModel("default/r", "m", (Rule(targets, "split"),))])
    document = Explainer(fleet.memory, Settings()).explain(fleet.replica.world, chat(), CHAT, {})
    assert document["rule"] == "split"
    assert [one["share"] for one in document["servers"]] == [0.75, 0.25]
    assert document["servers"][1]["missing"] is True


def test_a_filtered_endpoint_says_why(tmp_path):
    scheduling = Scheduling("weighted", {"least-request": 1.0}, maximum_waiting=3)
    fleet = Fleet(tmp_path, server=Server(SERVER, scheduling=scheduling))
    scrape(fleet, "default/e0", waiting=3)
    scrape(fleet, "default/e1", waiting=2)
    document = Explainer(fleet.memory, Settings()).explain(fleet.replica.world, chat(), CHAT, {})
    (server,) = document["servers"]
    assert server["choice"] == "default/e1"
    assert {one["endpoint"]: one["filtered"] for one in server["candidates"]} == {
        "default/e0": "waiting",
        "default/e1": "",
    }
    assert server["candidates"][-1]["score"] is None


def test_an_ejected_endpoint_says_so(fleet, explain):
    eject(fleet, "default/e1")
    (server,) = explain()["servers"]
    assert server["choice"] == "default/e0"
    assert [(one["endpoint"], one["filtered"]) for one in server["candidates"]] == [
        ("default/e0", ""),
        ("default/e1", "ejected"),
    ]


def test_an_endpoint_that_nobody_scraped_is_not_filtered_for_its_neighbours(tmp_path):
    scheduling = Scheduling("weighted", {"least-request": 1.0}, maximum_waiting=3)
    fleet = Fleet(tmp_path, server=Server(SERVER, scheduling=scheduling))
    scrape(fleet, "default/e0", waiting=30)
    document = Explainer(fleet.memory, Settings()).explain(fleet.replica.world, chat(), CHAT, {})
    assert document["servers"][0]["choice"] == "default/e1"


def test_a_server_without_endpoints_has_nobody_to_choose(tmp_path):
    fleet = Fleet(tmp_path, endpoints=0)
    document = Explainer(fleet.memory, Settings()).explain(fleet.replica.world, chat(), CHAT, {})
    assert document["servers"][0]["choice"] is None
    assert document["servers"][0]["candidates"] == []


def test_headers_in_any_case_count(tmp_path):
    rules = (Rule((Target(SERVER),), "gold", Match(headers={"x-tier": StringMatch(exact="gold")})),)
    fleet = Fleet(tmp_path, routes=[RouteModel("default/r", "m", rules)])
    explainer = Explainer(fleet.memory, Settings())
    assert explainer.explain(fleet.replica.world, chat(), CHAT, {"X-Tier": "gold"})["rule"] == "gold"
    nothing = explainer.explain(fleet.replica.world, chat(), CHAT, {})
    assert (nothing["route"], nothing["servers"]) == (None, [])


def test_a_body_that_would_be_refused_is_refused(explain):
    with pytest.raises(ClientError) as raised:
        explain(b'{"model": 5}')
    assert raised.value.parameter == "model"


def test_an_unknown_model_has_no_route(explain):
    assert explain(chat(model="n"))["route"] is None


def test_decisions_of_the_workers_go_on_undisturbed_while_explaining(fleet, explain):
    async def both():
        fleet.client.answers = [Answer([b"{}"]) for _ in range(20)]
        for number in range(20):
            await request(fleet, chat(str(number) * 100))
            explain(chat(str(number) * 100))

    asyncio.run(both())
    assert fleet.is_idle


def test_an_explanation_is_for_a_tenant_when_one_is_named(fleet):
    callers = {
        "a": Caller("a", cache_salt=b'"salt-of-a"'),
        "narrow": Caller("narrow", (Models(frozenset(["other"]), ()),)),
    }
    explainer = Explainer(fleet.memory, Settings(), callers.__getitem__)
    found = explainer.explain(fleet.replica.world, chat(), CHAT, {}, "a")
    assert (found["tenant"], found["salted"]) == ("a", True)
    nobody = explainer.explain(fleet.replica.world, chat(), CHAT, {})
    assert (nobody["tenant"], nobody["salted"]) == (None, False)
    with pytest.raises(ModelNotAllowed, match="Tenant `narrow` may not use"):
        explainer.explain(fleet.replica.world, chat(), CHAT, {}, "narrow")
    with pytest.raises(ClientError, match="asks nobody who they are"):
        Explainer(fleet.memory, Settings()).explain(fleet.replica.world, chat(), CHAT, {}, "a")


async def test_an_explanation_for_a_tenant_finds_what_it_has_cached_and_no_other_does(fleet):
    salts = {"a": b'"salt-of-a"', "b": b'"salt-of-b"'}
    explainer = Explainer(fleet.memory, Settings(), lambda name: Caller(name, cache_salt=salts[name]))
    body = chat("a long prompt " * 100)
    server = fleet.replica.world.servers[SERVER]
    hashes = fleet.placer.hash_prompt(server, body, scan(body), salts["a"])
    fleet.placer.release(fleet.placer.place(server, hashes, 100, 10, ()))

    def cached(tenant):
        (found,) = explainer.explain(fleet.replica.world, body, CHAT, {}, tenant)["servers"]
        return max(one["matched_blocks"] for one in found["candidates"])

    assert cached("a") > 0
    assert cached("b") == 0


def test_the_state_says_who_waits_and_how_the_issuer_s_keys_stand(supervisor):
    issuer = {"keys": 2, "fetched": time.time() - 30, "until": time.time() + 100, "failures": 1, "fault": "gone"}
    queue = {
        "server": SERVER, "waiting": 2, "estimated_seconds": 1.0, "waiting_of_others": 0,
        "tenants": [{"tenant": "a", "waiting": 2, "longest_seconds": 0.5}],
    }  # fmt: skip
    reports = [Report(1, [queue], issuer), Report(2, [queue], issuer | {"fetched": None, "until": None})]
    state = State(supervisor, "1", reported=lambda index, process: reports[index])
    document = state.document()
    assert [(one["waiting"], one["tenants"][0]["waiting"]) for one in document["queues"]] == [(4, 4)]
    first, second = (one["issuer"] for one in document["workers"])
    assert first["age_seconds"] == pytest.approx(30, abs=5)
    assert first["seconds_left"] == pytest.approx(100, abs=5)
    assert (first["keys"], first["failures"], first["fault"]) == (2, 1, "gone")
    assert (second["age_seconds"], second["seconds_left"]) == (None, None)
    gauges = {name: values for name, _, values in state.gauges()}
    assert [value for _, value in gauges["penstock_issuer_keys"]] == [2, 2]
    assert len(gauges["penstock_issuer_keys_age_seconds"]) == 1


async def test_explain_expects_as_much_output_as_a_worker_does(tmp_path):
    settings = Settings(expected_output_tokens=100)
    fleet = Fleet(tmp_path, settings=settings)
    explainer = Explainer(fleet.memory, settings)
    expected = [explainer.explain(fleet.replica.world, chat(), CHAT, {})["output_tokens"]]
    for _ in range(20):
        fleet.pipeline._estimates.learn(Kind("default/r", "m", "chat"), 1000, -1, 1, 1.0)
        expected.append(explainer.explain(fleet.replica.world, chat(), CHAT, {})["output_tokens"])
        assert expected[-1] == fleet.pipeline._estimates.expected(Kind("default/r", "m", "chat"), -1, 1)
    assert expected == sorted(expected)
    assert (expected[0], expected[-1] > 500) == (100, True)
    other = explainer.explain(fleet.replica.world, b'{"model": "m", "prompt": "x"}', "/v1/completions", {})
    assert other["output_tokens"] == 100
