"""The choice of an endpoint beside its plain-Python twin: many endpoints, and a long prompt."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from timeit import repeat
from typing import Any

import pytest

from _fastpath.hashing import BlockHashes
from _fastpath.health import Outlier
from _fastpath.scoring import Policy, Pool, Scheduler
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots
from tests.reference import scoring as twin

Benchmark = Callable[..., Any]
Decide = Callable[[], Any]

NOW = 1000.0
WEIGHTS = dict.fromkeys(twin.SCORES, 1.0)
BLOCKS = 512
SEED = 1
GATEWAY = twin.mixed(SEED) | 1
"""What it likes among endpoints that others share."""


def endpoints(count: int) -> list[twin.Endpoint]:
    """Endpoints that were all scraped a second ago and hold from none to all of the blocks."""
    random = Random(1)
    return [
        twin.Endpoint(
            metrics=twin.Metrics(
                running=float(random.randrange(64)), waiting=float(random.randrange(4)), kv_usage=random.random(),
                first_token=random.uniform(0.05, 2), inter_token=random.uniform(0.005, 0.05), time=NOW - 1,
            ),
            matched_blocks=random.choice((0, 0, 16, 256, BLOCKS)),
            identity=number,
        )
        for number in range(count)
    ]  # fmt: skip


def scheduler_of(
    path: Path, fleet: list[twin.Endpoint], hashes: list[int], prefix_bytes: int = 1 << 22
) -> tuple[Scheduler, Pool]:
    memory = SharedMemory.create(
        str(path), workers=1, slots=len(fleet), buckets=1, journal_records=1, prefix_bytes=prefix_bytes
    )
    scheduler, slots = Scheduler(memory, 0, random_seed=SEED), Slots(memory)
    names = [slots.acquire(1, 2 * number + 2) for number in range(len(fleet))]
    for (slot, generation), endpoint in zip(names, fleet, strict=True):
        metrics = endpoint.metrics
        scheduler.load.write_metrics(
            slot, generation, metrics.running, metrics.waiting, metrics.kv_usage, metrics.first_token, metrics.inter_token, 0.0,
            metrics.time,
        )  # fmt: skip
        scheduler.prefixes.learn(BlockHashes.of(hashes[: endpoint.matched_blocks]), slot, NOW)
    return scheduler, Pool(
        [
            (slot, generation, 1, 0, endpoint.identity)
            for (slot, generation), endpoint in zip(names, fleet, strict=True)
        ],
        Outlier(),
    )


@pytest.fixture
def score(tmp_path: Path) -> Decide:
    scheduler, pool = scheduler_of(tmp_path / "memory", endpoints(1000), [])
    policy = Policy(by_cost=False, weights=WEIGHTS)
    return lambda: scheduler.decide(pool, policy, None, 1000, 256, NOW, dry=True)


@pytest.fixture
def score_twin() -> Decide:
    fleet, policy, random = endpoints(1000), twin.Policy(by_cost=False, weights=WEIGHTS), Random(1)

    def decide() -> int:
        decision = twin.decide(fleet, policy, 0, 1000, 256, NOW)
        return max(range(len(fleet)), key=lambda position: decision.scores[position] + 100 * random.random())

    return decide


@pytest.fixture
def hashes() -> list[int]:
    random = Random(2)
    return [random.getrandbits(64) for _ in range(BLOCKS)]


@pytest.fixture
def decide(tmp_path: Path, hashes: list[int]) -> Decide:
    scheduler, pool = scheduler_of(tmp_path / "memory", endpoints(64), hashes)
    policy, blocks = Policy(), BlockHashes.of(hashes)
    return lambda: scheduler.decide(pool, policy, blocks, 8192, 256, NOW, dry=True)


@pytest.fixture
def decide_twin(hashes: list[int]) -> Decide:
    fleet, random = endpoints(64), Random(1)
    held = {
        value: {slot for slot, endpoint in enumerate(fleet) if endpoint.matched_blocks > position}
        for position, value in enumerate(hashes)
    }

    def decide() -> tuple[int, int]:
        matched = [twin.matched_blocks(held, hashes, slot) for slot in range(len(fleet))]
        seen = [replace(endpoint, matched_blocks=count) for endpoint, count in zip(fleet, matched, strict=True)]
        chosen = random.choice(sorted(twin.decide(seen, twin.Policy(), BLOCKS, 8192, 256, NOW, gateway=GATEWAY).best))
        return chosen, matched[chosen]

    return decide


@pytest.fixture
def decide_wide(tmp_path: Path) -> Callable[[int, int], Decide]:
    """A whole decision by all weighted scores: so many endpoints, each with more or less of so many blocks."""

    def make(count: int, blocks: int) -> Decide:
        random = Random(2)
        values = [random.getrandbits(64) for _ in range(blocks)]
        fleet = endpoints(count)
        held = [replace(one, matched_blocks=one.matched_blocks * blocks // BLOCKS) for one in fleet]
        scheduler, pool = scheduler_of(tmp_path / "memory", held, values, 1 << 25)
        policy, hashes = Policy(by_cost=False, weights=WEIGHTS), BlockHashes.of(values)
        return lambda: scheduler.decide(pool, policy, hashes, 16 * blocks, 256, NOW, dry=True)

    return make


def test_both_decide_the_same(decide: Decide, decide_twin: Decide) -> None:
    assert decide()[:2] == decide_twin()


def test_score_1000_endpoints(benchmark: Benchmark, score: Decide) -> None:
    """All scores on, no prefix. The target is 25 microseconds."""
    assert benchmark(score) is not None


def test_score_1000_endpoints_twin(benchmark: Benchmark, score_twin: Decide) -> None:
    assert benchmark(score_twin) is not None


def test_decide_512_blocks_64_endpoints(benchmark: Benchmark, decide: Decide) -> None:
    assert benchmark(decide) is not None


def test_decide_512_blocks_64_endpoints_twin(benchmark: Benchmark, decide_twin: Decide) -> None:
    assert benchmark(decide_twin) is not None


def test_decide_2048_blocks_256_endpoints(benchmark: Benchmark, decide_wide: Callable[[int, int], Decide]) -> None:
    """All scores on. The target is 60 microseconds."""
    assert benchmark(decide_wide(256, 2048))[1] > 0


def test_decide_4096_endpoints(benchmark: Benchmark, decide_wide: Callable[[int, int], Decide]) -> None:
    """The same with 16 blocks. The target is 150 microseconds."""
    assert benchmark(decide_wide(4096, 16)) is not None


def test_score_is_at_least_five_times_as_fast(score: Decide, score_twin: Decide) -> None:
    assert min(repeat(score_twin, number=3, repeat=5)) > 5 * min(repeat(score, number=3, repeat=5))


def test_decide_is_at_least_five_times_as_fast(decide: Decide, decide_twin: Decide) -> None:
    assert min(repeat(decide_twin, number=3, repeat=5)) > 5 * min(repeat(decide, number=3, repeat=5))
