"""Endpoints that failed lately, that are to be probed, and that warm up."""

import pytest

from _fastpath.health import Outlier
from _fastpath.policy import Policy
from _fastpath.pool import Pool
from _fastpath.scheduler import Scheduler
from tests.unit.fastpath.fleets import NOW, RULES, Fleet, eject, watched


def test_ejected(fleet: Fleet) -> None:
    pool = watched(fleet, 3)
    eject(fleet, 1)
    assert {fleet.dry(pool)[0] for _ in range(50)} == {0, 2}
    assert pool.filtered() == {"ejected": 1}
    assert [row["filtered"] for row in pool.explain()] == ["", "ejected", ""]


def test_a_pool_without_rules_ejects_nobody(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    eject(fleet, 0)
    assert {fleet.dry(pool)[0] for _ in range(50)} == {0, 1}


def test_half_of_a_pool_may_be_ejected_and_no_more(fleet: Fleet) -> None:
    pool = watched(fleet, 4)
    eject(fleet, 0, 1)
    assert {fleet.dry(pool)[0] for _ in range(50)} == {2, 3}
    eject(fleet, 2)
    assert {fleet.dry(pool)[0] for _ in range(100)} == {0, 1, 2, 3}
    assert pool.filtered() == {}


def test_ejected_endpoints_of_other_roles_are_no_part_of_that_half(fleet: Fleet) -> None:
    pool = Pool([fleet.add(2, roles=1), fleet.add(4, roles=1), fleet.add(6, roles=2), fleet.add(8, roles=2)], RULES)
    eject(fleet, 0, 2, 3)
    assert {fleet.dry(pool, role=1)[0] for _ in range(50)} == {1}
    assert {fleet.dry(pool, role=2)[0] for _ in range(50)} == {2, 3}


def test_a_retry_has_an_ejected_endpoint_rather_than_none(fleet: Fleet) -> None:
    pool = watched(fleet, 2)
    eject(fleet, 0)
    assert fleet.dry(pool, excluded=[1]) == (0, 0, 100)


def test_full_endpoints_are_waited_for_rather_than_ejected_ones_asked(fleet: Fleet) -> None:
    pool = watched(fleet, 2, most=1)
    eject(fleet, 0)
    assert fleet.decide(pool)[0] == 1
    assert fleet.decide(pool) is None
    assert pool.filtered() == {"ejected": 1, "full": 1}


def test_the_first_request_after_an_ejection_probes(fleet: Fleet) -> None:
    pool = watched(fleet, 3)
    eject(fleet, 1, ago=11)
    fleet.scheduler.load.charge(1, 0, 10**6, 10**6)  # also when others are better
    assert {fleet.dry(pool)[0] for _ in range(10)} == {1}
    assert fleet.scheduler.probe == 0
    assert fleet.decide(pool)[0] == 1
    assert fleet.scheduler.probe != 0
    assert {fleet.decide(pool)[0] for _ in range(20)} == {0, 2}
    assert fleet.scheduler.probe == 0
    assert fleet.scheduler.health.read(1, 0, RULES, NOW)["state"] == "probing"
    assert fleet.decide(pool, now=NOW + 5)[0] == 1, "the probe was lost"


def test_a_retry_does_not_probe(fleet: Fleet) -> None:
    pool = watched(fleet, 3)
    eject(fleet, 1, ago=11)
    assert {fleet.dry(pool, excluded=[0])[0] for _ in range(20)} == {2}


def test_who_comes_too_late_for_the_probe_takes_the_best_of_the_others(fleet: Fleet) -> None:
    """Another worker has claimed it between the look and the claim: as if by a dry look before."""
    pool = watched(fleet, 2)
    eject(fleet, 1, ago=11)
    other = Scheduler(fleet.memory, 1)
    assert other.decide(pool, Policy(), None, 100, 10, NOW)[0] == 1
    assert fleet.decide(pool)[0] == 0


def test_a_new_endpoint_seems_to_have_more_than_it_has(fleet: Fleet) -> None:
    pool = watched(fleet, 3)
    for position, began in enumerate((0.0, NOW, NOW - 5)):
        fleet.scheduler.health.begin(position, 0, began)
    fleet.scrape(0, running=3)
    for position in (1, 2):
        fleet.scrape(position)
    fleet.dry(pool)
    # shares 1, 0.1 and 0.5: as if each had its own part of what comes next already
    assert [row["running"] for row in pool.explain()] == pytest.approx([3, 9, 1])
    assert fleet.dry(pool)[0] == 2


def test_a_warm_up_that_is_over_costs_nothing_any_more(fleet: Fleet) -> None:
    """The look that finds it over says so in the endpoint's word; rules with a longer warm-up see it too."""
    pool = watched(fleet, 2)
    fleet.scheduler.health.begin(0, 0, NOW - 10)
    fleet.dry(pool)
    longer = Outlier(slow_start=3600.0)
    assert fleet.scheduler.health.read(0, 0, longer, NOW)["state"] == "serving"


def test_when_all_are_new_nobody_is(fleet: Fleet) -> None:
    pool = watched(fleet, 3)
    for position in range(3):
        fleet.scheduler.health.begin(position, 0, NOW - 0.01 * position)
    fleet.dry(pool)
    assert [row["running"] for row in pool.explain()] == [0, 0, 0]
    assert {fleet.dry(pool)[0] for _ in range(50)} == {0, 1, 2}
