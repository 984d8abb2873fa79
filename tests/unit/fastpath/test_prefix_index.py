"""The prefix index: what was learned matches, what was forgotten does not, the oldest makes room."""

import mmap
from pathlib import Path

import pytest

from _fastpath.hashing import BlockHashes
from _fastpath.prefix_index import PrefixIndex
from _fastpath.shared_memory import SharedMemory
from tests.reference.shared_memory import read_header

SLOTS = 256
MIX = 0xD6E8FEB86659FD93
WAYS = 8
CAPACITY = 2048


def make_memory(tmp_path, prefix_bytes=24 * CAPACITY, slots=SLOTS):
    return SharedMemory.create(
        str(tmp_path / "memory"), workers=1, slots=slots, prefix_bytes=prefix_bytes, counter_cells=1
    )


@pytest.fixture
def memory(tmp_path):
    return make_memory(tmp_path)


@pytest.fixture
def index(memory):
    return PrefixIndex(memory)


@pytest.fixture
def one_bucket(tmp_path):
    """An index with a single bucket: whatever is learned competes for eight places."""
    return PrefixIndex(make_memory(tmp_path, prefix_bytes=192))


def blocks(*values):
    return BlockHashes.of([value * 0xA0761D6478BD642F % (1 << 64) for value in values])


def test_an_empty_index_matches_nothing(index):
    assert index.match(blocks(1, 2, 3), [0, 1, 255]) == [0, 0, 0]
    assert index.statistics() == {"entries": 0, "capacity": CAPACITY, "evictions": 0}


def test_a_slot_matches_the_blocks_from_the_first_that_it_learned(index):
    index.learn(blocks(1, 2, 3), 7, 1.0)
    assert index.match(blocks(1, 2, 3), [7]) == [3]
    assert index.match(blocks(1, 2, 3, 4), [7]) == [3]
    assert index.match(blocks(1, 2), [7]) == [2]
    assert index.match(blocks(1, 9, 3), [7]) == [1]


def test_a_slot_without_the_first_block_matches_nothing(index):
    index.learn(blocks(2, 3), 7, 1.0)
    assert index.match(blocks(1, 2, 3), [7]) == [0]


def test_lengths_come_in_the_order_of_the_slots(index):
    for slot, count in ((3, 1), (64, 2), (200, 3), (65, 4)):
        index.learn(blocks(*range(1, count + 1)), slot, 1.0)
    asked = blocks(1, 2, 3, 4, 5)
    assert index.match(asked, [200, 3, 65, 0, 64]) == [3, 1, 4, 0, 2]
    assert index.match(asked, (64, 65)) == [2, 4]
    assert index.match(asked, []) == []


@pytest.mark.parametrize("slots", [[3, 3], [0, 64, 128, 64], [63, 64, 63]])
def test_a_slot_that_is_named_twice_is_refused(index, slots):
    with pytest.raises(ValueError, match="stands twice"):
        index.match(blocks(1, 2), slots)
    assert index.match(blocks(1, 2), [3, 67]) == [0, 0]


def test_no_blocks_match_and_teach_nothing(index):
    index.learn(blocks(), 3, 1.0)
    assert index.match(blocks(), [3, 4]) == [0, 0]
    assert index.statistics()["entries"] == 0


@pytest.mark.parametrize("slot", [0, 1, 62, 63, 64, 127, 128, 255])
def test_every_slot_of_every_page_can_hold_blocks(index, slot):
    index.learn(blocks(1, 2, 3), slot, 1.0)
    assert index.match(blocks(1, 2, 3), range(SLOTS)) == [3 if i == slot else 0 for i in range(SLOTS)]


def test_any_number_of_slots_hold_a_block_at_one_entry_for_64_of_them(index):
    for slot in range(SLOTS):
        index.learn(blocks(1, 2), slot, 1.0)
    assert index.match(blocks(1, 2, 3), range(SLOTS)) == [2] * SLOTS
    assert index.statistics()["entries"] == 2 * SLOTS // 64


def test_learning_again_changes_nothing_but_the_time(index):
    for second in range(3):
        index.learn(blocks(1, 2), 5, second)
    assert index.statistics() == {"entries": 2, "capacity": CAPACITY, "evictions": 0}
    assert index.match(blocks(1, 2), [5]) == [2]


