"""Plain-Python twin of ``_fastpath.scheduler``: the same arithmetic over a list of endpoints, and which of them are equally good."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.reference.candidates import (
    fresh,
    leave_out,
    leave_out_ejected,
    leave_out_without_adapter,
    look,
    slow_down_warming,
)
from tests.reference.cost import scores_by_cost, share_of_others
from tests.reference.load import RECENT_SECONDS
from tests.reference.policy import SCORES, Policy
from tests.reference.pool import Endpoint, Metrics, Seen
from tests.reference.random import mixed
from tests.reference.weighted import scores_by_weight

__all__ = [
    "SCORES",
    "TIE",
    "Decision",
    "Endpoint",
    "Metrics",
    "Policy",
    "decide",
    "look",
    "matched_blocks",
    "mixed",
    "oldest",
]

TIE = 1e-9


@dataclass(frozen=True)
class Decision:
    """Every endpoint as it was seen, its score (None when it was filtered out), and the positions of the best."""

    seen: list[Seen]
    scores: list[float | None]
    best: set[int]
    probe: int | None = None
    """Position of the endpoint that the request is to probe: the only best then."""


def oldest(all_seen: Sequence[Seen], policy: Policy, now: float) -> int:
    """Since when a block must have been learned to be there still: 0 for ever."""
    told = [
        (seen, scrape)
        for seen in all_seen
        if (scrape := fresh(seen.endpoint, policy, now)) is not None
        and scrape.kv_tokens > 0
        and seen.filtered != "gone"
    ]
    held, sent = sum(scrape.kv_tokens for _, scrape in told), sum(seen.endpoint.recent for seen, _ in told)
    own = sum(seen.endpoint.in_flight for seen, _ in told)
    if own:
        sent *= 1 + sum(scrape.others(seen.endpoint.in_flight) for seen, scrape in told) / own
    sent = max(sent, sum(seen.computed for seen, _ in told))
    if not held or not sent:
        return 0
    return int(max(0.0, now - held * RECENT_SECONDS / sent))


def equal_bests(scores: Iterable[float | None], tie: float = TIE) -> set[int]:
    """Positions of the best score and of those that differ from it by rounding alone."""
    candidates = {position: score for position, score in enumerate(scores) if score is not None}
    best = max(candidates.values(), default=0.0)
    return {position for position, score in candidates.items() if score >= best - tie}


def decide(
    endpoints: Sequence[Endpoint],
    policy: Policy,
    blocks: int,
    prompt_tokens: int,
    output_tokens: int,
    now: float,
    role: int = 1,
    excluded: Collection[int] = (),
    session: int = 0,
    most_ejected_percent: float | None = None,
    by_token: bool = False,
    for_adapter: bool = False,
    adjustments: Sequence[float] | None = None,
    prefill_seconds: float = 0.0,
    gateway: int = 1,
) -> Decision:
    """All that the compiled choice sees and scores, and those that it may pick. Without a percentage nobody's health counts."""
    seen = look(endpoints, policy, now, role, excluded, prefill_seconds)
    probe = leave_out_ejected(seen, role, most_ejected_percent) if most_ejected_percent is not None else None
    if most_ejected_percent is not None:
        slow_down_warming([one for one in seen if not one.filtered])
    if adjustments is not None:
        probe = leave_out(seen, probe, adjustments)
    if for_adapter and policy.adapter_filter:
        probe = leave_out_without_adapter(seen, probe)
    candidates = [one for one in seen if not one.filtered]
    if policy.by_cost:
        foreign = share_of_others(seen, policy, now)
        found = scores_by_cost(
            candidates, policy, blocks, prompt_tokens, output_tokens, now, foreign, gateway, for_adapter
        )
    else:
        found = scores_by_weight(candidates, policy, blocks, session, by_token, for_adapter)
    values = iter(found)
    scores = [
        None if one.filtered else next(values) + adjustment
        for one, adjustment in zip(seen, adjustments or [0.0] * len(seen), strict=True)
    ]
    return Decision(seen, scores, equal_bests(scores) if probe is None else {probe}, probe)


def matched_blocks(held: Mapping[int, Collection[int]], hashes: Sequence[int], slot: int) -> int:
    """How many blocks from the first the slot holds; ``held``: hash to slots."""
    for position, value in enumerate(hashes):
        if slot not in held.get(value, ()):
            return position
    return len(hashes)
