"""ModelRoute: its defaults, and every fault by its path."""

import pytest

from controllers.api.model_route import MOST_LIMITS, LimitKey, RateLimit, TargetModel
from gateway.datastore.rate_limits import UNIT_SECONDS
from tests.unit.controllers.objects import faults, made, route

RULE = "rules: [{targetModels: [{modelServerName: s}]}]\n"
FULL = """
loraAdapters: [a, b]
parentRefs: [{name: gateway, group: gateway.networking.k8s.io}]
rules:
- name: gold
  modelMatch:
    headers:
      x-tier: {exact: gold}
      x-team: {regex: "^(red|blue)$"}
    uri: {prefix: /v1/chat}
    body: {model: a}
  targetModels:
  - {modelServerName: big, weight: 90}
  - {modelServerName: small, weight: 10}
- targetModels:
  - modelServerName: small
rateLimit:
  inputTokensPerUnit: 1000
  outputTokensPerUnit: 500
  unit: minute
  global: {redis: {address: "redis:6379"}}
  onStoreFailure: deny
  limits:
  - {name: team, unit: hour, inputTokens: 10, requests: 5, burst: 20, key: {type: header, header: x-team}}
  - {name: tenant, requests: 5, key: {type: tenant}}
"""


def test_a_route_that_uses_everything_has_no_fault():
    assert faults(route(FULL)) == {}
    spec = made(route(FULL)).spec
    assert spec.rules[0].model_match.headers["x-team"].regex == "^(red|blue)$"
    assert spec.rules[0].model_match.body.model == "a"
    assert spec.rate_limit.global_.redis.address == "redis:6379"
    assert [limit.key for limit in spec.rate_limit.limits] == [LimitKey("header", "x-team"), LimitKey("tenant")]


def test_what_is_left_out_has_its_default():
    item = made(route())
    assert (item.metadata.namespace, item.metadata.name, item.metadata.generation) == ("default", "r", 1)
    assert item.spec.rules[0].target_models == [TargetModel("s", 100)]
    assert item.spec.rules[0].model_match is None
    assert (item.spec.lora_adapters, item.spec.rate_limit) == ([], None)
    limit = RateLimit()
    assert (limit.unit, limit.on_store_failure, limit.limits) == ("second", "local", [])


def test_the_reference_systems_route_works_when_its_group_and_version_are_changed():
    text = """
    apiVersion: serving.penstock.dev/v1alpha1
    kind: ModelRoute
    metadata:
      name: deepseek-subset
      namespace: default
    spec:
      modelName: "deepseek-r1"
      rules:
      - name: "deepseek-r1-route"
        modelMatch:
          headers:
            user-type:
              exact: premium
        targetModels:
        - modelServerName: "deepseek-r1-1-5b-v1"
          weight: 70
        - modelServerName: "deepseek-r1-1-5b-v2"
          weight: 30
      rateLimit:
        inputTokensPerUnit: 10
        outputTokensPerUnit: 5000
        unit: minute
    """
    assert faults(text) == {}
    assert [target.weight for target in made(text).spec.rules[0].target_models] == [70, 30]


def test_a_route_needs_a_model_or_an_adapter():
    assert list(faults(route(RULE, model=None))) == ["spec.modelName"]
    assert faults(route(RULE + "loraAdapters: [a]", model=None)) == {}
    assert list(faults(route(RULE, model='""'))) == ["spec.modelName"]


def many(count, text):
    return "\n".join(text.format(number) for number in range(count))


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("rules: []", "spec.rules"),
        ("rules:\n" + many(17, "- targetModels: [{{modelServerName: s{}}}]"), "spec.rules"),
        ("rules: [{targetModels: []}]", "spec.rules[0].targetModels"),
        ("rules:\n- targetModels:\n" + many(17, "  - modelServerName: s{}"), "spec.rules[0].targetModels"),
        ("rules: [{targetModels: [{modelServerName: s, weight: 0}]}]", "spec.rules[0].targetModels"),
        (
            "rules: [{targetModels: [{modelServerName: s, weight: 101}]}]",
            "spec.rules[0].targetModels[0].weight",
        ),
        (
            "rules: [{targetModels: [{modelServerName: s}, {modelServerName: t, weight: -1}]}]",
            "spec.rules[0].targetModels[1].weight",
        ),
        ('rules: [{targetModels: [{modelServerName: ""}]}]', "spec.rules[0].targetModels[0].modelServerName"),
        (RULE + 'loraAdapters: [a, ""]', "spec.loraAdapters[1]"),
        (
            'rules: [{targetModels: [{modelServerName: s}], modelMatch: {headers: {x-a: {regex: "("}}}}]',
            "spec.rules[0].modelMatch.headers.x-a.regex",
        ),
        (
            'rules: [{targetModels: [{modelServerName: s}], modelMatch: {uri: {regex: "(?=a)"}}}]',
            "spec.rules[0].modelMatch.uri.regex",
        ),
        (RULE + "rateLimit: {inputTokensPerUnit: 0}", "spec.rateLimit.inputTokensPerUnit"),
        (RULE + "rateLimit: {outputTokensPerUnit: -5}", "spec.rateLimit.outputTokensPerUnit"),
        (RULE + "rateLimit: {limits: [{name: a}]}", "spec.rateLimit.limits[0]"),
        (RULE + "rateLimit: {limits: [{name: a, requests: 0}]}", "spec.rateLimit.limits[0].requests"),
        (RULE + "rateLimit: {limits: [{name: a, inputTokens: 0}]}", "spec.rateLimit.limits[0].inputTokens"),
        (RULE + "rateLimit: {limits: [{name: a, outputTokens: 0}]}", "spec.rateLimit.limits[0].outputTokens"),
        (RULE + "rateLimit: {limits: [{name: a, requests: 1, burst: 0}]}", "spec.rateLimit.limits[0].burst"),
        (
            RULE + "rateLimit: {limits: [{name: a, requests: 1, key: {type: header}}]}",
            "spec.rateLimit.limits[0].key.header",
        ),
        (
            RULE + "rateLimit: {limits: [{name: a, requests: 1}, {name: a, inputTokens: 1}]}",
            "spec.rateLimit.limits[1].name",
        ),
    ],
)
def test_a_fault_names_the_field_by_its_path(spec, path):
    found = faults(route(spec))
    assert list(found) == [path]
    assert found[path]


