"""A fleet in shared memory, and as the plain-Python twins see it."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath.hashing import BlockHashes
from _fastpath.health import OUTCOMES, Health, Outlier
from _fastpath.load import Load
from _fastpath.policy import Policy
from _fastpath.pool import Pool
from _fastpath.scheduler import Scheduler
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots
from tests.reference import scheduler as twin
from tests.support.examples import examples

FAST = settings(deadline=None, max_examples=examples(90))
FEW = settings(deadline=None, max_examples=examples(25))
NOW = 1000.0
BLOCKS = 8
HASHES = [(number + 1) * 0x9E3779B97F4A7C15 % 2**64 for number in range(BLOCKS)]
SIDECAR = 2
HEALTH = {"failures": 1, "base_ejection": 10.0, "slow_start": 10.0}
FAILED = OUTCOMES.index("failed")
MOST_EJECTED = 50.0
ADAPTER = 0xADA97E4
ROWS: dict[str, tuple[int, int, list[int], list[int]]] = {
    "loaded": (2, 2, [4, ADAPTER], []),
    "room": (3, 2, [4, 6], []),
    "queued": (2, 3, [4, 6], [ADAPTER]),
    "taken": (2, 2, [4, 6], [8]),
}
"""Capacity, how many are busy, loaded, waited for."""


@dataclass(frozen=True)
class Given:
    """One endpoint, before its slot is known. ``charges``: worker, prefill tokens, decode tokens, when."""

    endpoint: twin.Endpoint
    charges: tuple[tuple[int, int, int, float], ...] = ()
    first_token: tuple[int, float] | None = None
    """Of a request of a worker, whose prompt was cached: worker, when."""
    learned: float = NOW
    """When the blocks that it holds were sent there."""
    prefill: tuple[int, float, float] | None = None
    """One that a worker measured: worker, tokens, seconds."""
    identity: int = 0
    reused: bool = False
    excluded: bool = False


@dataclass
class Fleet:
    """What was made of it."""

    scheduler: Scheduler
    pool: Pool
    names: list[tuple[int, int]]
    endpoints: list[twin.Endpoint]
    excluded: list[int]

    def load(self) -> list[tuple[int, int, int]]:
        return [self.scheduler.load.read(slot, generation) for slot, generation in self.names]

    def health(self) -> list[dict]:
        return [self.scheduler.health.read(*name, Outlier(**HEALTH), NOW) for name in self.names]

    def learned(self) -> list[int]:
        return self.scheduler.prefixes.match(BlockHashes.of(HASHES), [slot for slot, _generation in self.names])


def write(load: Load, slot: int, generation: int, metrics: twin.Metrics) -> bool:
    return load.write_metrics(
        slot, generation, metrics.running, metrics.waiting, metrics.kv_usage, metrics.first_token, metrics.inter_token, 0.0,
        metrics.time, kv_tokens=metrics.kv_tokens, computed_tokens=metrics.computed_tokens,
    )  # fmt: skip


def put_health(scheduler: Scheduler, others: Health, endpoint: twin.Endpoint, slot: int, generation: int) -> None:
    """A history that leads to the standing given."""
    health, outlier = scheduler.health, Outlier(**HEALTH)
    if endpoint.standing == "warming":
        health.begin(slot, generation, NOW - (10 * endpoint.share - 0.5) / 0.9)
    elif endpoint.standing != "serving":
        failed = NOW - 1 if endpoint.standing == "ejected" else NOW - 20
        health.note(slot, generation, outlier, FAILED, failed, failed)
    if endpoint.standing == "probing":
        assert others.claim(slot, generation, outlier, NOW - 1)


def put(
    scheduler: Scheduler, loads: list[Load], others_health: Health, given: Given, slot: int, generation: int
) -> twin.Endpoint:
    """Charge, scrape and learn as given; the endpoint with its sums."""
    measured = (0.0, 0.0)
    for worker, prefill, decode, when in given.charges:
        loads[worker].charge(slot, generation, prefill, decode, when)
    if given.first_token is not None:
        loads[given.first_token[0]].first_token(slot, generation, 0, given.first_token[1])
    if given.endpoint.metrics is not None:
        assert write(loads[0], slot, generation, given.endpoint.metrics)
    if given.prefill is not None:
        worker, tokens, seconds = given.prefill
        if loads[worker].prefilled(slot, generation, tokens, seconds):
            measured = (tokens, seconds)
    scheduler.prefixes.learn(BlockHashes.of(HASHES[: given.endpoint.matched_blocks]), slot, given.learned)
    put_health(scheduler, others_health, given.endpoint, slot, generation)
    if given.endpoint.affinity != "untold":
        assert scheduler.adapters.write(slot, generation, *ROWS[given.endpoint.affinity])
    prefill_tokens = sum(prefill for _worker, prefill, *_ in given.charges)
    return replace(
        given.endpoint,
        identity=given.identity,
        in_flight=len(given.charges),
        prefill_tokens=prefill_tokens,
        prefills=measured,
        prefill_since=loads[0].read_prefill_since(slot, generation),
        recent=loads[0].read_recent(slot, generation, NOW),
        requests=loads[0].read_recent_requests(slot, generation, NOW),
        computed=loads[0].read_computed(slot, generation, NOW),
    )


def bury(slots: Slots, loads: list[Load], fleet: list[Given], names: list[tuple[int, int]]) -> set[int]:
    """Free the slots of those that are not live; some get another endpoint, whose load and metrics are its own."""
    dead = {position for position, given in enumerate(fleet) if not given.endpoint.live}
    for position in dead:
        slots.drop(SIDECAR, names[position][0])
    slots.sweep()
    reused = {position for position in dead if fleet[position].reused}
    owners = {slot: position for position, (slot, _generation) in enumerate(names)}
    touched: set[int] = set()
    for number in range(len(reused)):
        slot, generation = slots.acquire(SIDECAR, 10_000 + 2 * number)
        for load in loads:
            load.charge(slot, generation, 10**6, 10**6)
        write(loads[0], slot, generation, twin.Metrics(500.0, 500.0, 1.0, 9.0, 9.0, NOW))
        touched.add(owners[slot])
    return touched


def make(path: Path, fleet: list[Given], seed: int = 1, prefill_seconds: float = 0.0) -> Fleet:
    memory = SharedMemory.create(
        str(path),
        workers=2,
        slots=64,
        buckets=1,
        journal_records=1,
        prefix_bytes=1 << 16,
        counter_series=1,
        counter_cells=1,
    )
    scheduler, slots = Scheduler(memory, 0, random_seed=seed), Slots(memory)
    loads = [scheduler.load, Load(memory, 1)]
    names = [slots.acquire(SIDECAR, 2 * number + 2) for number in range(len(fleet))]
    endpoints = [
        put(scheduler, loads, Health(memory, 1), given, *name) for given, name in zip(fleet, names, strict=True)
    ]
    for position in bury(slots, loads, fleet, names):
        endpoints[position] = replace(
            endpoints[position],
            in_flight=0,
            prefill_tokens=0,
            metrics=None,
            prefills=(0.0, 0.0),
            affinity="untold",
            prefill_since=0.0,
            recent=0.0,
            requests=0.0,
            computed=0.0,
        )
    pool = Pool(
        [
            (slot, generation, endpoint.roles, endpoint.maximum_in_flight, endpoint.identity)
            for (slot, generation), endpoint in zip(names, endpoints, strict=True)
        ],
        Outlier(**HEALTH, maximum_ejected_percent=MOST_EJECTED),
        prefill_seconds,
    )
    excluded = [position for position, given in enumerate(fleet) if given.excluded]
    return Fleet(scheduler, pool, names, endpoints, excluded)


def compiled(policy: twin.Policy) -> Policy:
    return Policy(
        by_cost=policy.by_cost,
        weights=policy.weights,
        stale_after=policy.stale_after,
        maximum_waiting=policy.maximum_waiting,
        prefill_tokens_per_second=policy.prefill_tokens_per_second,
        decode_seconds_per_request=policy.decode_seconds_per_request,
        latency_factor=policy.latency_factor,
        session_bound=policy.session_bound,
        adapter_seconds=policy.adapter_seconds,
        prefix_blocks=policy.prefix_blocks,
        kvcache_blocks=policy.kvcache_blocks,
        adapter_filter=policy.adapter_filter,
    )


METRICS = st.builds(
    twin.Metrics,
    running=st.integers(0, 8).map(float),
    waiting=st.integers(0, 4).map(float),
    kv_usage=st.sampled_from([0.0, 0.25, 0.5, 0.9, 0.95, 1.0]),
    first_token=st.sampled_from([0.0, 0.1, 0.2, 1.0]),
    inter_token=st.sampled_from([0.0, 0.01, 0.02]),
    # stale_after is 5: one is just fresh, one is not
    time=st.sampled_from([NOW, NOW - 1, NOW - 5, NOW - 5.001, NOW - 60]),
    kv_tokens=st.sampled_from([0.0, 0.0, 1000.0, 4000.0, 1e6]),
    computed_tokens=st.sampled_from([0.0, 500.0, 1e5]),
)
ENDPOINTS = st.builds(
    twin.Endpoint,
    roles=st.sampled_from([1, 1, 1, 2, 3]),
    maximum_in_flight=st.sampled_from([0, 0, 1, 2, 4]),
    live=st.sampled_from([True] * 5 + [False]),
    metrics=st.none() | METRICS,
    matched_blocks=st.integers(0, BLOCKS),
    affinity=st.sampled_from(["untold", *ROWS]),
)
STANDINGS = st.sampled_from(("serving", "serving", "ejected", "due", "probing")).map(lambda one: {"standing": one})
WARMING = st.sampled_from((0.1, 0.5, 0.9)).map(lambda share: {"standing": "warming", "share": share})
ENDPOINTS = st.builds(
    lambda endpoint, health: replace(endpoint, **health), ENDPOINTS, st.just({}) | STANDINGS | WARMING
)
MOMENTS = st.sampled_from([0.0, NOW - 300, NOW - 10, NOW - 0.3, NOW])
CHARGES = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0, 100, 4000]), st.sampled_from([0, 10]), MOMENTS), max_size=3
)
PREFILLS = st.none() | st.tuples(
    st.integers(0, 1), st.sampled_from([0.0, 500.0, 1e15]), st.sampled_from([0.01, 1.0, 1e6])
)
GIVEN = st.builds(
    Given,
    ENDPOINTS,
    charges=CHARGES.map(tuple),
    first_token=st.none() | st.tuples(st.integers(0, 1), MOMENTS),
    learned=st.sampled_from([NOW, NOW - 30, NOW - 200]),
    prefill=PREFILLS,
    reused=st.booleans(),
    excluded=st.sampled_from([False] * 5 + [True]),
)
FLEETS = st.lists(GIVEN, max_size=8).map(
    lambda fleet: [replace(given, identity=10**9 * position) for position, given in enumerate(fleet)]
)
EASY = st.lists(
    st.builds(Given, st.builds(twin.Endpoint, metrics=st.none() | METRICS, matched_blocks=st.integers(0, BLOCKS))),
    min_size=1,
    max_size=6,
)
WEIGHTS = st.dictionaries(st.sampled_from((*twin.SCORES[:4], *twin.SCORES[5:])), st.sampled_from([0, 0.5, 1, 3]))
POLICIES = st.builds(
    twin.Policy,
    by_cost=st.booleans(),
    weights=WEIGHTS,
    maximum_waiting=st.sampled_from([0.0, 0.0, 1.0, 3.0]),
    prefill_tokens_per_second=st.sampled_from([8000.0, 100.0]),
    decode_seconds_per_request=st.sampled_from([0.00035, 0.0]),
    latency_factor=st.sampled_from([0.0, 0.5, 0.75, 1.0]),
    session_bound=st.sampled_from([1.0, 1.25, 4.0]),
    adapter_seconds=st.sampled_from([0.0, 0.5, 30.0]),
    prefix_blocks=st.sampled_from([0, 1, 3, 100]),
    kvcache_blocks=st.sampled_from([0, 2]),
    adapter_filter=st.booleans(),
)


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    blocks: int
    prompt_tokens: int
    output_tokens: int
    role: int = 1
    session: int = 0
    by_token: bool = False
    adapter: int = 0
    adjustments: tuple[float, ...] | None = None
    """Repeated for the endpoints of a pool."""

    def adjusted(self, count: int) -> list[float] | None:
        return [self.adjustments[i % len(self.adjustments)] for i in range(count)] if self.adjustments else None

    def hashes(self) -> BlockHashes | None:
        return BlockHashes.of(HASHES[: self.blocks]) if self.blocks else None


REQUESTS = st.builds(
    Request,
    st.sampled_from([0, 1, 4, BLOCKS]),
    st.integers(0, 5000),
    st.sampled_from([0, 1, 500]),
    st.sampled_from([1, 1, 2]),
    st.sampled_from([0, 1, 77, 2**64 - 1]),
    st.booleans(),
    st.sampled_from([0, ADAPTER]),
    st.none() | st.lists(st.sampled_from([0.0, -3.0, 100.0, float("nan")]), min_size=1, max_size=8).map(tuple),
)
UNADJUSTED = REQUESTS.map(lambda one: replace(one, adjustments=None))


def decide(fleet: Fleet, policy: twin.Policy, request: Request, dry: bool = True) -> tuple[int, int, int] | None:
    return fleet.scheduler.decide(
        fleet.pool, compiled(policy), request.hashes(), request.prompt_tokens, request.output_tokens, NOW, request.role,
        fleet.excluded, dry, request.session, not request.by_token, request.adapter,
        request.adjusted(len(fleet.pool)),
    )  # fmt: skip


def expect(fleet: Fleet, policy: twin.Policy, request: Request) -> twin.Decision:
    seen = twin.look(fleet.endpoints, policy, NOW, request.role, fleet.excluded, fleet.pool.prefill_seconds)
    slots = [slot for slot, _generation in fleet.names]
    oldest = 0 if request.by_token else twin.oldest(seen, policy, NOW)
    matched = fleet.scheduler.prefixes.match(BlockHashes.of(HASHES[: request.blocks]), slots, oldest)
    endpoints = [
        replace(endpoint, matched_blocks=count) for endpoint, count in zip(fleet.endpoints, matched, strict=True)
    ]
    return twin.decide(
        endpoints,
        policy,
        request.blocks,
        request.prompt_tokens,
        request.output_tokens,
        NOW,
        request.role,
        fleet.excluded,
        request.session,
        MOST_EJECTED,
        request.by_token,
        request.adapter != 0,
        request.adjusted(len(endpoints)),
        fleet.pool.prefill_seconds,
        fleet.scheduler.gateway,
    )


CHOICES = given(
    fleet=FLEETS,
    policy=POLICIES,
    request_=REQUESTS,
    seed=st.integers(0, 2**64 - 1),
    prefill_seconds=st.sampled_from([0.0, 0.02, 10.0]),
)


def assert_picks_one_of_the_equal_bests(fleet: Fleet, policy: twin.Policy, request: Request) -> None:
    """And sees and scores all endpoints as the twins do."""
    expected = expect(fleet, policy, request)
    for _ in range(4):
        chosen = decide(fleet, policy, request)
        assert_seen(fleet, expected)
        if chosen is None:
            assert expected.best == set()
            assert sum(fleet.pool.filtered().values()) == len(fleet.pool)
            continue
        position, matched, uncached = chosen
        assert position in expected.best
        assert matched == expected.seen[position].endpoint.matched_blocks * (request.blocks > 0)
        share = matched / request.blocks if request.blocks else 0
        assert uncached == pytest.approx(request.prompt_tokens * (1 - share), abs=1)
        assert 0 <= uncached <= request.prompt_tokens


def assert_seen(fleet: Fleet, expected: twin.Decision) -> None:
    rows = fleet.pool.explain()
    assert [row["filtered"] for row in rows] == [seen.filtered for seen in expected.seen]
    for row, seen, score in zip(rows, expected.seen, expected.scores, strict=True):
        assert (row["score"] is None) == (score is None)
        assert score is None or row["score"] == pytest.approx(score, rel=1e-12, abs=1e-12)
        assert row["in_flight"] == seen.endpoint.in_flight
        assert row["prefill_tokens"] == seen.endpoint.prefill_tokens
        assert row["scraped"] is seen.scraped
        for name in ("running", "waiting", "kv_usage"):
            assert row[name] == pytest.approx(getattr(seen, name), rel=1e-12)
        if score is not None:
            assert row["matched_blocks"] == seen.endpoint.matched_blocks
    counts = Counter(seen.filtered for seen in expected.seen if seen.filtered)
    assert fleet.pool.filtered() == dict(counts)
