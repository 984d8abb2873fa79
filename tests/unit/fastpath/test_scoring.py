"""The scheduler by named behaviour: policies and what they refuse, each filter, each score, charging, and explaining."""

import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from _fastpath.hashing import BlockHashes
from _fastpath.health import OUTCOMES, Outlier
from _fastpath.load import Load
from _fastpath.scoring import REASONS, SCORES_BY_NAME, Policy, Pool, Scheduler
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots
from tests.reference.scoring import BIAS_WEIGHT, SHARED_EVENNESS_WEIGHT, mixed

NOW = 100.0
ROOT = Path(__file__).parents[3]


@dataclass
class Fleet:
    """Some endpoints and the scheduler of worker 0."""

    memory: SharedMemory
    slots: Slots
    scheduler: Scheduler

    def add(self, identity: int, roles: int = 1, most: int = 0) -> tuple[int, int, int, int]:
        return (*self.slots.acquire(self.memory.workers, identity), roles, most)

    def pool(self, count: int, **options: int) -> Pool:
        return Pool([self.add(2 * number + 2, **options) for number in range(count)])

    def alike(self, count: int) -> Pool:
        """A pool whose endpoints a gateway among others likes equally."""
        return Pool([(*self.add(2 * number + 2), 7) for number in range(count)])

    def write(self, position: int, **values: float) -> bool:
        """Metrics of the endpoint at this slot, which is its position; whether they were taken."""
        names = ("running", "waiting", "kv_usage", "first_token", "inter_token", "hits")
        numbers = [values.get(name, 0.0) for name in names]
        now, kv_tokens = values.get("now", NOW), values.get("kv_tokens", 0.0)
        return self.scheduler.load.write_metrics(
            position, 0, *numbers, now, kv_tokens=kv_tokens, computed_tokens=values.get("computed", 0.0)
        )

    def scrape(self, position: int, **values: float) -> None:
        assert self.write(position, **values)

    def decide(self, pool: Pool, policy: Policy | None = None, **options: Any) -> tuple[int, int, int] | None:
        arguments = {"hashes": None, "prompt_tokens": 100, "output_tokens": 10, "now": NOW, **options}
        return self.scheduler.decide(pool, policy or Policy(), **arguments)

    def dry(self, pool: Pool, policy: Policy | None = None, **options: Any) -> tuple[int, int, int] | None:
        return self.decide(pool, policy, dry=True, **options)

    def scores(self, pool: Pool, policy: Policy, **options: Any) -> list[float | None]:
        self.dry(pool, policy, **options)
        return [row["score"] for row in self.scheduler.explain(pool)]


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    memory = SharedMemory.create(
        str(tmp_path / "memory"), workers=2, slots=64, buckets=1, journal_records=1, prefix_bytes=1 << 16,
        counter_series=1, counter_cells=1,
    )  # fmt: skip
    return Fleet(memory, Slots(memory), Scheduler(memory, 0, random_seed=1))


def weighted(**weights: float) -> Policy:
    return Policy(by_cost=False, weights={name.replace("_", "-"): weight for name, weight in weights.items()})


def hashes(count: int) -> BlockHashes:
    return BlockHashes.of(range(1000, 1000 + count))


# -- policies ------------------------------------------------------------------------------------------------------


def test_defaults() -> None:
    policy = Policy()
    assert policy.by_cost
    assert (policy.stale_after, policy.maximum_waiting, policy.latency_factor) == (5.0, 0.0, 0.5)
    assert (policy.prefill_tokens_per_second, policy.decode_seconds_per_request) == (8000.0, 0.00035)


def test_names_of_scores() -> None:
    assert list(SCORES_BY_NAME) == [
        "least-request", "least-latency", "kv-usage", "prefix-cache", "random", "session", "kvcache-aware", "lora-affinity",
    ]  # fmt: skip
    assert REASONS == (
        "",
        "wrong_role",
        "excluded",
        "full",
        "waiting",
        "gone",
        "ejected",
        "left_out",
        "without_adapter",
    )


@pytest.mark.parametrize("name", ["least_request", "", "Random", "lora_affinity"])
def test_unknown_scorer(name: str) -> None:
    with pytest.raises(ValueError, match=r"unknown scorer .*least-request, least-latency"):
        Policy(by_cost=False, weights={name: 1})