def test_sixteen_rules_and_targets_are_allowed():
    targets = many(16, "  - modelServerName: s{}")
    assert faults(route("rules:\n" + "\n".join(["- targetModels:\n" + targets] * 16))) == {}


def test_a_single_weight_of_zero_is_no_fault_beside_another():
    assert (
        faults(route("rules: [{targetModels: [{modelServerName: s, weight: 0}, {modelServerName: t, weight: 1}]}]"))
        == {}
    )


def test_all_faults_are_found_at_once():
    spec = """
    rules:
    - targetModels: [{modelServerName: "", weight: 200}]
    - targetModels: []
    rateLimit: {inputTokensPerUnit: 0}
    """
    assert len(faults(route(spec, name="Bad", model=None))) == 6


def test_no_more_limits_than_a_request_can_hold():
    def limits(count):
        return RULE + "rateLimit:\n  limits:\n" + many(count, "  - {{name: l{}, requests: 1}}")

    assert faults(route(limits(MOST_LIMITS))) == {}
    assert list(faults(route(limits(MOST_LIMITS + 1)))) == ["spec.rateLimit"]
    three = (
        RULE + "rateLimit:\n  limits:\n" + many(3, "  - {{name: l{}, requests: 1, inputTokens: 1, outputTokens: 1}}")
    )
    assert list(faults(route(three))) == ["spec.rateLimit"]  # nine amounts


def test_a_limit_that_takes_years_to_fill_is_a_fault():
    text = RULE + "rateLimit: {limits: [{name: a, requests: 1, unit: month, burst: 1000}]}"
    assert list(faults(route(text))) == ["spec.rateLimit.limits[0].burst"]


@pytest.mark.parametrize("field", ["inputTokens", "outputTokens", "requests"])
def test_an_amount_of_four_hundred_digits_is_a_fault_not_a_crash(field):
    text = RULE + f"rateLimit: {{limits: [{{name: a, {field}: 1{'0' * 400}}}]}}"
    assert list(faults(route(text))) == [f"spec.rateLimit.limits[0].{field}"]


def test_a_tokens_per_unit_of_four_hundred_digits_is_a_fault():
    text = RULE + f"rateLimit: {{inputTokensPerUnit: 1{'0' * 400}}}"
    assert list(faults(route(text))) == ["spec.rateLimit.inputTokensPerUnit"]


def test_units_are_as_long_as_they_say():
    assert UNIT_SECONDS == {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "month": 2_592_000}


@pytest.mark.parametrize("regex", ["(a+)+$", "^a|b$", "[[:alpha:]]", "\\d+", ""])
def test_regular_expressions_of_re2_are_taken(regex):
    spec = f"rules: [{{targetModels: [{{modelServerName: s}}], modelMatch: {{uri: {{regex: '{regex}'}}}}}}]"
    assert faults(route(spec)) == {}


def test_a_bad_expression_is_not_shouted_to_standard_error(capfd):
    faults(route('rules: [{targetModels: [{modelServerName: s}], modelMatch: {uri: {regex: "("}}}]'))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("spec", "paths"),
    [
        (RULE, []),
        (RULE + "rateLimit: {limits: [{name: a, requests: 1, key: {type: header, header: x}}]}", []),
        (RULE + "rateLimit: {inputTokensPerUnit: 1, onStoreFailure: local}", []),
        (RULE + "parentRefs: [{name: g}]", ["spec.parentRefs"]),
        (RULE + "rateLimit: {inputTokensPerUnit: 1, global: {redis: {address: a}}, onStoreFailure: deny}", []),
        (RULE + "rateLimit: {limits: [{name: a, requests: 1, key: {type: tenant}}]}", []),
    ],
)
def test_fields_without_effect_are_no_faults_and_are_named(spec, paths):
    assert faults(route(spec)) == {}
    found = list(made(route(spec)).not_built())
    assert [fault.path for fault in found] == paths
    assert all("is not done yet" in fault.message for fault in found)
