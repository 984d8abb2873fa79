"""ModelServer: its defaults, and every fault by its path."""

import pytest

from _fastpath.policy import SCORES_BY_NAME
from controllers.api.model_server import Retry, TrafficPolicy
from controllers.api.scheduling import ELSEWHERE, SCORERS
from tests.unit.controllers.objects import faults, made, server

ENDPOINTS = "endpoints: [{name: e, address: 10.0.0.1}]\n"
SESSION = ENDPOINTS + "scheduling: {policy: weighted, scorers: [{name: session, args: "
OUTLIER = "spec.trafficPolicy.outlier"
FULL = """
model: meta-llama/Llama-3-8B
workloadSelector:
  matchLabels: {app: llama}
  pdGroup: {groupKey: group, prefillLabels: {role: prefill}, decodeLabels: {role: decode}}
workloadPort: {port: 8000, protocol: https}
trafficPolicy:
  timeout: 2m
  idleTimeout: 30s
  connect: 500ms
  retry: {attempts: 3, retryInterval: 50ms, budgetPercent: 10}
  maxInFlight: 100
kvConnector: {type: nixl}
endpoints:
- {name: a, address: 10.0.0.1, port: 9000, role: prefill, group: g, labels: {x: y}, events: {port: 5557, replayPort: 5558}}
- {name: b, address: "fd00::1"}
- {name: c, address: engine.example.com}
scheduling:
  policy: weighted
  filters: [{name: least-request, args: {maxWaitingRequests: 5}}]
  scorers: [{name: prefix-cache, weight: 2, args: {}}, {name: random}]
  picker: best
prefixCache: {mode: text, blockSize: 128}
"""


def test_a_server_that_uses_everything_has_no_fault():
    assert faults(server(FULL)) == {}
    spec = made(server(FULL)).spec
    assert spec.endpoints[0].events.replay_port == 5558
    assert spec.traffic_policy.retry == Retry(3, "50ms", 10)
    assert [scorer.weight for scorer in spec.scheduling.scorers] == [2.0, 1.0]


def test_what_is_left_out_has_its_default():
    spec = made(server()).spec
    assert (spec.model, spec.workload_port, spec.kv_connector) == (None, None, None)
    assert spec.traffic_policy == TrafficPolicy("120s", "60s", "1s", Retry(1, "100ms", 20), 0)
    assert (spec.scheduling.policy, spec.scheduling.scorers, spec.scheduling.picker) == ("cost", [], "best")
    assert (spec.prefix_cache.mode, spec.prefix_cache.blocks_of) == ("text", 64)
    assert (spec.endpoints[0].port, spec.endpoints[0].role) == (None, "both")


