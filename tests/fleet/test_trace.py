"""2,000 requests of a conversation trace on 16 engines: ours finds the cached prompts and keeps nobody waiting for it."""

from pathlib import Path

import pytest

from bench.fleet.measures import figures
from bench.fleet.policies import POLICIES
from bench.fleet.policies.base import Setting
from bench.fleet.simulation import Fleet, Simulation, default_profile
from bench.fleet.trace import read

TRACE = Path(__file__).parents[3] / "shared" / "traces" / "mooncake-conversation.jsonl"
ENGINES = 16
RATE = 6.8
"""Requests a second: 80 % of what least-requests can take (`python -m bench.fleet` finds 8.5)."""

pytestmark = pytest.mark.trace


@pytest.fixture(scope="module")
def found():
    trace = read(TRACE, 512, 2000)
    fleet = Fleet(ENGINES, default_profile(trace.block_size))

    def run(name):
        router = POLICIES[name](Setting(ENGINES, trace.block_size, fleet.profile.kv_tokens, 1))
        try:
            return figures(Simulation(fleet, trace, RATE, [router]).run())
        finally:
            router.close()

    return {name: run(name) for name in ("ours", "least-requests", "llm-d-newest")}


def test_nine_of_ten_prompt_tokens_that_one_large_cache_would_find_are_found(found):
    assert found["ours"]["hit_rate"] >= 0.9 * found["ours"]["oracle_hit_rate"]


@pytest.mark.parametrize("other", ["least-requests", "llm-d-newest"])
@pytest.mark.parametrize(
    ("figure", "at_most"), [("ttft_p50", 1.05), ("e2e_p50", 1.0), ("ttft_p99", 1.1), ("e2e_p99", 1.0)]
)
def test_nobody_waits_longer_for_it(found, other, figure, at_most):
    assert found["ours"][figure] <= at_most * found[other][figure]


def test_no_engine_has_much_more_to_do_than_the_mean(found):
    assert found["ours"]["imbalance"] <= 1.35
