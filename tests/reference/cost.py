"""Plain-Python twin of ``_fastpath.cost``: minus the seconds that a request adds."""

from collections.abc import Sequence

from tests.reference.candidates import affinity_values, fresh, mean
from tests.reference.load import RECENT_SECONDS
from tests.reference.policy import Policy
from tests.reference.pool import Endpoint, Seen
from tests.reference.random import mixed
from tests.reference.speed import speed

KV_COMFORT = 0.9
KV_PRESSURE_SECONDS = 10.0
CROWDING_WEIGHT = 6.0
WAITING_WEIGHT = 1.6
EVENNESS_WEIGHT = 9.0
SHARED_EVENNESS_WEIGHT = 2.0
EVEN_SECONDS = 12.0
COMERS_WEIGHT = 0.8
COMPANY_WEIGHT = 3.5
FEWEST_COMERS = 0.5
BIAS_WEIGHT = 0.7
PATIENCE_SECONDS = 2.5
MOST_CROWDED = 0.9
EQUAL_SPEED = 2.0
AFFINITY_LOADS = {"loaded": 0.0, "room": 1.0, "queued": 1.5, "taken": 2.0}


def speeds(candidates: Sequence[Seen], policy: Policy) -> list[float]:
    """Prompt tokens a second; what differs little from the mean of all is taken for it."""
    measured = [seen.endpoint.prefills for seen in candidates]
    tokens, seconds = sum(tokens for tokens, _ in measured), sum(seconds for _, seconds in measured)
    mean = speed(policy.prefill_tokens_per_second, tokens, seconds)
    ratios = [speed(mean, *one) / mean for one in measured]
    return [mean * (max(1.0, one / EQUAL_SPEED) if one > 1 else min(1.0, one * EQUAL_SPEED)) for one in ratios]


def busy_share(candidates: Sequence[Seen]) -> float:
    """Of the candidates, those that have prompts to compute."""
    return sum(seen.endpoint.prefill_tokens > 0 for seen in candidates) / len(candidates) if candidates else 0.0


def crowding(busy: float) -> float:
    """Times that a prompt token to be computed counts."""
    return 1 + CROWDING_WEIGHT * busy / (1 - min(busy, MOST_CROWDED))


def queue_seconds(endpoint: Endpoint, rate: float, now: float) -> float:
    """Until what is outstanding there is computed; as long again as it is late already."""
    elapsed = max(0.0, now - endpoint.prefill_since) if endpoint.prefill_since > 0 else 0.0
    return abs(endpoint.prefill_tokens / rate - elapsed)


def unevenness(
    candidates: Sequence[Seen], rates: Sequence[float], own: Sequence[float], is_shared: bool
) -> list[float]:
    """What was sent to each lately, or computed there where others send some too, and its own prefill's seconds, beside the mean."""
    recent = [
        (max(seen.endpoint.recent, seen.computed) if is_shared else seen.endpoint.recent) / rate
        for seen, rate in zip(candidates, rates, strict=True)
    ]
    return [(one + seconds) / (mean(recent) + EVEN_SECONDS) for one, seconds in zip(recent, own, strict=True)]


def comers(candidates: Sequence[Seen]) -> list[float]:
    """Requests a second that are to come to each, as lately."""
    lately = [seen.endpoint.requests / RECENT_SECONDS for seen in candidates]
    return [max(one, FEWEST_COMERS * mean(lately)) for one in lately]


def own_seconds(seen: Seen, blocks: int, prompt_tokens: float, rate: float) -> float:
    """Of prefill, of what is not cached there."""
    return (prompt_tokens - (prompt_tokens * seen.endpoint.matched_blocks / blocks if blocks else 0)) / rate


def weights_of_prefill(
    candidates: Sequence[Seen], rates: Sequence[float], own: Sequence[float], foreign: float, gateway: int
) -> list[float]:
    """What is added to the times that the request's own prefill counts at each; ``foreign``: share of the requests that are others'."""
    alone = max(0.0, (1 - 2 * foreign) / (1 - foreign)) if foreign < 1 else 0.0
    uneven = unevenness(candidates, rates, own, foreign > 0)
    return [
        much * (EVENNESS_WEIGHT * alone * much + SHARED_EVENNESS_WEIGHT * (1 - alone))
        + COMERS_WEIGHT * alone * come * seconds / 2
        + bias
        for much, come, seconds, bias in zip(
            uneven, comers(candidates), own, biases(candidates, gateway, foreign), strict=True
        )
    ]


def share_of_others(all_seen: Sequence[Seen], policy: Policy, now: float) -> float:
    """Of the requests at all endpoints, those that this gateway did not send."""
    others = sum(
        scrape.others(seen.endpoint.in_flight)
        for seen in all_seen
        if (scrape := fresh(seen.endpoint, policy, now)) is not None
    )
    return others / (sum(seen.endpoint.in_flight for seen in all_seen) + others) if others else 0.0


def biases(candidates: Sequence[Seen], gateway: int, foreign: float) -> list[float]:
    """What a gateway that shares the endpoints with others adds to the weight of a prompt's tokens at each."""
    weight = BIAS_WEIGHT * foreign
    return [weight * (mixed(gateway ^ mixed(seen.endpoint.identity)) >> 11) / 2**53 for seen in candidates]


def score_by_cost(
    seen: Seen,
    policy: Policy,
    own: float,
    output_tokens: float,
    busy: float,
    added: float,
    rate: float,
    now: float,
) -> float:
    """Minus the seconds that the request adds there; ``added`` to the times that its own prefill of ``own`` seconds counts."""
    queued = queue_seconds(seen.endpoint, rate, now)
    first_token = queued + own
    seconds = (1 + WAITING_WEIGHT * busy) * queued + (crowding(busy) + added) * own
    seconds += first_token**2 / (2 * PATIENCE_SECONDS)
    slowness = policy.prefill_tokens_per_second / rate
    seconds += COMPANY_WEIGHT * output_tokens * policy.decode_seconds_per_request * slowness * seen.running
    seconds += max(0.0, (seen.kv_usage - KV_COMFORT) / (1 - KV_COMFORT)) * KV_PRESSURE_SECONDS
    return -seconds


def scores_by_cost(
    candidates: Sequence[Seen],
    policy: Policy,
    blocks: int,
    prompt_tokens: float,
    output_tokens: float,
    now: float,
    foreign: float,
    gateway: int,
    for_adapter: bool,
) -> list[float]:
    """Of each candidate; ``foreign``: share of the requests that are others'."""
    busy, rates = busy_share(candidates), speeds(candidates, policy)
    loads = affinity_values(candidates, AFFINITY_LOADS) if for_adapter else [0.0] * len(candidates)
    own = [own_seconds(one, blocks, prompt_tokens, rate) for one, rate in zip(candidates, rates, strict=True)]
    added = weights_of_prefill(candidates, rates, own, foreign, gateway)
    return [
        score_by_cost(one, policy, seconds, output_tokens, busy, more, rate, now) - policy.adapter_seconds * load
        for one, seconds, more, rate, load in zip(candidates, own, added, rates, loads, strict=True)
    ]
