"""What an engine says it holds is what the prefix index says of its slot."""

from array import array

import pytest

from _fastpath.hashing import Hasher
from _fastpath.kv_blocks import KVBlocks
from _fastpath.prefix_index import PrefixIndex
from _fastpath.shared_memory import SharedMemory

SIZE = 4
SLOT = 7
DIGEST = bytes(range(32))


class Engine:
    """One engine's blocks and the index, asked by token ids."""

    def __init__(self, memory, limit=1 << 21):
        self.index = PrefixIndex(memory)
        self.blocks = KVBlocks(self.index, memory.hash_key, limit)
        self.hasher = Hasher(memory.hash_key)

    def store(self, names, parent=None, first=0, seed=0, **more):
        tokens = list(range(first, first + SIZE * len(names)))
        return self.blocks.store(names, parent, tokens, SIZE, seed, SLOT, 1.0, **more)

    def matched(self, blocks, first=0, seed=0, slot=SLOT):
        ids = array("I", range(first, first + SIZE * blocks))
        return self.index.match(self.hasher.hash_tokens(ids, SIZE, seed), [slot])[0]


@pytest.fixture
def memory(tmp_path):
    return SharedMemory.create(str(tmp_path / "memory"), workers=1, slots=64, prefix_bytes=1 << 20)


@pytest.fixture
def engine(memory):
    return Engine(memory)


@pytest.mark.parametrize("names", [[11, 12, 13], [b"a" * 32, b"b" * 32, DIGEST], [-1, 0, 1 << 63]])
def test_stored_blocks_are_matched_by_their_tokens(engine, names):
    assert engine.store(names) == 3
    assert (engine.matched(3), engine.matched(5), engine.matched(2)) == (3, 3, 2)
    assert engine.matched(3, slot=8) == 0
    assert len(engine.blocks) == 3


def test_a_chain_goes_on_from_its_parent(engine):
    engine.store([1, 2])
    assert engine.store([3, 4], parent=2, first=2 * SIZE) == 2
    assert engine.matched(4) == 4


def test_a_parent_that_is_not_known_is_an_error_and_nothing_is_kept(engine):
    with pytest.raises(KeyError):
        engine.store([3, 4], parent=2, first=2 * SIZE)
    assert len(engine.blocks) == 0
    assert engine.index.statistics()["entries"] == 0


def test_signed_and_unsigned_writings_of_a_hash_are_one_name(engine):
    engine.store([(1 << 64) - 1])
    engine.store([2], parent=-1, first=SIZE)
    assert engine.matched(2) == 2
    assert engine.blocks.remove([-1], SLOT) == 1


def test_a_number_and_its_bytes_are_two_names(engine):
    engine.store([5])
    assert engine.blocks.remove([(5).to_bytes(8, "big")], SLOT) == 0
    assert engine.matched(1) == 1


def test_a_removed_block_is_matched_no_more_and_what_comes_before_it_still_is(engine):
    engine.store([1, 2, 3])
    assert engine.blocks.remove([3, 99], SLOT) == 1
    assert engine.matched(3) == 2
    assert engine.blocks.remove([1], SLOT) == 1
    assert engine.matched(3) == 0
    engine.store([1])
    assert engine.matched(3) == 2


def test_a_block_that_was_told_of_twice_is_gone_with_one_removal(engine):
    engine.store([1, 2])
    engine.store([1, 2])
    engine.blocks.remove([2], SLOT)
    assert engine.matched(2) == 1


def test_a_block_is_held_while_one_of_the_memories_holds_it(engine):
    engine.store([1, 2])
    assert engine.blocks.store([1, 2, 3], None, [], SIZE, 0, SLOT, 1.0, tier=2) == 2  # the third was never told of
    engine.blocks.remove([1, 2], SLOT, tier=1)
    assert engine.matched(2) == 2
    engine.blocks.remove([2], SLOT, tier=2)
    assert engine.matched(2) == 1


def test_seeds_and_extras_are_part_of_what_a_block_is(engine):
    salted = engine.hasher.seed("lora", b"salt")
    engine.store([1, 2], seed=engine.hasher.seed("lora"), extras=[b"salt", None])
    assert engine.matched(2, seed=salted) == 2
    assert engine.matched(2, seed=engine.hasher.seed("lora")) == 0
    assert engine.matched(2) == 0


def test_beyond_the_limit_blocks_are_left_out_and_memory_does_not_grow(memory):
    engine = Engine(memory, limit=3)
    assert engine.store([1, 2]) == 2
    assert engine.store([3, 4], parent=2, first=2 * SIZE) == 1
    assert engine.matched(4) == 3
    engine.blocks.remove([3], SLOT)
    assert engine.store([5], first=100) == 1


def test_a_table_grows_with_what_it_holds(engine):
    assert engine.blocks.places == 1024
    engine.store(list(range(5000)))
    assert engine.blocks.places == 8192
    engine.blocks.clear()
    assert (engine.blocks.places, len(engine.blocks)) == (1024, 0)


def test_what_the_index_let_go_of_is_learned_again(engine):
    engine.store(list(range(3000)))
    engine.index.forget(SLOT)
    assert engine.matched(3000) == 0
    at, turns = engine.blocks.refresh(SLOT, 2.0, 0, 1000), 1
    while at:
        at, turns = engine.blocks.refresh(SLOT, 2.0, at, 1000), turns + 1
    assert engine.matched(3000) == 3000
    assert turns == 5


@pytest.mark.parametrize(
    "given",
    [
        ([1, 2], None, [1, 2, 3], 4, 0),
        ([1], None, [1, 2, 3, -4], 4, 0),
        ([1], None, [1, 2, 3, 1 << 32], 4, 0),
        ([1], None, [1, 2, 3, 1 << 80], 4, 0),
        ([1], None, [1, 2, 3, True], 4, 0),
        ([1 << 64], None, [1, 2, 3, 4], 4, 0),
        (["1"], None, [1, 2, 3, 4], 4, 0),
        ([1], 2.0, [1, 2, 3, 4], 4, 0),
        ([1], None, [1, 2, 3, 4], 0, 0),
        ([1], None, [], 0, 0),
    ],
)
def test_what_is_no_event_is_refused_and_nothing_is_kept(engine, given):
    with pytest.raises(ValueError):
        engine.blocks.store(*given, SLOT, 1.0)
    assert len(engine.blocks) == 0


def test_slots_out_of_range_are_refused(engine):
    for call in (
        lambda: engine.blocks.store([1], None, [1], 1, 0, 64, 1.0),
        lambda: engine.blocks.remove([1], 64),
        lambda: engine.blocks.refresh(64, 1.0, 0, 10),
    ):
        with pytest.raises(IndexError):
            call()


@pytest.mark.parametrize("limit", [0, (1 << 32) + 1])
def test_a_limit_out_of_range_is_refused(memory, limit):
    with pytest.raises(ValueError, match="limit"):
        KVBlocks(PrefixIndex(memory), memory.hash_key, limit)
