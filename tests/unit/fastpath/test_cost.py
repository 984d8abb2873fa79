"""The parts of the cost."""

import pytest

from _fastpath.policy import Policy
from _fastpath.scheduler import Scheduler
from tests.reference.cost import BIAS_WEIGHT
from tests.unit.fastpath.fleets import NOW, SQL, Fleet, bias, hashes, late, with_adapters


def even(seconds: float, sent: float = 0.0, mean: float = 0.0) -> float:
    """What a prefill costs beyond its time where seconds of others were sent lately, to the mean endpoint so many."""
    return seconds * 9 * ((sent + seconds) / (mean + 12)) ** 2


def test_cost_of_prefill(fleet: Fleet) -> None:
    """Seconds of what is queued there and of the prompt, which count more while one endpoint of two is busy, and lateness."""
    pool = fleet.pool(2)
    fleet.scheduler.load.charge(0, 0, 8000, 0)
    scores = fleet.scores(pool, Policy(decode_seconds_per_request=0), prompt_tokens=4000)
    assert scores == pytest.approx([-1.8 - 3.5 - even(0.5) - late(1.5), -3.5 - even(0.5) - late(0.5)])
    assert fleet.dry(pool)[0] == 1


@pytest.mark.parametrize(
    ("busy", "factor"), [(0, 1.0), (1, 1 + 6 * 0.1 / 0.9), (5, 7.0), (9, 55.0), (10, 61.0)]
)  # fmt: skip
def test_a_prompt_to_compute_counts_the_more_the_more_endpoints_are_busy(
    fleet: Fleet, busy: int, factor: float
) -> None:
    """Whoever comes later waits for it too."""
    pool = fleet.pool(10)
    for slot in range(busy):
        fleet.scheduler.load.charge(slot, 0, 1, 0)
    scores = fleet.scores(pool, Policy(decode_seconds_per_request=0), prompt_tokens=8000)
    assert scores == pytest.approx([-factor - even(1.0) - late(1.0)] * 10, abs=0.001)


