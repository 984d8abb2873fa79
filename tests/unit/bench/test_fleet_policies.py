"""Each policy of the fleet by a figure that its makers publish, or a decision that follows from their constants."""

from collections import Counter

import pytest

from bench.fleet.engine import Scrape
from bench.fleet.policies import POLICIES, aibrix, dynamo, kthena, llm_d, smg
from bench.fleet.policies.base import Prefixes, Router, Setting
from bench.fleet.trace import Prompted

BLOCK = 512


def prompted(number, ids, tokens=None, output=100):
    tokens = len(ids) * BLOCK if tokens is None else tokens
    return Prompted(number, 0.0, tokens, output, tuple(ids), tuple(ids[: tokens // BLOCK]))


def fresh(number, blocks=4):
    """A prompt that nobody shares."""
    return prompted(number, range(number * 1000, number * 1000 + blocks))


@pytest.fixture
def make():
    made = []

    def one(name, engines=4, seed=1) -> Router:
        made.append(POLICIES[name](Setting(engines, BLOCK, 524_288, seed)))
        return made[-1]

    yield one
    for router in made:
        router.close()


@pytest.mark.parametrize("name", POLICIES)
def test_all_choose_an_engine_there_is_and_count_what_is_in_flight(make, name):
    router = make(name)
    requests = [fresh(number) for number in range(1, 21)]
    for engine in range(4):
        router.scraped(engine, Scrape(0, 0, 0.0), 0.0)
    engines = [router.route(one, 0.1) for one in requests]
    assert set(engines) <= set(range(4))
    assert router.in_flight == [engines.count(engine) for engine in range(4)]
    for one in requests:
        router.first_token(one, 1.0)
        router.finish(one, 2.0)
    assert router.in_flight == [0] * 4


def test_least_computed_evens_out_tokens_and_forgets_what_is_older_than_a_minute(make):
    router = make("least-computed", 2)
    first = router.route(fresh(1, 8), 0.0)
    assert [router.route(fresh(number, 4), 1.0) for number in (2, 3)] == [1 - first] * 2
    router.route(fresh(4, 1), 59.0)
    assert router.route(fresh(5, 1), 60.5) == first


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"round-robin", "random", "least-requests", "least-computed"}))
def test_all_that_look_at_prefixes_send_a_known_prompt_where_it_is(make, name):
    for seed in range(5):
        router = make(name, seed=seed)
        first = router.route(fresh(1, 8), 0.0)
        router.first_token(fresh(1, 8), 0.5)
        router.stored(first, fresh(1, 8).whole)
        router.finish(fresh(1, 8), 1.0)
        assert router.route(prompted(2, fresh(1, 8).ids), 10.0) == first


def test_round_robin_takes_turns(make):
    router = make("round-robin", 3)
    assert [router.route(fresh(number), 0.0) for number in range(1, 7)] == [0, 1, 2, 0, 1, 2]


def test_random_is_even_in_the_long_run(make):
    router = make("random")
    counts = Counter(router.choose(fresh(1), 0.0) for _ in range(4000))
    assert min(counts.values()) > 900


def test_least_requests_fills_up_the_emptiest(make):
    router = make("least-requests")
    for number in range(1, 9):
        router.route(fresh(number), 0.0)
    assert router.in_flight == [2, 2, 2, 2]
    router.finish(fresh(5), 1.0)
    assert router.choose(fresh(9), 1.0) == router.in_flight.index(1)


def test_the_bounded_ring_lets_nobody_have_a_quarter_more_than_the_mean(make):
    router = make("bounded-hash")
    for number in range(1, 41):
        router.route(prompted(number, [7, 8, number]), 0.0)  # one key for all
    assert max(router.in_flight) == 13  # 1.25 x 40 / 4, rounded up
    assert min(router.in_flight) < 5


# -- the reference system ------------------------------------------------------------------------------------------


def test_kthena_a_request_against_none_scores_0_against_100():
    idle = Scrape(0, 0, 0.0)
    assert kthena.least_request([1, 0], [idle._replace(running=1), idle]) == [0, 100]
    assert kthena.least_request([0, 0], [idle, idle]) == [100, 100]


