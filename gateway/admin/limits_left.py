"""What is left of the limits of routes, tenants and API keys: the document of ``/debug/limits``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from msgspec import Struct

from _fastpath.shared_memory import SharedMemory
from _fastpath.token_bucket import TokenBuckets
from gateway.admission.limit_names import LimitNames
from gateway.datastore.model import Limit
from gateway.identity.check import is_configured
from gateway.identity.directory import Directory, Tenant
from gateway.identity.faults import FileFaults
from gateway.identity.keeper import read_directory
from gateway.identity.settings import Identity
from gateway.world import GatewayWorld

MOST_SHOWN = 200
"""Limits in a document: those of which least is left."""
MOST_ASKED = 20_000
"""Limits that are looked at for it."""
_KEY_DIGITS = 12


class Asked(Struct, frozen=True):
    """A limit as one route, tenant or API key has it. ``route``, ``tenant``, ``key``: whose it is, empty where that says nothing.

    ``scope`` and ``holder``: what the bucket is called by, as in ``gateway.admission.limits``.
    """

    limit: Limit
    scope: str
    holder: str
    route: str = ""
    tenant: str = ""
    key: str = ""
    """The first digits of its SHA-256."""


class LimitsLeft:
    """Reads the buckets that workers share, and opens none. For any thread."""

    def __init__(self, memory: SharedMemory, identity: Identity, clock: Callable[[], int]) -> None:
        """``clock``: monotonic nanoseconds."""
        self._buckets = TokenBuckets(memory)
        self._identity = identity
        self._clock = clock
        self._names = LimitNames()

    def document(self, world: GatewayWorld, tenant: str | None = None) -> dict[str, Any]:
        """Of every route, and of every tenant and API key that the files name; or of all that one ``tenant`` is held to, named or not.

        At most :data:`MOST_SHOWN`, those first of which the smallest part is left. Reads the files: in a thread, not in a loop.
        """
        fault, directory = "", Directory([], {}, Tenant())
        try:
            directory = read_directory(self._identity, with_keys=True)
        except (OSError, FileFaults) as error:
            fault = f"what tenants and keys may cannot be read: {error}"
        tenants = directory.names if is_configured(self._identity) else [""]
        every = _asked(world, directory, tenants if tenant is None else [tenant])
        asked = list(islice(every, MOST_ASKED))
        identities = [self._names.identity(one.scope, one.limit, one.holder) for one in asked]
        left = self._buckets.left(identities, self._clock())
        rows = [_row(*pair) for pair in zip(asked, left, strict=True)]
        rows.sort(key=lambda row: row["left"] / row["burst"])
        return {
            "limits": rows[:MOST_SHOWN],
            "left_out": max(0, len(rows) - MOST_SHOWN),
            "more": next(every, None) is not None,
            "fault": fault,
        }


def _asked(world: GatewayWorld, directory: Directory, tenants: Sequence[str]) -> Iterator[Asked]:
    """Limits by a header are not among them: who sends which value nobody knows here."""
    routes = [(route.name, limit) for route in world.routes.values() for limit in route.route.limits]
    for name, limit in routes:
        if limit.key == "route":
            yield Asked(limit, name, "", route=name)
    named = frozenset(tenants)
    for api_key in directory.keys:
        own = api_key.caller.limits
        for scope, holder, limit in own.limits if own is not None and api_key.caller.tenant in named else ():
            if scope == "key":
                yield Asked(limit, scope, holder, tenant=api_key.caller.tenant, key=holder[:_KEY_DIGITS])
    for tenant in tenants:
        own = directory.caller_of(tenant).limits
        for scope, holder, limit in own.limits if own is not None else ():
            yield Asked(limit, scope, holder, tenant=tenant)
        for name, limit in routes:
            if limit.key == "tenant":
                yield Asked(limit, name, tenant, route=name, tenant=tenant)


def _row(asked: Asked, found: float | None) -> dict[str, Any]:
    limit = asked.limit
    left = limit.burst if found is None else found
    return {
        "route": asked.route or None,
        "tenant": asked.tenant if asked.scope == "tenant" or limit.key == "tenant" or asked.key else None,
        "key": asked.key or None,
        "name": limit.name,
        "kind": limit.kind,
        "amount": limit.amount,
        "seconds": limit.seconds,
        "burst": limit.burst,
        "left": round(left, 3),
        "seconds_until_full": round(max(0.0, limit.burst - left) * limit.seconds / limit.amount, 3),
        "store": limit.store or None,
    }
