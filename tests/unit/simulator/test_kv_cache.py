"""The paged cache: blocks are counted once, kept until their room is needed, the oldest go first."""

import pytest

from simulator.kv_cache import HASH_MASK, KVCache, Removed, Stored, block_hashes

TOKENS = tuple(range(100, 164))


def cache(capacity=8, events=False):
    return KVCache(capacity, 4, [] if events else None)


def compute(cache, hashes, parent=None, tokens=None):
    """A request that finds nothing, computes these blocks and ends."""
    assert cache.take(len(hashes))
    cache.fill(hashes, parent, TOKENS[: 4 * len(hashes)] if tokens is None else tokens)


def test_hashes_are_those_of_full_blocks_and_chained():
    hashes = block_hashes(TOKENS, 16)
    assert len(hashes) == 4
    assert block_hashes(TOKENS[:47], 16) == hashes[:2]
    assert block_hashes((7, *TOKENS[1:]), 16)[1:] != hashes[1:]
    assert all(0 <= one <= HASH_MASK for one in hashes)
    assert block_hashes((), 16) == ()


def test_equal_blocks_at_different_places_have_different_hashes():
    assert len(set(block_hashes((5,) * 64, 16))) == 4


def test_a_new_cache_is_empty():
    one = cache()
    assert (one.used, one.free, one.usage, one.match((1, 2))) == (0, 8, 0.0, 0)


def test_blocks_that_are_taken_are_used_until_they_are_released():
    one = cache()
    assert one.take(3)
    assert (one.used, one.free, one.usage) == (3, 5, 3 / 8)
    one.release((), 3)
    assert one.used == 0


def test_no_more_blocks_are_given_than_there_are():
    one = cache()
    assert one.take(8)
    assert not one.take(1)
    assert one.take(0)
    assert one.used == 8


def test_what_was_computed_is_found_again_as_far_as_it_goes():
    one = cache()
    compute(one, (1, 2, 3))
    one.release((1, 2, 3), 0)
    assert (one.used, one.free) == (0, 8)
    assert [one.match(wanted) for wanted in ((1, 2, 3, 4), (1, 2), (1, 9, 3), (9,), ())] == [3, 2, 1, 0, 0]


def test_a_block_of_several_requests_counts_once_and_stays_until_the_last_lets_go():
    one = cache()
    compute(one, (1, 2))
    one.hold((1, 2))
    assert one.used == 2
    one.release((1, 2), 0)
    assert one.used == 2
    one.release((1, 2), 0)
    assert one.used == 0
    assert one.match((1, 2)) == 2


def test_two_requests_that_compute_the_same_end_up_with_one_block():
    one = cache()
    assert one.take(2)
    one.fill((1,), None, TOKENS[:4])
    one.fill((1,), None, TOKENS[:4])
    assert one.used == 1


def test_the_oldest_block_makes_room_first():
    one = cache(4)
    for number in (1, 2, 3):
        compute(one, (number,))
        one.release((number,), 0)
    assert one.take(2)  # one is free, the other was the first
    assert [one.match((number,)) for number in (1, 2, 3)] == [0, 1, 1]


def test_a_block_that_was_used_again_is_young_again():
    one = cache(3)
    for number in (1, 2, 3):
        compute(one, (number,))
        one.release((number,), 0)
    one.hold((1,))
    one.release((1,), 0)
    assert one.take(1)
    assert [one.match((number,)) for number in (1, 2, 3)] == [1, 0, 1]


def test_of_one_request_the_last_block_goes_first_so_that_what_is_left_is_a_prefix():
    one = cache(4)
    compute(one, (1, 2, 3, 4))
    one.release((1, 2, 3, 4), 0)
    for left in (3, 2, 1, 0):
        assert one.take(1)
        assert one.match((1, 2, 3, 4)) == left


def test_blocks_in_use_are_never_evicted():
    one = cache(4)
    compute(one, (1, 2))
    assert one.take(2)
    assert not one.take(1)
    assert one.match((1, 2)) == 2


def test_events_tell_what_can_be_reused_and_what_no_more():
    one = cache(3, events=True)
    compute(one, (1, 2))
    one.release((1, 2), 0)
    assert one.take(2)
    assert one.events == [Stored((1, 2), None, TOKENS[:8]), Removed((2,))]


def test_blocks_that_continue_others_name_their_parent():
    one = cache(events=True)
    compute(one, (1,))
    assert one.take(1)
    one.fill((2,), 1, TOKENS[4:8])
    assert one.events[1] == Stored((2,), 1, TOKENS[4:8])


def test_blocks_that_were_there_already_are_no_event():
    one = cache(events=True)
    compute(one, (1, 2))
    compute(one, (1, 2))
    assert len(one.events) == 1


def test_where_only_the_last_blocks_are_new_the_event_is_of_them_alone():
    one = cache(events=True)
    compute(one, (1,))
    compute(one, (1, 2, 3))
    assert one.events[1] == Stored((2, 3), 1, TOKENS[4:12])


def test_holding_and_releasing_are_no_events():
    one = cache(events=True)
    compute(one, (1,))
    one.events.clear()
    one.hold((1,))
    one.release((1,), 0)
    one.release((1,), 0)
    assert one.events == []


def test_without_a_list_no_events_are_kept():
    one = cache()
    compute(one, (1,))
    assert one.events is None


def test_releasing_what_is_not_held_is_a_mistake():
    with pytest.raises(KeyError):
        cache().release((1,), 0)


def test_blocks_of_a_salt_meet_those_of_no_other():
    plain, first, second = (set(block_hashes(TOKENS, 16, salt)) for salt in ("", "a", "b"))
    assert len(plain | first | second) == 3 * len(plain)
    assert set(block_hashes(TOKENS, 16, "a")) == first
