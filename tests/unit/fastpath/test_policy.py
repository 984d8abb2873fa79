"""Policies and what they refuse."""

import re

import pytest

from _fastpath.policy import SCORES_BY_NAME, Policy
from _fastpath.pool import REASONS


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


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_seconds_of_loading_that_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="adapter_seconds"):
        Policy(adapter_seconds=seconds)


@pytest.mark.parametrize("factor", [-0.1, 1.1, float("nan")])
def test_latency_factors_that_are_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="latency_factor"):
        Policy(latency_factor=factor)
