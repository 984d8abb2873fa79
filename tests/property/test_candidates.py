"""Who may be chosen, and what is seen of each, beside the plain-Python twin."""

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.property.fleets import (
    ADAPTER,
    CHARGES,
    FAST,
    FLEETS,
    METRICS,
    NOW,
    POLICIES,
    REQUESTS,
    UNADJUSTED,
    Given,
    Request,
    assert_seen,
    decide,
    expect,
    make,
    write,
)
from tests.reference import scheduler as twin


@FAST
@given(fleet=FLEETS, policy=POLICIES, request_=REQUESTS)
def test_who_cannot_take_it_is_never_picked(
    memory_path: Path, fleet: list[Given], policy: twin.Policy, request_: Request
) -> None:
    made = make(memory_path, fleet)
    random = replace(policy, weights={**policy.weights, "random": 1})
    for _ in range(10):
        chosen = decide(made, random, request_)
        if chosen is None:
            return
        given, endpoint = fleet[chosen[0]], made.endpoints[chosen[0]]
        assert not given.excluded
        assert endpoint.roles & request_.role
        assert endpoint.live
        assert not 0 < endpoint.maximum_in_flight <= endpoint.in_flight


@FAST
@given(fleet=FLEETS, policy=POLICIES, request_=UNADJUSTED)
def test_the_adapter_filter_takes_nobody_out_unless_another_is_left_that_has_the_adapter_or_room_for_it(
    memory_path: Path, fleet: list[Given], policy: twin.Policy, request_: Request
) -> None:
    made = make(memory_path, fleet)
    with_filter, request_ = replace(policy, adapter_filter=True), replace(request_, adapter=ADAPTER)
    without = decide(made, replace(policy, adapter_filter=False), request_)
    before = [row["filtered"] for row in made.pool.explain()]
    chosen = decide(made, with_filter, request_)
    rows = made.pool.explain()
    assert (chosen is None) == (without is None)
    if chosen is None:
        return
    out = {position for position, row in enumerate(rows) if row["filtered"] == "without_adapter"}
    left = [row["adapter"] for row in rows if not row["filtered"]]
    assert all(before[position] == "" and rows[position]["adapter"] in ("queued", "taken") for position in out)
    assert bool(out) <= bool({"loaded", "room"} & set(left))
    if {"loaded", "room"} & set(left):
        assert not {"queued", "taken"} & set(left)


@FAST
@given(
    metrics=METRICS,
    scraped=st.integers(1, 4),
    unscraped=st.integers(1, 4),
    charges=CHARGES.map(tuple),
    policy=POLICIES,
    request_=UNADJUSTED,
)
def test_never_scraped_is_not_preferred(
    memory_path: Path,
    metrics: twin.Metrics,
    scraped: int,
    unscraped: int,
    charges: tuple,
    policy: twin.Policy,
    request_: Request,
) -> None:
    """Of endpoints that are alike in what we know, none is better for what we don't."""
    metrics = replace(metrics, time=NOW)
    known = Given(twin.Endpoint(metrics=metrics), charges=charges)
    unknown = Given(twin.Endpoint(), charges=charges)
    made = make(memory_path, [unknown] * unscraped + [known] * scraped)
    decide(made, replace(policy, maximum_waiting=0), replace(request_, role=1, session=0))
    scores = [row["score"] for row in made.pool.explain()]
    assert max(scores[:unscraped]) <= min(scores[unscraped:]) + twin.TIE


@FAST
@given(fleet=FLEETS, policy=POLICIES, request_=REQUESTS, stale_after=st.sampled_from([0.0, 0.5, 2.0, 5.0, 100.0]))
def test_stale_metrics_are_absent(
    memory_path: Path, fleet: list[Given], policy: twin.Policy, request_: Request, stale_after: float
) -> None:
    def without_stale(given: Given) -> Given:
        metrics = given.endpoint.metrics
        stale = metrics is not None and NOW - metrics.time > stale_after
        return replace(given, endpoint=replace(given.endpoint, metrics=None)) if stale else given

    policy = replace(policy, stale_after=stale_after)
    with_stale, without = make(memory_path, fleet), make(memory_path, [without_stale(given) for given in fleet])
    assert decide(with_stale, policy, request_) == decide(without, policy, request_)
    assert with_stale.pool.explain() == without.pool.explain()


@FAST
@given(
    fleet=FLEETS,
    policy=POLICIES,
    request_=REQUESTS,
    metrics=METRICS,
    name=st.sampled_from(["running", "waiting", "kv_usage", "first_token", "inter_token"]),
    value=st.sampled_from([float("nan"), float("inf"), float("-inf")]),
)
def test_metrics_that_are_no_numbers_change_nothing(
    memory_path: Path,
    fleet: list[Given],
    policy: twin.Policy,
    request_: Request,
    metrics: twin.Metrics,
    name: str,
    value: float,
) -> None:
    made = make(memory_path, fleet)
    for slot, generation in made.names:
        assert not write(made.scheduler.load, slot, generation, replace(metrics, **{name: value}))
    decide(made, policy, request_)
    assert_seen(made, expect(made, policy, request_))
