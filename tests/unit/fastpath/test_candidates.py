"""Who may be chosen, and what a scrape that is stale, absent or wrong does to that."""

import pytest

from _fastpath.load import Load
from _fastpath.policy import Policy
from _fastpath.pool import Pool
from tests.unit.fastpath.fleets import CHAT, NOW, SQL, Fleet, eject, watched, weighted, with_adapters


def test_excluded(fleet: Fleet) -> None:
    pool = fleet.pool(3)
    assert {fleet.dry(pool, excluded=[0, 2])[0] for _ in range(50)} == {1}
    assert pool.filtered() == {"excluded": 2}
    assert fleet.dry(pool, excluded=iter((0, 1, 2))) is None
    assert pool.filtered() == {"excluded": 3}


def test_excluded_does_not_last(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    assert fleet.dry(pool, excluded=[0]) is None
    for excluded in (None, (), set()):
        assert fleet.dry(pool, excluded=excluded) == (0, 0, 100)
    assert pool.filtered() == {}


def test_excluded_positions_beyond_the_pool_are_nobody(fleet: Fleet) -> None:
    assert fleet.dry(fleet.pool(1), excluded=[1, 7, 2**63]) == (0, 0, 100)


def test_excluded_of_another_type(fleet: Fleet) -> None:
    for excluded, error in (([-1], OverflowError), (["a"], TypeError), (5, TypeError)):
        with pytest.raises(error):
            fleet.decide(fleet.pool(1), excluded=excluded)
    assert fleet.scheduler.load.read(0, 0) == (0, 0, 0)


def test_role(fleet: Fleet) -> None:
    pool = Pool([fleet.add(2, roles=1), fleet.add(4, roles=2), fleet.add(6, roles=3), fleet.add(8, roles=0)])
    assert {fleet.dry(pool, role=1)[0] for _ in range(50)} == {0, 2}
    assert pool.filtered() == {"wrong_role": 2}
    assert {fleet.dry(pool, role=2)[0] for _ in range(50)} == {1, 2}
    assert fleet.dry(pool, role=4) is None
    assert fleet.dry(pool, role=0) is None
    assert pool.filtered() == {"wrong_role": 4}


def test_full(fleet: Fleet) -> None:
    pool = fleet.pool(2, most=2)
    assert [fleet.decide(pool) is None for _ in range(5)] == [False] * 4 + [True]
    assert pool.filtered() == {"full": 2}
    assert fleet.scheduler.release(pool, 1, 100, 10)
    assert fleet.decide(pool)[0] == 1


def test_full_counts_every_worker(fleet: Fleet) -> None:
    pool = fleet.pool(1, most=2)
    other = Load(fleet.memory, 1)
    other.charge(0, 0, 5, 5)
    assert fleet.decide(pool) is not None
    assert fleet.decide(pool) is None


def test_waiting(fleet: Fleet) -> None:
    pool = fleet.pool(3)
    for position, waiting in enumerate((1, 2, 3)):
        fleet.scrape(position, waiting=waiting)
    assert fleet.dry(pool, Policy(maximum_waiting=2)) == (0, 0, 100)
    assert pool.filtered() == {"waiting": 2}
    assert fleet.dry(pool, Policy(maximum_waiting=1)) is None
    assert fleet.dry(pool, Policy(maximum_waiting=0)) is not None
    assert pool.filtered() == {}


def test_gone(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    fleet.slots.drop(fleet.memory.workers, 0)
    assert fleet.slots.sweep() == [0]
    assert {fleet.decide(pool)[0] for _ in range(20)} == {1}
    assert pool.filtered() == {"gone": 1}
    again = Pool([fleet.add(100)])
    assert fleet.decide(again) == (0, 0, 100)
    assert pool.explain()[0]["filtered"] == "gone"


def test_each_reason_is_counted(fleet: Fleet) -> None:
    names = [fleet.add(2), fleet.add(4, roles=2), fleet.add(6), fleet.add(8, most=1), fleet.add(10), fleet.add(12)]
    pool = Pool(names)
    fleet.scheduler.load.charge(3, 0, 0, 0)
    fleet.scrape(4, waiting=50)
    for position in (0, 1, 2, 3, 5):
        fleet.scrape(position)
    fleet.slots.drop(fleet.memory.workers, 5)
    fleet.slots.sweep()
    assert fleet.decide(pool, Policy(maximum_waiting=50), excluded=[2]) == (0, 0, 100)
    reasons = [row["filtered"] for row in pool.explain()]
    assert reasons == ["", "wrong_role", "excluded", "full", "waiting", "gone"]
    assert pool.filtered() == dict.fromkeys(reasons[1:], 1)


@pytest.mark.parametrize("policy", [Policy(), weighted(kv_usage=1)], ids=["cost", "weighted"])
def test_adjustments_are_added_and_what_is_no_number_leaves_out(fleet: Fleet, policy: Policy) -> None:
    pool = fleet.pool(3)
    plain = fleet.scores(pool, policy)
    adjusted = fleet.scores(pool, policy, adjustments=[0.0, 5.0, float("nan")])
    assert adjusted == [plain[0], plain[1] + 5, None]
    assert fleet.dry(pool, policy, adjustments=[0.0, 5.0, float("nan")])[0] == 1
    assert pool.filtered() == {"left_out": 1}
    assert fleet.scores(pool, policy) == plain


def test_when_all_are_left_out_nobody_is_chosen_or_charged(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    assert fleet.decide(pool, adjustments=[float("nan")] * 2) is None
    assert pool.filtered() == {"left_out": 2}
    assert fleet.scheduler.load.read(0, 0) == fleet.scheduler.load.read(1, 0) == (0, 0, 0)


def test_who_is_left_out_is_not_probed(fleet: Fleet) -> None:
    pool = watched(fleet, 3)
    eject(fleet, 1, ago=20.0)
    assert fleet.decide(pool, adjustments=[0.0, float("nan"), 0.0])[0] != 1
    assert fleet.scheduler.probe == 0
    assert fleet.decide(pool)[0] == 1


@pytest.mark.parametrize("adjustments", [[], [0.0], [0.0] * 3])
def test_as_many_adjustments_as_endpoints(fleet: Fleet, adjustments: list[float]) -> None:
    with pytest.raises(ValueError, match=f"{len(adjustments)} adjustments for 2 endpoints"):
        fleet.dry(fleet.pool(2), adjustments=adjustments)


AFFINE = Policy(by_cost=False, weights={"kv-usage": 1}, adapter_filter=True)


def test_the_adapter_filter_leaves_who_has_it_or_room_for_it_or_does_not_say(fleet: Fleet) -> None:
    pool = with_adapters(fleet)
    assert fleet.dry(pool, AFFINE, adapter=SQL) is not None
    rows = pool.explain()
    assert [row["filtered"] for row in rows] == ["", "", "without_adapter", "without_adapter", ""]
    assert [row["adapter"] for row in rows] == ["loaded", "room", "queued", "taken", "untold"]
    assert pool.filtered() == {"without_adapter": 2}


@pytest.mark.parametrize("excluded", [[0, 1], [0, 1, 4]])
def test_the_adapter_filter_leaves_all_where_nobody_has_it_or_room_for_it(fleet: Fleet, excluded: list[int]) -> None:
    pool = with_adapters(fleet)
    chosen = fleet.dry(pool, AFFINE, adapter=SQL, excluded=excluded)
    assert chosen is not None
    assert pool.filtered() == {"excluded": len(excluded)}


def test_the_adapter_filter_says_nothing_of_a_request_without_an_adapter(fleet: Fleet) -> None:
    pool = with_adapters(fleet)
    fleet.dry(pool, AFFINE, adapter=SQL)
    assert fleet.dry(pool, AFFINE) is not None
    assert pool.filtered() == {}


def test_who_has_the_adapter_and_no_room_for_the_request_holds_back_nobody(fleet: Fleet) -> None:
    pool = fleet.pool(2, most=1)
    for position in range(2):
        fleet.scrape(position)
    fleet.scheduler.adapters.write(0, 0, 1, 1, [SQL])
    fleet.scheduler.adapters.write(1, 0, 1, 1, [CHAT])
    assert fleet.dry(pool, AFFINE, adapter=SQL)[0] == 0
    fleet.scheduler.load.charge(0, 0, 1, 1)
    assert fleet.dry(pool, AFFINE, adapter=SQL)[0] == 1


def test_never_scraped_is_taken_for_the_mean(fleet: Fleet) -> None:
    pool = fleet.pool(3)
    fleet.scrape(0, running=2, waiting=2, kv_usage=0.5)
    fleet.scrape(1, running=8, waiting=0, kv_usage=0.25)
    fleet.dry(pool)
    row = pool.explain()[2]
    assert (row["running"], row["waiting"], row["kv_usage"], row["scraped"]) == (6, 1, 0.375, False)


def test_our_own_load_counts_when_it_is_above_the_mean(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    fleet.scrape(0, running=2)
    for _ in range(5):
        fleet.scheduler.load.charge(1, 0, 0, 0)
    fleet.dry(pool)
    assert [row["running"] for row in pool.explain()] == [2, 5]


def test_nobody_was_ever_scraped(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    fleet.scheduler.load.charge(0, 0, 0, 0)
    assert fleet.dry(pool)[0] == 1
    assert [row["running"] for row in pool.explain()] == [1, 0]


@pytest.mark.parametrize(("age", "scraped"), [(-1, True), (0, True), (5, True), (5.001, False), (90, False)])
def test_a_stale_scrape_says_nothing(fleet: Fleet, age: float, scraped: bool) -> None:
    pool = fleet.pool(1)
    fleet.scrape(0, running=7, waiting=3, kv_usage=0.5, now=NOW - age)
    fleet.dry(pool)
    row = pool.explain()[0]
    assert (row["scraped"], row["running"], row["kv_usage"]) == ((True, 10, 0.5) if scraped else (False, 0, 0))


def test_a_scrape_that_grew_stale_says_nothing(fleet: Fleet) -> None:
    pool, policy = fleet.pool(2), weighted(least_latency=1, least_request=1, kv_usage=1)
    fleet.scrape(0, running=4, first_token=2, inter_token=2, kv_usage=1)
    fleet.scrape(1, first_token=1, inter_token=1)
    assert fleet.scores(pool, policy) == [0, 300]
    assert fleet.scores(pool, policy, now=NOW + 6) == [250, 250]
    assert fleet.scores(pool, policy) == [0, 300]


def test_a_scrape_of_the_former_endpoint_says_nothing(fleet: Fleet) -> None:
    fleet.pool(1)
    fleet.scrape(0, running=7)
    fleet.slots.drop(fleet.memory.workers, 0)
    fleet.slots.sweep()
    pool = Pool([fleet.add(50)])
    fleet.dry(pool)
    assert not pool.explain()[0]["scraped"]


NAN, INFINITY = float("nan"), float("inf")
NAMES = ["running", "waiting", "kv_usage", "first_token", "inter_token", "hits"]


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("name", NAMES)
def test_a_scrape_with_something_that_is_no_number_is_none(fleet: Fleet, name: str, value: float) -> None:
    """Prometheus text may say NaN."""
    pool = fleet.alike(2)
    assert not fleet.write(0, **{"running": 50, name: value})
    fleet.scrape(1, running=3, waiting=1, kv_usage=0.25)
    for policy in (weighted(kv_usage=1, least_request=1), Policy()):
        assert {fleet.dry(pool, policy)[0] for _ in range(50)} == {0, 1}
        row = pool.explain()[0]
        assert (row["scraped"], row["running"], row["waiting"], row["kv_usage"]) == (False, 4, 1, 0.25)


def test_nobody_has_numbers(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    for position in range(2):
        assert not fleet.write(position, kv_usage=NAN)
    assert {fleet.dry(pool, weighted(kv_usage=1))[0] for _ in range(50)} == {0, 1}
    assert [(row["running"], row["kv_usage"]) for row in pool.explain()] == [(0, 0), (0, 0)]


def test_a_load_that_is_no_number_is_not_preferred(fleet: Fleet) -> None:
    pool = fleet.alike(2)
    assert not fleet.write(0, running=NAN)
    fleet.scrape(1, running=5)
    assert {fleet.dry(pool)[0] for _ in range(50)} == {0, 1}
    fleet.scheduler.load.charge(0, 0, 1, 0)
    assert {fleet.dry(pool)[0] for _ in range(50)} == {1}


def test_a_metric_that_is_no_number_does_not_spread(fleet: Fleet) -> None:
    pool = fleet.pool(4)
    assert not fleet.write(0, kv_usage=NAN)
    fleet.scrape(1, running=100, kv_usage=0.5)
    fleet.scrape(2)
    assert fleet.scores(pool, weighted(kv_usage=1, least_request=1)) == pytest.approx([125, 50, 200, 125])


def test_the_scrape_before_one_without_numbers_is_good_until_it_is_stale(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    fleet.scrape(0, running=7, now=NOW - 3)
    assert not fleet.write(0, running=NAN)
    for now, scraped, running in ((NOW, True, 7), (NOW + 2, True, 7), (NOW + 2.5, False, 0)):
        fleet.dry(pool, now=now)
        row = pool.explain()[0]
        assert (row["scraped"], row["running"]) == (scraped, running)


def test_the_mean_is_of_the_asked_role(fleet: Fleet) -> None:
    """How busy the prefill endpoints are says nothing of a decode endpoint."""
    pool = Pool([fleet.add(2, roles=2), fleet.add(4, roles=1), fleet.add(6, roles=1), fleet.add(8, roles=3)])
    fleet.scrape(0, running=100, kv_usage=1)
    fleet.scrape(1, running=10, kv_usage=0.25)
    fleet.scrape(3, running=20, kv_usage=0.75)
    for role, running, kv_usage in ((1, 15, 0.5), (2, 60, 0.875), (3, 130 / 3, 2 / 3), (4, 0, 0)):
        fleet.dry(pool, role=role)
        row = pool.explain()[2]
        assert (row["running"], row["kv_usage"]) == pytest.approx((running, kv_usage))


def test_the_mean_is_of_those_that_are_kept_out_as_well(fleet: Fleet) -> None:
    """They run the same engine under the same load: excluded, full and waiting ones say as much as others."""
    pool = Pool([fleet.add(2), fleet.add(4), fleet.add(6, most=1), fleet.add(8), fleet.add(10)])
    for position, running in enumerate((1, 5, 9, 13)):
        fleet.scrape(position, running=running)
    fleet.scheduler.load.charge(2, 0, 0, 0)
    fleet.scrape(2, running=9)
    fleet.scrape(3, running=7, waiting=6)
    assert fleet.dry(pool, Policy(maximum_waiting=6), excluded=[1])[0] == 0
    rows = pool.explain()
    assert [row["filtered"] for row in rows] == ["", "excluded", "full", "waiting", ""]
    assert (rows[4]["running"], rows[4]["waiting"]) == (7, 1.5)


def test_nobody_is_filtered_for_what_its_neighbours_say(fleet: Fleet) -> None:
    """The mean counts in the score; whether requests wait there, only its own scrape says."""
    pool = fleet.pool(2)
    fleet.scrape(0, waiting=5)
    assert fleet.dry(pool, Policy(maximum_waiting=5)) == (1, 0, 100)
    assert [(row["filtered"], row["waiting"]) for row in pool.explain()] == [("waiting", 5), ("", 5)]
    fleet.scrape(1, waiting=5, now=NOW - 6)
    assert fleet.dry(pool, Policy(maximum_waiting=5)) == (1, 0, 100)
    fleet.scrape(1, waiting=5)
    assert fleet.dry(pool, Policy(maximum_waiting=5)) is None