def test_what_is_computed_by_now_is_queued_no_more(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    fleet.scheduler.load.charge(0, 0, 16000, 0, NOW - 1.5)
    scores = fleet.scores(pool, Policy(), prompt_tokens=0, output_tokens=0)
    assert scores == pytest.approx([-1.8 * 0.5 - late(0.5), 0.0])
    fleet.decide(pool, prompt_tokens=0, excluded=[1])
    assert fleet.scheduler.queued_tokens == 4000
    assert fleet.scheduler.prefill_seconds == pytest.approx(0.5)


def test_the_next_prefill_begins_with_the_first_token_of_the_one_before(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    for _ in range(2):
        fleet.scheduler.load.charge(0, 0, 8000, 0, NOW - 3)
    assert fleet.scheduler.first_token(pool, 0, 8000, NOW - 0.25)
    assert fleet.scores(pool, Policy(), prompt_tokens=0, output_tokens=0) == pytest.approx([-2.6 * 0.75 - late(0.75)])


def test_an_engine_that_is_late_looks_worse_with_every_second(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    fleet.scheduler.load.charge(0, 0, 8000, 0, NOW)
    policy = Policy(decode_seconds_per_request=0)
    scores = [fleet.scores(pool, policy, prompt_tokens=0, now=NOW + after)[0] for after in (0.5, 1, 2, 10)]
    assert scores == pytest.approx([-2.6 * 0.5 - late(0.5), 0.0, -2.6 - late(1), -2.6 * 9 - late(9)])
    assert fleet.decide(pool, now=NOW + 10)
    assert fleet.scheduler.queued_tokens == 0


def test_a_prompt_costs_more_where_much_was_sent_lately(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    fleet.scheduler.load.charge(0, 0, 8000 * 24, 0, NOW)
    fleet.scheduler.load.first_token(0, 0, 8000 * 24, NOW)
    policy = Policy(decode_seconds_per_request=0)
    scores = fleet.scores(pool, policy, prompt_tokens=8000)
    assert scores == pytest.approx([-1 - even(1, 24, 12) - late(1), -1 - even(1, 0, 12) - late(1)], abs=0.005)
    later = fleet.scores(pool, policy, prompt_tokens=8000, now=NOW + 90)
    assert later == pytest.approx([-1 - even(1, 12, 6) - late(1), -1 - even(1, 0, 6) - late(1)], abs=0.005)


def test_a_prompt_costs_what_those_wait_that_come_while_it_is_computed(fleet: Fleet) -> None:
    """Sixty came to the first of late, thirty to the second, none to the third, which counts as half of the mean."""
    pool = fleet.pool(3)
    for slot, requests in enumerate((60, 30, 0)):
        for _ in range(requests):
            fleet.scheduler.load.charge(slot, 0, 0, 0, NOW)
    scores = fleet.scores(pool, Policy(decode_seconds_per_request=0), prompt_tokens=80_000)
    waits = [0.8 * come / 90 * 10 * 10 / 2 for come in (60, 30, 15)]
    assert scores == pytest.approx([-10 - wait - even(10) - late(10) for wait in waits])


def test_what_is_to_come_says_nothing_where_most_requests_are_of_other_gateways(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    for position in range(2):
        for _ in range(2):
            fleet.scrape(position, running=4)
    for _ in range(60):
        assert fleet.scheduler.load.charge(0, 0, 0, 0, NOW)
        fleet.scheduler.load.release(0, 0, 0, 0)
    first, second = fleet.scores(pool, Policy(decode_seconds_per_request=0), prompt_tokens=80_000)
    liking = 10 * BIAS_WEIGHT * (bias(fleet.scheduler, 0) - bias(fleet.scheduler, 1))
    assert first - second == pytest.approx(-liking)


def test_who_cannot_take_it_does_not_crowd(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    fleet.scheduler.load.charge(0, 0, 8000, 0)
    scores = fleet.scores(pool, Policy(decode_seconds_per_request=0), prompt_tokens=8000, excluded=[0])
    assert scores == [None, pytest.approx(-1.0 - even(1.0) - late(1.0))]


@pytest.mark.parametrize(
    ("seconds", "slowness"), [(0.5, 0.615), (1.5, 1.0), (3.9, 1.0), (8.0, 1.14), (40.0, 5.0)]
)  # fmt: skip
def test_an_engine_that_is_measurably_slower_or_faster_than_the_others_costs_accordingly(
    fleet: Fleet, seconds: float, slowness: float
) -> None:
    """In between they are taken for equally fast: prefills differ by what each engine had to do beside them."""
    pool = fleet.pool(4)
    for slot in range(4):
        for _ in range(200):
            fleet.scheduler.prefilled(pool, slot, 8000, seconds if slot == 0 else 2.0)
    first, *others = fleet.scores(pool, Policy(), prompt_tokens=1)
    assert others == pytest.approx([others[0]] * 3)
    assert first / others[0] == pytest.approx(slowness, rel=0.02)


def test_until_an_endpoint_is_measured_it_is_as_fast_as_the_others_are(fleet: Fleet) -> None:
    pool = fleet.pool(3)
    for _ in range(100):
        fleet.scheduler.prefilled(pool, 1, 1000, 1.0)
    scores = fleet.scores(pool, Policy(), prompt_tokens=1000)
    assert scores == pytest.approx([scores[0]] * 3)
    assert scores[0] == pytest.approx(-1 - late(1.0), rel=0.05)


def test_cost_of_a_cached_prompt(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    fleet.scheduler.prefixes.learn(hashes(3), 0, NOW)
    scores = fleet.scores(pool, Policy(), prompt_tokens=8000, hashes=hashes(4))
    assert scores == pytest.approx([-0.25 - even(0.25) - late(0.25), -1.0 - even(1.0) - late(1.0)])
    assert fleet.dry(pool, prompt_tokens=8000, hashes=hashes(4)) == (0, 3, 2000)


def test_cost_of_company(fleet: Fleet) -> None:
    """Each request beside it slows it, and is slowed as much, and so are those that come later."""
    pool = fleet.pool(3)
    fleet.scrape(0, running=4, waiting=1)
    fleet.scrape(1, running=1)
    fleet.scrape(2)
    for _ in range(2):
        fleet.scheduler.load.charge(1, 0, 0, 0)
    scores = fleet.scores(pool, Policy(decode_seconds_per_request=0.5), prompt_tokens=0, output_tokens=10)
    # what we sent since counts beside what others had there
    assert scores == pytest.approx([-87.5, -52.5, 0.0])


@pytest.mark.parametrize(("usage", "seconds"), [(0.0, 0), (0.9, 0), (0.95, 5), (1.0, 10)])
def test_cost_of_a_full_cache(fleet: Fleet, usage: float, seconds: float) -> None:
    pool = fleet.pool(1)
    fleet.scrape(0, kv_usage=usage)
    assert fleet.scores(pool, Policy(), prompt_tokens=0) == pytest.approx([-seconds])


def test_a_cached_prefix_beats_a_little_company_and_not_a_crowd(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    fleet.scheduler.prefixes.learn(hashes(10), 0, NOW)
    for running, chosen in ((1, 0), (500, 1)):
        for _ in range(2):  # requests of others count from the second scrape on that shows them
            fleet.scrape(0, running=running)
        fleet.scrape(1)
        assert fleet.dry(pool, prompt_tokens=8000, hashes=hashes(10))[0] == chosen


def test_cost_of_loading_an_adapter(fleet: Fleet) -> None:
    pool = with_adapters(fleet)
    policy = Policy(adapter_seconds=4.0)
    plain = fleet.scores(pool, policy)
    scores = fleet.scores(pool, policy, adapter=SQL)
    assert [before - after for before, after in zip(plain, scores, strict=True)] == pytest.approx([0, 4, 6, 8, 4.5])
    assert pool.explain()[3]["cost"]["adapter"] == 8.0


def test_an_adapter_is_worth_some_company_and_not_a_crowd(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    for position in range(2):
        fleet.scrape(position)
    fleet.scheduler.adapters.write(0, 0, 2, 1, [SQL])
    fleet.scheduler.adapters.write(1, 0, 2, 0, [])
    assert fleet.dry(pool, adapter=SQL)[0] == 0
    fleet.scheduler.load.charge(0, 0, 8000 * 10, 0)
    assert fleet.dry(pool, adapter=SQL)[0] == 1


def test_gateways_that_share_endpoints_differ_in_whom_they_like(fleet: Fleet) -> None:
    pool = fleet.pool(8)
    choices = set()
    for gateway in range(20):
        scheduler = Scheduler(fleet.memory, random_seed=gateway)
        for position in range(8):
            fleet.scrape(position, running=1)
            fleet.scrape(position, running=1)
        chosen = {scheduler.decide(pool, Policy(), None, 1000, 10, NOW, dry=True)[0] for _ in range(20)}
        assert chosen == {min(range(8), key=lambda one: bias(scheduler, one))}
        choices |= chosen
    assert len(choices) > 4


def test_a_gateway_that_is_alone_likes_all_endpoints_equally(fleet: Fleet) -> None:
    pool = fleet.pool(4)
    for position in range(4):
        fleet.scrape(position)
    assert {fleet.dry(pool, prompt_tokens=1000)[0] for _ in range(100)} == {0, 1, 2, 3}


def test_workers_of_one_gateway_like_the_same(fleet: Fleet) -> None:
    assert Scheduler(fleet.memory).gateway == Scheduler(fleet.memory).gateway


def test_an_engine_that_computed_much_for_others_gets_less(fleet: Fleet) -> None:
    pool = fleet.alike(2)
    for running, expected in ((1, {1}), (0, {0, 1})):  # a gateway that is alone knows itself what it sent
        fleet.scrape(0, computed=100_000, running=running)
        fleet.scrape(1, computed=10_000, running=running)
        assert {fleet.dry(pool, prompt_tokens=1000)[0] for _ in range(50)} == expected


def test_one_that_does_not_say_what_it_computed_is_taken_for_the_mean(fleet: Fleet) -> None:
    pool = fleet.alike(3)
    fleet.scrape(0, computed=100_000, running=1)
    fleet.scrape(1, computed=50_000, running=1)
    scores = fleet.scores(pool, Policy(), prompt_tokens=1000)
    assert scores[0] < scores[2] < scores[1]
