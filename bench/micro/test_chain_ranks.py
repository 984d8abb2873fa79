"""Blocks that another rank of the engine holds too, beside the plain-Python twin: one rank stores and evicts a prompt of 1,024 tokens."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from _fastpath.chain_ranks import ChainRanks
from _fastpath.kv_blocks import KVBlocks
from _fastpath.prefix_index import PrefixIndex
from _fastpath.shared_memory import SharedMemory
from bench.micro.ratio import times_faster
from tests.reference import chain_ranks as reference
from tests.reference import kv_blocks as reference_blocks
from tests.reference import prefix_index as reference_index
from tests.reference import shared_memory as reference_memory

BLOCKS, SIZE, SLOT = 64, 16, 5
RANDOM = Random(1)
NAMES: list[object] = [RANDOM.getrandbits(64) for _ in range(BLOCKS)]
TOKENS: list[object] = [RANDOM.randrange(128_000) for _ in range(BLOCKS * SIZE)]

pytestmark = pytest.mark.benchmark(max_time=0.5)


def come_and_go(memory: SharedMemory) -> Callable[[], int]:
    """What is measured, with the other rank's blocks in place."""
    index, held = PrefixIndex(memory), ChainRanks()
    first, second = (KVBlocks(index, memory.hash_key, ranks=held, rank=rank) for rank in range(2))
    first.store(NAMES, None, TOKENS, SIZE, 0, SLOT, 1.0)

    def once() -> int:
        second.store(NAMES, None, TOKENS, SIZE, 0, SLOT, 1.0)
        return second.remove(NAMES, SLOT)

    return once


def plain_come_and_go() -> Callable[[], int]:
    """The same of the twins."""
    index = reference_index.PrefixIndex(reference_memory.SharedMemory(workers=1, slots=64))
    held = reference.ChainRanks()
    first, second = (reference_blocks.KVBlocks(index, (1, 2), ranks=held, rank=rank) for rank in range(2))
    first.store(NAMES, None, TOKENS, SIZE, 0, SLOT, 1.0)

    def once() -> int:
        second.store(NAMES, None, TOKENS, SIZE, 0, SLOT, 1.0)
        return second.remove(NAMES, SLOT)

    return once


@pytest.fixture
def memory(tmp_path: Path) -> SharedMemory:
    return SharedMemory.create(str(tmp_path / "memory"), workers=1, slots=64)


def test_store_and_remove_64_blocks_of_a_rank(benchmark: Callable[..., Any], memory: SharedMemory) -> None:
    assert benchmark(come_and_go(memory)) == BLOCKS


def test_store_and_remove_64_blocks_of_a_rank_twin(benchmark: Callable[..., Any]) -> None:
    assert benchmark(plain_come_and_go()) == BLOCKS


def test_ranks_are_10_times_faster_than_their_twin(memory: SharedMemory) -> None:
    assert times_faster(come_and_go(memory), plain_come_and_go()) > 10
