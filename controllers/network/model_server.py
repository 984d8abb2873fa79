"""ModelServer → the server that the gateway serves, with its endpoints."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from controllers.api.meta import Condition, honoured, seconds
from controllers.api.model_server import EndpointSpec, ModelServer, ModelServerStatus, Outlier
from controllers.api.scheduling import SESSION_BOUND, SchedulingSpec
from controllers.network.desired import DesiredState
from controllers.store.store import Key, Store
from gateway.datastore import model


class ModelServerReconciler:
    """Makes the desired state's server and endpoints fit the object."""

    def __init__(self, store: Store, desired: DesiredState) -> None:
        self._store = store
        self._desired = desired

    async def __call__(self, key: Key) -> float | None:
        """Reconcile one ModelServer, or its absence."""
        item: ModelServer | None = self._store.get(key)
        if item is None:
            self._desired.drop_server(f"{key.namespace}/{key.name}")
            return None
        endpoints = [endpoint for spec in item.spec.endpoints for endpoint in endpoints_of(item, spec)]
        self._desired.put_server(translate(item), endpoints)
        await self._store.update_status(key, _status(item, len(endpoints)))
        return None


def translate(item: ModelServer) -> model.Server:
    """The object in the gateway's words."""
    spec, traffic = item.spec, item.spec.traffic_policy
    return model.Server(
        name=f"{item.metadata.namespace}/{item.metadata.name}",
        engine=spec.inference_engine,
        model=spec.model,
        scheduling=_scheduling(spec.scheduling),
        prefix_cache=model.PrefixCache(
            mode=spec.prefix_cache.mode, block_size=spec.prefix_cache.blocks_of, tokenizer=spec.prefix_cache.tokenizer
        ),
        traffic=model.Traffic(
            timeout=seconds(traffic.timeout) or 0,
            idle_timeout=seconds(traffic.idle_timeout) or 0,
            connect_timeout=seconds(traffic.connect) or 0,
            attempts=1 + traffic.retry.attempts,
            retry_interval=seconds(traffic.retry.retry_interval) or 0,
            retry_budget_percent=float(traffic.retry.budget_percent),
            maximum_in_flight=traffic.max_in_flight,
            stream_usage=traffic.stream_usage,
            outlier=_outlier(traffic.outlier),
        ),
    )


def endpoints_of(item: ModelServer, spec: EndpointSpec) -> list[model.Endpoint]:
    """An engine that the object itself lists: one endpoint, or as many as its ranks that the gateway is to choose among."""
    ranks = item.ranks_of(spec)
    whole = endpoint_of(item, spec)
    return [_of_rank(whole, rank) for rank in range(ranks)] if ranks > 1 else [whole]


def _of_rank(whole: model.Endpoint, rank: int) -> model.Endpoint:
    """One data-parallel rank of an engine: it has a cache and a queue of its own, and publishes its events at ports of its own."""
    return structs.replace(
        whole,
        name=f"{whole.name}@{rank}",
        identity=f"{whole.identity}@{rank}",
        events_port=whole.events_port + rank if whole.events_port else 0,
        replay_port=whole.replay_port + rank if whole.replay_port else 0,
        rank=rank,
    )


def endpoint_of(item: ModelServer, spec: EndpointSpec) -> model.Endpoint:
    """An endpoint that the object itself lists. Its address is its identity: nothing else tells it from another."""
    namespace, port = item.metadata.namespace, item.spec.workload_port
    number = spec.port or item.default_port
    events = item.events_of(spec)
    return model.Endpoint(
        name=f"{namespace}/{spec.name}",
        server=f"{namespace}/{item.metadata.name}",
        identity=f"{spec.address}:{number}",
        address=spec.address,
        port=number,
        scheme=port.protocol if port is not None else "http",
        role=spec.role,
        group=spec.group,
        events_port=events.port if events is not None else 0,
        replay_port=(events.replay_port or 0) if events is not None else 0,
        events_ranks=events.ranks if events is not None else 1,
    )


def _outlier(spec: Outlier) -> model.Outlier:
    return model.Outlier(
        failures=spec.consecutive_failures,
        base_ejection=seconds(spec.base_ejection) or 0,
        maximum_ejection=seconds(spec.max_ejection) or 0,
        maximum_ejected_percent=float(spec.max_ejected_percent),
        slow_start=seconds(spec.slow_start) or 0,
    )


def _scheduling(spec: SchedulingSpec) -> model.Scheduling:
    waiting = 0.0
    for one in spec.filters:
        if one.name == "least-request":
            given = one.args.get("maxWaitingRequests", 10)
            waiting = float(given) if isinstance(given, int | float) and given > 0 else 10.0
    weights = {scorer.name: scorer.weight for scorer in spec.scorers}
    args: dict[str, dict[str, Any]] = {scorer.name: scorer.args for scorer in spec.scorers}
    headers: tuple[str, ...] = ()
    if "session" in args:
        headers = tuple(one.lower() for one in args["session"].get("headers", model.SESSION_HEADERS))
    return model.Scheduling(
        policy=spec.policy,
        weights=weights,
        maximum_waiting=waiting,
        session_headers=headers,
        session_bound=float(args.get("session", {}).get("loadBound", SESSION_BOUND)),
        latency_factor=float(args.get("least-latency", {}).get("TTFTTPOTWeightFactor", 0.5)),
        prefix_blocks=args.get("prefix-cache", {}).get("maxBlocksToMatch", 0),
        kvcache_blocks=args.get("kvcache-aware", {}).get("maxBlocksToMatch", 0),
        adapter_seconds=seconds(spec.adapter_load) or 0,
        adapter_filter=any(one.name == "lora-affinity" for one in spec.filters),
        plugins=tuple(model.PluginSpec(one.name, one.weight, one.args) for one in spec.plugins),
    )


def _status(item: ModelServer, endpoints: int) -> ModelServerStatus:
    generation = item.metadata.generation
    conditions = [
        Condition("Accepted", "True", "Valid", f"engine {item.spec.inference_engine}", generation),
        Condition("EndpointsFound", "True", "Listed", f"{endpoints} endpoints", generation)
        if endpoints
        else Condition("EndpointsFound", "False", "NoEndpoints", "the selector needs a cluster", generation),
        honoured(item.not_built(), generation),
    ]
    return ModelServerStatus(conditions, generation)
