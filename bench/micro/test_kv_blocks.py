"""Following an engine, beside its plain-Python twin. Target: one million blocks stored in less than 1.5 s on one core."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from time import process_time
from typing import Any

import msgspec
import pytest

from _fastpath.kv_blocks import KVBlocks
from _fastpath.prefix_index import PrefixIndex
from _fastpath.shared_memory import SharedMemory
from bench.micro.ratio import times_faster
from controllers.network.kv_events.apply import Applier, Counts
from controllers.network.kv_events.events import Stored, decode
from tests.reference import kv_blocks as reference
from tests.reference import prefix_index as reference_index
from tests.reference import shared_memory as reference_memory

BLOCKS = 1_000_000
EACH = 64
"""Blocks of one event: a prompt of 1,024 tokens."""
SIZE = 16
SLOT = 5
RANDOM = Random(1)
NAMES = [RANDOM.getrandbits(64) for _ in range(EACH)]
TOKENS = [RANDOM.randrange(128_000) for _ in range(EACH * SIZE)]

pytestmark = pytest.mark.benchmark(max_time=0.5)


@pytest.fixture
def memory(tmp_path: Path) -> SharedMemory:
    return SharedMemory.create(str(tmp_path / "memory"), workers=1, slots=64)


@pytest.fixture(scope="module")
def payloads() -> list[bytes]:
    """Batches as an engine publishes them, an event each; their prompts share nothing."""
    made = []
    for _ in range(BLOCKS // EACH):
        names = [RANDOM.randbytes(32) for _ in range(EACH)]
        tokens = RANDOM.choices(range(128_000), k=EACH * SIZE)
        made.append(msgspec.msgpack.encode([1.0, [["BlockStored", names, None, tokens, SIZE, None, "GPU"]], 0]))
    return made


@pytest.mark.benchmark(timer=process_time)  # of one core, whoever else wants it
def test_apply_kv_event_blocks(benchmark: Any, memory: SharedMemory, payloads: list[bytes]) -> None:
    def fresh() -> tuple[tuple[Applier], dict[str, Any]]:
        return (Applier(memory, "default/e", SLOT, SIZE, Counts()),), {}

    def apply(applier: Applier) -> None:
        for payload in payloads:
            batch = decode(payload)
            assert batch is not None
            for event in batch.events:
                assert isinstance(event, Stored)
                applier.store(event, 1.0)
        assert applier.counts.stored == len(payloads) * EACH

    benchmark.pedantic(apply, setup=fresh, rounds=3)


def test_store_64_blocks(benchmark: Callable[..., Any], memory: SharedMemory) -> None:
    blocks = KVBlocks(PrefixIndex(memory), memory.hash_key)
    assert benchmark(blocks.store, NAMES, None, TOKENS, SIZE, 0, SLOT, 1.0) == EACH


def plain_blocks() -> reference.KVBlocks:
    index = reference_index.PrefixIndex(reference_memory.SharedMemory(workers=1, slots=64))
    return reference.KVBlocks(index, (1, 2))


def test_store_64_blocks_twin(benchmark: Callable[..., Any]) -> None:
    assert benchmark(plain_blocks().store, NAMES, None, TOKENS, SIZE, 0, SLOT, 1.0) == EACH


def test_storing_is_20_times_faster_than_its_twin(memory: SharedMemory) -> None:
    compiled, plain = KVBlocks(PrefixIndex(memory), memory.hash_key), plain_blocks()
    given = (NAMES, None, TOKENS, SIZE, 0, SLOT, 1.0)
    assert times_faster(lambda: compiled.store(*given), lambda: plain.store(*given)) > 20
