"""Weighted scores beside the plain-Python twin."""

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.property.fleets import (
    FAST,
    FLEETS,
    POLICIES,
    REQUESTS,
    Given,
    Request,
    assert_picks_one_of_the_equal_bests,
    make,
)
from tests.reference import scheduler as twin


@FAST
@given(
    fleet=FLEETS,
    policy=POLICIES,
    request_=REQUESTS,
    seed=st.integers(0, 2**64 - 1),
    prefill_seconds=st.sampled_from([0.0, 0.02, 10.0]),
)
def test_by_weight_it_picks_one_of_the_equal_bests(
    memory_path: Path, fleet: list[Given], policy: twin.Policy, request_: Request, seed: int, prefill_seconds: float
) -> None:
    made = make(memory_path, fleet, seed, prefill_seconds)
    assert_picks_one_of_the_equal_bests(made, replace(policy, by_cost=False), request_)
