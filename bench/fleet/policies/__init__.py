"""The policies by name: ours compiled, others' rendered in plain Python from their published constants."""

from __future__ import annotations

from bench.fleet.policies.aibrix import AibrixPrefixCache
from bench.fleet.policies.base import Router
from bench.fleet.policies.dynamo import DynamoCost
from bench.fleet.policies.kthena import KthenaBest, KthenaDefault
from bench.fleet.policies.llm_d import LlmDDefault, LlmDNewest
from bench.fleet.policies.penstock import Penstock, PenstockEvents
from bench.fleet.policies.plain import BoundedHash, LeastComputed, LeastRequests, Random, RoundRobin
from bench.fleet.policies.smg import SmgCacheAware

YARDSTICK = "least-requests"
"""The policy that a fleet's capacity is measured with."""
POLICIES: dict[str, type[Router]] = {
    "ours": Penstock,
    "ours-events": PenstockEvents,
    "round-robin": RoundRobin,
    "random": Random,
    YARDSTICK: LeastRequests,
    "least-computed": LeastComputed,
    "bounded-hash": BoundedHash,
    "kthena-default": KthenaDefault,
    "kthena-best": KthenaBest,
    "smg-cache-aware": SmgCacheAware,
    "dynamo-cost": DynamoCost,
    "llm-d-default": LlmDDefault,
    "llm-d-newest": LlmDNewest,
    "aibrix-prefix-cache": AibrixPrefixCache,
}
