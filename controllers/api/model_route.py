"""``ModelRoute``: which requests go to which servers with which weights, and their limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec
import re2
from msgspec import Struct

from controllers.api.meta import NOT_DONE, Condition, Fault, Metadata, Strict, check_metadata
from gateway.datastore.rate_limits import LimitSpec, OnStoreFailure, Unit, amount_faults, limit_faults

MOST_LIMITS = 8


class StringMatch(Strict, frozen=True):
    """One of three ways to match a text."""

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None


class BodyMatch(Strict, frozen=True):
    """What the body must say."""

    model: str | None = None


class ModelMatch(Strict, frozen=True):
    """Every part that is present must match."""

    headers: dict[str, StringMatch] = {}
    uri: StringMatch | None = None
    body: BodyMatch | None = None


class TargetModel(Strict, frozen=True):
    """A ModelServer of the same namespace. Weights are relative to one another, not per cent."""

    model_server_name: str
    weight: int = 100


class Rule(Strict, frozen=True):
    """The first rule that matches wins."""

    target_models: list[TargetModel]
    name: str = ""
    model_match: ModelMatch | None = None


class LimitKey(Strict, frozen=True):
    """What a limit counts separately. All clients are one tenant where the gateway asks nobody who they are."""

    type: Literal["route", "tenant", "header"] = "route"
    header: str = ""


class RouteLimitSpec(LimitSpec, frozen=True):
    """A further limit of a route: for all of it, each tenant, or each value of a header."""

    key: LimitKey = LimitKey()


class Redis(Strict, frozen=True):
    """Where limits that span gateways are kept."""

    address: str


class GlobalLimit(Strict, frozen=True):
    """Limits that span gateways."""

    redis: Redis


class RateLimit(Strict, frozen=True):
    """Token limits of the route, and as many further limits as wanted."""

    input_tokens_per_unit: int | None = None
    output_tokens_per_unit: int | None = None
    unit: Unit = "second"
    global_: GlobalLimit | None = msgspec.field(default=None, name="global")
    limits: list[RouteLimitSpec] = []
    on_store_failure: OnStoreFailure = "local"


class ModelRouteSpec(Strict, frozen=True):
    """At least one of ``modelName`` and ``loraAdapters``."""

    rules: list[Rule]
    model_name: str = ""
    lora_adapters: list[str] = []
    parent_refs: list[dict[str, object]] = []
    rate_limit: RateLimit | None = None


class ModelRouteStatus(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What became of it."""

    conditions: list[Condition] = []
    observed_generation: int = 0


class ModelRoute(Struct, frozen=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """The object."""

    api_version: str
    kind: Literal["ModelRoute"]
    metadata: Metadata
    spec: ModelRouteSpec
    status: ModelRouteStatus = ModelRouteStatus()

    def faults(self) -> Iterator[Fault]:
        """What the types alone cannot say."""
        yield from check_metadata(self.metadata)
        spec = self.spec
        if not spec.model_name and not spec.lora_adapters:
            yield Fault("spec.modelName", "give `modelName` or at least one of `loraAdapters`")
        for position, adapter in enumerate(spec.lora_adapters):
            if not adapter:
                yield Fault(f"spec.loraAdapters[{position}]", "must not be empty")
        if not 1 <= len(spec.rules) <= 16:
            yield Fault("spec.rules", f"must hold 1 to 16 rules, not {len(spec.rules)}")
        for position, rule in enumerate(spec.rules):
            yield from _rule_faults(rule, f"spec.rules[{position}]")
        if spec.rate_limit is not None:
            yield from _limit_faults(spec.rate_limit, "spec.rateLimit")

    def not_built(self) -> Iterator[Fault]:
        """Fields that are set and have no effect yet. The object is valid all the same."""
        if self.spec.parent_refs:
            yield Fault("spec.parentRefs", NOT_DONE)


def _rule_faults(rule: Rule, path: str) -> Iterator[Fault]:
    if not 1 <= len(rule.target_models) <= 16:
        yield Fault(f"{path}.targetModels", f"must hold 1 to 16 targets, not {len(rule.target_models)}")
    elif sum(target.weight for target in rule.target_models) <= 0:
        yield Fault(f"{path}.targetModels", "the weights add up to 0: give one of them a weight")
    for position, target in enumerate(rule.target_models):
        if not 0 <= target.weight <= 100:
            yield Fault(f"{path}.targetModels[{position}].weight", f"must be 0 to 100, not {target.weight}")
        if not target.model_server_name:
            yield Fault(f"{path}.targetModels[{position}].modelServerName", "must not be empty")
    if rule.model_match is not None:
        for name, test in rule.model_match.headers.items():
            yield from _text_faults(test, f"{path}.modelMatch.headers.{name}")
        if rule.model_match.uri is not None:
            yield from _text_faults(rule.model_match.uri, f"{path}.modelMatch.uri")


def _text_faults(test: StringMatch, path: str) -> Iterator[Fault]:
    if test.regex is not None:
        options = re2.Options()
        options.log_errors = False
        try:
            re2.compile(test.regex, options)
        except re2.error as error:
            yield Fault(f"{path}.regex", f"not a regular expression of RE2: {_text(error)}")


def _text(error: Exception) -> str:
    detail = error.args[0] if error.args else ""
    return detail.decode(errors="replace") if isinstance(detail, bytes) else str(detail)


def _limit_faults(limit: RateLimit, path: str) -> Iterator[Fault]:
    per_unit = (
        ("inputTokensPerUnit", limit.input_tokens_per_unit),
        ("outputTokensPerUnit", limit.output_tokens_per_unit),
    )
    for field, value in per_unit:
        for where, what in amount_faults(field, value):
            yield Fault(f"{path}.{where}", what)
    held = sum(value is not None for _, value in per_unit) + sum(len(one.amounts()) for one in limit.limits)
    if limit.on_store_failure != "local" and limit.global_ is None:
        yield Fault(f"{path}.onStoreFailure", "has no effect without `global.redis`: name a Redis, or leave it out")
    if held > MOST_LIMITS:
        yield Fault(path, f"holds a request to {held} limits, at most {MOST_LIMITS} are kept: each amount is one")
    for where, what in limit_faults(limit.limits):
        yield Fault(f"{path}.limits{where}", what)
    for position, one in enumerate(limit.limits):
        if one.key.type == "header" and not one.key.header:
            yield Fault(f"{path}.limits[{position}].key.header", "name the header to count by")
