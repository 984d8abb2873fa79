"""What clients are told of their limits."""

import pytest

from _fastpath.limit_headers import limit_headers
from _fastpath.shared_memory import SharedMemory
from _fastpath.token_bucket import LimitSet, TokenBuckets

NOW = 10**15
SECOND = 10**9


@pytest.fixture
def buckets(tmp_path):
    return TokenBuckets(SharedMemory.create(str(tmp_path / "memory"), workers=1, buckets=8, prefix_bytes=192))


def opened(buckets, identity, tokens, seconds, burst):
    place = buckets.open(identity, NOW)
    buckets.configure(place, 1, tokens, seconds, burst, NOW)
    return place


def test_a_limit_says_its_burst_what_is_left_and_when_it_is_full(buckets):
    place = opened(buckets, 7, 60, 60, 10)
    buckets.settle(place, 0, 4, NOW)
    assert limit_headers(buckets, LimitSet([(place, 7, "requests")]), NOW) == (
        ("x-ratelimit-limit-requests", "10"),
        ("x-ratelimit-remaining-requests", "6"),
        ("x-ratelimit-reset-requests", "4.000s"),
    )


def test_of_limits_on_tokens_the_tightest_is_told(buckets):
    wide, narrow = opened(buckets, 7, 1000, 1, 1000), opened(buckets, 8, 100, 1, 100)
    limits = LimitSet([(wide, 7, "input"), (narrow, 8, "output")])
    assert dict(limit_headers(buckets, limits, NOW)) == {
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "100",
        "x-ratelimit-reset-tokens": "0.000s",
    }
    buckets.settle(wide, 0, 950, NOW)
    assert dict(limit_headers(buckets, limits, NOW))["x-ratelimit-remaining-tokens"] == "50"


def test_what_is_told_changes_with_the_bucket(buckets):
    place = opened(buckets, 7, 10, 1, 10)
    limits = LimitSet([(place, 7, "input")])
    for taken, left, reset in ((0, "10", "0.000s"), (4, "6", "0.400s"), (0, "6", "0.400s"), (-4, "10", "0.000s")):
        buckets.settle(place, 0, taken, NOW)
        assert [text for _, text in limit_headers(buckets, limits, NOW)] == ["10", left, reset]


def test_nothing_is_left_in_debt(buckets):
    place = opened(buckets, 7, 10, 1, 10)
    buckets.settle(place, 0, 35, NOW)
    found = dict(limit_headers(buckets, LimitSet([(place, 7, "input")]), NOW + SECOND // 2))
    assert (found["x-ratelimit-remaining-tokens"], found["x-ratelimit-reset-tokens"]) == ("0", "3.000s")


def test_a_bucket_that_is_somebody_elses_is_left_out(buckets):
    place = opened(buckets, 7, 10, 1, 10)
    assert limit_headers(buckets, LimitSet([(place, 8, "input")]), NOW) == ()
    assert limit_headers(buckets, LimitSet([(buckets.open(9, NOW), 9, "input")]), NOW) == ()


def test_a_place_that_does_not_exist_is_refused(buckets):
    with pytest.raises(IndexError):
        limit_headers(buckets, LimitSet([(8, 7, "input")]), NOW)