def test_all_mappings_share_what_is_learned(memory, index):
    other = PrefixIndex(SharedMemory.attach(memory.path))
    index.learn(blocks(1, 2), 5, 1.0)
    assert other.match(blocks(1, 2), [5]) == [2]
    other.forget(5)
    assert index.match(blocks(1, 2), [5]) == [0]


def test_the_hashes_0_and_the_largest_are_hashes_like_others(index):
    hashes = BlockHashes.of([0, (1 << 64) - 1, 1])
    index.learn(hashes, 5, 1.0)
    assert index.match(hashes, [5, 6]) == [3, 0]


def test_forgetting_a_slot_leaves_the_other_holders(index):
    for slot in (5, 6, 64 + 5):
        index.learn(blocks(1, 2), slot, 1.0)
    index.forget(5)
    assert index.match(blocks(1, 2), [5, 6, 69]) == [0, 2, 2]
    assert index.statistics()["entries"] == 4


def test_forgetting_the_last_holder_frees_the_place_without_an_eviction(index):
    index.learn(blocks(1, 2), 5, 1.0)
    index.forget(5)
    assert index.statistics() == {"entries": 0, "capacity": CAPACITY, "evictions": 0}
    index.learn(blocks(1, 2), 6, 1.0)
    assert index.match(blocks(1, 2), [5, 6]) == [0, 2]


def test_a_discarded_block_is_held_by_the_others_and_later_blocks_stay(index):
    for slot in (5, 6, 64 + 5):
        index.learn(blocks(1, 2, 3), slot, 1.0)
    index.discard(blocks(3), 5)
    assert index.match(blocks(1, 2, 3), [5, 6, 69]) == [2, 3, 3]
    index.discard(blocks(1), 6)
    assert index.match(blocks(1, 2, 3), [5, 6, 69]) == [2, 0, 3]
    index.learn(blocks(1), 6, 2.0)
    assert index.match(blocks(1, 2, 3), [5, 6, 69]) == [2, 3, 3]


def test_discarding_what_nobody_holds_changes_nothing(index):
    index.learn(blocks(1), 5, 1.0)
    index.discard(blocks(2, 1), 6)
    index.discard(blocks(), 5)
    assert index.match(blocks(1), [5, 6]) == [1, 0]
    assert index.statistics()["entries"] == 1


def test_discarding_for_the_last_holder_frees_the_place(index):
    index.learn(blocks(1, 2), 5, 1.0)
    index.discard(blocks(1, 2), 5)
    assert index.statistics() == {"entries": 0, "capacity": CAPACITY, "evictions": 0}


def test_clearing_forgets_everything(index):
    for slot in range(SLOTS):
        index.learn(blocks(1, 2), slot, 1.0)
    index.clear()
    assert index.match(blocks(1, 2), range(SLOTS)) == [0] * SLOTS
    assert index.statistics()["entries"] == 0
    index.learn(blocks(1), 5, 1.0)
    assert index.match(blocks(1), range(SLOTS)) == [int(slot == 5) for slot in range(SLOTS)]


def test_the_entry_learned_longest_ago_makes_room(one_bucket):
    order = [3, 1, 8, 6, 2, 7, 4, 5]  # the second at which each block is learned
    for block, second in enumerate(order, 1):
        one_bucket.learn(blocks(block), 0, second)
    for evicted in range(1, WAYS + 1):
        one_bucket.learn(blocks(100 + evicted), 0, 100 + evicted)
        left = {block for block in range(1, WAYS + 1) if one_bucket.match(blocks(block), [0]) == [1]}
        assert left == {block for block, second in enumerate(order, 1) if second > evicted}
        assert one_bucket.statistics() == {"entries": WAYS, "capacity": WAYS, "evictions": evicted}


def test_learning_again_makes_an_entry_young(one_bucket):
    for block in range(1, WAYS + 1):
        one_bucket.learn(blocks(block), 0, block)
    one_bucket.learn(blocks(1), 1, 50)
    one_bucket.learn(blocks(100), 0, 51)
    assert one_bucket.match(blocks(1), [0, 1]) == [1, 1]
    assert one_bucket.match(blocks(2), [0]) == [0]


