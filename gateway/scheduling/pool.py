"""A server with its endpoints, as the request path reads it."""

from __future__ import annotations

from msgspec import Struct

from _fastpath.hashing import Hasher
from _fastpath.health import Outlier
from _fastpath.policy import Policy
from _fastpath.pool import Pool
from _fastpath.slots import endpoint_identity
from gateway.datastore.model import Endpoint, PrefixCache, Role, Scheduling, Server, Traffic
from gateway.scheduling.plugins import Plugin
from gateway.scheduling.slot_book import Slot

SERVES = 1
PREFILLS = 2
DECODES = 4
LONGEST_PROBE_SECONDS = 3600.0
_SMALLEST_BOUND = 4
TEXT_BLOCK = 64
"""Bytes of a block when a prompt that was to be matched by token is matched by text."""
ROLE_BITS: dict[Role, int] = {"both": SERVES, "prefill": PREFILLS, "decode": DECODES}


class PlacedEndpoint:
    """An endpoint and its slot."""

    def __init__(self, endpoint: Endpoint, slot: Slot) -> None:
        self.endpoint = endpoint
        self.slot = slot
        self.name = endpoint.name
        self.slot_index: int = slot.index
        self.slot_generation: int = slot.generation


class Reserved(Struct, frozen=True, gc=False):
    """What of each endpoint is kept, while several tenants ask, for those that had less than their share."""

    percent: float = 0.0
    """Of the requests that it may have, see :func:`reserved_of`."""
    prefill_seconds: float = 0.0
    """Others get no further place of one with half of its requests while it has to compute prompts for longer than this; 0: no bound."""


class ServerPool:
    """A server, its endpoints in the pool's order, and what the compiled scheduler needs of both."""

    def __init__(
        self,
        server: Server,
        endpoints: tuple[PlacedEndpoint, ...],
        pool: Pool,
        policy: Policy,
        plugins: tuple[Plugin, ...] = (),
        narrow: Pool | None = None,
    ) -> None:
        self.server = server
        self.name = server.name
        """``namespace/name``."""
        self.traffic = server.traffic
        self.policy_name: str = server.scheduling.policy
        self.endpoints = endpoints
        self.pool = pool
        self.narrow: Pool = pool if narrow is None else narrow
        """The same endpoints, each with the places left out that are kept for tenants which had less than their share."""
        self.policy = policy
        self.plugins = plugins
        """Asked at every choice."""
        self.attempts: int = max(1, server.traffic.attempts)
        self.keeps_places = self.narrow is not pool
        """Whether places are kept for tenants which had less than their share."""
        self.alone: tuple[tuple[int], ...] = tuple((position,) for position in range(len(endpoints)))
        """Of each position those that were tried, when it is the first."""
        self.matches_tokens = server.prefix_cache.mode == "tokens"
        self.block_bytes = block_bytes_of(server.prefix_cache)
        self.hasher: Hasher | None = None
        """Of its prompts, once there was one; and where the chain of the last one without tools began, which is mostly the same again."""
        self.seed = 0
        self.seed_model: str | None = None
        self.seed_salt = b""
        self.keeps_sessions = server.scheduling.weights.get("session", 0.0) > 0
        """Whether what names a request's session counts in the choice."""


def block_bytes_of(cache: PrefixCache) -> int:
    """Bytes of text that make a block of a prompt; 0 when prompts are not matched."""
    if cache.mode == "off":
        return 0
    return TEXT_BLOCK if cache.mode == "tokens" else cache.block_size


def make_pool(
    server: Server,
    endpoints: tuple[PlacedEndpoint, ...],
    plugins: tuple[Plugin, ...] = (),
    reserved: Reserved | None = None,
) -> ServerPool:
    """Compile a server's pool. ``reserved``: nothing is where it is left out.

    Raises ValueError for a scorer that does not exist, or rules of ejection that are out of range.
    """
    bound = server.traffic.maximum_in_flight
    pool = _pool(server, endpoints, bound)
    kept = reserved_of(bound, reserved.percent) if reserved is not None else 0
    narrow = pool
    if reserved is not None and kept:
        narrow = _pool(server, endpoints, bound - kept, reserved.prefill_seconds)
    return ServerPool(server, endpoints, pool, make_policy(server.scheduling), plugins, narrow)


def reserved_of(bound: int, percent: float) -> int:
    """Of so many requests that an endpoint may have at once, those that are kept for tenants which had less than their share.

    At least one; none where an endpoint may have fewer than four.
    """
    return max(1, int(bound * percent / 100)) if percent > 0 and bound >= _SMALLEST_BOUND else 0


def _pool(server: Server, endpoints: tuple[PlacedEndpoint, ...], bound: int, prefill_seconds: float = 0.0) -> Pool:
    slots = [
        (
            one.slot.index,
            one.slot.generation,
            ROLE_BITS[one.endpoint.role],
            bound,
            endpoint_identity(one.endpoint.identity),
        )
        for one in endpoints
    ]
    return Pool(slots, make_outlier(server.traffic), prefill_seconds)


def make_outlier(traffic: Traffic) -> Outlier:
    """What the compiled scheduler needs of the rules of ejection. A probe is lost when even its head is late."""
    rules = traffic.outlier
    return Outlier(
        failures=rules.failures,
        base_ejection=rules.base_ejection,
        maximum_ejection=rules.maximum_ejection,
        maximum_ejected_percent=rules.maximum_ejected_percent,
        slow_start=rules.slow_start,
        probe_seconds=min(LONGEST_PROBE_SECONDS, traffic.connect_timeout + traffic.timeout),
    )


def make_policy(scheduling: Scheduling) -> Policy:
    """What the compiled scheduler needs of a policy."""
    return Policy(
        by_cost=scheduling.policy == "cost",
        weights=scheduling.weights,
        maximum_waiting=scheduling.maximum_waiting,
        session_bound=scheduling.session_bound,
        latency_factor=scheduling.latency_factor,
        prefix_blocks=scheduling.prefix_blocks,
        kvcache_blocks=scheduling.kvcache_blocks,
        adapter_seconds=scheduling.adapter_seconds,
        adapter_filter=scheduling.adapter_filter,
    )