def test_the_reference_systems_server_works_when_its_group_and_version_are_changed():
    text = """
    apiVersion: serving.penstock.dev/v1alpha1
    kind: ModelServer
    metadata:
      name: deepseek-r1-1-5b
      namespace: default
    spec:
      workloadSelector:
        matchLabels:
          app: deepseek-r1-1-5b
      workloadPort:
        port: 8000
      model: "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
      inferenceEngine: "vLLM"
      trafficPolicy:
        timeout: 10s
    """
    assert faults(text) == {}


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("model: m", "spec"),
        (ENDPOINTS + 'model: ""', "spec.model"),
        (ENDPOINTS + f"model: {'m' * 257}", "spec.model"),
        ("workloadSelector: {}", "spec.workloadSelector.matchLabels"),
        (ENDPOINTS + "workloadPort: {port: 0}", "spec.workloadPort.port"),
        (ENDPOINTS + "workloadPort: {port: 65536}", "spec.workloadPort.port"),
        ("endpoints: [{name: e, address: a, port: 70000}]", "spec.endpoints[0].port"),
        ('endpoints: [{name: e, address: ""}]', "spec.endpoints[0].address"),
        ("endpoints: [{name: e, address: http://a}]", "spec.endpoints[0].address"),
        ("endpoints: [{name: e, address: a/b}]", "spec.endpoints[0].address"),
        ("endpoints: [{name: e, address: u@h}]", "spec.endpoints[0].address"),
        ('endpoints: [{name: e, address: "a b"}]', "spec.endpoints[0].address"),
        ('endpoints: [{name: e, address: "a\\nb"}]', "spec.endpoints[0].address"),
        ('endpoints: [{name: e, address: "10.0.0.1:8000"}]', "spec.endpoints[0].address"),
        ('endpoints: [{name: "", address: a}]', "spec.endpoints[0].name"),
        ("endpoints: [{name: e, address: a}, {name: e, address: b}]", "spec.endpoints[1].name"),
        ("endpoints: [{name: e, address: a}, {name: f, address: a}]", "spec.endpoints[1].address"),
        (ENDPOINTS + "trafficPolicy: {timeout: soon}", "spec.trafficPolicy.timeout"),
        (ENDPOINTS + "trafficPolicy: {timeout: 0s}", "spec.trafficPolicy.timeout"),
        (ENDPOINTS + 'trafficPolicy: {idleTimeout: "5"}', "spec.trafficPolicy.idleTimeout"),
        (ENDPOINTS + "trafficPolicy: {connect: -1s}", "spec.trafficPolicy.connect"),
        (ENDPOINTS + "trafficPolicy: {retry: {retryInterval: x}}", "spec.trafficPolicy.retry.retryInterval"),
        (ENDPOINTS + "trafficPolicy: {retry: {attempts: 11}}", "spec.trafficPolicy.retry.attempts"),
        (ENDPOINTS + "trafficPolicy: {retry: {attempts: -1}}", "spec.trafficPolicy.retry.attempts"),
        (ENDPOINTS + "trafficPolicy: {retry: {budgetPercent: -1}}", "spec.trafficPolicy.retry.budgetPercent"),
        (ENDPOINTS + "trafficPolicy: {retry: {budgetPercent: 101}}", "spec.trafficPolicy.retry.budgetPercent"),
        (ENDPOINTS + "trafficPolicy: {maxInFlight: -1}", "spec.trafficPolicy.maxInFlight"),
        (ENDPOINTS + "trafficPolicy: {outlier: {consecutiveFailures: -1}}", f"{OUTLIER}.consecutiveFailures"),
        (ENDPOINTS + "trafficPolicy: {outlier: {consecutiveFailures: 101}}", f"{OUTLIER}.consecutiveFailures"),
        (ENDPOINTS + "trafficPolicy: {outlier: {baseEjection: 0s}}", f"{OUTLIER}.baseEjection"),
        (ENDPOINTS + "trafficPolicy: {outlier: {baseEjection: soon}}", f"{OUTLIER}.baseEjection"),
        (ENDPOINTS + "trafficPolicy: {outlier: {baseEjection: 6m}}", f"{OUTLIER}.maxEjection"),
        (ENDPOINTS + "trafficPolicy: {outlier: {maxEjection: 25h}}", f"{OUTLIER}.maxEjection"),
        (ENDPOINTS + "trafficPolicy: {outlier: {maxEjectedPercent: -1}}", f"{OUTLIER}.maxEjectedPercent"),
        (ENDPOINTS + "trafficPolicy: {outlier: {maxEjectedPercent: 101}}", f"{OUTLIER}.maxEjectedPercent"),
        (ENDPOINTS + "trafficPolicy: {outlier: {slowStart: x}}", f"{OUTLIER}.slowStart"),
        (
            ENDPOINTS + "scheduling: {policy: weighted, scorers: [{name: fastest}]}",
            "spec.scheduling.scorers[0].name",
        ),
        (
            ENDPOINTS + "scheduling: {policy: weighted, scorers: [{name: random}, {name: kv-usage, weight: -1}]}",
            "spec.scheduling.scorers[1].weight",
        ),
        (
            ENDPOINTS + "scheduling: {policy: weighted, scorers: [{name: random, weight: .nan}]}",
            "spec.scheduling.scorers[0].weight",
        ),
        (
            ENDPOINTS + "scheduling: {policy: weighted, scorers: [{name: random, weight: .inf}]}",
            "spec.scheduling.scorers[0].weight",
        ),
        (
            ENDPOINTS + "scheduling: {policy: weighted, scorers: [{name: random}], filters: [{name: lora}]}",
            "spec.scheduling.filters[0].name",
        ),
        (
            ENDPOINTS + "scheduling: {policy: weighted, scorers: [{name: random}],"
            " filters: [{name: least-request, args: {maxWaitingRequests: .inf}}]}",
            "spec.scheduling.filters[0].args.maxWaitingRequests",
        ),
        (
            ENDPOINTS + "scheduling: {policy: weighted, scorers: [{name: random}],"
            " filters: [{name: least-request, args: {maxWaitingRequests: true}}]}",
            "spec.scheduling.filters[0].args.maxWaitingRequests",
        ),
        (
            ENDPOINTS + "scheduling: {policy: weighted, scorers: [{name: random}],"
            " filters: [{name: least-request, args: {maxWaitingRequest: 5}}]}",
            "spec.scheduling.filters[0].args.maxWaitingRequest",
        ),
        (ENDPOINTS + "scheduling: {scorers: [{name: random}]}", "spec.scheduling.policy"),
        (ENDPOINTS + "scheduling: {filters: [{name: least-request}]}", "spec.scheduling.policy"),
        (ENDPOINTS + "scheduling: {filters: [{name: lora-affinity}]}", "spec.scheduling.policy"),
        (
            ENDPOINTS + "scheduling: {policy: weighted, scorers: [{name: random}],"
            " filters: [{name: lora-affinity, args: {maxWaitingRequests: 5}}]}",
            "spec.scheduling.filters[0].args.maxWaitingRequests",
        ),
        (ENDPOINTS + "scheduling: {policy: weighted}", "spec.scheduling.scorers"),
        (
            ENDPOINTS + "scheduling: {policy: weighted, scorers: [{name: kvcache-aware}]}",
            "spec.scheduling.scorers[0].name",
        ),
        (
            ENDPOINTS + "scheduling: {policy: weighted, scorers: [{name: random}, {name: random}]}",
            "spec.scheduling.scorers[1].name",
        ),
        (
            ENDPOINTS + "scheduling: {policy: weighted, scorers: [{name: prefix-cache, args: {maxBlocksToMatch: 0}}]}",
            "spec.scheduling.scorers[0].args.maxBlocksToMatch",
        ),
        (
            ENDPOINTS
            + "scheduling: {policy: weighted, scorers: [{name: least-latency, args: {TTFTTPOTWeightFactor: 1.5}}]}",
            "spec.scheduling.scorers[0].args.TTFTTPOTWeightFactor",
        ),
        (
            ENDPOINTS + "scheduling: {plugins: [{name: mine}, {name: mine}]}",
            "spec.scheduling.plugins[1].name",
        ),
        (ENDPOINTS + "scheduling: {plugins: [{name: mine, weight: .inf}]}", "spec.scheduling.plugins[0].weight"),
        (ENDPOINTS + "scheduling: {adapterLoad: -1s}", "spec.scheduling.adapterLoad"),
        (ENDPOINTS + "scheduling: {adapterLoad: 11m}", "spec.scheduling.adapterLoad"),
        (SESSION + "{headers: x-session-id}}]}", "spec.scheduling.scorers[0].args.headers"),
        (SESSION + "{headers: [a b]}}]}", "spec.scheduling.scorers[0].args.headers"),
        (SESSION + "{loadBound: 0.5}}]}", "spec.scheduling.scorers[0].args.loadBound"),
        (SESSION + "{header: [a]}}]}", "spec.scheduling.scorers[0].args.header"),
        (
            ENDPOINTS + "prefixCache: {mode: tokens, tokenizer: models/m, events: {port: 1}}",
            "spec.prefixCache.tokenizer",
        ),
        (ENDPOINTS + "prefixCache: {mode: tokens, tokenizer: /m}", "spec.endpoints[0].events"),
        (ENDPOINTS + "prefixCache: {mode: tokens, tokenizer: /m, events: {port: 0}}", "spec.prefixCache.events.port"),
        (
            ENDPOINTS + "prefixCache: {mode: tokens, tokenizer: /m, events: {port: 1, replayPort: 65536}}",
            "spec.prefixCache.events.replayPort",
        ),
        ("endpoints: [{name: e, address: a, events: {port: 70000}}]", "spec.endpoints[0].events.port"),
        (
            ENDPOINTS + "prefixCache: {mode: tokens, tokenizer: /m, events: {port: 1, ranks: 65}}",
            "spec.prefixCache.events.ranks",
        ),
        (
            ENDPOINTS + "prefixCache: {mode: tokens, tokenizer: /m, events: {port: 65530, ranks: 7}}",
            "spec.prefixCache.events.ranks",
        ),
        (
            ENDPOINTS + "prefixCache: {mode: tokens, tokenizer: /m, events: {port: 1, ranks: 0}}",
            "spec.prefixCache.events.ranks",
        ),
        (
            ENDPOINTS + "prefixCache: {mode: tokens, tokenizer: /m, events: {port: 5557, replayPort: 5558, ranks: 2}}",
            "spec.prefixCache.events.replayPort",
        ),
        (
            "endpoints: [{name: e, address: 10.0.0.1, events: {port: 5560, replayPort: 5557, ranks: 4}}]\n"
            "prefixCache: {mode: tokens}",
            "spec.endpoints[0].events.replayPort",
        ),
        (
            ENDPOINTS + "prefixCache: {mode: tokens, tokenizer: /m, events: {port: 1}, blockSize: 8193}",
            "spec.prefixCache.blockSize",
        ),
        (
            ENDPOINTS + "prefixCache: {mode: tokens, tokenizer: /m, events: {port: 1}, blockSize: 0}",
            "spec.prefixCache.blockSize",
        ),
        (ENDPOINTS + "prefixCache: {blockSize: 7}", "spec.prefixCache.blockSize"),
        (ENDPOINTS + "dataParallelSize: 0", "spec.dataParallelSize"),
        (ENDPOINTS + "dataParallelSize: 65", "spec.dataParallelSize"),
        ("endpoints: [{name: e, address: a, dataParallelSize: 0}]", "spec.endpoints[0].dataParallelSize"),
        (
            ENDPOINTS + "dataParallelSize: 8\nprefixCache: {mode: tokens, events: {port: 5557, ranks: 8}}",
            "spec.prefixCache.events.ranks",
        ),
        (
            ENDPOINTS + "dataParallelSize: 8\nprefixCache: {mode: tokens, events: {port: 5557, replayPort: 5564}}",
            "spec.prefixCache.events.replayPort",
        ),
        (
            "endpoints: [{name: e, address: a, dataParallelSize: 2, events: {port: 65535}}]\nprefixCache: {mode: tokens}",
            "spec.endpoints[0].events.port",
        ),
        (ENDPOINTS + "prefixCache: {blockSize: 65537}", "spec.prefixCache.blockSize"),
    ],
)
def test_a_fault_names_the_field_by_its_path(spec, path):
    found = faults(server(spec))
    assert list(found) == [path]
    assert found[path]


