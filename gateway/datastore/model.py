"""The objects that travel in snapshots: routes, servers and endpoints, already defaulted and validated by the controllers.

They hold no reference back to what holds them, so the garbage collector need not look at the thousands of them (``gc=False``).
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

Role = Literal["both", "prefill", "decode"]
Kind = Literal["input", "output", "requests"]


class StringMatch(Struct, frozen=True, omit_defaults=True, gc=False):
    """One of three ways to match a text; with none set it matches anything."""

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None


class Match(Struct, frozen=True, omit_defaults=True, gc=False):
    """What a request must look like: every part that is present must match. A missing header is matched as the empty text."""

    headers: dict[str, StringMatch] = {}
    path: StringMatch | None = None
    model: str | None = None


class Target(Struct, frozen=True, gc=False):
    """A server by ``namespace/name`` and its share of the rule's requests, relative to the other targets'."""

    server: str
    weight: int = 100


class Rule(Struct, frozen=True, omit_defaults=True, gc=False):
    """The first rule that matches says where a request goes."""

    targets: tuple[Target, ...]
    name: str = ""
    match: Match | None = None


class Limit(Struct, frozen=True, omit_defaults=True, gc=False):
    """So many tokens or requests in so many seconds, with a burst; for the whole route, each tenant, or each value of a header."""

    name: str
    kind: Kind
    amount: float
    seconds: float
    burst: float
    key: Literal["route", "tenant", "header"] = "route"
    header: str = ""
    store: str = ""
    """Address of the Redis that gateways share it in, empty for none."""
    on_store_failure: Literal["local", "allow", "deny"] = "local"


class Route(Struct, frozen=True, omit_defaults=True, gc=False):
    """Which requests go where. ``created`` orders routes of the same model name: the oldest comes first."""

    name: str
    model_name: str
    rules: tuple[Rule, ...]
    adapters: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    created: str = ""


class PluginSpec(Struct, frozen=True, omit_defaults=True, gc=False):
    """A Python plugin by its name, how much its score counts, and what it is made with."""

    name: str
    weight: float = 1.0
    args: dict[str, Any] = {}


SESSION_HEADERS = ("x-session-id",)
"""What names a conversation where nothing else is said."""


class Scheduling(Struct, frozen=True, omit_defaults=True, gc=False):
    """How to choose among a server's endpoints."""

    policy: Literal["cost", "weighted"] = "cost"
    weights: dict[str, float] = {}
    maximum_waiting: float = 0.0
    session_headers: tuple[str, ...] = ()
    session_bound: float = 1.25
    latency_factor: float = 0.5
    prefix_blocks: int = 0
    kvcache_blocks: int = 0
    adapter_seconds: float = 0.5
    adapter_filter: bool = False
    plugins: tuple[PluginSpec, ...] = ()


class PrefixCache(Struct, frozen=True, omit_defaults=True, gc=False):
    """What prompts are matched by: blocks of so many bytes of text, of so many tokens, or nothing.

    ``tokenizer``: the folder of the model's tokenizer and chat template where the gateway runs, for tokens.
    """

    mode: Literal["text", "tokens", "off"] = "text"
    block_size: int = 64
    tokenizer: str = ""


class Outlier(Struct, frozen=True, omit_defaults=True, gc=False):
    """When an endpoint that fails is left alone, and how it comes back. Times in seconds; ``failures`` 0 turns ejection off."""

    failures: int = 3
    base_ejection: float = 10.0
    maximum_ejection: float = 300.0
    maximum_ejected_percent: float = 50.0
    slow_start: float = 30.0


class Traffic(Struct, frozen=True, omit_defaults=True, gc=False):
    """Deadlines in seconds and bounds toward one server's endpoints."""

    timeout: float = 120.0
    idle_timeout: float = 60.0
    connect_timeout: float = 1.0
    attempts: int = 2
    retry_interval: float = 0.1
    retry_budget_percent: float = 20.0
    maximum_in_flight: int = 0
    stream_usage: bool = True
    outlier: Outlier = Outlier()


class Server(Struct, frozen=True, omit_defaults=True, gc=False):
    """A pool of engines that serve the same model. ``model`` replaces the name that the client sent, if it is set."""

    name: str
    engine: Literal["vLLM", "SGLang"] = "vLLM"
    model: str | None = None
    scheduling: Scheduling = Scheduling()
    prefix_cache: PrefixCache = PrefixCache()
    traffic: Traffic = Traffic()


class Endpoint(Struct, frozen=True, omit_defaults=True, gc=False):
    """One engine. ``identity`` tells it from another that gets the same address later (a pod's uid and port).

    ``events_port`` and ``replay_port``: where it publishes its KV events, 0 for nowhere; each of ``events_ranks`` so many ports further on.
    ``rank``: the data-parallel rank of the engine that it is, -1 where it is all of an engine.
    """

    name: str
    server: str
    identity: str
    address: str
    port: int
    scheme: Literal["http", "https"] = "http"
    role: Role = "both"
    group: str = ""
    events_port: int = 0
    replay_port: int = 0
    events_ranks: int = 1
    rank: int = -1

    @property
    def key(self) -> str:
        """An endpoint may belong to several servers."""
        return f"{self.server}#{self.name}"

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.scheme}://{host}:{self.port}"
