"""The engine's timing, step by step, in virtual time."""

import pytest

from simulator.engine import Engine, Profile, Request
from simulator.kv_cache import block_hashes

PROFILE = Profile(
    prefill_tokens_per_second=1000.0,
    step_seconds=0.01,
    decode_seconds=0.001,
    step_tokens=100,
    running_requests=4,
    kv_tokens=1600,
    block_size=16,
    transfer_tokens_per_second=10_000.0,
)


def engine(**more):
    return Engine(Profile(**{name: getattr(PROFILE, name) for name in PROFILE.__slots__} | more))


def request(prompt, output=1, tokens=None, **more):
    """A request of so many prompt tokens, no two alike unless their tokens are given."""
    tokens = tuple(tokens) if tokens is not None else tuple(range(request.fresh, request.fresh + prompt))
    request.fresh += prompt
    return Request(len(tokens), output, block_hashes(tokens, PROFILE.block_size), tokens, **more)


request.fresh = 0


class Driver:
    """Runs an engine as its server does; output tokens are numbers nobody else has."""

    def __init__(self, engine):
        self.engine, self.now, self.steps, self.next_token = engine, 0.0, [], 10**6

    def submit(self, *requests):
        for one in requests:
            self.engine.submit(one, self.now)
        return requests[0] if len(requests) == 1 else requests

    def step(self):
        """Seconds of one step and who got a token."""
        seconds = self.engine.plan(self.now)
        self.now += seconds
        produced = self.engine.complete(self.now)
        for one in produced:
            one.output.append(self.next_token)
            self.next_token += 1
        return pytest.approx(seconds), produced

    def finish(self, most=10_000):
        for _ in range(most):
            if self.engine.is_idle:
                return
            seconds = self.engine.plan(self.now)
            assert seconds > 0, "requests wait and nothing is done"
            self.steps.append(seconds)
            self.now += seconds
            for one in self.engine.complete(self.now):
                one.output.append(self.next_token)
                self.next_token += 1
        pytest.fail("never finished")


@pytest.fixture
def driver():
    return Driver(engine())


def test_an_idle_engine_has_no_step(driver):
    assert driver.engine.is_idle
    assert driver.step() == (0, [])


def test_a_request_is_prefilled_and_then_decoded_a_token_a_step(driver):
    one = driver.submit(request(50, 3))
    assert driver.step() == (0.01 + 50 / 1000, [one])
    assert driver.step() == (0.01 + 0.001, [one])
    assert driver.step() == (0.01 + 0.001, [one])
    assert driver.engine.is_idle
    assert (one.generated, one.finished, one.first_token) == (3, pytest.approx(0.082), pytest.approx(0.06))


def test_a_single_token_is_there_with_the_prefill(driver):
    one = driver.submit(request(50, 1))
    assert driver.step() == (0.06, [one])
    assert driver.engine.is_idle


def test_a_long_prompt_is_prefilled_in_chunks_of_the_budget(driver):
    one = driver.submit(request(250, 2))
    assert driver.step() == (0.11, [])
    assert driver.step() == (0.11, [])
    assert driver.step() == (0.06, [one])
    assert driver.step() == (0.011, [one])


def test_decodes_come_first_and_prefill_gets_what_is_left_of_the_budget(driver):
    first = driver.submit(request(10, 100))
    driver.step()
    second = driver.submit(request(250, 1))
    assert driver.step() == (0.01 + 0.001 + 99 / 1000, [first])
    assert driver.step() == (0.01 + 0.001 + 99 / 1000, [first])
    assert driver.step() == (0.01 + 0.001 + 52 / 1000, [first, second])


def test_several_prompts_share_a_step_in_the_order_of_their_arrival(driver):
    first, second, third = driver.submit(request(30), request(60), request(50))
    assert driver.step() == (0.01 + 100 / 1000, [first, second])
    assert third.computed == 10
    assert driver.step() == (0.01 + 40 / 1000, [third])


def test_no_more_requests_run_than_may(driver):
    requests = driver.submit(*(request(10, 3) for _ in range(6)))
    driver.step()
    assert (driver.engine.running, list(driver.engine.waiting)) == (list(requests[:4]), list(requests[4:]))
    driver.finish()
    assert [one.started for one in requests] == sorted(one.started for one in requests)
    assert requests[4].started == pytest.approx(requests[3].finished)


def test_a_request_that_finds_no_blocks_waits_and_those_behind_it_too():
    driver = Driver(engine(kv_tokens=160))
    large, larger, small = driver.submit(request(96, 1), request(90, 1), request(4, 1))
    assert driver.step()[1] == [large]
    assert driver.step()[1] == [larger, small]


def test_the_prefix_that_another_request_computed_is_not_computed_again(driver):
    tokens = range(5000, 5100)
    driver.submit(request(0, 1, tokens))
    driver.finish()
    again = driver.submit(request(0, 1, tokens))
    assert driver.step() == (0.01 + 4 / 1000, [again])
    assert again.cached == 96


def test_of_a_prompt_that_is_cached_whole_one_block_is_computed_all_the_same(driver):
    tokens = range(5000, 5064)
    for cached in (0, 48):
        one = driver.submit(request(0, 1, tokens))
        driver.finish()
        assert one.cached == cached


def test_hits_and_queries_are_counted_in_tokens(driver):
    tokens = range(5000, 5065)
    for _ in range(2):
        driver.submit(request(0, 2, tokens))
        driver.finish()
    totals = driver.engine.totals
    assert (totals.prefix_queries, totals.prefix_hits) == (130, 64)
    assert (totals.prompt_tokens, totals.generated_tokens, totals.finished, totals.preemptions) == (66, 4, 2, 0)