def test_a_fault_of_all_ranks_is_told_once():
    text = (
        "endpoints: [{name: e, address: a}, {name: f, address: b}]\ndataParallelSize: 8\n"
        "prefixCache: {mode: tokens, events: {port: 5557, ranks: 8}}"
    )
    assert [fault.path for fault in made(server(text)).faults()] == ["spec.prefixCache.events.ranks"]


def test_no_endpoint_is_named_as_a_rank_of_another():
    text = "endpoints: [{name: e, address: a, dataParallelSize: 2}, {name: e@1, address: b}, {name: e@2, address: c}]"
    assert list(faults(server(text))) == ["spec.endpoints[1].name"]


def test_the_ranks_of_sglang_are_not_chosen():
    text = server(ENDPOINTS + "dataParallelSize: 2").replace("vLLM", "SGLang")
    assert list(faults(text)) == ["spec.dataParallelSize"]
    assert faults(text.replace("dataParallelSize: 2", "dataParallelSize: 1")) == {}


def test_each_rank_may_have_ports_of_its_own():
    text = ENDPOINTS + "dataParallelSize: 8\nprefixCache: {mode: tokens, events: {port: 5557, replayPort: 5565}}"
    assert faults(server(text)) == {}


def test_an_engine_on_two_ports_is_two_engines():
    assert faults(server("endpoints: [{name: e, address: a, port: 1}, {name: f, address: a, port: 2}]")) == {}


