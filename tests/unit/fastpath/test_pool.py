"""Pools: what they are made of, and what they tell of the last decision."""

from typing import Any

import pytest

from _fastpath.policy import Policy
from _fastpath.pool import Pool
from tests.reference.cost import BIAS_WEIGHT, SHARED_EVENNESS_WEIGHT
from tests.unit.fastpath.fleets import NOW, Fleet, bias, hashes, late


def test_size_of_a_pool(fleet: Fleet) -> None:
    assert len(Pool([])) == 0
    assert len(fleet.pool(3)) == 3


@pytest.mark.parametrize(
    ("endpoints", "error"),
    [([(1, 2, 3)], ValueError), ([(1, 2, 3, 4, 5, 6)], ValueError), ([1], TypeError), ([(-1, 0, 1, 0)], OverflowError),
     ([(0, 0, 2**32, 0)], OverflowError), ([("a", 0, 1, 0)], TypeError), (None, TypeError)],
)  # fmt: skip
def test_endpoints_of_another_shape(endpoints: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Pool(endpoints)


def test_a_slot_stands_once_in_a_pool() -> None:
    with pytest.raises(ValueError, match="slot 5 stands twice"):
        Pool([(5, 0, 1, 0), (6, 0, 1, 0), (5, 2, 1, 0)])


def test_a_pool_spans_at_most_512_pages() -> None:
    assert len(Pool([(64 * number, 0, 1, 0) for number in range(512)])) == 512
    with pytest.raises(ValueError, match="32,768 slots"):
        Pool([(64 * number, 0, 1, 0) for number in range(513)])


def test_an_empty_pool_has_nobody(fleet: Fleet) -> None:
    pool = Pool([])
    assert fleet.decide(pool) is None
    assert pool.filtered() == {}
    assert pool.explain() == []


def test_explain(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    fleet.scheduler.load.charge(0, 0, 800, 20)
    fleet.scrape(0, running=3, waiting=1, kv_usage=0.25)
    fleet.scheduler.prefixes.learn(hashes(2), 0, NOW)
    fleet.dry(pool, Policy(decode_seconds_per_request=0), hashes=hashes(4), prompt_tokens=1600, excluded=[1])
    foreign = 0.1 * (BIAS_WEIGHT * (3 / 4) * bias(fleet.scheduler, 0) + SHARED_EVENNESS_WEIGHT * 0.1 / 12)
    assert pool.explain() == [
        {
            "filtered": "", "score": pytest.approx(-6.36 - foreign - late(0.2)), "matched_blocks": 2, "in_flight": 1, "prefill_tokens": 800,
            "running": 4.0, "waiting": 1.0, "kv_usage": 0.25, "scraped": True, "adapter": "",
            "prefill_tokens_per_second": 8000.0,
            "cost": {
                "queue": pytest.approx(0.26), "prefill": pytest.approx(6.1 + foreign), "lateness": pytest.approx(late(0.2)),
                "decode": 0.0, "memory": 0.0, "adapter": 0.0,
            },
        },
        {
            "filtered": "excluded", "score": None, "matched_blocks": 0, "in_flight": 0, "prefill_tokens": 0,
            "running": 4.0, "waiting": 1.0, "kv_usage": 0.25, "scraped": False, "adapter": "",
            "prefill_tokens_per_second": 8000.0, "cost": None,
        },
    ]  # fmt: skip


def test_explain_shows_the_last_decision(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    fleet.scheduler.prefixes.learn(hashes(2), 0, NOW)
    fleet.dry(pool, hashes=hashes(2))
    assert pool.explain()[0]["matched_blocks"] == 2
    fleet.dry(pool)
    assert pool.explain()[0]["matched_blocks"] == 0
    fleet.decide(pool)
    # as it was seen, before the charge
    assert pool.explain()[0]["in_flight"] == 0


def test_explain_when_nobody_is_left(fleet: Fleet) -> None:
    pool = fleet.pool(2, roles=2)
    fleet.scheduler.load.charge(1, 0, 5, 5)
    assert fleet.dry(pool) is None
    rows = pool.explain()
    assert [(row["filtered"], row["score"], row["in_flight"]) for row in rows] == [
        ("wrong_role", None, 0),
        ("wrong_role", None, 1),
    ]
