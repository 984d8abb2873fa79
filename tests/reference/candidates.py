"""Plain-Python twin of ``_fastpath.candidates``: who may be chosen."""

from collections.abc import Collection, Mapping, Sequence
from math import isnan

from tests.reference.policy import Policy
from tests.reference.pool import Endpoint, Metrics, Seen
from tests.reference.speed import speed


def mean(values: Collection[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def fresh(endpoint: Endpoint, policy: Policy, now: float) -> Metrics | None:
    metrics = endpoint.metrics
    return metrics if metrics is not None and now - metrics.time <= policy.stale_after else None


def _has_enough_to_compute(endpoint: Endpoint, policy: Policy, prefill_seconds: float, now: float) -> bool:
    if prefill_seconds <= 0 or endpoint.maximum_in_flight <= 0 or 2 * endpoint.in_flight < endpoint.maximum_in_flight:
        return False
    elapsed = max(0.0, now - endpoint.prefill_since) if endpoint.prefill_since > 0 else 0.0
    rate = speed(policy.prefill_tokens_per_second, *endpoint.prefills)
    return endpoint.prefill_tokens / rate - elapsed > prefill_seconds


def _reason(seen: Seen, policy: Policy, role: int, excluded: bool, prefill_seconds: float, now: float) -> str:
    endpoint = seen.endpoint
    if excluded:
        return "excluded"
    if not endpoint.roles & role:
        return "wrong_role"
    if not endpoint.live:
        return "gone"
    if 0 < endpoint.maximum_in_flight <= endpoint.in_flight:
        return "full"
    if _has_enough_to_compute(endpoint, policy, prefill_seconds, now):
        return "full"
    if seen.scraped and 0 < policy.maximum_waiting <= seen.waiting:
        return "waiting"
    return ""


def look(
    endpoints: Sequence[Endpoint],
    policy: Policy,
    now: float,
    role: int = 1,
    excluded: Collection[int] = (),
    prefill_seconds: float = 0.0,
) -> list[Seen]:
    """Who was not scraped lately is taken for the mean of those of the role who were, whatever else keeps them out."""
    scrapes = [fresh(endpoint, policy, now) for endpoint in endpoints]
    told = [
        Seen(endpoint, True, endpoint.in_flight + scrape.others(endpoint.in_flight), scrape.waiting, scrape.kv_usage, scrape.first_token,
             scrape.inter_token, endpoint.computed)
        for endpoint, scrape in zip(endpoints, scrapes, strict=True)
        if scrape is not None
    ]  # fmt: skip
    of_role = [seen for seen in told if seen.endpoint.roles & role]
    running = mean([seen.running for seen in of_role])
    waiting = mean([seen.waiting for seen in of_role])
    kv_usage = mean([seen.kv_usage for seen in of_role])
    computed = mean([seen.computed for seen in of_role])
    scraped = iter(told)
    all_seen = [
        next(scraped)
        if scrape is not None
        else Seen(endpoint, False, max(endpoint.in_flight, running), waiting, kv_usage, 0.0, 0.0, computed)
        for endpoint, scrape in zip(endpoints, scrapes, strict=True)
    ]
    for position, seen in enumerate(all_seen):
        seen.filtered = _reason(seen, policy, role, position in excluded, prefill_seconds, now)
    return all_seen


def leave_out_ejected(all_seen: Sequence[Seen], role: int, most_percent: float) -> int | None:
    """Filter who failed lately, unless that is too much of the pool or all that is left. Who is to be probed, None for nobody."""
    of_role = [seen for seen in all_seen if seen.endpoint.roles & role and seen.filtered != "gone"]
    ejected = [seen for seen in of_role if seen.endpoint.standing in ("ejected", "due", "probing")]
    candidates = [seen for seen in ejected if not seen.filtered]
    if len(ejected) * 100 > most_percent * len(of_role):
        return None
    if not any(seen.filtered == "excluded" for seen in of_role):
        due = [
            position for position, seen in enumerate(all_seen) if seen in candidates and seen.endpoint.standing == "due"
        ]
    else:
        due = []
    for seen in candidates:
        seen.filtered = "ejected"
    if due:
        all_seen[due[0]].filtered = ""
        return due[0]
    if all(seen.filtered not in ("", "full", "waiting") for seen in of_role):
        for seen in candidates:
            seen.filtered = ""
    return None


def slow_down_warming(candidates: Sequence[Seen]) -> None:
    """Who warms up seems to have more, compared with the warmest."""
    largest = max((seen.endpoint.share for seen in candidates), default=1.0)
    for seen in candidates:
        if seen.endpoint.share < largest:
            seen.running = (seen.running + 1) * largest / seen.endpoint.share - 1


def leave_out(all_seen: Sequence[Seen], probe: int | None, adjustments: Sequence[float]) -> int | None:
    """Filter whom the caller does not want. Who is to be probed after that."""
    for seen, adjustment in zip(all_seen, adjustments, strict=True):
        if not seen.filtered and isnan(adjustment):
            seen.filtered = "left_out"
    return None if probe is not None and all_seen[probe].filtered else probe


def affinity(seen: Seen) -> str:
    """To the adapter that is asked for, as far as a scrape lately said."""
    return seen.endpoint.affinity if seen.scraped else "untold"


def affinity_values(candidates: Sequence[Seen], values: Mapping[str, float]) -> list[float]:
    """The value of each; those that do not say are taken for the mean of those that do."""
    told = [values[affinity(seen)] for seen in candidates if affinity(seen) != "untold"]
    return [values.get(affinity(seen), mean(told)) for seen in candidates]


def leave_out_without_adapter(all_seen: Sequence[Seen], probe: int | None) -> int | None:
    """Filter who has neither the adapter nor room for it, where any has. Who is to be probed after that."""
    candidates = [seen for seen in all_seen if not seen.filtered]
    if any(affinity(seen) in ("loaded", "room") for seen in candidates):
        for seen in candidates:
            if affinity(seen) in ("queued", "taken"):
                seen.filtered = "without_adapter"
    return None if probe is not None and all_seen[probe].filtered else probe
