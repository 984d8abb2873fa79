"""Our scheduler on traces that are made: where nothing is shared, and where a few prompts are shared by nearly all."""

from random import Random

import pytest

from bench.fleet.measures import figures
from bench.fleet.policies import POLICIES
from bench.fleet.policies.base import Setting
from bench.fleet.simulation import Fleet, Simulation, default_profile
from bench.fleet.trace import Prompted, Trace

BLOCK = 512
ENGINES = 8


def trace(ids_of, requests=800):
    """Requests of which ``ids_of(random, number)`` makes the prompt's blocks."""
    random = Random(3)
    made = []
    for number in range(requests):
        ids = tuple(ids_of(random, number))
        tokens = len(ids) * BLOCK - random.randrange(BLOCK - 1)
        output = max(1, int(random.lognormvariate(5, 0.7)))
        made.append(Prompted(number, number / 10, tokens, output, ids, ids[: tokens // BLOCK]))
    return Trace("made", "none", BLOCK, tuple(made))


def unshared(random, number):
    length = max(1, int(random.lognormvariate(1.2, 0.9)))
    return range(number * 1000, number * 1000 + length)


def hot(random, number):
    topic = min(9, int(random.paretovariate(1)) - 1)
    start = 10**6 + topic * 100
    return [*range(start, start + 8), *range(number * 1000, number * 1000 + random.randint(1, 3))]


def run(name, requests, rate, gateways=1):
    fleet = Fleet(ENGINES, default_profile(BLOCK))
    routers = [
        POLICIES[name](Setting(ENGINES, BLOCK, fleet.profile.kv_tokens, seed)) for seed in range(1, gateways + 1)
    ]
    try:
        return figures(Simulation(fleet, requests, rate, routers).run())
    finally:
        for router in routers:
            router.close()


@pytest.mark.parametrize("rate", [10.0, 16.0, 20.0])
def test_where_nothing_is_shared_it_is_not_worse_than_least_requests(rate):
    requests = trace(unshared)
    ours, yardstick = run("ours", requests, rate), run("least-requests", requests, rate)
    assert ours["hit_rate"] == 0
    assert ours["ttft_p50"] <= yardstick["ttft_p50"]
    assert ours["ttft_p99"] <= yardstick["ttft_p99"]
    assert ours["e2e_p50"] <= 1.05 * yardstick["e2e_p50"]


@pytest.mark.parametrize("name", ["ours", "ours-events"])
def test_a_prompt_that_nearly_all_share_is_held_by_many_and_found_everywhere(name):
    requests = trace(hot)
    ours, yardstick = run(name, requests, 40.0), run("least-requests", requests, 40.0)
    assert ours["hit_rate"] >= 0.95 * ours["oracle_hit_rate"]
    assert ours["imbalance"] <= 1.25
    assert ours["ttft_p99"] < yardstick["ttft_p99"]


def conversations(random, number):
    """The next turn of one of fifty, each turn after all before it."""
    start = 10**6 * (number % 50 + 1)
    return range(start, start + 2 * (number // 50 + 1))


def test_by_events_gateways_find_what_others_have_sent():
    """Fifty conversations come round to four gateways: none of them sees two turns in a row."""
    requests = trace(conversations, 400)
    assert run("ours-events", requests, 10.0, 4)["hit_rate"] > 1.2 * run("ours", requests, 10.0, 4)["hit_rate"]


def test_an_event_is_heard_a_moment_later():
    router = POLICIES["ours-events"](Setting(2, BLOCK, 10**6, 1))
    first, *others = [Prompted(number, 0.0, 3 * BLOCK, 1, (7, 8, 9), (7, 8, 9)) for number in range(12)]
    try:
        engine = router.route(first, 1.0)
        router.first_token(first, 2.0)
        router.finish(first, 2.0)
        router.stored(1 - engine, (7, 8, 9))
        chosen = {}
        for number, one in enumerate(others):
            now = 2.01 if number < 8 else 3.0
            chosen.setdefault(now, set()).add(router.route(one, now))
            router.first_token(one, now)
            router.finish(one, now)
        assert engine in chosen[2.01]
        assert chosen[3.0] == {1 - engine}
    finally:
        router.close()
