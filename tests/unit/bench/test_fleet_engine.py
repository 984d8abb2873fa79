"""The fleet's engine: equal to the simulator's own, step for step, and what it says of itself meanwhile."""

import math
import random

import pytest

from bench.fleet.engine import Replica, Sent, SkippingEngine
from bench.fleet.oracle import Oracle
from bench.fleet.trace import Prompted
from simulator.engine import Engine, Profile, Request

PROFILE = Profile(
    prefill_tokens_per_second=1000.0,
    step_seconds=0.01,
    decode_seconds=0.001,
    step_tokens=100,
    running_requests=4,
    kv_tokens=1600,
    block_size=16,
)


def prompted(number, prompt, output, ids=None):
    ids = tuple(ids) if ids is not None else tuple(range(number * 1000, number * 1000 + -(-prompt // 16)))
    return Prompted(number, 0.0, prompt, output, ids, ids[: prompt // 16])


def sent(one):
    return Sent(one.prompt_tokens, one.output_tokens, one.whole, prompted=one)


def random_work(seed, count=40):
    """Requests and when they arrive: some share prefixes, together they need more blocks than there are."""
    rng = random.Random(seed)
    now, found = 0.0, []
    for number in range(count):
        now += rng.choice((0.0, rng.expovariate(2.0), rng.expovariate(8.0)))
        prompt, shared = rng.randrange(1, 500), rng.randrange(3)
        own = range(number * 1000, number * 1000 + 40)
        ids = (
            [*range(-100 * shared - 20, -100 * shared), *own][: -(-prompt // 16)] if shared else own[: -(-prompt // 16)]
        )
        found.append((now, prompted(number, prompt, rng.randrange(1, 200), ids)))
    return found


def step_by_step(work, profile=PROFILE):
    """The simulator's engine, one step after the other: requests and engine."""
    engine, now, requests, waiting = Engine(profile), 0.0, [], list(work)
    while waiting or not engine.is_idle:
        if engine.is_idle:
            now = max(now, waiting[0][0])
        while waiting and waiting[0][0] <= now:
            arrival, one = waiting.pop(0)
            requests.append(Request(one.prompt_tokens, one.output_tokens, one.whole))
            engine.submit(requests[-1], arrival)
            if len(engine.waiting) == 1 and not engine.running:
                break  # an idle engine starts at once
        now += engine.plan(now)
        engine.complete(now)
    return requests, engine


def skipping(work, profile=PROFILE, look=lambda now, replica: None):
    """The fleet's engine on the same work, and how many events it took."""
    replica = Replica(SkippingEngine(profile, lambda request: None, lambda ids: None))
    requests, events = [], 0
    for arrival, one in [*work, (math.inf, None)]:
        while replica.end <= arrival and replica.end < math.inf:
            look(replica.end, replica)
            replica.advance()
            events += 1
        if one is not None:
            requests.append(sent(one))
            replica.submit(requests[-1], arrival)
            look(arrival, replica)
    return requests, replica, events


@pytest.mark.parametrize("seed", range(12))
def test_times_hits_and_preemptions_are_those_of_the_simulators_engine(seed):
    work = random_work(seed)
    expected, engine = step_by_step(work)
    found, replica, events = skipping(work)
    assert [one.first_token for one in found] == pytest.approx([one.first_token for one in expected])
    assert [one.finished for one in found] == pytest.approx([one.finished for one in expected])
    assert [one.cached for one in found] == [one.cached for one in expected]
    assert replica.engine.totals == engine.totals
    assert events < engine.totals.generated_tokens / 4


def test_the_random_work_hits_and_preempts():
    totals = [step_by_step(random_work(seed))[1].totals for seed in range(12)]
    assert sum(one.preemptions for one in totals) > 0
    assert sum(one.prefix_hits for one in totals) > 0


def test_a_lone_request_takes_what_can_be_computed_by_hand():
    (one,), replica, events = skipping([(5.0, prompted(1, 150, 11))])
    assert one.first_token == pytest.approx(5 + 0.01 + 0.1 + 0.01 + 0.05)
    assert one.finished == pytest.approx(5.17 + 10 * 0.011)
    assert events == 3  # two chunks, and ten decode steps at once
    assert replica.end == math.inf


def test_who_arrives_in_a_run_of_decode_steps_waits_for_one_step_only():
    first, second = skipping([(0.0, prompted(1, 10, 150)), (0.0255, prompted(2, 10, 1))])[0]
    assert first.first_token == pytest.approx(0.02)
    assert second.first_token == pytest.approx(0.02 + 0.011 + 0.01 + 0.001 + 0.01)


def replica_at(now, *work):
    replica = Replica(SkippingEngine(PROFILE, lambda request: None, lambda ids: None))
    for one in work:
        replica.submit(sent(one), 0.0)
    while replica.end <= now:
        replica.advance()
    return replica


def test_a_scrape_amid_a_run_sees_the_blocks_and_tokens_so_far():
    replica = replica_at(0.1, prompted(1, 15, 100))
    steps = int((0.1 - 0.025) / 0.011)
    scrape = replica.scrape(0.1)
    assert (scrape.running, scrape.waiting) == (1, 0)
    assert scrape.kv_usage == math.ceil((15 + 1 + steps) / 16) / 100
    assert scrape.first_token_seconds == pytest.approx(0.025)
    assert scrape.inter_token_seconds == pytest.approx(0.011)
    assert replica.computed_tokens(0.1) == 15 + 1 + steps


def test_a_scrape_tells_of_its_interval_alone():
    replica = replica_at(0.1, prompted(1, 15, 100))
    replica.scrape(0.1)
    again = replica.scrape(0.1)
    assert (again.first_token_seconds, again.inter_token_seconds) == (0.0, 0.0)


def test_a_block_is_told_when_it_is_computed_and_not_before():
    computed = []
    replica = Replica(SkippingEngine(PROFILE, lambda request: None, computed.extend))
    replica.submit(sent(prompted(1, 160, 2, range(10))), 0.0)
    assert computed == []
    replica.advance()
    assert computed == list(range(6))
    replica.advance()
    assert computed == list(range(10))


def test_the_oracle_holds_what_was_computed_up_to_its_size_the_oldest_last():
    oracle = Oracle(4)
    oracle.computed([1, 2])
    assert (oracle.match([1, 2, 3]), oracle.match([2]), oracle.match([7, 1])) == (2, 1, 0)
    oracle.computed([5, 6])
    oracle.match([1, 2])
    oracle.computed([7])  # 5 and 6 are the oldest now, and of them 6 the older: a prefix outlives what continues it
    assert (oracle.match([1, 2]), oracle.match([5, 6]), oracle.match([7])) == (2, 1, 1)


def test_the_oracle_has_less_to_share_while_requests_hold_what_nobody_can():
    oracle = Oracle(4)
    oracle.computed([1, 2, 3])
    oracle.taken = 2
    oracle.computed([4])
    assert (oracle.match([1]), oracle.match([4]), oracle.match([3]), oracle.match([2])) == (1, 1, 0, 0)
    oracle.taken = 0
    oracle.computed([5, 6])
    assert (oracle.match([1]), oracle.match([4]), oracle.match([5, 6])) == (1, 1, 2)
