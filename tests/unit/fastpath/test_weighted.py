"""The weighted scores."""

from collections import Counter

import pytest

from _fastpath.policy import Policy
from _fastpath.pool import Pool
from tests.unit.fastpath.fleets import NOW, SQL, Fleet, hashes, weighted, with_adapters


def test_huge_weights_make_all_equal(fleet: Fleet) -> None:
    """The scores overflow to infinity, and 0 times it is no number."""
    pool = fleet.pool(3)
    fleet.scrape(0, running=5, kv_usage=1)
    assert {fleet.dry(pool, weighted(least_request=1.7e308))[0] for _ in range(50)} <= {0, 1, 2}


def test_a_session_stays_where_it_is_whatever_else_is_there(fleet: Fleet) -> None:
    """Also in another gateway, whose slots are others, and with an endpoint less."""
    policy = weighted(session=1)
    names = range(100, 110)
    pool = Pool([(slot, 0, 1, 0, name) for slot, name in enumerate(names)])
    shuffled = Pool([(slot, 0, 1, 0, name) for slot, name in enumerate(reversed(names))])
    owners = {session: fleet.dry(pool, policy, session=session)[0] for session in range(1, 400)}
    assert {9 - fleet.dry(shuffled, policy, session=session)[0] for session in owners} == set(range(10))
    assert all(9 - fleet.dry(shuffled, policy, session=session)[0] == owner for session, owner in owners.items())
    without = Pool([(slot, 0, 1, 0, name) for slot, name in enumerate(names) if name != 103])
    moved = [
        session
        for session, owner in owners.items()
        if owner != 3 and names[owner] != [*names[:3], *names[4:]][fleet.dry(without, policy, session=session)[0]]
    ]
    assert moved == []
    counts = [list(owners.values()).count(position) for position in range(10)]
    assert min(counts) > 20


def test_a_session_whose_endpoint_is_crowded_goes_to_the_next_and_comes_back(fleet: Fleet) -> None:
    policy = weighted(session=1)
    pool = fleet.pool(4)
    owner = fleet.dry(pool, policy, session=7)[0]
    for _ in range(8):
        fleet.scheduler.load.charge(owner, 0, 10, 10)
    second = fleet.dry(pool, policy, session=7)[0]
    assert second != owner
    assert {fleet.dry(pool, policy, session=7)[0] for _ in range(20)} == {second}
    for _ in range(8):
        fleet.scheduler.load.release(owner, 0, 10, 10)
    assert fleet.dry(pool, policy, session=7)[0] == owner


def test_without_a_session_the_score_says_nothing(fleet: Fleet) -> None:
    pool = fleet.pool(4)
    assert {fleet.dry(pool, weighted(session=1))[0] for _ in range(100)} == {0, 1, 2, 3}


def test_least_request(fleet: Fleet) -> None:
    pool = fleet.pool(3)
    for position, running in enumerate((4, 1, 0)):
        fleet.scrape(position, running=running)
    assert fleet.scores(pool, weighted(least_request=2)) == pytest.approx([0, 150, 200])


def test_least_request_of_idle_endpoints(fleet: Fleet) -> None:
    assert fleet.scores(fleet.pool(2), weighted(least_request=1)) == [100, 100]


def test_least_latency(fleet: Fleet) -> None:
    pool = fleet.pool(4)
    fleet.scrape(0, first_token=0.1, inter_token=0.03)
    fleet.scrape(1, first_token=0.3, inter_token=0.01)
    fleet.scrape(2, first_token=0.2, inter_token=0.02)
    fleet.scrape(3, first_token=0.9)
    policy = Policy(by_cost=False, weights={"least-latency": 1}, latency_factor=0.75)
    # the last one has no time between tokens: half of what is possible
    assert fleet.scores(pool, policy) == pytest.approx([75, 25, 50, 50])


