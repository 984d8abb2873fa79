"""A server with its endpoints, as the request path reads it."""

from __future__ import annotations

from msgspec import Struct

from _fastpath.scoring import Policy, Pool
from _fastpath.slots import endpoint_identity
from gateway.datastore.model import Endpoint, Role, Scheduling, Server
from gateway.scheduling.slot_book import Slot

SERVES = 1
PREFILLS = 2
DECODES = 4
ROLE_BITS: dict[Role, int] = {"both": SERVES, "prefill": PREFILLS, "decode": DECODES}


class PlacedEndpoint(Struct, frozen=True, gc=False):
    """An endpoint and its slot."""

    endpoint: Endpoint
    slot: Slot


class ServerPool:
    """A server, its endpoints in the pool's order, and what the compiled scheduler needs of both."""

    def __init__(self, server: Server, endpoints: tuple[PlacedEndpoint, ...], pool: Pool, policy: Policy) -> None:
        self.server = server
        self.endpoints = endpoints
        self.pool = pool
        self.policy = policy
        self.keeps_sessions = server.scheduling.weights.get("session", 0.0) > 0
        """Whether what names a request's session counts in the choice."""


def make_pool(server: Server, endpoints: tuple[PlacedEndpoint, ...]) -> ServerPool:
    """Compile a server's pool. Raises ValueError for a scorer that does not exist."""
    bound = server.traffic.maximum_in_flight
    pool = Pool(
        [
            (
                one.slot.index,
                one.slot.generation,
                ROLE_BITS[one.endpoint.role],
                bound,
                endpoint_identity(one.endpoint.identity),
            )
            for one in endpoints
        ]
    )
    return ServerPool(server, endpoints, pool, make_policy(server.scheduling))


def make_policy(scheduling: Scheduling) -> Policy:
    """What the compiled scheduler needs of a policy."""
    return Policy(
        by_cost=scheduling.policy == "cost",
        weights=scheduling.weights,
        maximum_waiting=scheduling.maximum_waiting,
        session_bound=scheduling.session_bound,
    )
