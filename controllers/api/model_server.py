"""``ModelServer``: a pool of engine endpoints, how to reach them and how to choose among them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from controllers.api.meta import NOT_DONE, Condition, Fault, Metadata, Strict, check_metadata, seconds
from controllers.api.scheduling import SchedulingSpec, scheduling_faults

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})")
_TOKENS_ALONE = f"{NOT_DONE} unless prefixCache.mode is `tokens`"
LONGEST_EJECTION = 86400.0
DEFAULT_BLOCKS = {"text": 64, "tokens": 16, "off": 64}
LARGEST_TOKEN_BLOCK = 8192
LARGEST_PORT = 65535
MOST_RANKS = 64
DEFAULT_PORTS = {"vLLM": 8000, "SGLang": 30000}


class PDGroup(Strict, frozen=True):
    """Which pods prefill, which decode, and which label pairs them."""

    group_key: str
    prefill_labels: dict[str, str]
    decode_labels: dict[str, str]


class WorkloadSelector(Strict, frozen=True):
    """Pods of the same namespace."""

    match_labels: dict[str, str] = {}
    pd_group: PDGroup | None = None


class WorkloadPort(Strict, frozen=True):
    """Where the engines listen."""

    port: int
    protocol: Literal["http", "https"] = "http"


class Retry(Strict, frozen=True):
    """Further attempts, on other endpoints, before the first byte of an answer."""

    attempts: int = 1
    retry_interval: str = "100ms"
    budget_percent: int = 20


class Outlier(Strict, frozen=True):
    """Endpoints that fail so many requests in a row are left alone: for ``baseEjection``, each time twice as long up to ``maxEjection``.

    Then one request tries. With more than ``maxEjectedPercent`` of the endpoints out nobody is. Who is new or back gets a share that grows
    for ``slowStart``. ``consecutiveFailures: 0`` turns ejection off, ``slowStart: 0s`` the other.
    """

    consecutive_failures: int = 3
    base_ejection: str = "10s"
    max_ejection: str = "5m"
    max_ejected_percent: int = 50
    slow_start: str = "30s"


class TrafficPolicy(Strict, frozen=True):
    """Deadlines and bounds. ``timeout`` is until the head of the answer, ``idleTimeout`` between two pieces of it.

    ``streamUsage``: whether engines are asked for their count of tokens at the end of every stream; false for engines that refuse
    ``stream_options``.
    """

    timeout: str = "120s"
    idle_timeout: str = "60s"
    connect: str = "1s"
    retry: Retry = Retry()
    max_in_flight: int = 0
    stream_usage: bool = True
    outlier: Outlier = Outlier()


class KVConnector(Strict, frozen=True):
    """How a prefill hands its blocks to a decode."""

    type: Literal["http", "lmcache", "nixl", "mooncake"] = "http"


class EventPorts(Strict, frozen=True):
    """Where an engine publishes its KV events.

    Each of its data-parallel ``ranks`` has ports of its own: ``port`` + rank, ``replayPort`` + rank.
    """

    port: int
    replay_port: int | None = None
    ranks: int = 1


class EndpointSpec(Strict, frozen=True):
    """An engine outside the cluster, or in local mode. ``dataParallelSize``: as of the server, of this engine alone."""

    name: str
    address: str
    port: int | None = None
    role: Literal["both", "prefill", "decode"] = "both"
    group: str = ""
    labels: dict[str, str] = {}
    events: EventPorts | None = None
    data_parallel_size: int | None = None


class PrefixCacheSpec(Strict, frozen=True):
    """What prompts are matched by: what the gateway itself sent (``text``), or what the engines say that they hold (``tokens``).

    ``blockSize``: bytes of text, 64 by default; or the engines' own block size in tokens, 16 by default.
    """

    mode: Literal["text", "tokens", "off"] = "text"
    block_size: int | None = None
    tokenizer: str = ""
    events: EventPorts | None = None

    @property
    def blocks_of(self) -> int:
        """The block size that is meant."""
        return self.block_size if self.block_size is not None else DEFAULT_BLOCKS[self.mode]


class ModelServerSpec(Strict, frozen=True):
    """At least one of ``workloadSelector`` and ``endpoints``.

    ``dataParallelSize``: how many data-parallel ranks each engine has behind its port (vLLM). Each rank is an endpoint of its own,
    ``NAME@RANK``, and is chosen by the gateway rather than by the engine.
    """

    inference_engine: Literal["vLLM", "SGLang"]
    model: str | None = None
    workload_selector: WorkloadSelector | None = None
    workload_port: WorkloadPort | None = None
    traffic_policy: TrafficPolicy = TrafficPolicy()
    kv_connector: KVConnector | None = None
    endpoints: list[EndpointSpec] = []
    data_parallel_size: int = 1
    scheduling: SchedulingSpec = SchedulingSpec()
    prefix_cache: PrefixCacheSpec = PrefixCacheSpec()


class ModelServerStatus(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What became of it."""

    conditions: list[Condition] = []
    observed_generation: int = 0


