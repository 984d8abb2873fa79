"""ModelRoute → the route that the gateway serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from msgspec import structs

from controllers.api.meta import Condition, honoured
from controllers.api.model_route import ModelRoute, ModelRouteStatus, RateLimit, Rule, StringMatch
from controllers.network.desired import DesiredState
from controllers.store.store import Key, Store
from gateway.datastore import model
from gateway.datastore.rate_limits import LimitSpec
from gateway.datastore.store_states import StoreState

RESOLVE_SECONDS = 5.0
"""A route whose servers are missing, or whose limits are shared, is looked at again after so long."""


class ModelRouteReconciler:
    """Makes the desired state's route fit the object."""

    def __init__(
        self, store: Store, desired: DesiredState, limit_stores: Callable[[], Mapping[str, StoreState]] = dict
    ) -> None:
        """``limit_stores``: what the gateway says of the stores of shared limits, by address."""
        self._store = store
        self._limit_stores = limit_stores
        self._desired = desired

    async def __call__(self, key: Key) -> float | None:
        """Reconcile one ModelRoute, or its absence."""
        name = f"{key.namespace}/{key.name}"
        item: ModelRoute | None = self._store.get(key)
        if item is None:
            self._desired.drop_route(name)
            return None
        self._desired.put_route(translate(item))
        status = self._status(item)
        await self._store.update_status(key, status)
        looked_after = any(
            one.reason == "ModelServerNotFound" or one.type == "LimitsShared" for one in status.conditions
        )
        return RESOLVE_SECONDS if looked_after else None

    def _status(self, item: ModelRoute) -> ModelRouteStatus:
        namespace, generation = item.metadata.namespace, item.metadata.generation
        targets = {target.model_server_name for rule in item.spec.rules for target in rule.target_models}
        missing = sorted(name for name in targets if self._store.get(Key("ModelServer", namespace, name)) is None)
        conditions = [
            Condition("Accepted", "True", "Valid", f"{len(item.spec.rules)} rules", generation),
            Condition(
                "ResolvedRefs", "False", "ModelServerNotFound", f"no ModelServer {', '.join(missing)}", generation
            )
            if missing
            else Condition("ResolvedRefs", "True", "Resolved", f"{len(targets)} ModelServers", generation),
            honoured(item.not_built(), generation),
        ]
        limit = item.spec.rate_limit
        if limit is not None and limit.global_ is not None:
            conditions.append(self._shared(limit.global_.redis.address, limit.on_store_failure, generation))
        return ModelRouteStatus(conditions, generation)

    def _shared(self, address: str, failure: str, generation: int) -> Condition:
        found = self._limit_stores().get(address)
        if found is None:
            return Condition("LimitsShared", "Unknown", "NotAsked", f"no gateway has asked {address} yet", generation)
        if found.is_reachable:
            message = f"gateways that share the limits in {address}: {found.gateways}"
            return Condition("LimitsShared", "True", "Reachable", message, generation)
        message = f"{address}: {found.reason}; until it answers requests are served by onStoreFailure: {failure}"
        return Condition("LimitsShared", "False", "StoreAway", message, generation)


def translate(item: ModelRoute) -> model.Route:
    """The object in the gateway's words."""
    namespace = item.metadata.namespace
    return model.Route(
        name=f"{namespace}/{item.metadata.name}",
        model_name=item.spec.model_name,
        adapters=tuple(item.spec.lora_adapters),
        rules=tuple(_rule(rule, namespace) for rule in item.spec.rules),
        limits=tuple(_limits(item.spec.rate_limit)) if item.spec.rate_limit is not None else (),
        created=item.metadata.creation_timestamp,
    )


def _rule(rule: Rule, namespace: str) -> model.Rule:
    wanted = rule.model_match
    return model.Rule(
        name=rule.name,
        targets=tuple(model.Target(f"{namespace}/{one.model_server_name}", one.weight) for one in rule.target_models),
        match=None
        if wanted is None
        else model.Match(
            headers={name: _text(test) for name, test in wanted.headers.items()},
            path=None if wanted.uri is None else _text(wanted.uri),
            model=None if wanted.body is None else wanted.body.model,
        ),
    )


def _text(test: StringMatch) -> model.StringMatch:
    return model.StringMatch(test.exact, test.prefix, test.regex)


def _limits(spec: RateLimit) -> Iterator[model.Limit]:
    store = spec.global_.redis.address if spec.global_ is not None else ""
    per_unit = (
        LimitSpec("inputTokensPerUnit", spec.unit, input_tokens=spec.input_tokens_per_unit),
        LimitSpec("outputTokensPerUnit", spec.unit, output_tokens=spec.output_tokens_per_unit),
    )
    for one in per_unit:
        yield from one.limits(store, spec.on_store_failure)
    for further in spec.limits:
        for limit in further.limits(store, spec.on_store_failure):
            yield structs.replace(limit, key=further.key.type, header=further.key.header.lower())
