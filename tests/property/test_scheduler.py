"""The choice: a pick among the equal bests, and what it charges, learns and claims."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tests.property.fleets import (
    EASY,
    FAST,
    FEW,
    FLEETS,
    NOW,
    POLICIES,
    REQUESTS,
    UNADJUSTED,
    Given,
    Request,
    decide,
    expect,
    make,
)
from tests.reference import scheduler as twin


@FEW
@given(
    count=st.integers(2, 10),
    worse=st.integers(0, 3),
    seed=st.integers(0, 2**64 - 1),
    policy=st.sampled_from([twin.Policy(), twin.Policy(by_cost=False, weights={"least-request": 1, "kv-usage": 2}),
                            twin.Policy(by_cost=False), twin.Policy(by_cost=False, weights={"random": 1})]),
)  # fmt: skip
def test_ties_are_spread(memory_path: Path, count: int, worse: int, seed: int, policy: twin.Policy) -> None:
    busy = Given(twin.Endpoint(), charges=((0, 100, 10, 0.0), (1, 100, 10, 0.0)))
    fleet = [busy] * worse + [Given(twin.Endpoint())] * count
    made = make(memory_path, fleet, seed)
    draws = 2000
    # without a weight on load the busy ones are as good as the others
    load_counts = policy.by_cost or "least-request" in policy.weights
    equals = range(worse, worse + count) if load_counts else range(worse + count)
    picks = Counter(decide(made, policy, Request(0, 100, 100))[0] for _ in range(draws))
    assert set(picks) <= set(equals)
    share = draws / len(equals)
    deviation = sum((picks[position] - share) ** 2 / share for position in equals)
    # chi-square beyond this in one of a thousand million cases
    assert deviation < 36 + 3 * (len(equals) - 1)


@FAST
@given(fleet=FLEETS, policy=POLICIES, request_=REQUESTS)
def test_dry_changes_nothing(memory_path: Path, fleet: list[Given], policy: twin.Policy, request_: Request) -> None:
    made = make(memory_path, fleet)
    load, learned, health = made.load(), made.learned(), made.health()
    decide(made, policy, request_, dry=True)
    assert made.load() == load
    assert made.health() == health
    assert made.scheduler.probe == 0
    assert made.learned() == learned


@FAST
@given(fleet=FLEETS, policy=POLICIES, request_=REQUESTS)
def test_the_chosen_alone_is_charged_and_learned(
    memory_path: Path, fleet: list[Given], policy: twin.Policy, request_: Request
) -> None:
    made = make(memory_path, fleet)
    seen = twin.look(made.endpoints, policy, NOW, request_.role, made.excluded)
    load, learned = made.load(), made.learned()
    chosen = decide(made, policy, request_, dry=False)
    if chosen is not None:
        position, _matched, uncached = chosen
        in_flight, prefill, decode = load[position]
        load[position] = (in_flight + 1, prefill + uncached, decode + request_.output_tokens)
        learned[position] = max(learned[position], 0 if request_.by_token else request_.blocks)
    assert made.load() == load
    if request_.by_token or twin.oldest(seen, policy, NOW) == 0:
        assert made.learned() == learned
    else:  # who held what is learned anew after so long holds it no more
        assert all(count <= before for count, before in zip(made.learned(), learned, strict=True))


@FAST
@given(fleet=FLEETS, policy=POLICIES, request_=REQUESTS)
def test_the_probe_is_claimed_by_who_is_picked_alone(
    memory_path: Path, fleet: list[Given], policy: twin.Policy, request_: Request
) -> None:
    made = make(memory_path, fleet)
    expected, health = expect(made, policy, request_), made.health()
    chosen = decide(made, policy, request_, dry=False)
    assert (made.scheduler.probe != 0) == (expected.probe is not None)
    if expected.probe is not None:
        assert chosen is not None
        assert chosen[0] == expected.probe
        health[expected.probe]["state"] = "probing"
        health[expected.probe]["seconds_left"] = 120.0
    assert made.health() == health


@FAST
@given(fleet=EASY, requests=st.lists(st.tuples(UNADJUSTED, st.booleans()), max_size=12), seed=st.integers(0, 2**32))
def test_release_returns_load_to_zero(
    memory_path: Path, fleet: list[Given], requests: list[tuple[Request, bool]], seed: int
) -> None:
    made = make(memory_path, fleet)
    running = []
    for request, first_token in requests:
        chosen = decide(made, twin.Policy(), replace(request, role=1), dry=False)
        assert chosen is not None
        position, _matched, uncached = chosen
        if first_token:
            assert made.scheduler.first_token(made.pool, position, uncached)
        running.append((position, 0 if first_token else uncached, request.output_tokens))
    assert sum(in_flight for in_flight, _prefill, _decode in made.load()) == len(running)
    assert sum(prefill for _in_flight, prefill, _decode in made.load()) == sum(
        prefill for _at, prefill, _decode in running
    )
    Random(seed).shuffle(running)
    for entry in running:
        assert made.scheduler.release(made.pool, *entry)
    assert made.load() == [(0, 0, 0)] * len(fleet)
    assert not made.scheduler.release(made.pool, 0, 0, 0)