class ModelServer(Struct, frozen=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """The object."""

    api_version: str
    kind: Literal["ModelServer"]
    metadata: Metadata
    spec: ModelServerSpec
    status: ModelServerStatus = ModelServerStatus()

    @property
    def default_port(self) -> int:
        """Where an endpoint listens that does not say."""
        port = self.spec.workload_port
        return port.port if port is not None else DEFAULT_PORTS[self.spec.inference_engine]

    def ranks_of(self, endpoint: EndpointSpec) -> int:
        """Data-parallel ranks of an engine that are endpoints of their own."""
        size = endpoint.data_parallel_size
        return self.spec.data_parallel_size if size is None else size

    def events_of(self, endpoint: EndpointSpec) -> EventPorts | None:
        """Where an endpoint's KV events are followed; None unless prompts are matched by token."""
        cache = self.spec.prefix_cache
        return (endpoint.events or cache.events) if cache.mode == "tokens" else None

    def faults(self) -> Iterator[Fault]:
        """What the types alone cannot say."""
        yield from check_metadata(self.metadata)
        spec = self.spec
        if spec.workload_selector is None and not spec.endpoints:
            yield Fault("spec", "give `workloadSelector` or at least one of `endpoints`")
        if spec.model is not None and not 1 <= len(spec.model) <= 256:
            yield Fault("spec.model", "must have 1 to 256 characters")
        if spec.workload_selector is not None and not spec.workload_selector.match_labels:
            yield Fault("spec.workloadSelector.matchLabels", "must name at least one label")
        if spec.workload_port is not None:
            yield from _port_faults(spec.workload_port.port, "spec.workloadPort.port")
        yield from _endpoint_faults(spec.endpoints, self.default_port)
        yield from _traffic_faults(spec.traffic_policy)
        yield from scheduling_faults(spec.scheduling, spec.prefix_cache.mode == "tokens")
        yield from _prefix_faults(spec.prefix_cache)
        yield from _event_faults(spec)
        yield from self._rank_faults()

    def _rank_faults(self) -> Iterator[Fault]:
        spec, cache = self.spec, self.spec.prefix_cache
        sizes = [("spec.dataParallelSize", spec.data_parallel_size)]
        for position, one in enumerate(spec.endpoints):
            if one.data_parallel_size is not None:
                sizes.append((f"spec.endpoints[{position}].dataParallelSize", one.data_parallel_size))
        for path, size in sizes:
            if not 1 <= size <= MOST_RANKS:
                yield Fault(path, f"must be 1 to {MOST_RANKS}, not {size}")
            elif size > 1 and spec.inference_engine != "vLLM":
                yield Fault(
                    path, f"the ranks of {spec.inference_engine} cannot be chosen: give each a port, or leave it out"
                )
        yield from _clashing_names(spec.endpoints, [self.ranks_of(one) for one in spec.endpoints])
        ranged: dict[str, tuple[EventPorts, int]] = {}
        for position, one in enumerate(spec.endpoints):
            events, ranks = one.events or cache.events, self.ranks_of(one)
            path = f"spec.endpoints[{position}].events" if one.events is not None else "spec.prefixCache.events"
            if events is not None and 1 < ranks <= MOST_RANKS:
                ranged[path] = events, max(ranks, ranged[path][1] if path in ranged else 0)
        for path, (events, ranks) in ranged.items():
            if events.ranks != 1:
                yield Fault(f"{path}.ranks", "leave it out: each of the `dataParallelSize` ranks is followed by itself")
            else:
                yield from _range_faults(events, ranks, path, f"{path}.port")

    def not_built(self) -> Iterator[Fault]:
        """Fields that are set and have no effect yet. The object is valid all the same."""
        spec = self.spec
        if spec.workload_selector is not None:
            yield Fault("spec.workloadSelector", f"{NOT_DONE}: it needs a cluster")
            if spec.workload_selector.pd_group is not None:
                yield Fault("spec.workloadSelector.pdGroup", NOT_DONE)
        if spec.kv_connector is not None:
            yield Fault("spec.kvConnector", NOT_DONE)
        for position, one in enumerate(spec.endpoints):
            here = f"spec.endpoints[{position}]"
            if one.role != "both":
                yield Fault(f"{here}.role", f"{NOT_DONE}: an endpoint that only {one.role}s is sent nothing")
            for field, value in (("group", one.group), ("labels", one.labels)):
                if value:
                    yield Fault(f"{here}.{field}", NOT_DONE)
            if one.events is not None and spec.prefix_cache.mode != "tokens":
                yield Fault(f"{here}.events", _TOKENS_ALONE)
        if spec.prefix_cache.mode != "tokens":
            if spec.prefix_cache.tokenizer:
                yield Fault("spec.prefixCache.tokenizer", _TOKENS_ALONE)
            if spec.prefix_cache.events is not None:
                yield Fault("spec.prefixCache.events", _TOKENS_ALONE)


def _port_faults(port: int, path: str) -> Iterator[Fault]:
    if not 1 <= port <= 65535:
        yield Fault(path, f"must be 1 to 65535, not {port}")


def _endpoint_faults(endpoints: list[EndpointSpec], default_port: int) -> Iterator[Fault]:
    names: set[str] = set()
    places: set[tuple[str, int]] = set()
    for position, one in enumerate(endpoints):
        here = f"spec.endpoints[{position}]"
        if one.port is not None:
            yield from _port_faults(one.port, f"{here}.port")
        if not _is_address(one.address):
            yield Fault(
                f"{here}.address", f"`{one.address}` must be an address or a host name, without scheme, port or path"
            )
        if not one.name:
            yield Fault(f"{here}.name", "must not be empty")
        if one.name in names:
            yield Fault(f"{here}.name", f"`{one.name}` stands twice")
        names.add(one.name)
        place = (one.address, one.port or default_port)
        if place in places:
            yield Fault(
                f"{here}.address", f"another endpoint has {one.address} and the same port: list each engine once"
            )
        places.add(place)


def _clashing_names(endpoints: list[EndpointSpec], ranks: list[int]) -> Iterator[Fault]:
    """Endpoints that are named as a rank of another is."""
    of_ranks = {
        f"{one.name}@{rank}"
        for one, count in zip(endpoints, ranks, strict=True)
        if 1 < count <= MOST_RANKS
        for rank in range(count)
    }
    for position, one in enumerate(endpoints):
        if one.name in of_ranks:
            yield Fault(f"spec.endpoints[{position}].name", f"`{one.name}` is the name of a data-parallel rank")


def _is_address(text: str) -> bool:
    """An IP address or a host name: nothing that a URL would read otherwise."""
    if ":" in text:
        try:
            return ipaddress.ip_address(text).version == 6
        except ValueError:
            return False
    return _HOST.fullmatch(text) is not None


def _traffic_faults(policy: TrafficPolicy) -> Iterator[Fault]:
    for field, value in (
        ("timeout", policy.timeout),
        ("idleTimeout", policy.idle_timeout),
        ("connect", policy.connect),
        ("retry.retryInterval", policy.retry.retry_interval),
    ):
        found = seconds(value)
        if found is None or found <= 0:
            yield Fault(f"spec.trafficPolicy.{field}", f"`{value}` must be a duration above 0, such as `250ms` or `2m`")
    if not 0 <= policy.retry.attempts <= 10:
        yield Fault("spec.trafficPolicy.retry.attempts", f"must be 0 to 10, not {policy.retry.attempts}")
    if not 0 <= policy.retry.budget_percent <= 100:
        yield Fault("spec.trafficPolicy.retry.budgetPercent", f"must be 0 to 100, not {policy.retry.budget_percent}")
    if policy.max_in_flight < 0:
        yield Fault("spec.trafficPolicy.maxInFlight", "must not be negative; 0 is no bound")
    yield from _outlier_faults(policy.outlier, "spec.trafficPolicy.outlier")


def _outlier_faults(outlier: Outlier, path: str) -> Iterator[Fault]:
    if not 0 <= outlier.consecutive_failures <= 100:
        yield Fault(f"{path}.consecutiveFailures", f"must be 0 (off) to 100, not {outlier.consecutive_failures}")
    if not 0 <= outlier.max_ejected_percent <= 100:
        yield Fault(f"{path}.maxEjectedPercent", f"must be 0 to 100, not {outlier.max_ejected_percent}")
    for field, value, least in (
        ("baseEjection", outlier.base_ejection, 0.001),
        ("maxEjection", outlier.max_ejection, 0.001),
        ("slowStart", outlier.slow_start, 0.0),
    ):
        found = seconds(value)
        if found is None or not least <= found <= LONGEST_EJECTION:
            lowest = "from 0s" if least == 0 else "above 0"
            yield Fault(
                f"{path}.{field}", f"`{value}` must be a duration {lowest} and up to 24h, such as `10s` or `5m`"
            )
    base, longest = seconds(outlier.base_ejection), seconds(outlier.max_ejection)
    if base is not None and longest is not None and longest < base:
        yield Fault(f"{path}.maxEjection", f"`{outlier.max_ejection}` must not be shorter than baseEjection")


def _prefix_faults(cache: PrefixCacheSpec) -> Iterator[Fault]:
    here = "spec.prefixCache"
    if cache.mode == "tokens":
        if not 1 <= cache.blocks_of <= LARGEST_TOKEN_BLOCK:
            message = f"must be the engine's block size, 1 to {LARGEST_TOKEN_BLOCK} tokens, not {cache.block_size}"
            yield Fault(f"{here}.blockSize", message)
        if cache.tokenizer and not cache.tokenizer.startswith("/"):
            message = "must be the folder of tokenizer.json and the chat template, as an absolute path; without it engines are asked"
            yield Fault(f"{here}.tokenizer", message)
    elif not 8 <= cache.blocks_of <= 65536:
        yield Fault(f"{here}.blockSize", f"must be 8 to 65536 bytes, not {cache.block_size}")


def _event_port_faults(events: EventPorts, path: str) -> Iterator[Fault]:
    yield from _port_faults(events.port, f"{path}.port")
    if events.replay_port is not None:
        yield from _port_faults(events.replay_port, f"{path}.replayPort")
    if not 1 <= events.ranks <= MOST_RANKS:
        yield Fault(f"{path}.ranks", f"must be 1 to {MOST_RANKS}, not {events.ranks}")
    elif events.ranks > 1:
        yield from _range_faults(events, events.ranks, path, f"{path}.ranks")


def _range_faults(events: EventPorts, ranks: int, path: str, last_path: str) -> Iterator[Fault]:
    """Whether each rank can have ports of its own."""
    ports = [events.port] if events.replay_port is None else [events.port, events.replay_port]
    last = ranks - 1
    if max(ports) <= LARGEST_PORT < max(ports) + last:
        yield Fault(last_path, f"the last of {ranks} ranks would have a port above {LARGEST_PORT}")
    elif max(ports) - min(ports) <= last and len(ports) > 1:
        message = f"must be {ranks} or more away from `port`: each of {ranks} ranks takes the next port of both"
        yield Fault(f"{path}.replayPort", message)


def _event_faults(spec: ModelServerSpec) -> Iterator[Fault]:
    places = [(f"spec.endpoints[{position}].events", one.events) for position, one in enumerate(spec.endpoints)]
    for path, events in [*places, ("spec.prefixCache.events", spec.prefix_cache.events)]:
        if events is not None:
            yield from _event_port_faults(events, path)
    if spec.prefix_cache.mode == "tokens" and spec.prefix_cache.events is None:
        for path, events in places:
            if events is None:
                yield Fault(
                    path, "mode `tokens` needs the engine's KV events: give ports here, or in `prefixCache.events`"
                )
