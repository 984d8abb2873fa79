"""Which ranks of an engine hold a block, and what of it the prefix index shows."""

from array import array

import pytest

from _fastpath.chain_ranks import ChainRanks
from _fastpath.hashing import Hasher
from _fastpath.kv_blocks import KVBlocks
from _fastpath.prefix_index import PrefixIndex
from _fastpath.shared_memory import SharedMemory

SIZE = 4
SLOT = 7


def test_a_block_is_held_until_its_last_rank_drops_it():
    ranks = ChainRanks()
    ranks.add(5, 0)
    ranks.add(5, 63)
    ranks.add(5, 63)
    assert (ranks.ranks(5), len(ranks)) == (1 | 1 << 63, 1)
    assert not ranks.drop(5, 0)
    assert ranks.ranks(5) == 1 << 63
    assert not ranks.drop(5, 0)
    assert ranks.drop(5, 63)
    assert (ranks.ranks(5), len(ranks)) == (0, 0)
    assert ranks.drop(5, 63)


@pytest.mark.parametrize("rank", [-1, 64, 1 << 40])
def test_a_rank_that_is_none_is_refused(rank):
    ranks = ChainRanks()
    for call in (ranks.add, ranks.drop):
        with pytest.raises(ValueError, match="is not 0 to 63"):
            call(1, rank)
    assert len(ranks) == 0


def test_the_blocks_of_a_rank_that_is_none_are_refused(memory):
    with pytest.raises(ValueError, match="rank 64"):
        KVBlocks(PrefixIndex(memory), memory.hash_key, ranks=ChainRanks(), rank=64)


@pytest.fixture
def memory(tmp_path):
    return SharedMemory.create(str(tmp_path / "memory"), workers=1, slots=64, prefix_bytes=1 << 20)


class Engine:
    """Two ranks behind one slot."""

    def __init__(self, memory):
        self.index, self.held = PrefixIndex(memory), ChainRanks()
        self.ranks = [KVBlocks(self.index, memory.hash_key, ranks=self.held, rank=rank) for rank in range(2)]
        self.hasher = Hasher(memory.hash_key)

    def store(self, rank, names, parent=None, first=0):
        tokens = list(range(first, first + SIZE * len(names)))
        return self.ranks[rank].store(names, parent, tokens, SIZE, 0, SLOT, 1.0)

    def matched(self, blocks):
        ids = array("I", range(SIZE * blocks))
        return self.index.match(self.hasher.hash_tokens(ids, SIZE, 0), [SLOT])[0]


@pytest.fixture
def engine(memory):
    return Engine(memory)


@pytest.mark.parametrize("others", [[1, 2, 3], [b"a" * 32, b"b" * 32, b"c" * 32]])
def test_what_one_rank_evicts_the_other_holds_still_by_whatever_name(engine, others):
    engine.store(0, [1, 2, 3])
    engine.store(1, others)
    assert engine.ranks[0].remove([3, 2], SLOT) == 2
    assert engine.matched(3) == 3
    assert engine.ranks[1].remove(others[2:], SLOT) == 1
    assert engine.matched(3) == 2
    assert engine.ranks[1].remove(others, SLOT) == 2
    assert (engine.matched(3), len(engine.held)) == (1, 1)


@pytest.mark.parametrize("places", [1, 7, 1 << 20])
def test_a_rank_that_restarts_takes_with_it_what_no_other_holds(engine, places):
    engine.store(0, list(range(100)))
    engine.store(1, list(range(40)))
    place = engine.ranks[0].release(SLOT, 0, places)
    while place:
        place = engine.ranks[0].release(SLOT, place, places)
    engine.ranks[0].clear()
    assert (engine.matched(100), len(engine.held), len(engine.ranks[0])) == (40, 40, 0)
    assert engine.index.statistics()["entries"] == 40
    engine.store(0, [100], None)
    assert engine.ranks[1].remove(list(range(40)), SLOT) == 40
    assert engine.matched(100) == 1


def test_tiers_count_within_a_rank(engine):
    engine.store(0, [1])
    engine.ranks[0].store([1], None, [], SIZE, 0, SLOT, 1.0, None, 2)
    engine.store(1, [1])
    engine.ranks[0].remove([1], SLOT)
    engine.ranks[1].remove([1], SLOT)
    assert engine.matched(1) == 1
    engine.ranks[0].remove([1], SLOT, 2)
    assert engine.matched(1) == 0


def test_what_is_left_out_for_want_of_room_is_held_by_nobody(memory):
    index, held = PrefixIndex(memory), ChainRanks()
    blocks = KVBlocks(index, memory.hash_key, 2, held, 3)
    assert blocks.store([1, 2, 3], None, [1, 2, 3], 1, 0, SLOT, 1.0) == 2
    assert len(held) == index.statistics()["entries"] == 2


def test_a_slot_beyond_the_memory_is_refused(engine):
    with pytest.raises(IndexError):
        engine.ranks[0].release(64, 0, 10)