def test_an_engine_that_stands_twice_by_its_default_port_is_found():
    text = server("endpoints: [{name: e, address: a}, {name: f, address: a, port: 8000}]")
    assert list(faults(text)) == ["spec.endpoints[1].address"]


@pytest.mark.parametrize("scorer", SCORERS)
def test_every_scorer_that_is_documented_is_one_of_the_scheduler(scorer):
    assert scorer in SCORES_BY_NAME
    by_token = "prefixCache: {mode: tokens, tokenizer: /models/m, events: {port: 5557}}\n"
    spec = f"{by_token if scorer == 'kvcache-aware' else ''}scheduling: {{policy: weighted, scorers: [{{name: {scorer}}}]}}"
    assert faults(server(ENDPOINTS + spec)) == {}


def test_all_faults_are_found_at_once():
    spec = """
    model: ""
    endpoints: [{name: "", address: "", port: 0}]
    trafficPolicy: {timeout: x, connect: y}
    prefixCache: {mode: tokens, tokenizer: /m, blockSize: 0}
    """
    assert len(faults(server(spec))) == 8


@pytest.mark.parametrize("argument", ELSEWHERE)
def test_arguments_of_the_reference_system_that_are_said_elsewhere_are_refused_with_the_place(argument):
    scorer = f"{{name: prefix-cache, args: {{{argument}: 5}}}}"
    found = faults(server(ENDPOINTS + f"scheduling: {{policy: weighted, scorers: [{scorer}]}}"))
    assert found == {f"spec.scheduling.scorers[0].args.{argument}": ELSEWHERE[argument]}


