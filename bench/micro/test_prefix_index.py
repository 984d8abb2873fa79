"""Matching a prompt against a pool, beside its plain-Python twin. Target: 512 blocks of 64 endpoints in less than 15 us."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from _fastpath.hashing import BlockHashes
from _fastpath.prefix_index import PrefixIndex
from _fastpath.shared_memory import SharedMemory
from bench.micro.ratio import times_faster
from tests.reference import prefix_index as reference
from tests.reference import shared_memory as reference_memory

BLOCKS = 512
POOL = list(range(64))
RANDOM = Random(1)
VALUES = [RANDOM.getrandbits(64) for _ in range(BLOCKS)]

pytestmark = pytest.mark.benchmark(max_time=0.5)


class Indexes(NamedTuple):
    """The index and its twin, of the size that is the default, half full of other prompts."""

    compiled: PrefixIndex
    plain: reference.PrefixIndex

    def learn(self, values: list[int], slot: int) -> None:
        self.compiled.learn(BlockHashes.of(values), slot, 1.0)
        self.plain.learn(values, slot, 1.0)


@pytest.fixture
def indexes(tmp_path: Path) -> Indexes:
    memory = SharedMemory.create(str(tmp_path / "memory"), workers=1, slots=64)
    compiled = PrefixIndex(memory)
    others = Random(2)
    compiled.learn(BlockHashes.of([others.getrandbits(64) for _ in range(1_000_000)]), 0, 1.0)
    return Indexes(compiled, reference.PrefixIndex(reference_memory.SharedMemory(workers=1, slots=64)))


@pytest.fixture
def all_hold(indexes: Indexes) -> Indexes:
    for slot in POOL:
        indexes.learn(VALUES, slot)
    return indexes


@pytest.fixture
def different_depths(indexes: Indexes) -> Indexes:
    """Endpoint n holds the first 8 (n + 1) blocks."""
    for slot in POOL:
        indexes.learn(VALUES[: 8 * (slot + 1)], slot)
    return indexes


def test_match_512_blocks_64_endpoints(benchmark: Callable[..., Any], all_hold: Indexes) -> None:
    assert benchmark(all_hold.compiled.match, BlockHashes.of(VALUES), POOL) == [BLOCKS] * 64


def test_match_512_blocks_64_endpoints_twin(benchmark: Callable[..., Any], all_hold: Indexes) -> None:
    assert benchmark(all_hold.plain.match, VALUES, POOL) == [BLOCKS] * 64


def test_match_512_blocks_64_endpoints_at_different_depths(
    benchmark: Callable[..., Any], different_depths: Indexes
) -> None:
    depths = benchmark(different_depths.compiled.match, BlockHashes.of(VALUES), POOL)
    assert depths == list(range(8, BLOCKS + 1, 8))


def test_match_512_blocks_64_endpoints_at_different_depths_twin(
    benchmark: Callable[..., Any], different_depths: Indexes
) -> None:
    assert benchmark(different_depths.plain.match, VALUES, POOL) == list(range(8, BLOCKS + 1, 8))


def test_learn_512_blocks(benchmark: Callable[..., Any], indexes: Indexes) -> None:
    benchmark(indexes.compiled.learn, BlockHashes.of(VALUES), 5, 2.0)
    assert indexes.compiled.match(BlockHashes.of(VALUES), [5]) == [BLOCKS]


def test_learn_3000_new_blocks(benchmark: Callable[..., Any], indexes: Indexes) -> None:
    """A long prompt that nobody has sent before: each block's place is cold. Target: less than 100 us."""
    others = Random(3)

    def prompt() -> tuple[tuple[BlockHashes, int, float], dict[str, Any]]:
        return (BlockHashes.of([others.getrandbits(64) for _ in range(3000)]), 5, 2.0), {}

    benchmark.pedantic(indexes.compiled.learn, setup=prompt, rounds=200)  # type: ignore[attr-defined]


def test_learn_512_blocks_twin(benchmark: Callable[..., Any], indexes: Indexes) -> None:
    benchmark(indexes.plain.learn, VALUES, 5, 2.0)
    assert indexes.plain.match(VALUES, [5]) == [BLOCKS]


def test_discard_512_blocks(benchmark: Callable[..., Any], indexes: Indexes) -> None:
    hashes = BlockHashes.of(VALUES)

    def learn_and_discard() -> None:
        indexes.compiled.learn(hashes, 5, 2.0)
        indexes.compiled.discard(hashes, 5)

    benchmark(learn_and_discard)
    assert indexes.compiled.match(hashes, [5]) == [0]


def test_discard_512_blocks_twin(benchmark: Callable[..., Any], indexes: Indexes) -> None:
    def learn_and_discard() -> None:
        indexes.plain.learn(VALUES, 5, 2.0)
        indexes.plain.discard(VALUES, 5)

    benchmark(learn_and_discard)
    assert indexes.plain.match(VALUES, [5]) == [0]


def test_matching_is_20_times_faster_than_its_twin(all_hold: Indexes) -> None:
    hashes = BlockHashes.of(VALUES)
    compiled, plain = all_hold
    assert times_faster(lambda: compiled.match(hashes, POOL), lambda: plain.match(VALUES, POOL)) > 20


def test_learning_is_2_times_faster_than_its_twin(indexes: Indexes) -> None:
    hashes = BlockHashes.of(VALUES)
    compiled, plain = indexes
    assert times_faster(lambda: compiled.learn(hashes, 5, 1.0), lambda: plain.learn(VALUES, 5, 1.0)) > 2
