"""The choice of an endpoint beside its plain-Python twin: a long prompt, and many endpoints."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from timeit import repeat

import pytest

from _fastpath.hashing import BlockHashes
from _fastpath.policy import Policy
from bench.micro.fleets import BLOCKS, GATEWAY, NOW, WEIGHTS, Benchmark, Decide, endpoints, scheduler_of
from tests.reference import scheduler as twin


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


def test_decide_is_at_least_five_times_as_fast(decide: Decide, decide_twin: Decide) -> None:
    assert min(repeat(decide_twin, number=3, repeat=5)) > 5 * min(repeat(decide, number=3, repeat=5))