@pytest.mark.parametrize(
    ("spec", "paths"),
    [
        (ENDPOINTS, []),
        (ENDPOINTS + "trafficPolicy: {retry: {retryInterval: 1s, budgetPercent: 5}}", []),
        (ENDPOINTS + "kvConnector: {type: nixl}", ["spec.kvConnector"]),
        ("workloadSelector: {matchLabels: {a: b}}", ["spec.workloadSelector"]),
        ("endpoints: [{name: e, address: a}, {name: f, address: b, labels: {x: y}}]", ["spec.endpoints[1].labels"]),
        ("endpoints: [{name: e, address: a, events: {port: 1}}]", ["spec.endpoints[0].events"]),
        ("endpoints: [{name: e, address: a, role: prefill}]", ["spec.endpoints[0].role"]),
        (ENDPOINTS + "prefixCache: {mode: tokens, tokenizer: /m, events: {port: 1}}", []),
        (ENDPOINTS + "prefixCache: {mode: tokens, events: {port: 1}}", []),
        (ENDPOINTS + "prefixCache: {mode: tokens, events: {port: 5557, replayPort: 5565, ranks: 8}}", []),
        (ENDPOINTS + "prefixCache: {mode: tokens, events: {port: 65528, ranks: 8}}", []),
        (
            "endpoints: [{name: e, address: a, events: {port: 1, replayPort: 2}}]\n"
            "prefixCache: {mode: tokens, tokenizer: /m, blockSize: 128}",
            [],
        ),
        (ENDPOINTS + "prefixCache: {tokenizer: t}", ["spec.prefixCache.tokenizer"]),
        (ENDPOINTS + "prefixCache: {events: {port: 1}}", ["spec.prefixCache.events"]),
    ],
)
def test_fields_without_effect_are_no_faults_and_are_named(spec, paths):
    assert faults(server(spec)) == {}
    found = list(made(server(spec)).not_built())
    assert [fault.path for fault in found] == paths
    assert all("is not done yet" in fault.message for fault in found)
