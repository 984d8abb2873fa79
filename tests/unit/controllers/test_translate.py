"""From the API's objects to what the gateway serves, and what the objects' status says of it."""

import pytest

from controllers.network import model_route, model_server
from controllers.network.desired import DesiredState
from controllers.network.model_route import RESOLVE_SECONDS, ModelRouteReconciler
from controllers.network.model_server import ModelServerReconciler
from controllers.store.store import Key, key_of
from gateway.datastore import model
from gateway.datastore.store_states import StoreState
from gateway.datastore.wire import Change, Frame, Kind, decode, encode
from tests.unit.controllers import test_model_route, test_model_server
from tests.unit.controllers.objects import made, route, server

ROUTE, SERVER = Key("ModelRoute", "default", "r"), Key("ModelServer", "default", "s")


def routed(spec=test_model_route.RULE, **more):
    return model_route.translate(made(route(spec, **more)))


def served(spec=test_model_server.ENDPOINTS, **more):
    return model_server.translate(made(server(spec, **more)))


def endpoints(text):
    item = made(text)
    return [endpoint for spec in item.spec.endpoints for endpoint in model_server.endpoints_of(item, spec)]


# -- routes


def test_a_route_is_named_by_its_namespace_and_leads_into_it():
    found = routed(namespace="team")
    assert (found.name, found.model_name, found.adapters, found.limits) == ("team/r", "m", (), ())
    assert found.rules == (model.Rule((model.Target("team/s", 100),)),)


def test_every_part_of_a_rule_arrives():
    found = routed(test_model_route.FULL)
    assert found.adapters == ("a", "b")
    assert found.rules == (
        model.Rule(
            (model.Target("default/big", 90), model.Target("default/small", 10)),
            "gold",
            model.Match(
                {
                    "x-tier": model.StringMatch(exact="gold"),
                    "x-team": model.StringMatch(regex="^(red|blue)$"),
                },
                model.StringMatch(prefix="/v1/chat"),
                "a",
            ),
        ),
        model.Rule((model.Target("default/small", 100),)),
    )


def test_every_amount_of_a_limit_is_a_limit():
    shared = {"store": "redis:6379", "on_store_failure": "deny"}
    assert routed(test_model_route.FULL).limits == (
        model.Limit("inputTokensPerUnit", "input", 1000.0, 60.0, 1000.0, **shared),
        model.Limit("outputTokensPerUnit", "output", 500.0, 60.0, 500.0, **shared),
        model.Limit("team", "input", 10.0, 3600.0, 20.0, "header", "x-team", **shared),
        model.Limit("team", "requests", 5.0, 3600.0, 20.0, "header", "x-team", **shared),
        model.Limit("tenant", "requests", 5.0, 1.0, 5.0, "tenant", **shared),
    )


def test_the_name_of_a_limits_header_is_in_lower_case_as_the_gateway_asks_for_it():
    text = test_model_route.RULE + "rateLimit: {limits: [{name: a, requests: 1, key: {type: header, header: X-Team}}]}"
    assert routed(text).limits[0].header == "x-team"


def test_a_route_is_as_old_as_its_object():
    text = route().replace("{name: r}", '{name: r, creationTimestamp: "2020-01-01T00:00:00Z"}')
    assert model_route.translate(made(text)).created == "2020-01-01T00:00:00Z"


def test_an_empty_match_matches_everything_like_none():
    found = routed("rules: [{targetModels: [{modelServerName: s}], modelMatch: {}}]")
    assert found.rules[0].match == model.Match()


# -- servers


def test_a_server_with_nothing_said_has_the_gateways_defaults():
    assert served() == model.Server(
        "default/s", traffic=model.Traffic(
            timeout=120.0, idle_timeout=60.0, connect_timeout=1.0, attempts=2, retry_interval=0.1,
            retry_budget_percent=20.0, maximum_in_flight=0,
        )
    )  # fmt: skip


def test_every_part_of_a_server_arrives():
    assert served(test_model_server.FULL, namespace="team") == model.Server(
        "team/s",
        "vLLM",
        "meta-llama/Llama-3-8B",
        model.Scheduling("weighted", {"prefix-cache": 2.0, "random": 1.0}, 5.0),
        model.PrefixCache("text", 128),
        model.Traffic(
            timeout=120.0, idle_timeout=30.0, connect_timeout=0.5, attempts=4, retry_interval=0.05,
            retry_budget_percent=10.0, maximum_in_flight=100,
        ),
    )  # fmt: skip