def test_a_forgotten_place_is_taken_before_the_oldest_makes_room(one_bucket):
    for block in range(1, WAYS + 1):
        one_bucket.learn(blocks(block), block, block)
    one_bucket.forget(5)
    one_bucket.learn(blocks(100), 0, 100)
    assert [one_bucket.match(blocks(block), [block]) for block in range(1, WAYS + 1)] == [[1]] * 4 + [[0]] + [[1]] * 3
    assert one_bucket.statistics()["evictions"] == 0


def test_who_takes_a_place_inherits_no_holder_from_the_former(one_bucket):
    for block in range(1, WAYS + 1):
        for slot in range(64):
            one_bucket.learn(blocks(block), slot, block)
    one_bucket.learn(blocks(100), 9, 100)
    assert one_bucket.match(blocks(100), range(64)) == [int(slot == 9) for slot in range(64)]


@pytest.mark.parametrize(
    ("prefix_bytes", "capacity"), [(192, 8), (383, 8), (384, 16), (576, 24), (1 << 12, 168), ((24 << 10) - 1, 1016)]
)
def test_the_capacity_is_as_many_buckets_of_eight_as_fit_the_bytes(tmp_path, prefix_bytes, capacity):
    index = PrefixIndex(make_memory(tmp_path, prefix_bytes))
    assert index.statistics()["capacity"] == capacity
    index.learn(blocks(*range(1, 5 * capacity)), 0, 1.0)
    statistics = index.statistics()
    assert statistics["entries"] <= capacity
    assert statistics["evictions"] == 5 * capacity - 1 - statistics["entries"]


def test_a_full_index_does_not_write_beyond_its_bytes(tmp_path):
    memory = make_memory(tmp_path, 192)
    header = read_header(memory.path)
    index = PrefixIndex(memory)
    index.learn(blocks(*range(1, 1000)), 255, 1.0)
    index.forget(255)
    index.clear()
    content = Path(memory.path).read_bytes()
    assert not any(content[512 : header["prefix_at"]])
    assert not any(content[header["prefix_at"] + 64 + 8 * 24 :])


def test_real_hashes_spread_over_all_buckets(index):
    index.learn(blocks(*range(1, 1025)), 0, 1.0)  # half full
    assert index.statistics()["evictions"] < 40
    index.learn(blocks(*range(2000, 6000)), 0, 2.0)
    assert index.statistics()["entries"] == CAPACITY


def test_slots_out_of_range_are_refused(index):
    for call in (
        lambda: index.learn(blocks(1), SLOTS, 1.0),
        lambda: index.match(blocks(1), [0, SLOTS]),
        lambda: index.forget(SLOTS),
        lambda: index.discard(blocks(1), SLOTS),
        lambda: index.learn(blocks(1), (1 << 64) - 1, 1.0),
    ):
        with pytest.raises(IndexError):
            call()
    with pytest.raises(OverflowError):
        index.match(blocks(1), [-1])
    assert index.statistics()["entries"] == 0


def test_hashes_are_no_lists(index):
    for call in (lambda: index.learn([1, 2], 0, 1.0), lambda: index.match([1, 2], [0])):
        with pytest.raises(TypeError):
            call()


def test_a_pool_of_more_than_32768_slots_is_refused(tmp_path):
    index = PrefixIndex(make_memory(tmp_path, slots=32_768 + 64))
    index.learn(blocks(1), 32_768, 1.0)
    assert index.match(blocks(1), range(64, 32_768 + 64))[-64] == 1
    with pytest.raises(ValueError, match="32,768"):
        index.match(blocks(1), range(32_768 + 64))


def test_an_entry_whose_maker_was_killed_before_its_page_was_written_can_be_forgotten(memory, index):
    value, slot = 12345, 64
    # what is left after the exchange of the key: holders none, page still that of the former entry (here 0)
    key = (value ^ 0x9E3779B97F4A7C15) * MIX % (1 << 64)
    at = read_header(memory.path)["prefix_at"] + 64 + ((key >> 32) * (CAPACITY // WAYS) >> 32) * WAYS * 24
    with Path(memory.path).open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[at : at + 8] = key.to_bytes(8, "little")
    index.learn(BlockHashes.of([value]), slot, 1.0)
    assert index.match(BlockHashes.of([value]), [slot]) == [1]
    assert index.statistics()["entries"] == 1  # the entry above is the one that was found
    index.forget(slot)
    assert index.match(BlockHashes.of([value]), [slot]) == [0]