def test_two_requests_of_one_prefix_share_its_blocks(driver):
    tokens = tuple(range(5000, 5064))
    driver.submit(request(0, 50, (*tokens, 1)))
    driver.step()
    driver.submit(request(0, 50, (*tokens, 2)))
    driver.step()
    assert driver.engine.cache.used == 4 + 1 + 1


def test_what_was_generated_is_reused_by_the_next_turn_of_a_conversation(driver):
    first = driver.submit(request(0, 40, range(5000, 5020)))
    driver.finish()
    everything = (*first.tokens, *first.output)
    turn = driver.submit(request(0, 1, (*everything, 1, 2, 3)))
    driver.finish()
    # of 60 tokens 59 were computed (the last was never fed back): three blocks of 16
    assert turn.cached == 48


def test_without_tokens_only_the_prompt_is_reused(driver):
    hashes = block_hashes(range(5000, 5032), 16)
    for _ in range(2):
        one = driver.submit(Request(32, 40, hashes))
        driver.finish()
    assert one.cached == 16
    assert driver.engine.cache.match(hashes) == 2


def test_a_request_of_a_prefill_engine_brings_its_blocks_and_computes_one_token(driver):
    one = driver.submit(request(81, 2, remote_prefill=True))
    assert driver.step() == (0.01 + 1 / 1000 + 81 / 10_000, [one])
    assert driver.step() == (0.011, [one])


def test_what_is_cached_need_not_be_transferred(driver):
    tokens = range(5000, 5081)
    driver.submit(request(0, 1, tokens))
    driver.finish()
    driver.submit(request(0, 1, tokens, remote_prefill=True))
    assert driver.step()[0] == 0.01 + 1 / 1000 + 1 / 10_000


# -- too few blocks


def test_when_blocks_run_out_the_youngest_is_preempted_and_computed_again():
    driver = Driver(engine(kv_tokens=64))
    old, young = driver.submit(request(16, 30), request(16, 30))
    driver.finish()
    assert driver.engine.totals.preemptions >= 1
    assert (old.generated, young.generated) == (30, 30)
    assert old.finished < young.finished
    assert driver.engine.cache.used == 0


def test_a_preempted_request_keeps_what_it_generated_and_its_first_token():
    driver = Driver(engine(kv_tokens=64))
    _, young = driver.submit(request(16, 30), request(16, 30))
    while not driver.engine.totals.preemptions:
        driver.step()
    generated, first = young.generated, young.first_token
    assert generated > 0
    assert young in driver.engine.waiting
    driver.finish()
    assert young.first_token == first
    assert len(young.output) == 30


def test_after_a_preemption_a_request_decodes_as_before():
    """Computed again once: what it had (prompt and all generated tokens but the last), then a token a step like anybody."""
    driver = Driver(engine(kv_tokens=64))
    _, young = driver.submit(request(16, 30), request(16, 30))
    while not driver.engine.totals.preemptions:
        driver.step()
    while young in driver.engine.waiting:
        driver.step()
    while not driver.engine.is_idle:
        produced = driver.step()[1]
        if young in produced and not young.finished:
            assert not young.is_prefilling
            assert young.computed == young.prompt_length + young.generated - 1
    assert young.generated == 30


def test_blocks_held_are_never_fewer_than_the_tokens_need():
    driver = Driver(engine(kv_tokens=96))
    requests = driver.submit(*(request(16, 40) for _ in range(3)))
    while not driver.engine.is_idle:
        driver.step()
        for one in driver.engine.running:
            assert one.private >= 0
            assert (len(one.held) + one.private) * 16 >= one.computed
    assert [one.generated for one in requests] == [40, 40, 40]


# -- leaving


def test_a_request_that_is_aborted_while_it_waits_is_never_started(driver):
    one, other = driver.submit(request(10, 5), request(10, 5))
    driver.engine.abort(one)
    driver.finish()
    assert (one.generated, one.started, other.generated) == (0, 0, 5)


def test_a_request_that_is_aborted_while_it_runs_gives_its_blocks_back(driver):
    one = driver.submit(request(50, 50))
    driver.step()
    assert driver.engine.cache.used > 0
    driver.engine.abort(one)
    assert (driver.engine.cache.used, driver.engine.is_idle) == (0, True)


def test_a_request_that_is_aborted_during_a_step_gets_no_token_of_it(driver):
    one, other = driver.submit(request(10, 5), request(10, 5))
    driver.step()
    driver.engine.plan(driver.now)
    driver.engine.abort(one)
    assert driver.engine.complete(driver.now) == [other]
    assert one.generated == 1


def test_a_finished_request_can_be_aborted_without_harm(driver):
    one = driver.submit(request(10, 1))
    driver.finish()
    driver.engine.abort(one)
    assert driver.engine.cache.used == 0


def test_a_request_that_arrives_during_a_step_waits_for_the_next(driver):
    driver.submit(request(10, 5))
    driver.engine.plan(0.0)
    late = driver.submit(request(10, 5))
    assert late not in driver.engine.complete(0.02)
    assert late in driver.step()[1]


def test_events_are_recorded_when_they_are_wanted():
    driver = Driver(Engine(PROFILE, record_events=True))
    one = driver.submit(request(32, 1))
    driver.finish()
    (event,) = driver.engine.cache.events
    assert (event.hashes, event.parent, event.tokens) == (one.hashes, None, one.tokens)