def test_rules_of_ejection_arrive():
    spec = "trafficPolicy: {outlier: {consecutiveFailures: 5, baseEjection: 500ms, maxEjection: 1m, maxEjectedPercent: 30, slowStart: 0s}}"
    assert served(test_model_server.ENDPOINTS + spec).traffic.outlier == model.Outlier(5, 0.5, 60.0, 30.0, 0.0)


def test_without_rules_of_ejection_there_are_safe_ones():
    assert served().traffic.outlier == model.Outlier(3, 10.0, 300.0, 50.0, 30.0)


@pytest.mark.parametrize(("args", "waiting"), [("", 10.0), ("args: {}", 10.0), ("args: {maxWaitingRequests: 3}", 3.0)])
def test_the_least_request_filter_says_from_how_many_waiting_on(args, waiting):
    spec = f"scheduling: {{policy: weighted, scorers: [{{name: random}}], filters: [{{name: least-request, {args}}}]}}"
    assert served(test_model_server.ENDPOINTS + spec).scheduling.maximum_waiting == waiting


def test_without_a_filter_waiting_requests_and_adapters_are_no_matter():
    assert (served().scheduling.maximum_waiting, served().scheduling.adapter_filter) == (0, False)


def test_the_lora_affinity_filter_arrives():
    spec = "scheduling: {policy: weighted, scorers: [{name: random}], filters: [{name: lora-affinity}]}"
    found = served(test_model_server.ENDPOINTS + spec).scheduling
    assert (found.adapter_filter, found.maximum_waiting) == (True, 0)


def test_a_prefix_cache_can_be_off():
    assert served(test_model_server.ENDPOINTS + 'prefixCache: {mode: "off"}').prefix_cache.mode == "off"


def test_matching_by_token_carries_tokenizer_block_size_and_where_events_are():
    text = (
        "endpoints: [{name: a, address: h}, {name: b, address: i, events: {port: 7}}]\n"
        "prefixCache: {mode: tokens, tokenizer: /models/m, events: {port: 5, replayPort: 6}}"
    )
    assert served(text).prefix_cache == model.PrefixCache("tokens", 16, "/models/m")
    assert [(one.events_port, one.replay_port) for one in endpoints(server(text))] == [(5, 6), (7, 0)]
    by_text = text.replace("mode: tokens", "mode: text")
    assert served(by_text).prefix_cache == model.PrefixCache("text", 64, "/models/m")
    assert [(one.events_port, one.replay_port) for one in endpoints(server(by_text))] == [(0, 0), (0, 0)]


def test_each_rank_of_an_engine_is_an_endpoint_where_the_gateway_chooses_it():
    text = (
        "endpoints: [{name: a, address: h}, {name: b, address: i, dataParallelSize: 1}]\ndataParallelSize: 2\n"
        "prefixCache: {mode: tokens, events: {port: 50, replayPort: 60}}"
    )
    found = endpoints(server(text))
    assert [
        (one.name, one.identity, one.rank, one.events_port, one.replay_port, one.events_ranks) for one in found
    ] == [
        ("default/a@0", "h:8000@0", 0, 50, 60, 1),
        ("default/a@1", "h:8000@1", 1, 51, 61, 1),
        ("default/b", "i:8000", -1, 50, 60, 1),
    ]
    assert {one.url for one in found[:2]} == {"http://h:8000"}
    by_text = endpoints(server(text.replace("mode: tokens, ", "")))
    assert [(one.rank, one.events_port) for one in by_text] == [(0, 0), (1, 0), (-1, 0)]


def test_endpoints_have_their_own_port_the_workloads_or_the_engines_usual_one():
    spec = "endpoints: [{name: a, address: x, port: 1234}, {name: b, address: y}]"
    assert [one.port for one in endpoints(server(spec))] == [1234, 8000]
    assert [one.port for one in endpoints(server(spec, engine="SGLang"))] == [1234, 30000]
    with_port = spec + "\nworkloadPort: {port: 9000, protocol: https}"
    found = endpoints(server(with_port))
    assert [one.port for one in found] == [1234, 9000]
    assert [one.url for one in found] == ["https://x:1234", "https://y:9000"]