def test_kthena_what_does_not_run_yet_counts_a_hundredfold():
    scrapes = [Scrape(4, 0, 0.0), Scrape(10, 0, 0.0)]
    assert kthena.least_request([5, 10], scrapes) == [0, 100 * (105 - 10) // 105]


def test_kthena_filters_engines_with_ten_that_wait():
    assert kthena.filtered([Scrape(1, 10, 0.0), Scrape(1, 9, 0.0)]) == [1]
    assert kthena.filtered([Scrape(1, 10, 0.0), Scrape(1, 11, 0.0)]) == [0, 1]


def test_kthena_latency_is_50_for_who_was_not_measured_in_the_last_second():
    scrapes = [Scrape(1, 0, 0.0, 0.2, 0.02), Scrape(1, 0, 0.0, 0.4, 0.01), Scrape(1, 0, 0.0, 0.3, 0.0)]
    assert kthena.least_latency(scrapes) == [50, 50, 50]
    scrapes[1] = Scrape(1, 0, 0.0, 0.4, 0.02)
    assert kthena.least_latency(scrapes) == [100, 50, 50]


def test_kthena_default_sees_128_blocks_of_64_bytes_and_learns_when_the_answer_is_over(make):
    router = make("kthena-default")
    long = prompted(1, range(100, 110))
    engine = router.route(long, 0.0)
    assert router.prefix_cache(long) == [0, 0, 0, 0]
    router.finish(long, 1.0)
    assert router.prefix_cache(prompted(2, [100, 101, 102, 103, 999]))[engine] == 100
    assert router.prefix_cache(prompted(3, [100, 101, 998]))[engine] == 100 * 64 // 96


def test_kthena_best_follows_events(make):
    router = make("kthena-best")
    router.stored(2, [1, 2, 3])
    assert router.choose(prompted(1, [1, 2, 3, 4]), 0.0) == 2
    router.removed(2, [1])
    assert router.scores(prompted(1, [1, 2, 3, 4]))[1] == [0, 0, 0, 0]


# -- SMG -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loads, imbalanced",
    [([0, 64], False), ([0, 65], True), ([130, 195], False), ([129, 195], True), ([200, 280], False)],
)
def test_smg_is_out_of_balance_above_64_requests_and_half_as_many_again(loads, imbalanced):
    assert smg.is_imbalanced(loads) is imbalanced


def test_smg_follows_a_match_above_three_tenths_until_out_of_balance(make):
    router = make("smg-cache-aware", 2)
    owner = router.route(prompted(1, range(10)), 0.0)
    assert router.choose(prompted(2, [0, 1, 2, *range(50, 57)]), 0.0) == 1 - owner  # 0.3 is not above 0.3
    for number in range(2, 66):
        assert router.route(prompted(number, [0, 1, 2, 3, *range(50, 56)]), 0.0) == owner
    assert router.in_flight[owner] == 65
    assert router.choose(prompted(99, range(10)), 0.0) == 1 - owner


# -- Dynamo --------------------------------------------------------------------------------------------------------


def test_dynamo_cost_is_prefill_less_overlap_and_decode_blocks():
    # three workers, ten blocks: overlap 2, 5 and 8, decode 10, 5 and 9: 18, 10 and 11
    assert [dynamo.cost(0, 10, *one) for one in ((2, 10), (5, 5), (8, 9))] == [18, 10, 11]
    assert dynamo.cost(0, 4, 9, 3) == 3  # a credit is no gift


def test_dynamo_counts_a_block_that_several_use_once_and_prompts_until_their_first_token(make):
    router = make("dynamo-cost", 2)
    engine = router.route(prompted(1, [1, 2, 3]), 0.0)
    assert router.decode_blocks(engine, [1, 2, 9]) == 4
    assert router.decode_blocks(1 - engine, [1, 2, 9]) == 3
    assert router.choose(prompted(2, [7, 8, 9]), 0.0) == 1 - engine
    # with its overlap the engine costs 3 + 3 queued - 3 + 3, the other 3 + 3: equal, until the first token
    assert {router.choose(prompted(2, [1, 2, 3]), 1.0) for _ in range(40)} == {0, 1}
    router.first_token(prompted(1, [1, 2, 3]), 2.0)
    assert {router.choose(prompted(2, [1, 2, 3]), 2.0) for _ in range(40)} == {engine}


def test_dynamo_expects_what_it_sent_for_five_seconds(make):
    router = make("dynamo-cost", 2)
    engine = router.route(prompted(1, [1, 2, 3]), 10.0)
    assert router.overlaps(prompted(2, [1, 2, 4]), 14.9)[engine] == 2
    assert router.overlaps(prompted(2, [1, 2, 4]), 15.0)[engine] == 0


# -- llm-d ---------------------------------------------------------------------------------------------------------


