"""Plain-Python twin of ``_fastpath.scoring``: the same arithmetic over a list of endpoints, and which of them are equally good."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, isnan

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
KV_COMFORT = 0.9
KV_PRESSURE_SECONDS = 10.0
TIE = 1e-9
CROWDING_WEIGHT = 6.0
WAITING_WEIGHT = 2.0
EVENNESS_WEIGHT = 12.0
SHARED_EVENNESS_WEIGHT = 2.0
EVEN_SECONDS = 12.0
COMERS_WEIGHT = 0.8
COMPANY_WEIGHT = 5.0
FEWEST_COMERS = 0.5
BIAS_WEIGHT = 0.7
PATIENCE_SECONDS = 2.5
RECENT_SECONDS = 90
KEPT_LONGER = 1.1
MOST_CROWDED = 0.9
PRIOR_SECONDS = 0.1
EQUAL_SPEED = 2.0
SPEED_RANGE = 1000.0
AFFINITY_SCORES = {"loaded": 100.0, "room": 80.0, "queued": 60.0, "taken": 0.0}
AFFINITY_LOADS = {"loaded": 0.0, "room": 1.0, "queued": 1.5, "taken": 2.0}


@dataclass(frozen=True)
class Metrics:
    """What one scrape said."""

    running: float
    waiting: float
    kv_usage: float
    first_token: float
    inter_token: float
    time: float
    kv_tokens: float = 0.0
    computed_tokens: float = 0.0
    """Since the scrape before."""

    def others(self, in_flight: int) -> float:
        """Requests that this gateway did not send, which had ``in_flight`` there at the scrape."""
        return max(0.0, self.running + self.waiting - in_flight)


@dataclass(frozen=True)
class Endpoint:
    """What is known of one endpoint, over all workers."""

    roles: int = 1
    maximum_in_flight: int = 0
    live: bool = True
    in_flight: int = 0
    prefill_tokens: int = 0
    metrics: Metrics | None = None
    matched_blocks: int = 0
    identity: int = 0
    prefills: tuple[float, float] = (0.0, 0.0)
    """Tokens and seconds that were measured."""
    prefill_since: float = 0.0
    """When what is prefilled there began, 0 when that is not known."""
    recent: float = 0.0
    """Tokens sent there lately to be computed."""
    requests: float = 0.0
    """Sent there lately."""
    computed: float = 0.0
    """Tokens that it says it computed lately."""
    standing: str = "serving"
    """Or warming, ejected, due (ejected for long enough), probing."""
    share: float = 1.0
    """Of a warming one: what it is given."""
    affinity: str = "untold"
    """To the adapter that requests ask for."""


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


@dataclass(eq=False)
class Seen:
    """An endpoint at the moment of choice."""

    endpoint: Endpoint
    scraped: bool
    running: float
    waiting: float
    kv_usage: float
    first_token: float
    inter_token: float
    computed: float
    filtered: str = ""


@dataclass(frozen=True)
class Decision:
    """Every endpoint as it was seen, its score (None when it was filtered out), and the positions of the best."""

    seen: list[Seen]
    scores: list[float | None]
    best: set[int]
    probe: int | None = None
    """Position of the endpoint that the request is to probe: the only best then."""


def _mean(values: Collection[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _fresh(endpoint: Endpoint, policy: Policy, now: float) -> Metrics | None:
    metrics = endpoint.metrics
    return metrics if metrics is not None and now - metrics.time <= policy.stale_after else None


def _has_enough_to_compute(endpoint: Endpoint, policy: Policy, prefill_seconds: float, now: float) -> bool:
    if prefill_seconds <= 0 or endpoint.maximum_in_flight <= 0 or 2 * endpoint.in_flight < endpoint.maximum_in_flight:
        return False
    elapsed = max(0.0, now - endpoint.prefill_since) if endpoint.prefill_since > 0 else 0.0
    speed = _speed(policy.prefill_tokens_per_second, *endpoint.prefills)
    return endpoint.prefill_tokens / speed - elapsed > prefill_seconds


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
    scrapes = [_fresh(endpoint, policy, now) for endpoint in endpoints]
    fresh = [
        Seen(endpoint, True, endpoint.in_flight + scrape.others(endpoint.in_flight), scrape.waiting, scrape.kv_usage, scrape.first_token,
             scrape.inter_token, endpoint.computed)
        for endpoint, scrape in zip(endpoints, scrapes, strict=True)
        if scrape is not None
    ]  # fmt: skip
    of_role = [seen for seen in fresh if seen.endpoint.roles & role]
    running = _mean([seen.running for seen in of_role])
    waiting = _mean([seen.waiting for seen in of_role])
    kv_usage = _mean([seen.kv_usage for seen in of_role])
    computed = _mean([seen.computed for seen in of_role])
    scraped = iter(fresh)
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


def _speed(expected: float, tokens: float, seconds: float) -> float:
    found = (expected * PRIOR_SECONDS + tokens) / (PRIOR_SECONDS + seconds)
    return min(max(found, expected / SPEED_RANGE), expected * SPEED_RANGE)


def speeds(candidates: Sequence[Seen], policy: Policy) -> list[float]:
    """Prompt tokens a second; what differs little from the mean of all is taken for it."""
    measured = [seen.endpoint.prefills for seen in candidates]
    tokens, seconds = sum(tokens for tokens, _ in measured), sum(seconds for _, seconds in measured)
    mean = _speed(policy.prefill_tokens_per_second, tokens, seconds)
    ratios = [_speed(mean, *one) / mean for one in measured]
    return [mean * (max(1.0, one / EQUAL_SPEED) if one > 1 else min(1.0, one * EQUAL_SPEED)) for one in ratios]


def busy_share(candidates: Sequence[Seen]) -> float:
    """Of the candidates, those that have prompts to compute."""
    return sum(seen.endpoint.prefill_tokens > 0 for seen in candidates) / len(candidates) if candidates else 0.0


def crowding(busy: float) -> float:
    """Times that a prompt token to be computed counts."""
    return 1 + CROWDING_WEIGHT * busy / (1 - min(busy, MOST_CROWDED))


def affinity(seen: Seen) -> str:
    """To the adapter that is asked for, as far as a scrape lately said."""
    return seen.endpoint.affinity if seen.scraped else "untold"


def affinity_values(candidates: Sequence[Seen], values: Mapping[str, float]) -> list[float]:
    """The value of each; those that do not say are taken for the mean of those that do."""
    told = [values[affinity(seen)] for seen in candidates if affinity(seen) != "untold"]
    return [values.get(affinity(seen), _mean(told)) for seen in candidates]


def leave_out_without_adapter(all_seen: Sequence[Seen], probe: int | None) -> int | None:
    """Filter who has neither the adapter nor room for it, where any has. Who is to be probed after that."""
    candidates = [seen for seen in all_seen if not seen.filtered]
    if any(affinity(seen) in ("loaded", "room") for seen in candidates):
        for seen in candidates:
            if affinity(seen) in ("queued", "taken"):
                seen.filtered = "without_adapter"
    return None if probe is not None and all_seen[probe].filtered else probe


def oldest(all_seen: Sequence[Seen], policy: Policy, now: float) -> int:
    """Since when a block must have been learned to be there still: 0 for ever."""
    told = [
        (seen, scrape)
        for seen in all_seen
        if (scrape := _fresh(seen.endpoint, policy, now)) is not None
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
    return int(max(0.0, now - KEPT_LONGER * held * RECENT_SECONDS / sent))


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
    return [(one + seconds) / (_mean(recent) + EVEN_SECONDS) for one, seconds in zip(recent, own, strict=True)]


def comers(candidates: Sequence[Seen]) -> list[float]:
    """Requests a second that are to come to each, as lately."""
    lately = [seen.endpoint.requests / RECENT_SECONDS for seen in candidates]
    return [max(one, FEWEST_COMERS * _mean(lately)) for one in lately]


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
        if (scrape := _fresh(seen.endpoint, policy, now)) is not None
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


def _is_measured(seen: Seen) -> bool:
    return seen.first_token > 0 and seen.inter_token > 0


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values, default=0.0), max(values, default=0.0)


def _between(value: float, low: float, high: float) -> float:
    """100 for the smallest, 0 for the largest."""
    return 100 * (high - value) / (high - low) if high > low else 100.0


def mixed(word: int) -> int:
    """Finalizer of MurmurHash3."""
    word = (word ^ (word >> 33)) * 0xFF51AFD7ED558CCD % 2**64
    word = (word ^ (word >> 33)) * 0xC4CEB9FE1A85EC53 % 2**64
    return word ^ (word >> 33)


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
        busy, foreign = busy_share(candidates), share_of_others(seen, policy, now)
        loads = affinity_values(candidates, AFFINITY_LOADS) if for_adapter else [0.0] * len(candidates)
        rates = speeds(candidates, policy)
        own = [own_seconds(one, blocks, prompt_tokens, rate) for one, rate in zip(candidates, rates, strict=True)]
        added = weights_of_prefill(candidates, rates, own, foreign, gateway)
        values = iter(
            [
                score_by_cost(one, policy, seconds, output_tokens, busy, more, rate, now)
                - policy.adapter_seconds * load
                for one, seconds, more, rate, load in zip(candidates, own, added, rates, loads, strict=True)
            ]
        )
    else:
        values = iter(scores_by_weight(candidates, policy, blocks, session, by_token, for_adapter))
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