def test_least_latency_of_one_that_is_measured(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    fleet.scrape(0, first_token=5, inter_token=5)
    assert fleet.scores(pool, weighted(least_latency=1)) == [100, 50]


def test_filtered_endpoints_do_not_set_the_scale(fleet: Fleet) -> None:
    pool = fleet.pool(3)
    for position, latency in enumerate((0.1, 0.2, 9.0)):
        fleet.scrape(position, running=latency * 10, first_token=latency, inter_token=latency)
    policy = weighted(least_latency=1, least_request=1)
    assert fleet.scores(pool, policy, excluded=[2]) == pytest.approx([150, 0, None])


def test_kv_usage(fleet: Fleet) -> None:
    pool = fleet.pool(3)
    for position, usage in enumerate((0, 0.25, 1)):
        fleet.scrape(position, kv_usage=usage)
    assert fleet.scores(pool, weighted(kv_usage=1)) == pytest.approx([100, 75, 0])


def test_prefix_cache(fleet: Fleet) -> None:
    pool = fleet.pool(3)
    for slot, count in enumerate((0, 1, 4)):
        fleet.scheduler.prefixes.learn(hashes(count), slot, NOW)
    assert fleet.scores(pool, weighted(prefix_cache=1), hashes=hashes(4)) == pytest.approx([0, 25, 100])
    assert fleet.scores(pool, weighted(prefix_cache=1), hashes=hashes(0)) == [0, 0, 0]
    assert fleet.scores(pool, weighted(prefix_cache=1)) == [0, 0, 0]


def test_only_the_first_blocks_of_a_prompt_count_where_that_is_set(fleet: Fleet) -> None:
    pool = fleet.pool(3)
    fleet.scheduler.prefixes.learn(hashes(2), 0, NOW)
    fleet.scheduler.prefixes.learn(hashes(6), 1, NOW)
    policy = Policy(by_cost=False, weights={"prefix-cache": 1}, prefix_blocks=4)
    assert fleet.scores(pool, policy, hashes=hashes(8)) == [50, 100, 0]
    assert fleet.scores(pool, policy, hashes=hashes(2)) == [100, 100, 0]


def test_kvcache_aware_scores_what_is_matched_by_token_alone(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    fleet.scheduler.prefixes.learn(hashes(3), 1, NOW)
    assert fleet.scores(pool, weighted(kvcache_aware=2), hashes=hashes(4), learn=False) == [0, 150]
    assert fleet.scores(pool, weighted(kvcache_aware=2), hashes=hashes(4)) == [0, 0]
    of_two = Policy(by_cost=False, weights={"kvcache-aware": 1}, kvcache_blocks=2)
    assert fleet.scores(pool, of_two, hashes=hashes(4), learn=False) == [0, 100]


def test_lora_affinity(fleet: Fleet) -> None:
    pool = with_adapters(fleet)
    assert fleet.scores(pool, weighted(lora_affinity=2), adapter=SQL) == [200, 160, 120, 0, 120]
    rows = pool.explain()
    assert [row["adapter"] for row in rows] == ["loaded", "room", "queued", "taken", "untold"]


def test_lora_affinity_says_nothing_of_a_request_without_an_adapter(fleet: Fleet) -> None:
    pool = with_adapters(fleet)
    fleet.scores(pool, weighted(lora_affinity=1), adapter=SQL)
    assert fleet.scores(pool, weighted(lora_affinity=1)) == [0, 0, 0, 0, 0]
    assert [row["adapter"] for row in pool.explain()] == [""] * 5


def test_what_an_engine_said_of_adapters_long_ago_does_not_count(fleet: Fleet) -> None:
    pool = with_adapters(fleet)
    scores = fleet.scores(pool, weighted(lora_affinity=1), adapter=SQL, now=NOW + 6)
    assert scores == [0] * 5
    assert {row["adapter"] for row in pool.explain()} == {"untold"}


def test_who_cannot_take_the_request_does_not_stand_for_those_that_do_not_say(fleet: Fleet) -> None:
    pool = with_adapters(fleet)
    assert fleet.scores(pool, weighted(lora_affinity=1), adapter=SQL, excluded=[1, 2, 3])[4] == 100


def test_random(fleet: Fleet) -> None:
    pool = fleet.pool(4)
    seen = [score for _ in range(200) for score in fleet.scores(pool, weighted(random=2))]
    assert 0 <= min(seen) < 10
    assert 190 < max(seen) < 200
    assert abs(sum(seen) / len(seen) - 100) < 10
    assert len(set(seen)) == len(seen)


def test_weights_add_up(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    fleet.scrape(0, running=1, kv_usage=0.5)
    fleet.scheduler.prefixes.learn(hashes(1), 0, NOW)
    policy = weighted(least_request=1, kv_usage=2, prefix_cache=3, least_latency=4)
    assert fleet.scores(pool, policy, hashes=hashes(2)) == pytest.approx([0 + 100 + 150 + 200])


def test_without_weights_all_are_equal(fleet: Fleet) -> None:
    pool = fleet.pool(3)
    fleet.scrape(0, running=100, kv_usage=1)
    assert fleet.scores(pool, weighted()) == [0, 0, 0]
    assert set(Counter(fleet.dry(pool, weighted())[0] for _ in range(100))) == {0, 1, 2}


def test_weights_do_nothing_by_cost(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    fleet.scrape(0, running=3)
    assert fleet.scores(pool, Policy(weights={"kv-usage": 5})) == fleet.scores(pool, Policy())