def test_llm_d_queue_scores_are_spread_over_the_pool():
    assert llm_d.queue_scores([0, 5, 10]) == [1.0, 0.5, 0.0]
    assert llm_d.queue_scores([3, 3]) == [1.0, 1.0]


def test_llm_d_default_leaves_its_prefix_for_a_queue_and_a_full_cache(make):
    router = make("llm-d-default", 2)
    owner = router.route(fresh(1), 0.0)
    known = prompted(2, fresh(1).ids)
    for waiting, usage, expected in ((5, 0.4, owner), (5, 0.6, 1 - owner), (0, 1.0, owner)):  # 3 against 2 + 2 x usage
        router.scraped(owner, Scrape(9, waiting, usage), 0.0)
        assert router.choose(known, 0.0) == expected


def test_llm_d_ranks_cold_requests_by_who_has_waited_longest_for_one(make):
    router = make("llm-d-default")
    assert sorted(router.route(fresh(number), 0.0) for number in range(1, 5)) == [0, 1, 2, 3]
    assert router.no_hit_scores([0.0, 0.5, 0.0, 0.0]) == [0.5] * 4


def test_llm_d_newest_sticks_until_286720_tokens_more_are_in_flight():
    published = 286_720  # endpoint-pickers 5.1: peak x penalty
    assert abs(llm_d.PEAK_PREFILL * llm_d.TTFT_PENALTY_SECONDS - published) < 0.001 * published
    hits = [0.8, 0.79, 0.0]
    assert llm_d.sticky(hits, [280_000.0, 0.0, 0.0]) == [0]
    assert llm_d.sticky(hits, [290_000.0, 0.0, 0.0]) == [0, 1, 2]


def test_llm_d_token_load_is_of_four_million():
    assert llm_d.token_load_score(1_048_576, 1_048_576) == 0.5
    assert llm_d.token_load_score(5_000_000, 0) == 0.0


# -- AIBrix --------------------------------------------------------------------------------------------------------


def test_aibrix_leaves_prefixes_aside_above_a_spread_of_eight():
    assert not aibrix.is_imbalanced([8, 0, 3])
    assert aibrix.is_imbalanced([9, 0, 3])


def test_aibrix_chooses_for_the_cache_up_to_one_deviation_above_the_mean():
    assert aibrix.is_near_mean([0, 4, 4, 8]) == [True, True, True, False]  # mean 4, deviation 2.8


# -- ours ----------------------------------------------------------------------------------------------------------


def test_ours_weighs_what_is_queued_against_what_is_cached(make):
    router = make("ours", 2)
    owner = router.route(prompted(1, range(4)), 0.0)
    # 2,048 tokens are queued there and 2,048 cached: what would be computed anew counts four times while one engine of two is busy
    assert router.choose(prompted(2, [*range(4), 9]), 0.0) == owner
    # 2,560 and 512 more are queued there by now, and 512 cached
    assert router.choose(prompted(4, [0, 10]), 0.0) == 1 - owner
    router.first_token(prompted(1, range(4)), 0.5)
    assert router.choose(prompted(3, [*range(4), 8]), 0.5) == owner


def test_ours_believes_scrapes(make):
    router = make("ours", 2)
    router.scraped(0, Scrape(20, 0, 0.0), 1.0)
    router.scraped(1, Scrape(2, 0, 0.0), 1.0)
    assert router.choose(fresh(1), 1.5) == 1


def test_ours_hashes_sixteen_tokens_a_block_as_64_bytes_are(make):
    router = make("ours")
    hashes = list(router.hashes(prompted(1, [5, 6], tokens=512 + 40)))
    assert len(hashes) == (512 + 40) // 16
    assert hashes[:32] == list(router.hashes(prompted(2, [5, 9])))[:32]
    assert len(set(hashes)) == len(hashes)


# -- the index of the others ---------------------------------------------------------------------------------------


def test_prefixes_are_matched_from_the_first_block_and_forgotten_oldest_first():
    prefixes = Prefixes(3, 3)
    prefixes.learn(0, [1, 2, 3])
    prefixes.learn(1, [2, 3])
    assert prefixes.match([1, 2, 9]) == [2, 0, 0]
    prefixes.learn(0, [7])
    assert prefixes.match([1, 2, 3]) == [2, 0, 0]
    prefixes.forget(0, [1, 42])
    assert prefixes.match([1, 2]) == [0, 0, 0]
    assert prefixes.match([]) == [0, 0, 0]
