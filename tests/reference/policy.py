"""Plain-Python twin of ``_fastpath.policy``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

SCORES = (
    "least-request",
    "least-latency",
    "kv-usage",
    "prefix-cache",
    "random",
    "session",
    "kvcache-aware",
    "lora-affinity",
)


@dataclass(frozen=True)
class Policy:
    """How to choose; the names and defaults of the compiled one."""

    by_cost: bool = True
    weights: Mapping[str, float] = field(default_factory=dict)
    stale_after: float = 5.0
    maximum_waiting: float = 0.0
    prefill_tokens_per_second: float = 8000.0
    decode_seconds_per_request: float = 0.00035
    latency_factor: float = 0.5
    session_bound: float = 1.25
    adapter_seconds: float = 0.5
    prefix_blocks: int = 0
    kvcache_blocks: int = 0
    adapter_filter: bool = False

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if name not in SCORES:
                raise ValueError(f"unknown scorer {name!r}")
            if not isfinite(weight) or weight < 0:
                raise ValueError(f"the weight of {name} must be a number, 0 or above, not {weight}")
