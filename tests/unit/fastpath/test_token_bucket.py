"""Token buckets, limit sets and the journal: admission, settling, change of limits, what a killed process leaves."""

import mmap
import struct
from math import inf, isinf, nan
from pathlib import Path

import pytest

from _fastpath.leased_bucket import STANDINGS, LeasedBuckets
from _fastpath.shared_memory import SharedMemory
from _fastpath.token_bucket import KINDS, STALE, BucketsFull, Journal, JournalFull, LimitSet, TokenBuckets
from tests.reference.shared_memory import read_header

WORKERS = 2
BUCKETS = 4
RECORDS = 3
NOW = 10**15
ONE_SECOND = 10**9
FIRST = 1000  # identities of the two buckets
SECOND = 2000


@pytest.fixture
def memory(tmp_path):
    return SharedMemory.create(
        str(tmp_path / "memory"),
        workers=WORKERS,
        buckets=BUCKETS,
        journal_records=RECORDS,
        prefix_bytes=192,
        counter_cells=1,
    )


@pytest.fixture
def buckets(memory):
    return TokenBuckets(memory)


@pytest.fixture
def bucket(buckets):
    """100 tokens a second, 50 at once."""
    index = buckets.open(FIRST, NOW)
    buckets.configure(index, 1, 100, 1, 50, NOW)
    return index


@pytest.fixture
def second_bucket(buckets, bucket):
    index = buckets.open(SECOND, NOW)
    buckets.configure(index, 1, 10, 1, 5, NOW)
    return index


@pytest.fixture
def journal(memory):
    return Journal(memory, 0)


@pytest.fixture
def limits(bucket, second_bucket):
    return LimitSet([(bucket, FIRST, "input"), (second_bucket, SECOND, "output")])


def write_bytes(memory, part, at, content):
    """What a killed process would have left there."""
    with Path(memory.path).open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        place = read_header(memory.path)[part] + at
        mapped[place : place + len(content)] = content


# --- buckets


def test_an_identity_keeps_its_bucket_whoever_asks(memory, buckets):
    assert [buckets.open(identity, NOW) for identity in (1000, 2000, 1000)] == [0, 1, 0]
    assert TokenBuckets(SharedMemory.attach(memory.path)).open(2000, NOW) == 1


def test_the_low_bit_of_an_identity_does_not_tell_buckets_apart(buckets):
    assert buckets.open(1001, NOW) == buckets.open(1000, NOW)
    assert buckets.open(0, NOW) == buckets.open(1, NOW) == buckets.open(2, NOW)


def empty_all(buckets):
    """All places taken, and no bucket full at NOW."""
    indexes = [buckets.open(FIRST + 1000 * i, NOW) for i in range(BUCKETS)]
    for seconds, index in enumerate(indexes, 1):
        buckets.configure(index, 1, 1, 1, 10, NOW)
        buckets.reserve(index, seconds, NOW)
    return indexes


def test_all_buckets_can_be_opened_and_one_more_is_refused_while_all_are_in_use(buckets):
    assert empty_all(buckets) == list(range(BUCKETS))
    with pytest.raises(BucketsFull, match=r"all 4 token buckets are in use: raise `shared_memory\.buckets`"):
        buckets.open(9000, NOW)
    assert buckets.open(SECOND, NOW) == 1
    assert buckets.available(1, NOW) == 8


def test_when_all_places_are_taken_one_whose_bucket_is_full_is_given_away(buckets):
    empty_all(buckets)
    later = NOW + 2 * ONE_SECOND  # by then the first two are full
    buckets.reserve(0, 5, later)
    assert buckets.open(9000, later) == 1
    assert buckets.describe(1, later) is None
    buckets.configure(1, 1, 1, 1, 10, later)
    buckets.reserve(1, 1, later)
    with pytest.raises(BucketsFull):
        buckets.open(SECOND, later)
    assert [buckets.open(FIRST + 1000 * i, later) for i in (0, 2, 3)] == [0, 2, 3]


def test_a_bucket_in_debt_is_not_given_away(buckets):
    empty_all(buckets)
    buckets.settle(2, 0, 10_000, NOW)
    later = NOW + 1000 * ONE_SECOND
    given_away = []
    for identity in range(9000, 9006, 2):
        given_away.append(buckets.open(identity, later))
        buckets.configure(given_away[-1], 1, 1, 1, 10, later)
        buckets.reserve(given_away[-1], 10, later)
    assert given_away == [0, 1, 3]


