"""Scores by cost beside the plain-Python twin."""

from dataclasses import replace
from pathlib import Path

from tests.property.fleets import CHOICES, FAST, Given, Request, assert_picks_one_of_the_equal_bests, make
from tests.reference import scheduler as twin


@FAST
@CHOICES
def test_by_cost_it_picks_one_of_the_equal_bests(
    memory_path: Path, fleet: list[Given], policy: twin.Policy, request_: Request, seed: int, prefill_seconds: float
) -> None:
    made = make(memory_path, fleet, seed, prefill_seconds)
    assert_picks_one_of_the_equal_bests(made, replace(policy, by_cost=True), request_)