def test_every_part_of_an_endpoint_arrives():
    first, second, third = endpoints(server(test_model_server.FULL, namespace="team"))
    assert first == model.Endpoint("team/a", "team/s", "10.0.0.1:9000", "10.0.0.1", 9000, "https", "prefill", "g")
    assert second.url == "https://[fd00::1]:8000"
    assert third.url == "https://engine.example.com:8000"


def test_an_engine_of_two_servers_is_one_engine_by_its_identity():
    one, other = endpoints(server(name="s"))[0], endpoints(server(name="t"))[0]
    assert one.identity == other.identity
    assert one.key != other.key


def test_whatever_is_without_fault_can_travel():
    change = Change(
        routes=(routed(test_model_route.FULL),),
        servers=(served(test_model_server.FULL),),
        endpoints=tuple(endpoints(server(test_model_server.FULL))),
    )
    assert decode(*encode(Frame(Kind.DELTA, 1, 1, change=change))).change == change


# -- reconcilers


class Store:
    """Objects by key, and what was said of them."""

    def __init__(self, *texts):
        self.objects, self.statuses = {}, {}
        for text in texts:
            self.put(text)

    def put(self, text):
        item = made(text)
        self.objects[key_of(item)] = item

    def get(self, key):
        return self.objects.get(key)

    async def update_status(self, key, status):
        self.statuses[key] = status

    def conditions(self, key):
        return {one.type: (one.status, one.reason) for one in self.statuses[key].conditions}


async def test_a_route_is_put_and_its_status_says_that_its_servers_are_there():
    store, desired = Store(route(), server()), DesiredState()
    assert await ModelRouteReconciler(store, desired)(ROUTE) is None
    assert desired.routes == {"default/r": routed()}
    assert store.conditions(ROUTE) == {
        "Accepted": ("True", "Valid"), "ResolvedRefs": ("True", "Resolved"), "Honoured": ("True", "AllFields"),
    }  # fmt: skip


async def test_a_route_without_its_server_is_put_all_the_same_says_so_and_is_looked_at_again():
    store, desired = Store(route(), server(namespace="other")), DesiredState()
    reconcile = ModelRouteReconciler(store, desired)
    assert await reconcile(ROUTE) == RESOLVE_SECONDS
    assert "default/r" in desired.routes
    assert store.conditions(ROUTE)["ResolvedRefs"] == ("False", "ModelServerNotFound")
    assert "no ModelServer s" in store.statuses[ROUTE].conditions[1].message
    store.put(server())
    assert await reconcile(ROUTE) is None
    assert store.conditions(ROUTE)["ResolvedRefs"] == ("True", "Resolved")


async def test_fields_of_a_route_that_have_no_effect_yet_are_named_by_its_status():
    store = Store(route(test_model_route.FULL), server(name="big"), server(name="small"))
    await ModelRouteReconciler(store, DesiredState())(ROUTE)
    assert store.conditions(ROUTE)["Honoured"] == ("False", "NotBuiltYet")
    assert store.statuses[ROUTE].conditions[2].message == "spec.parentRefs is not done yet"


SHARED = (
    "rateLimit: {inputTokensPerUnit: 5, limits: [{name: l, requests: 7}], global: {redis: {address: 'redis:6379'}}%s}"
)


def test_limits_that_gateways_share_name_their_store_and_what_happens_without_it():
    found = routed(test_model_route.RULE + SHARED % ", onStoreFailure: deny")
    assert [(one.name, one.store, one.on_store_failure) for one in found.limits] == [
        ("inputTokensPerUnit", "redis:6379", "deny"),
        ("l", "redis:6379", "deny"),
    ]
    alone = routed(test_model_route.RULE + "rateLimit: {inputTokensPerUnit: 5}")
    assert [(one.store, one.on_store_failure) for one in alone.limits] == [("", "local")]


