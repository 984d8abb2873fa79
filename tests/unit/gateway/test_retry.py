"""How much of the traffic may be retries."""

import pytest

from gateway.upstream.retry import FEWEST, RetryBudget


@pytest.mark.parametrize(
    ("under_way", "percent", "in_flight", "allowed"),
    [(0, 0, 0, True), (FEWEST - 1, 0, 0, True), (FEWEST, 0, 1000, False), (19, 20, 100, True), (20, 20, 100, False)],
)
def test_retries_are_allowed_up_to_a_share_of_what_is_in_flight_and_always_a_few(
    under_way, percent, in_flight, allowed
):
    budget = RetryBudget()
    budget.under_way = under_way
    assert budget.allows(percent, in_flight) is allowed
