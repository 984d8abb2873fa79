"""Plain-Python twin of ``_fastpath.weighted``: the weighted sums of the scores."""

from collections.abc import Sequence

from tests.reference.candidates import affinity_values
from tests.reference.policy import SCORES, Policy
from tests.reference.pool import Seen
from tests.reference.random import mixed

AFFINITY_SCORES = {"loaded": 100.0, "room": 80.0, "queued": 60.0, "taken": 0.0}


def _is_measured(seen: Seen) -> bool:
    return seen.first_token > 0 and seen.inter_token > 0


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values, default=0.0), max(values, default=0.0)


def _between(value: float, low: float, high: float) -> float:
    """100 for the smallest, 0 for the largest."""
    return 100 * (high - value) / (high - low) if high > low else 100.0


def session_owner(candidates: Sequence[Seen], policy: Policy, session: int) -> Seen | None:
    """Who ranks first for the session among those without too many requests."""
    total = 1 + sum(seen.endpoint.in_flight for seen in candidates)
    bound = max(1.0, policy.session_bound * total / len(candidates)) if candidates else 0
    free = [seen for seen in candidates if seen.endpoint.in_flight < bound]
    return max(free, key=lambda seen: mixed(session ^ mixed(seen.endpoint.identity)), default=None)


def _matched_share(matched: int, blocks: int, most: int) -> float:
    """Of the first ``most`` blocks, 0 for all."""
    bound = most or blocks
    return min(matched, bound) / min(blocks, bound) if blocks else 0.0


def scores_by_weight(
    candidates: Sequence[Seen],
    policy: Policy,
    blocks: int,
    session: int = 0,
    by_token: bool = False,
    for_adapter: bool = False,
) -> list[float]:
    """The weighted sums of the scores from 0 to 100, all but the random one."""
    most = max((seen.running for seen in candidates), default=0.0)
    measured = [seen for seen in candidates if _is_measured(seen)]
    first = _range([seen.first_token for seen in measured])
    inter = _range([seen.inter_token for seen in measured])
    weights = [policy.weights.get(name, 0.0) for name in SCORES]
    owner = session_owner(candidates, policy, session) if session and weights[5] else None
    affinities = affinity_values(candidates, AFFINITY_SCORES) if for_adapter else [0.0] * len(candidates)
    scores = []
    for seen, adapter in zip(candidates, affinities, strict=True):
        latency = 50.0
        if _is_measured(seen):
            latency = policy.latency_factor * _between(seen.first_token, *first)
            latency += (1 - policy.latency_factor) * _between(seen.inter_token, *inter)
        score = weights[0] * (100 * (most - seen.running) / most if most > 0 else 100)
        score += weights[1] * latency
        score += weights[2] * 100 * (1 - seen.kv_usage)
        score += weights[3] * 100 * _matched_share(seen.endpoint.matched_blocks, blocks, policy.prefix_blocks)
        if by_token:
            score += weights[6] * 100 * _matched_share(seen.endpoint.matched_blocks, blocks, policy.kvcache_blocks)
        score += weights[7] * adapter
        scores.append(score + (weights[5] * 100 if seen is owner else 0.0))
    return scores