def test_a_bucket_that_was_given_away_starts_full_with_the_limits_of_its_new_identity(buckets):
    empty_all(buckets)
    later = NOW + ONE_SECOND
    index = buckets.open(9000, later)
    buckets.configure(index, 1, 100, 1, 50, later)  # the generation of the former limits does not stand in the way
    assert buckets.describe(index, later) == {"burst": 50, "available": 50, "seconds_until_full": 0}


def test_what_is_left_is_told_by_identity_and_opens_nothing(buckets):
    for place, identity in enumerate((FIRST, SECOND)):
        buckets.open(identity, NOW)
        buckets.configure(place, 1, 100, 1, 50, NOW)
    buckets.open(7000, NOW)  # and is not configured
    buckets.reserve(0, 20, NOW)
    buckets.settle(1, 0, 150, NOW)
    assert buckets.left([SECOND, 7000, FIRST, 8000, FIRST], NOW) == [-100, None, 30, None, 30]
    assert buckets.left([FIRST, SECOND], NOW + ONE_SECOND // 10) == [40, -90]
    assert buckets.left([8000], NOW) == [None]
    assert buckets.open(9000, NOW) == 3


def test_of_a_leased_bucket_what_the_store_has_left_counts_too(buckets):
    index = buckets.open(FIRST, NOW, store=5, key=6)
    buckets.configure(index, 1, 100, 1, 50, NOW)
    keeper = LeasedBuckets(buckets)
    assert keeper.grant(index, FIRST, 7)
    keeper.tell(index, FIRST, STANDINGS.index("leased"), 0, 30.0, 1.0)
    assert buckets.left([FIRST], NOW) == [pytest.approx(37)]


def leave_claim(memory, index, identity):
    """As a process does that is killed between its claim and its confirmation."""
    write_bytes(memory, "buckets_at", 0, struct.pack("<Q", index + 1))  # high water
    write_bytes(memory, "buckets_at", 64 + 128 * index, struct.pack("<Q", identity | 1))


def test_a_claim_left_by_a_killed_process_goes_at_the_second_sweep_that_sees_it(memory, buckets):
    leave_claim(memory, 0, FIRST)
    with pytest.raises(BucketsFull, match="died while it claimed"):
        buckets.open(FIRST, NOW)
    assert buckets.open(SECOND, NOW) == 1
    buckets.sweep()
    with pytest.raises(BucketsFull, match="died while it claimed"):
        buckets.open(FIRST, NOW)
    buckets.sweep()
    assert buckets.open(FIRST, NOW) == 0
    assert buckets.open(SECOND, NOW) == 1


def test_a_claim_that_another_process_made_since_the_last_sweep_is_left_alone(memory, buckets):
    leave_claim(memory, 0, FIRST)
    buckets.sweep()
    leave_claim(memory, 0, SECOND)
    buckets.sweep()
    with pytest.raises(BucketsFull, match="died while it claimed"):
        buckets.open(SECOND, NOW)


def test_a_sweep_leaves_buckets_in_use_alone(buckets, bucket):
    buckets.reserve(bucket, 10, NOW)
    for _ in range(3):
        buckets.sweep()
    assert buckets.open(FIRST, NOW) == bucket
    assert buckets.available(bucket, NOW) == 40


def test_a_bucket_whose_new_owner_was_killed_does_not_pass_its_former_limits_on(memory, buckets, bucket):
    leave_claim(memory, bucket, SECOND)
    buckets.sweep()
    buckets.sweep()
    index = buckets.open(3000, NOW)
    assert index == bucket
    buckets.configure(index, 1, 10, 1, 5, NOW)
    assert buckets.describe(index, NOW)["burst"] == 5


def test_a_bucket_that_was_just_opened_is_not_given_away(buckets):
    empty_all(buckets)
    later = NOW + 100 * ONE_SECOND
    opened = [buckets.open(identity, later) for identity in (9000, 9002, 9004)]
    assert len(set(opened)) == 3


def test_a_bucket_that_was_never_configured_admits_nothing_and_describes_nothing(buckets):
    index = buckets.open(1000, NOW)
    assert buckets.reserve(index, 1, NOW) == inf
    assert buckets.available(index, NOW) == 0.0
    assert buckets.describe(index, NOW) is None
    buckets.settle(index, 0, 10, NOW)
    assert buckets.describe(index, NOW) is None


def test_a_bucket_is_full_once_configured(buckets, bucket):
    assert buckets.available(bucket, NOW) == 50
    assert buckets.describe(bucket, NOW) == {"burst": 50, "available": 50, "seconds_until_full": 0}


def test_tokens_that_are_there_are_taken(buckets, bucket):
    assert buckets.reserve(bucket, 20, NOW) == 0.0
    assert buckets.reserve(bucket, 30, NOW) == 0.0
    assert buckets.describe(bucket, NOW) == {"burst": 50, "available": 0, "seconds_until_full": 0.5}


def test_a_refusal_takes_nothing_and_says_how_long_to_wait(buckets, bucket):
    buckets.reserve(bucket, 50, NOW)
    assert buckets.reserve(bucket, 10, NOW) == pytest.approx(0.1, abs=1e-8)
    assert buckets.reserve(bucket, 1, NOW) == pytest.approx(0.01, abs=1e-8)
    assert buckets.available(bucket, NOW) == 0
    assert buckets.reserve(bucket, 10, NOW + ONE_SECOND // 10 - 10) > 0
    assert buckets.reserve(bucket, 10, NOW + ONE_SECOND // 10) == 0.0


def test_tokens_flow_in_at_the_rate_and_stop_at_the_burst(buckets, bucket):
    buckets.reserve(bucket, 50, NOW)
    assert [round(buckets.available(bucket, NOW + ONE_SECOND * i // 10)) for i in range(8)] == [
        0,
        10,
        20,
        30,
        40,
        50,
        50,
        50,
    ]


def test_more_than_the_burst_never_fits(buckets, bucket):
    assert buckets.reserve(bucket, 51, NOW) == inf
    assert buckets.reserve(bucket, 1 << 62, NOW) == inf
    assert buckets.reserve(bucket, 50, NOW) == 0.0


def test_no_tokens_are_always_admitted_but_in_debt(buckets, bucket):
    buckets.reserve(bucket, 50, NOW)
    assert buckets.reserve(bucket, 0, NOW) == 0.0
    buckets.settle(bucket, 0, 10, NOW)
    assert buckets.reserve(bucket, 0, NOW) == pytest.approx(0.1, abs=1e-8)


def test_a_burst_below_one_admits_no_token(buckets):
    index = buckets.open(1000, NOW)
    buckets.configure(index, 1, 100, 1, 0.5, NOW)
    assert buckets.reserve(index, 1, NOW) == inf


def test_a_process_that_read_its_clock_earlier_is_not_admitted_more(buckets, bucket):
    buckets.reserve(bucket, 50, NOW)
    assert buckets.reserve(bucket, 1, NOW - ONE_SECOND) == pytest.approx(1.01, abs=1e-8)


def test_settling_gives_back_what_was_not_used(buckets, bucket):
    buckets.reserve(bucket, 50, NOW)
    buckets.settle(bucket, 50, 20, NOW)
    assert buckets.available(bucket, NOW) == 30


def test_settling_exactly_what_was_used_changes_nothing(buckets, bucket):
    buckets.reserve(bucket, 50, NOW)
    before = buckets.describe(bucket, NOW)
    buckets.settle(bucket, 50, 50, NOW)
    assert buckets.describe(bucket, NOW) == before


def test_settling_more_than_was_reserved_goes_into_debt(buckets, bucket):
    buckets.reserve(bucket, 10, NOW)
    buckets.settle(bucket, 10, 150, NOW)
    assert buckets.describe(bucket, NOW) == {"burst": 50, "available": -100, "seconds_until_full": 1.5}
    assert buckets.reserve(bucket, 1, NOW) == pytest.approx(1.01, abs=1e-8)


def test_debt_of_an_idle_bucket_starts_from_full(buckets, bucket):
    buckets.settle(bucket, 0, 10, NOW + 100 * ONE_SECOND)
    assert buckets.available(bucket, NOW + 100 * ONE_SECOND) == 40


def test_giving_back_late_never_fills_above_the_burst(buckets, bucket):
    buckets.reserve(bucket, 50, NOW)
    buckets.settle(bucket, 50, 0, NOW + 10 * ONE_SECOND)
    assert buckets.available(bucket, NOW + 10 * ONE_SECOND) == 50
    assert buckets.reserve(bucket, 50, NOW + 10 * ONE_SECOND) == 0.0
    assert buckets.reserve(bucket, 1, NOW + 10 * ONE_SECOND) > 0


def test_a_huge_debt_is_a_debt(buckets, bucket):
    buckets.settle(bucket, 0, 1 << 62, NOW)
    assert buckets.available(bucket, NOW) < 0


@pytest.mark.parametrize("arguments", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (-1, 1, 1), (1, -1, 1), (1, 1, -1)])
def test_limits_must_be_above_0(buckets, bucket, arguments):
    with pytest.raises(ValueError, match="above 0"):
        buckets.configure(bucket, 2, *arguments, NOW)
    assert buckets.available(bucket, NOW) == 50


@pytest.mark.parametrize("number", [nan, inf])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_limits_must_be_finite_numbers(buckets, bucket, number, position):
    arguments = [1.0, 1.0, 1.0]
    arguments[position] = number
    with pytest.raises(ValueError, match="tokens, seconds and burst"):
        buckets.configure(bucket, 2, *arguments, NOW)


def test_a_bucket_that_takes_longer_to_fill_than_its_clock_can_say_is_refused(buckets):
    index = buckets.open(FIRST, NOW)
    year = 365 * 86_400
    with pytest.raises(ValueError, match="to fill"):
        buckets.configure(index, 1, 1, year, 5, NOW)
    buckets.configure(index, 1, 1, year, 4, NOW)
    assert sum(buckets.reserve(index, 1, NOW) == 0.0 for _ in range(100)) == 4


# --- change of limits


def test_a_change_of_limits_keeps_the_share_in_use(buckets, bucket):
    buckets.reserve(bucket, 20, NOW)
    buckets.configure(bucket, 2, 1000, 1, 500, NOW)
    assert buckets.available(bucket, NOW) == pytest.approx(300)
    buckets.configure(bucket, 3, 10, 1, 5, NOW)
    assert buckets.available(bucket, NOW) == pytest.approx(3)


def test_a_change_of_limits_keeps_a_debt(buckets, bucket):
    buckets.settle(bucket, 0, 100, NOW)
    buckets.configure(bucket, 2, 10, 1, 5, NOW)
    assert buckets.available(bucket, NOW) == pytest.approx(-5)


def test_a_change_of_limits_keeps_a_debt_of_many_bursts(buckets):
    index = buckets.open(FIRST, NOW)
    buckets.configure(index, 1, 1, 1, 1, NOW)
    buckets.settle(index, 0, 500_000, NOW)
    buckets.configure(index, 2, 10**6, 86_400, 10**6, NOW)
    assert buckets.available(index, NOW) < 0


def test_a_change_of_limits_leaves_a_full_bucket_full(buckets, bucket):
    buckets.configure(bucket, 2, 10, 1, 5, NOW + ONE_SECOND)
    assert buckets.describe(bucket, NOW + ONE_SECOND) == {"burst": 5, "available": 5, "seconds_until_full": 0}


def test_a_change_of_limits_does_not_refill_an_empty_bucket(buckets, bucket):
    buckets.reserve(bucket, 50, NOW)
    for generation in range(2, 40):
        buckets.configure(bucket, generation, 100 + generation, 1, 50 + generation, NOW)
        assert buckets.available(bucket, NOW) == pytest.approx(0, abs=1e-3)
        assert buckets.reserve(bucket, 1, NOW) > 0


def test_the_same_change_by_many_workers_is_one(memory, buckets, bucket):
    buckets.reserve(bucket, 20, NOW)
    for _ in range(5):
        TokenBuckets(SharedMemory.attach(memory.path)).configure(bucket, 2, 1000, 1, 500, NOW)
    assert buckets.available(bucket, NOW) == pytest.approx(300)


@pytest.mark.parametrize("generation", [0, 1, 2])
def test_limits_of_the_same_or_an_older_generation_change_nothing(buckets, bucket, generation):
    buckets.configure(bucket, 2, 100, 1, 50, NOW)
    buckets.configure(bucket, generation, 1000, 1, 500, NOW)
    assert buckets.describe(bucket, NOW)["burst"] == 50


def test_a_newer_generation_of_the_same_limits_outdates_the_former(buckets, bucket):
    buckets.reserve(bucket, 20, NOW)
    before = buckets.describe(bucket, NOW)
    buckets.configure(bucket, 5, 100, 1, 50, NOW)
    buckets.configure(bucket, 4, 1000, 1, 500, NOW)
    assert buckets.describe(bucket, NOW) == before


def test_limits_can_change_more_often_than_a_bucket_has_versions(buckets, bucket):
    buckets.reserve(bucket, 25, NOW)
    for generation in range(2, 200):
        buckets.configure(bucket, generation, generation, 1, 1000 * generation, NOW)
        state = buckets.describe(bucket, NOW)
        assert state["burst"] == pytest.approx(1000 * generation)
        assert state["available"] / state["burst"] == pytest.approx(0.5, rel=1e-6)


def test_buckets_out_of_range_are_refused(buckets):
    for call in (
        lambda: buckets.configure(BUCKETS, 1, 1, 1, 1, NOW),
        lambda: buckets.reserve(BUCKETS, 1, NOW),
        lambda: buckets.settle(BUCKETS, 1, 1, NOW),
        lambda: buckets.available(BUCKETS, NOW),
        lambda: buckets.describe((1 << 64) - 1, NOW),
    ):
        with pytest.raises(IndexError):
            call()


def test_negative_tokens_are_refused(buckets, bucket, journal, limits):
    with pytest.raises(ValueError, match="negative"):
        buckets.reserve(bucket, -1, NOW)
    for tokens in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="negative"):
            journal.take(limits, *tokens, NOW)
    assert journal.in_use == 0
    assert buckets.available(bucket, NOW) == 50


# --- limit sets


def test_a_limit_set_has_up_to_sixteen_limits(bucket):
    assert [len(LimitSet([(bucket, FIRST, "input")] * count)) for count in (0, 1, 16)] == [0, 1, 16]
    with pytest.raises(ValueError, match="at most 16 limits, not 17"):
        LimitSet([(bucket, FIRST, "input")] * 17)


def test_a_limit_set_knows_three_kinds_and_no_other():
    assert set(KINDS) == {"input", "output", "requests"}
    with pytest.raises(KeyError):
        LimitSet([(0, FIRST, "tokens")])


# --- journal


def test_all_limits_are_taken_in_one_call(buckets, bucket, second_bucket, journal):
    limits = LimitSet([(bucket, FIRST, "input"), (bucket, FIRST, "requests"), (second_bucket, SECOND, "output")])
    handle = journal.take(limits, 20, 3, NOW)
    assert handle >= 0
    assert (journal.refused, journal.in_use) == (-1, 1)
    assert buckets.available(bucket, NOW) == 29
    assert buckets.available(second_bucket, NOW) == 2


@pytest.mark.parametrize(
    ("tokens", "refused", "wait"), [((51, 1), 0, inf), ((20, 6), 1, inf), ((20, 4), 1, 0.2), ((60, 6), 0, inf)]
)
def test_a_refusal_takes_nothing_and_names_the_first_limit_that_refused(
    buckets, bucket, second_bucket, journal, limits, tokens, refused, wait
):
    buckets.reserve(second_bucket, 3, NOW)
    assert journal.take(limits, *tokens, NOW) == -1
    assert journal.refused == refused
    assert journal.wait == pytest.approx(wait, abs=1e-8)
    assert (buckets.available(bucket, NOW), buckets.available(second_bucket, NOW)) == (50, 2)
    assert journal.in_use == 0


def test_a_request_that_a_later_limit_can_never_hold_is_told_so_though_the_first_only_lacks_it_now(
    buckets, bucket, second_bucket, journal, limits
):
    buckets.reserve(bucket, 50, NOW)
    assert journal.take(limits, 1, 5, NOW) == -1
    assert (journal.refused, isinf(journal.wait)) == (0, False)
    assert journal.take(limits, 1, 6, NOW) == -1
    assert (journal.refused, isinf(journal.wait)) == (1, True)
    assert (buckets.available(bucket, NOW), buckets.available(second_bucket, NOW)) == (0, 5)


def test_a_refusal_is_forgotten_with_the_next_admission(journal, limits):
    journal.take(limits, 51, 0, NOW)
    assert journal.refused == 0
    journal.take(limits, 1, 0, NOW)
    assert journal.refused == -1


def test_a_limit_that_was_never_configured_refuses_for_ever(buckets, journal, bucket):
    unknown = buckets.open(3000, NOW)
    assert journal.take(LimitSet([(bucket, FIRST, "input"), (unknown, 3000, "requests")]), 5, 0, NOW) == -1
    assert (journal.refused, isinf(journal.wait)) == (1, True)
    assert buckets.available(bucket, NOW) == 50


def test_no_limits_admit_everything(journal):
    limits = LimitSet([])
    handle = journal.take(limits, 1 << 40, 1 << 40, NOW)
    assert handle >= 0
    journal.settle(limits, handle, 5, 5, NOW)
    assert journal.in_use == 0


def test_settling_a_request_corrects_its_tokens_and_keeps_its_count(buckets, bucket, second_bucket, journal):
    limits = LimitSet([(bucket, FIRST, "input"), (second_bucket, SECOND, "requests")])
    handle = journal.take(limits, 20, 0, NOW)
    journal.settle(limits, handle, 5, 99, NOW)
    assert (buckets.available(bucket, NOW), buckets.available(second_bucket, NOW)) == (45, 4)
    assert journal.in_use == 0


def test_settling_a_request_may_go_into_debt(buckets, second_bucket, journal, limits):
    journal.settle(limits, journal.take(limits, 0, 5, NOW), 0, 15, NOW)
    assert buckets.available(second_bucket, NOW) == -10


def test_cancelling_a_request_gives_all_back_its_count_too(buckets, bucket, second_bucket, journal):
    limits = LimitSet([(bucket, FIRST, "input"), (second_bucket, SECOND, "requests")])
    journal.cancel(journal.take(limits, 20, 0, NOW), NOW)
    assert (buckets.available(bucket, NOW), buckets.available(second_bucket, NOW)) == (50, 5)
    assert journal.in_use == 0


def test_a_request_is_closed_once(buckets, bucket, journal, limits):
    handle = journal.take(limits, 20, 0, NOW)
    journal.settle(limits, handle, 20, 0, NOW)
    with pytest.raises(ValueError, match=f"journal record {handle} is not in use"):
        journal.settle(limits, handle, 0, 0, NOW)
    with pytest.raises(ValueError, match="not in use"):
        journal.cancel(handle, NOW)
    with pytest.raises(ValueError, match="not in use"):
        journal.cancel(RECORDS, NOW)
    assert buckets.available(bucket, NOW) == 30
    assert journal.in_use == 0


def test_a_full_journal_takes_nothing_more_until_a_request_is_closed(buckets, bucket, journal, limits):
    handles = [journal.take(limits, 1, 0, NOW) for _ in range(RECORDS)]
    assert len(set(handles)) == RECORDS
    with pytest.raises(JournalFull, match=r"all 3 journal records are in use: raise `shared_memory\.journal_records`"):
        journal.take(limits, 1, 0, NOW)
    assert buckets.available(bucket, NOW) == 50 - RECORDS
    journal.cancel(handles[1], NOW)
    assert journal.take(limits, 1, 0, NOW) == handles[1]


def test_refusals_use_no_records_up(journal, limits):
    for _ in range(5 * RECORDS):
        assert journal.take(limits, 51, 0, NOW) == -1
    assert journal.take(limits, 1, 0, NOW) >= 0


def test_workers_have_journals_of_their_own(memory, journal, limits):
    other = Journal(memory, 1)
    journal.take(limits, 1, 0, NOW)
    assert (other.in_use, other.recover(NOW)) == (0, 0)
    assert journal.in_use == 1
    with pytest.raises(IndexError):
        Journal(memory, WORKERS)


def test_a_limit_that_names_no_bucket_holds_nothing(memory, buckets, bucket, journal):
    with pytest.raises(IndexError):
        journal.take(LimitSet([(bucket, FIRST, "input"), (BUCKETS, FIRST, "input")]), 20, 0, NOW)
    assert buckets.available(bucket, NOW) == 50
    assert Journal(memory, 0).in_use == 0


@pytest.mark.parametrize("stale", [0, 1])
def test_a_set_with_a_bucket_of_another_identity_is_stale_and_holds_nothing(
    buckets, bucket, second_bucket, journal, stale
):
    identities = [FIRST, SECOND]
    identities[stale] = 9000
    limits = LimitSet([(bucket, identities[0], "input"), (second_bucket, identities[1], "requests")])
    assert journal.take(limits, 20, 0, NOW) == STALE
    assert (buckets.available(bucket, NOW), buckets.available(second_bucket, NOW)) == (50, 5)
    assert journal.in_use == 0


def test_the_low_bit_of_an_identity_makes_no_limit_stale(bucket, journal):
    assert journal.take(LimitSet([(bucket, FIRST | 1, "input")]), 20, 0, NOW) >= 0


def test_a_stale_set_is_refused_by_no_limit(journal, limits, bucket):
    journal.take(limits, 51, 0, NOW)
    assert journal.take(LimitSet([(bucket, 9000, "input")]), 1, 0, NOW) == STALE
    assert journal.refused == -1


@pytest.mark.parametrize("close", ["settle", "cancel", "recover"])
def test_tokens_are_not_given_back_to_a_bucket_that_was_given_away(memory, buckets, journal, close):
    empty_all(buckets)
    later = NOW + ONE_SECOND
    buckets.settle(1, 2, 0, later)
    limits = LimitSet([(1, SECOND, "input")])
    handle = journal.take(limits, 1, 0, later)
    later += ONE_SECOND
    for index in (0, 2, 3):
        buckets.reserve(index, 5, later)
    assert buckets.open(9000, later) == 1
    buckets.configure(1, 1, 1, 1, 10, later)
    buckets.reserve(1, 10, later)
    if close == "settle":
        journal.settle(limits, handle, 5, 0, later)
    elif close == "cancel":
        journal.cancel(handle, later)
    else:
        assert Journal(memory, 0).recover(later) == 1
    assert buckets.available(1, later) == 0
    assert Journal(memory, 0).in_use == 0


def test_what_a_dead_worker_held_is_given_back(memory, buckets, bucket, second_bucket, limits):
    dead = Journal(SharedMemory.attach(memory.path), 0)
    dead.take(limits, 20, 2, NOW)
    dead.settle(limits, dead.take(limits, 10, 1, NOW), 7, 1, NOW)
    dead.take(limits, 5, 1, NOW)
    assert (buckets.available(bucket, NOW), buckets.available(second_bucket, NOW)) == (18, 1)
    supervisor = Journal(memory, 0)
    assert supervisor.in_use == 2
    assert supervisor.recover(NOW) == 2
    assert supervisor.recover(NOW) == 0
    assert (buckets.available(bucket, NOW), buckets.available(second_bucket, NOW)) == (43, 4)
    assert Journal(memory, 0).in_use == 0


@pytest.mark.parametrize(("held", "available"), [(0, (50, 5)), (1, (50, 3)), (2, (50, 5))])
def test_a_record_of_a_worker_killed_while_it_took_gives_back_as_far_as_it_says(
    memory, buckets, bucket, second_bucket, held, available
):
    # taken at as many buckets as it says; when it says 1, the second was taken and not yet written down: that one is lost
    buckets.reserve(bucket, 20 if held else 0, NOW)
    buckets.reserve(second_bucket, 2 if held else 0, NOW)
    write_bytes(memory, "journals_at", 0, struct.pack("<8q", 1, held, bucket, FIRST, 20, second_bucket, SECOND, 2))
    journal = Journal(memory, 0)
    assert journal.in_use == 1
    assert journal.recover(NOW) == 1
    assert (buckets.available(bucket, NOW), buckets.available(second_bucket, NOW)) == available
    assert journal.in_use == 0


def test_a_damaged_record_is_recovered_without_touching_memory_beyond_the_buckets(memory, buckets, bucket):
    entries = struct.pack("<2Q48q", 1, 1 << 60, bucket, FIRST, 10, *[1 << 50, FIRST, 7] * 15)
    write_bytes(memory, "journals_at", 400, entries)
    buckets.reserve(bucket, 10, NOW)
    assert Journal(memory, 0).recover(NOW) == 1
    assert buckets.available(bucket, NOW) == 50
