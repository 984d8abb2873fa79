"""What a policy refuses is what its plain-Python twin refuses."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from _fastpath.policy import Policy
from tests.property.fleets import FAST
from tests.reference import scheduler as twin


@FAST
@given(st.dictionaries(st.sampled_from(twin.SCORES), st.floats() | st.sampled_from([-0.0, 5e-324, -5e-324, 1.7e308])))
def test_the_same_weights_are_refused(weights: dict[str, float]) -> None:
    def refusal(make_policy: Callable[[], object]) -> str | None:
        try:
            make_policy()
        except ValueError as error:
            return str(error)
        return None

    found = refusal(lambda: Policy(by_cost=False, weights=weights))
    assert found == refusal(lambda: twin.Policy(by_cost=False, weights=weights))
    assert (found is None) == all(0 <= weight < float("inf") for weight in weights.values())