def test_what_happens_without_a_store_says_nothing_of_limits_that_have_none():
    item = made(route(test_model_route.RULE + "rateLimit: {inputTokensPerUnit: 5, onStoreFailure: deny}"))
    assert [fault.path for fault in item.faults()] == ["spec.rateLimit.onStoreFailure"]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({}, ("Unknown", "NotAsked", "no gateway has asked redis:6379 yet")),
        (
            {"redis:6379": StoreState("redis:6379", True, "", 3)},
            ("True", "Reachable", "gateways that share the limits in redis:6379: 3"),
        ),
        (
            {"redis:6379": StoreState("redis:6379", False, "refused")},
            (
                "False",
                "StoreAway",
                "redis:6379: refused; until it answers requests are served by onStoreFailure: local",
            ),
        ),
    ],
)
async def test_a_store_that_is_away_is_a_condition_of_the_route_which_serves_on(states, expected):
    store, desired = Store(route(test_model_route.RULE + SHARED % ""), server()), DesiredState()
    assert await ModelRouteReconciler(store, desired, lambda: states)(ROUTE) == RESOLVE_SECONDS
    assert desired.routes["default/r"].limits
    condition = store.statuses[ROUTE].conditions[-1]
    assert condition.type == "LimitsShared"
    assert (condition.status, condition.reason, condition.message) == expected


async def test_fields_of_a_server_that_have_no_effect_yet_are_named_by_its_status():
    text = test_model_server.FULL + "  tokenizer: t\n  events: {port: 1}\n"
    text = text.replace("{mode: text, blockSize: 128}", "\n  blockSize: 128")
    store = Store(server(text))
    await ModelServerReconciler(store, DesiredState())(SERVER)
    assert store.conditions(SERVER)["Honoured"] == ("False", "NotBuiltYet")
    named = store.statuses[SERVER].conditions[-1].message.removesuffix(" are not done yet").split(", ")
    assert named == [
        "spec.workloadSelector", "spec.workloadSelector.pdGroup", "spec.kvConnector", "spec.endpoints[0].role",
        "spec.endpoints[0].group", "spec.endpoints[0].labels", "spec.endpoints[0].events",
        "spec.prefixCache.tokenizer", "spec.prefixCache.events",
    ]  # fmt: skip


async def test_one_field_without_effect_is_told_in_the_singular():
    store = Store(server(test_model_server.ENDPOINTS + "kvConnector: {}"))
    await ModelServerReconciler(store, DesiredState())(SERVER)
    assert store.statuses[SERVER].conditions[-1].message == "spec.kvConnector is not done yet"


async def test_a_status_says_which_generation_it_is_of():
    store = Store(route().replace("{name: r}", "{name: r, generation: 7}"))
    await ModelRouteReconciler(store, DesiredState())(ROUTE)
    assert store.statuses[ROUTE].observed_generation == 7
    assert {one.observed_generation for one in store.statuses[ROUTE].conditions} == {7}


async def test_a_server_is_put_with_its_endpoints():
    store, desired = Store(server()), DesiredState()
    assert await ModelServerReconciler(store, desired)(SERVER) is None
    assert desired.servers == {"default/s": served()}
    assert list(desired.endpoints) == ["default/s#default/e"]
    assert store.conditions(SERVER) == {
        "Accepted": ("True", "Valid"), "EndpointsFound": ("True", "Listed"), "Honoured": ("True", "AllFields"),
    }  # fmt: skip


async def test_a_server_that_selects_pods_says_that_there_is_no_cluster():
    store, desired = Store(server("workloadSelector: {matchLabels: {a: b}}")), DesiredState()
    await ModelServerReconciler(store, desired)(SERVER)
    assert desired.endpoints == {}
    assert store.conditions(SERVER)["EndpointsFound"] == ("False", "NoEndpoints")


async def test_what_is_gone_from_the_store_is_dropped():
    store, desired = Store(route(), server()), DesiredState()
    for kind, key in ((ModelRouteReconciler, ROUTE), (ModelServerReconciler, SERVER)):
        reconcile = kind(store, desired)
        await reconcile(key)
        del store.objects[key]
        assert await reconcile(key) is None
    assert (desired.routes, desired.servers, desired.endpoints) == ({}, {}, {})


async def test_an_endpoint_that_is_taken_out_of_its_server_is_dropped():
    store, desired = Store(server("endpoints: [{name: a, address: x}, {name: b, address: y}]")), DesiredState()
    reconcile = ModelServerReconciler(store, desired)
    await reconcile(SERVER)
    store.put(server("endpoints: [{name: b, address: y}]"))
    await reconcile(SERVER)
    assert list(desired.endpoints) == ["default/s#default/b"]