@pytest.mark.parametrize("by_cost", [True, False])
@pytest.mark.parametrize("weight", [-0.1, -5, float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_refused(by_cost: bool, weight: float) -> None:
    message = f"the weight of random must be a number, 0 or above, not {weight}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Policy(by_cost=by_cost, weights={"least-request": 1, "random": weight})


def test_huge_weights_make_all_equal(fleet: Fleet) -> None:
    """The scores overflow to infinity, and 0 times it is no number."""
    pool = fleet.pool(3)
    fleet.scrape(0, running=5, kv_usage=1)
    assert {fleet.dry(pool, weighted(least_request=1.7e308))[0] for _ in range(50)} <= {0, 1, 2}


@pytest.mark.parametrize("rate", [0, -1])
def test_prefill_rate_must_be_above_zero(rate: float) -> None:
    with pytest.raises(ValueError, match="prefill_tokens_per_second"):
        Policy(prefill_tokens_per_second=rate)


def test_policies_take_keywords_only() -> None:
    with pytest.raises(TypeError):
        Policy(True)  # type: ignore[misc]


@pytest.mark.parametrize("weight", ["1", None])
def test_weight_of_another_type(weight: object) -> None:
    with pytest.raises(TypeError):
        Policy(by_cost=False, weights={"random": weight})  # type: ignore[dict-item]


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Policy().by_cost = False


# -- pools ---------------------------------------------------------------------------------------------------------


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
    assert fleet.scheduler.filtered(pool) == {}
    assert fleet.scheduler.explain(pool) == []


# -- filters -------------------------------------------------------------------------------------------------------


def test_one_endpoint(fleet: Fleet) -> None:
    assert fleet.dry(fleet.pool(1)) == (0, 0, 100)


def test_excluded(fleet: Fleet) -> None:
    pool = fleet.pool(3)
    assert {fleet.dry(pool, excluded=[0, 2])[0] for _ in range(50)} == {1}
    assert fleet.scheduler.filtered(pool) == {"excluded": 2}
    assert fleet.dry(pool, excluded=iter((0, 1, 2))) is None
    assert fleet.scheduler.filtered(pool) == {"excluded": 3}


def test_excluded_does_not_last(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    assert fleet.dry(pool, excluded=[0]) is None
    for excluded in (None, (), set()):
        assert fleet.dry(pool, excluded=excluded) == (0, 0, 100)
    assert fleet.scheduler.filtered(pool) == {}


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
    assert fleet.scheduler.filtered(pool) == {"wrong_role": 2}
    assert {fleet.dry(pool, role=2)[0] for _ in range(50)} == {1, 2}
    assert fleet.dry(pool, role=4) is None
    assert fleet.dry(pool, role=0) is None
    assert fleet.scheduler.filtered(pool) == {"wrong_role": 4}


def test_full(fleet: Fleet) -> None:
    pool = fleet.pool(2, most=2)
    assert [fleet.decide(pool) is None for _ in range(5)] == [False] * 4 + [True]
    assert fleet.scheduler.filtered(pool) == {"full": 2}
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
    assert fleet.scheduler.filtered(pool) == {"waiting": 2}
    assert fleet.dry(pool, Policy(maximum_waiting=1)) is None
    assert fleet.dry(pool, Policy(maximum_waiting=0)) is not None
    assert fleet.scheduler.filtered(pool) == {}


def test_gone(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    fleet.slots.drop(fleet.memory.workers, 0)
    assert fleet.slots.sweep() == [0]
    assert {fleet.decide(pool)[0] for _ in range(20)} == {1}
    assert fleet.scheduler.filtered(pool) == {"gone": 1}
    again = Pool([fleet.add(100)])
    assert fleet.decide(again) == (0, 0, 100)
    assert fleet.scheduler.explain(pool)[0]["filtered"] == "gone"


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
    reasons = [row["filtered"] for row in fleet.scheduler.explain(pool)]
    assert reasons == ["", "wrong_role", "excluded", "full", "waiting", "gone"]
    assert fleet.scheduler.filtered(pool) == dict.fromkeys(reasons[1:], 1)


# -- health --------------------------------------------------------------------------------------------------------

RULES = Outlier(failures=1, base_ejection=10.0, maximum_ejected_percent=50.0, slow_start=10.0, probe_seconds=5.0)


def eject(fleet: Fleet, *positions: int, ago: float = 1.0) -> None:
    for position in positions:
        fleet.scheduler.health.note(position, 0, RULES, OUTCOMES.index("failed"), NOW - ago, NOW - ago)


def watched(fleet: Fleet, count: int, **options: int) -> Pool:
    return Pool([fleet.add(2 * number + 2, **options) for number in range(count)], RULES)


def test_ejected(fleet: Fleet) -> None:
    pool = watched(fleet, 3)
    eject(fleet, 1)
    assert {fleet.dry(pool)[0] for _ in range(50)} == {0, 2}
    assert fleet.scheduler.filtered(pool) == {"ejected": 1}
    assert [row["filtered"] for row in fleet.scheduler.explain(pool)] == ["", "ejected", ""]


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
    assert fleet.scheduler.filtered(pool) == {}


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
    assert fleet.scheduler.filtered(pool) == {"ejected": 1, "full": 1}


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
    assert [row["running"] for row in fleet.scheduler.explain(pool)] == pytest.approx([3, 9, 1])
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
    assert [row["running"] for row in fleet.scheduler.explain(pool)] == [0, 0, 0]
    assert {fleet.dry(pool)[0] for _ in range(50)} == {0, 1, 2}


# -- scores --------------------------------------------------------------------------------------------------------


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


def late(seconds: float) -> float:
    """What a first token costs beyond its time."""
    return seconds * seconds / 5


def even(seconds: float, sent: float = 0.0, mean: float = 0.0) -> float:
    """What a prefill costs beyond its time where seconds of others were sent lately, to the mean endpoint so many."""
    return seconds * 12 * ((sent + seconds) / (mean + 12)) ** 2


def test_cost_of_prefill(fleet: Fleet) -> None:
    """Seconds of what is queued there and of the prompt, which count more while one endpoint of two is busy, and lateness."""
    pool = fleet.pool(2)
    fleet.scheduler.load.charge(0, 0, 8000, 0)
    scores = fleet.scores(pool, Policy(decode_seconds_per_request=0), prompt_tokens=4000)
    assert scores == pytest.approx([-2.0 - 3.5 - even(0.5) - late(1.5), -3.5 - even(0.5) - late(0.5)])
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
    assert scores == pytest.approx([-2.0 * 0.5 - late(0.5), 0.0])
    fleet.decide(pool, prompt_tokens=0, excluded=[1])
    assert fleet.scheduler.queued_tokens == 4000
    assert fleet.scheduler.prefill_seconds == pytest.approx(0.5)


def test_the_next_prefill_begins_with_the_first_token_of_the_one_before(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    for _ in range(2):
        fleet.scheduler.load.charge(0, 0, 8000, 0, NOW - 3)
    assert fleet.scheduler.first_token(pool, 0, 8000, NOW - 0.25)
    assert fleet.scores(pool, Policy(), prompt_tokens=0, output_tokens=0) == pytest.approx([-3.0 * 0.75 - late(0.75)])


def test_an_engine_that_is_late_looks_worse_with_every_second(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    fleet.scheduler.load.charge(0, 0, 8000, 0, NOW)
    policy = Policy(decode_seconds_per_request=0)
    scores = [fleet.scores(pool, policy, prompt_tokens=0, now=NOW + after)[0] for after in (0.5, 1, 2, 10)]
    assert scores == pytest.approx([-3.0 * 0.5 - late(0.5), 0.0, -3.0 - late(1), -3.0 * 9 - late(9)])
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


@pytest.mark.parametrize(
    ("kv_tokens", "others", "kept"),
    [(13_500, 0, True), (13_000, 0, False), (0, 0, True), (39_000, 2, False), (41_000, 2, True)],
)
def test_a_prompt_is_cached_for_as_long_as_others_take_to_fill_the_caches(
    fleet: Fleet, kv_tokens: int, others: int, kept: bool
) -> None:
    """20,000 tokens of 240 s ago count a quarter by now, as if 61 came a second; where others send as well, they do so at the same rate."""
    pool = fleet.pool(1)
    assert fleet.decide(pool, hashes=hashes(4), prompt_tokens=20_000) == (0, 0, 20_000)
    for _ in range(2):
        fleet.scrape(0, now=NOW + 240, kv_tokens=kv_tokens, running=1 + others)
    found = fleet.dry(pool, hashes=hashes(4), prompt_tokens=20_000, now=NOW + 240)
    assert found == (0, 4 * kept, 20_000 * (not kept))
    assert fleet.dry(pool, hashes=hashes(4), prompt_tokens=20_000, now=NOW + 240, learn=False) == (0, 4, 0)


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
    assert scores == pytest.approx([-125.0, -75.0, 0.0])


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


# -- adjustments of the caller


@pytest.mark.parametrize("policy", [Policy(), weighted(kv_usage=1)], ids=["cost", "weighted"])
def test_adjustments_are_added_and_what_is_no_number_leaves_out(fleet: Fleet, policy: Policy) -> None:
    pool = fleet.pool(3)
    plain = fleet.scores(pool, policy)
    adjusted = fleet.scores(pool, policy, adjustments=[0.0, 5.0, float("nan")])
    assert adjusted == [plain[0], plain[1] + 5, None]
    assert fleet.dry(pool, policy, adjustments=[0.0, 5.0, float("nan")])[0] == 1
    assert fleet.scheduler.filtered(pool) == {"left_out": 1}
    assert fleet.scores(pool, policy) == plain


def test_when_all_are_left_out_nobody_is_chosen_or_charged(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    assert fleet.decide(pool, adjustments=[float("nan")] * 2) is None
    assert fleet.scheduler.filtered(pool) == {"left_out": 2}
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


# -- adapters

SQL, CHAT, OTHER = 0x1002, 0x2002, 0x3002


def with_adapters(fleet: Fleet) -> Pool:
    """One that has SQL loaded, one with room, one where requests wait for SQL, one that is taken, and one that does not say."""
    pool = fleet.pool(5)
    for position in range(5):
        fleet.scrape(position)
    write = fleet.scheduler.adapters.write
    assert write(0, 0, 2, 2, [SQL, CHAT])
    assert write(1, 0, 2, 1, [CHAT])
    assert write(2, 0, 1, 2, [CHAT], [SQL])
    assert write(3, 0, 1, 1, [CHAT])
    return pool


def test_lora_affinity(fleet: Fleet) -> None:
    pool = with_adapters(fleet)
    assert fleet.scores(pool, weighted(lora_affinity=2), adapter=SQL) == [200, 160, 120, 0, 120]
    rows = fleet.scheduler.explain(pool)
    assert [row["adapter"] for row in rows] == ["loaded", "room", "queued", "taken", "untold"]


def test_lora_affinity_says_nothing_of_a_request_without_an_adapter(fleet: Fleet) -> None:
    pool = with_adapters(fleet)
    fleet.scores(pool, weighted(lora_affinity=1), adapter=SQL)
    assert fleet.scores(pool, weighted(lora_affinity=1)) == [0, 0, 0, 0, 0]
    assert [row["adapter"] for row in fleet.scheduler.explain(pool)] == [""] * 5


def test_what_an_engine_said_of_adapters_long_ago_does_not_count(fleet: Fleet) -> None:
    pool = with_adapters(fleet)
    scores = fleet.scores(pool, weighted(lora_affinity=1), adapter=SQL, now=NOW + 6)
    assert scores == [0] * 5
    assert {row["adapter"] for row in fleet.scheduler.explain(pool)} == {"untold"}


def test_who_cannot_take_the_request_does_not_stand_for_those_that_do_not_say(fleet: Fleet) -> None:
    pool = with_adapters(fleet)
    assert fleet.scores(pool, weighted(lora_affinity=1), adapter=SQL, excluded=[1, 2, 3])[4] == 100


AFFINE = Policy(by_cost=False, weights={"kv-usage": 1}, adapter_filter=True)


def test_the_adapter_filter_leaves_who_has_it_or_room_for_it_or_does_not_say(fleet: Fleet) -> None:
    pool = with_adapters(fleet)
    assert fleet.dry(pool, AFFINE, adapter=SQL) is not None
    rows = fleet.scheduler.explain(pool)
    assert [row["filtered"] for row in rows] == ["", "", "without_adapter", "without_adapter", ""]
    assert [row["adapter"] for row in rows] == ["loaded", "room", "queued", "taken", "untold"]
    assert fleet.scheduler.filtered(pool) == {"without_adapter": 2}


@pytest.mark.parametrize("excluded", [[0, 1], [0, 1, 4]])
def test_the_adapter_filter_leaves_all_where_nobody_has_it_or_room_for_it(fleet: Fleet, excluded: list[int]) -> None:
    pool = with_adapters(fleet)
    chosen = fleet.dry(pool, AFFINE, adapter=SQL, excluded=excluded)
    assert chosen is not None
    assert fleet.scheduler.filtered(pool) == {"excluded": len(excluded)}


def test_the_adapter_filter_says_nothing_of_a_request_without_an_adapter(fleet: Fleet) -> None:
    pool = with_adapters(fleet)
    fleet.dry(pool, AFFINE, adapter=SQL)
    assert fleet.dry(pool, AFFINE) is not None
    assert fleet.scheduler.filtered(pool) == {}


def test_who_has_the_adapter_and_no_room_for_the_request_holds_back_nobody(fleet: Fleet) -> None:
    pool = fleet.pool(2, most=1)
    for position in range(2):
        fleet.scrape(position)
    fleet.scheduler.adapters.write(0, 0, 1, 1, [SQL])
    fleet.scheduler.adapters.write(1, 0, 1, 1, [CHAT])
    assert fleet.dry(pool, AFFINE, adapter=SQL)[0] == 0
    fleet.scheduler.load.charge(0, 0, 1, 1)
    assert fleet.dry(pool, AFFINE, adapter=SQL)[0] == 1


def test_cost_of_loading_an_adapter(fleet: Fleet) -> None:
    pool = with_adapters(fleet)
    policy = Policy(adapter_seconds=4.0)
    plain = fleet.scores(pool, policy)
    scores = fleet.scores(pool, policy, adapter=SQL)
    assert [before - after for before, after in zip(plain, scores, strict=True)] == pytest.approx([0, 4, 6, 8, 4.5])
    assert fleet.scheduler.explain(pool)[3]["cost"]["adapter"] == 8.0


def test_an_adapter_is_worth_some_company_and_not_a_crowd(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    for position in range(2):
        fleet.scrape(position)
    fleet.scheduler.adapters.write(0, 0, 2, 1, [SQL])
    fleet.scheduler.adapters.write(1, 0, 2, 0, [])
    assert fleet.dry(pool, adapter=SQL)[0] == 0
    fleet.scheduler.load.charge(0, 0, 8000 * 10, 0)
    assert fleet.dry(pool, adapter=SQL)[0] == 1


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_seconds_of_loading_that_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="adapter_seconds"):
        Policy(adapter_seconds=seconds)


@pytest.mark.parametrize("factor", [-0.1, 1.1, float("nan")])
def test_latency_factors_that_are_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="latency_factor"):
        Policy(latency_factor=factor)


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


# -- scrapes -------------------------------------------------------------------------------------------------------


def test_never_scraped_is_taken_for_the_mean(fleet: Fleet) -> None:
    pool = fleet.pool(3)
    fleet.scrape(0, running=2, waiting=2, kv_usage=0.5)
    fleet.scrape(1, running=8, waiting=0, kv_usage=0.25)
    fleet.dry(pool)
    row = fleet.scheduler.explain(pool)[2]
    assert (row["running"], row["waiting"], row["kv_usage"], row["scraped"]) == (6, 1, 0.375, False)


def test_our_own_load_counts_when_it_is_above_the_mean(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    fleet.scrape(0, running=2)
    for _ in range(5):
        fleet.scheduler.load.charge(1, 0, 0, 0)
    fleet.dry(pool)
    assert [row["running"] for row in fleet.scheduler.explain(pool)] == [2, 5]


def test_nobody_was_ever_scraped(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    fleet.scheduler.load.charge(0, 0, 0, 0)
    assert fleet.dry(pool)[0] == 1
    assert [row["running"] for row in fleet.scheduler.explain(pool)] == [1, 0]


@pytest.mark.parametrize(("age", "scraped"), [(-1, True), (0, True), (5, True), (5.001, False), (90, False)])
def test_a_stale_scrape_says_nothing(fleet: Fleet, age: float, scraped: bool) -> None:
    pool = fleet.pool(1)
    fleet.scrape(0, running=7, waiting=3, kv_usage=0.5, now=NOW - age)
    fleet.dry(pool)
    row = fleet.scheduler.explain(pool)[0]
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
    assert not fleet.scheduler.explain(pool)[0]["scraped"]


# -- charge, learn, release ----------------------------------------------------------------------------------------


def test_a_decision_charges(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    assert fleet.decide(pool, prompt_tokens=70, output_tokens=30) == (0, 0, 70)
    assert fleet.scheduler.load.read(0, 0) == (1, 70, 30)


def test_a_dry_decision_does_not(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    fleet.dry(pool, hashes=hashes(4))
    assert fleet.scheduler.load.read(0, 0) == (0, 0, 0)
    assert fleet.scheduler.prefixes.match(hashes(4), [0]) == [0]


def test_a_decision_without_learning_charges_alone(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    fleet.decide(pool, hashes=hashes(4), learn=False)
    assert fleet.scheduler.load.read(0, 0)[0] == 1
    assert fleet.scheduler.prefixes.match(hashes(4), [0]) == [0]


def test_a_decision_learns(fleet: Fleet) -> None:
    pool = fleet.pool(4)
    first = fleet.decide(pool, hashes=hashes(4), prompt_tokens=64)
    assert first[1:] == (0, 64)
    assert fleet.scheduler.prefixes.match(hashes(4), [0, 1, 2, 3]) == [4 * (slot == first[0]) for slot in range(4)]
    fleet.scheduler.release(pool, first[0], 64, 10)
    assert fleet.decide(pool, hashes=hashes(8), prompt_tokens=128) == (first[0], 4, 64)


@pytest.mark.parametrize(("later", "is_kept"), [(7, False), (9, True)])
def test_a_decision_learns_again_what_was_learned_some_time_ago(tmp_path: Path, later: int, is_kept: bool) -> None:
    memory = SharedMemory.create(
        str(tmp_path / "small"), workers=2, slots=64, buckets=1, journal_records=1, prefix_bytes=192,
        counter_series=1, counter_cells=1,
    )  # fmt: skip
    small = Fleet(memory, Slots(memory), Scheduler(memory, 0))
    pool = small.pool(1)
    small.decide(pool, hashes=hashes(2), now=NOW)
    small.decide(pool, hashes=hashes(2), now=NOW + later)
    others = [BlockHashes.of([number * 0xA0761D6478BD642F % (1 << 64)]) for number in range(100, 107)]
    for other in others:  # with the two above one more than there are places
        small.scheduler.prefixes.learn(other, 0, NOW + 5)
    assert small.scheduler.prefixes.match(hashes(2), [0]) == [2 if is_kept else 0]


def test_nobody_left_charges_nothing(fleet: Fleet) -> None:
    pool = fleet.pool(1, most=1)
    fleet.decide(pool)
    assert fleet.decide(pool, hashes=hashes(2)) is None
    assert fleet.scheduler.load.read(0, 0) == (1, 100, 10)
    assert fleet.scheduler.prefixes.match(hashes(2), [0]) == [0]


def test_first_token_and_release(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    fleet.decide(pool)
    fleet.decide(pool)
    assert fleet.scheduler.first_token(pool, 0, 100)
    assert fleet.scheduler.load.read(0, 0) == (2, 100, 20)
    assert fleet.scheduler.release(pool, 0, 0, 10)
    assert fleet.scheduler.load.read(0, 0) == (1, 100, 10)
    assert fleet.scheduler.release(pool, 0, 100, 10)
    assert fleet.scheduler.load.read(0, 0) == (0, 0, 0)
    assert not fleet.scheduler.release(pool, 0, 100, 10)
    assert fleet.scheduler.load.read(0, 0) == (0, 0, 0)


def test_a_late_release_does_nothing(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    fleet.decide(pool)
    fleet.slots.drop(fleet.memory.workers, 0)
    fleet.slots.sweep()
    successor = Pool([fleet.add(50)])
    fleet.decide(successor)
    assert not fleet.scheduler.release(pool, 0, 100, 10)
    assert not fleet.scheduler.first_token(pool, 0, 100)
    assert fleet.scheduler.load.read(0, 2) == (1, 100, 10)


@pytest.mark.parametrize("chosen", [1, 2, 2**40])
def test_release_of_a_position_beyond_the_pool(fleet: Fleet, chosen: int) -> None:
    pool = fleet.pool(1)
    with pytest.raises(IndexError):
        fleet.scheduler.release(pool, chosen, 0, 0)
    with pytest.raises(IndexError):
        fleet.scheduler.first_token(pool, chosen, 0)


def test_without_a_row_decisions_are_dry(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    reader = Scheduler(fleet.memory)
    arguments = (pool, Policy(), None, 100, 10, NOW)
    assert reader.decide(*arguments, dry=True) == (0, 0, 100)
    with pytest.raises(ValueError, match="row of its own"):
        reader.decide(*arguments)
    with pytest.raises(ValueError, match="row of its own"):
        reader.release(pool, 0, 0, 0)
    assert fleet.scheduler.load.read(0, 0) == (0, 0, 0)


def test_two_workers_see_each_other(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    other = Scheduler(fleet.memory, 1)
    for _ in range(10):
        first = fleet.decide(pool)[0]
        assert other.decide(Pool([(0, 0, 1, 0), (1, 0, 1, 0)]), Policy(), None, 100, 10, NOW)[0] == 1 - first


@pytest.mark.parametrize("row", [2, 3, 1000])
def test_a_row_that_is_not_there(fleet: Fleet, row: int) -> None:
    with pytest.raises(IndexError):
        Scheduler(fleet.memory, row)


def test_the_same_seed_picks_the_same(fleet: Fleet) -> None:
    pool = fleet.pool(10)

    def picks(seed: int | None) -> list[int]:
        scheduler = Scheduler(fleet.memory, 0, random_seed=seed)
        return [scheduler.decide(pool, Policy(), None, 1, 1, NOW, dry=True)[0] for _ in range(50)]

    assert picks(5) == picks(5)
    assert picks(5) != picks(8)
    assert picks(None) != picks(None)


# -- explain -------------------------------------------------------------------------------------------------------


def test_explain(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    fleet.scheduler.load.charge(0, 0, 800, 20)
    fleet.scrape(0, running=3, waiting=1, kv_usage=0.25)
    fleet.scheduler.prefixes.learn(hashes(2), 0, NOW)
    fleet.dry(pool, Policy(decode_seconds_per_request=0), hashes=hashes(4), prompt_tokens=1600, excluded=[1])
    foreign = 0.1 * (BIAS_WEIGHT * (3 / 4) * bias(fleet.scheduler, 0) + SHARED_EVENNESS_WEIGHT * 0.1 / 12)
    assert fleet.scheduler.explain(pool) == [
        {
            "filtered": "", "score": pytest.approx(-6.4 - foreign - late(0.2)), "matched_blocks": 2, "in_flight": 1, "prefill_tokens": 800,
            "running": 4.0, "waiting": 1.0, "kv_usage": 0.25, "scraped": True, "adapter": "",
            "prefill_tokens_per_second": 8000.0,
            "cost": {
                "queue": pytest.approx(0.3), "prefill": pytest.approx(6.1 + foreign), "lateness": pytest.approx(late(0.2)),
                "decode": 0.0, "memory": 0.0, "adapter": 0.0,
            },
        },
        {
            "filtered": "excluded", "score": None, "matched_blocks": 0, "in_flight": 0, "prefill_tokens": 0,
            "running": 4.0, "waiting": 1.0, "kv_usage": 0.25, "scraped": False, "adapter": "",
            "prefill_tokens_per_second": 8000.0, "cost": None,
        },
    ]  # fmt: skip


def bias(scheduler: Scheduler, identity: int) -> float:
    """Of a gateway against an endpoint, 0 to 1."""
    return (mixed(scheduler.gateway ^ mixed(identity)) >> 11) / 2**53


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


def test_what_others_had_computed_fills_caches_too(fleet: Fleet) -> None:
    """A prompt is taken to be cached for as long as it takes to fill the caches, by whomever."""
    pool = fleet.alike(1)
    fleet.scheduler.prefixes.learn(hashes(4), 0, NOW - 30)
    fleet.scrape(0, kv_tokens=10_000, computed=1_000)
    assert fleet.dry(pool, hashes=hashes(4)) == (0, 4, 0)
    fleet.scrape(0, kv_tokens=10_000, computed=1_000_000)
    assert fleet.dry(pool, hashes=hashes(4)) == (0, 0, 100)


def test_explain_shows_the_last_decision(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    fleet.scheduler.prefixes.learn(hashes(2), 0, NOW)
    fleet.dry(pool, hashes=hashes(2))
    assert fleet.scheduler.explain(pool)[0]["matched_blocks"] == 2
    fleet.dry(pool)
    assert fleet.scheduler.explain(pool)[0]["matched_blocks"] == 0
    fleet.decide(pool)
    # as it was seen, before the charge
    assert fleet.scheduler.explain(pool)[0]["in_flight"] == 0


def test_explain_when_nobody_is_left(fleet: Fleet) -> None:
    pool = fleet.pool(2, roles=2)
    fleet.scheduler.load.charge(1, 0, 5, 5)
    assert fleet.dry(pool) is None
    rows = fleet.scheduler.explain(pool)
    assert [(row["filtered"], row["score"], row["in_flight"]) for row in rows] == [
        ("wrong_role", None, 0),
        ("wrong_role", None, 1),
    ]


# -- what an engine or a caller may do wrong -----------------------------------------------------------------------


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
        row = fleet.scheduler.explain(pool)[0]
        assert (row["scraped"], row["running"], row["waiting"], row["kv_usage"]) == (False, 4, 1, 0.25)


def test_nobody_has_numbers(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    for position in range(2):
        assert not fleet.write(position, kv_usage=NAN)
    assert {fleet.dry(pool, weighted(kv_usage=1))[0] for _ in range(50)} == {0, 1}
    assert [(row["running"], row["kv_usage"]) for row in fleet.scheduler.explain(pool)] == [(0, 0), (0, 0)]


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
        row = fleet.scheduler.explain(pool)[0]
        assert (row["scraped"], row["running"]) == (scraped, running)


def test_the_mean_is_of_the_asked_role(fleet: Fleet) -> None:
    """How busy the prefill endpoints are says nothing of a decode endpoint."""
    pool = Pool([fleet.add(2, roles=2), fleet.add(4, roles=1), fleet.add(6, roles=1), fleet.add(8, roles=3)])
    fleet.scrape(0, running=100, kv_usage=1)
    fleet.scrape(1, running=10, kv_usage=0.25)
    fleet.scrape(3, running=20, kv_usage=0.75)
    for role, running, kv_usage in ((1, 15, 0.5), (2, 60, 0.875), (3, 130 / 3, 2 / 3), (4, 0, 0)):
        fleet.dry(pool, role=role)
        row = fleet.scheduler.explain(pool)[2]
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
    rows = fleet.scheduler.explain(pool)
    assert [row["filtered"] for row in rows] == ["", "excluded", "full", "waiting", ""]
    assert (rows[4]["running"], rows[4]["waiting"]) == (7, 1.5)


def test_nobody_is_filtered_for_what_its_neighbours_say(fleet: Fleet) -> None:
    """The mean counts in the score; whether requests wait there, only its own scrape says."""
    pool = fleet.pool(2)
    fleet.scrape(0, waiting=5)
    assert fleet.dry(pool, Policy(maximum_waiting=5)) == (1, 0, 100)
    assert [(row["filtered"], row["waiting"]) for row in fleet.scheduler.explain(pool)] == [("waiting", 5), ("", 5)]
    fleet.scrape(1, waiting=5, now=NOW - 6)
    assert fleet.dry(pool, Policy(maximum_waiting=5)) == (1, 0, 100)
    fleet.scrape(1, waiting=5)
    assert fleet.dry(pool, Policy(maximum_waiting=5)) is None


CRASH = """
from _fastpath.scoring import Policy, Pool, Scheduler
from _fastpath.shared_memory import SharedMemory
memory = SharedMemory.create({path!r}, workers=1, slots=64, buckets=1, journal_records=1, prefix_bytes=192)
pool = Pool([(1, 0, 1, 0), ({slot}, 0, 1, 0), (2, 0, 1, 0)])
for dry in (True, False):
    try:
        Scheduler(memory, 0).decide(pool, Policy(), None, 1, 1, 1.0, dry=dry)
        print("taken")
    except IndexError as error:
        print(error)
"""


@pytest.mark.parametrize("slot", [0, 63, 64, 10**9])
def test_a_slot_beyond_the_memory_raises(tmp_path: Path, slot: int) -> None:
    """A pool that was made for a larger shared memory, before its supervisor started again. In a process of its own: it may crash."""
    script = CRASH.format(path=str(tmp_path / "memory"), slot=slot)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, timeout=30, capture_output=True, check=False, text=True
    )
    assert done.returncode == 0
    expected = "taken" if slot < 64 else f"slot {slot} of 64: the pool was made for another shared memory"
    assert done.stdout.splitlines() == [expected] * 2
