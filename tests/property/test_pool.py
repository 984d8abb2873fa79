"""A pool is used again and again."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.property.fleets import FAST, FLEETS, POLICIES, REQUESTS, Given, Request, assert_seen, decide, expect, make
from tests.reference import scheduler as twin


@FAST
@given(fleet=FLEETS, policy=POLICIES, requests=st.lists(REQUESTS, min_size=2, max_size=4))
def test_a_decision_leaves_nothing_behind_in_the_pool(
    memory_path: Path, fleet: list[Given], policy: twin.Policy, requests: list[Request]
) -> None:
    """A pool is used again and again: each dry decision sees as if it were the first."""
    made = make(memory_path, fleet)
    for request in requests:
        decide(made, policy, request)
        assert_seen(made, expect(made, policy, request))
        made.excluded = made.excluded[1:]
