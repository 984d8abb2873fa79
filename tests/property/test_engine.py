"""The simulated engine in virtual time: whatever arrives, everything is finished, in its order, within its means."""

from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine import Engine, Profile, Request
from simulator.kv_cache import Removed, Stored, block_hashes
from tests.support.examples import examples

SIZE = 4
PROFILES = st.builds(
    Profile,
    prefill_tokens_per_second=st.just(1000.0),
    step_seconds=st.just(0.01),
    decode_seconds=st.just(0.001),
    step_tokens=st.integers(1, 40),
    running_requests=st.integers(1, 6),
    kv_tokens=st.integers(16, 40).map(lambda blocks: blocks * SIZE),
    block_size=st.just(SIZE),
    transfer_tokens_per_second=st.just(10_000.0),
)


@st.composite
def arrivals(draw):
    """Time, prompt tokens, output length, remote prefill, and the number of own tokens after which the client leaves."""
    # prompts of few different pieces, so that prefixes are shared; prompt and output fit into 64 tokens
    pieces = st.sampled_from(((1,) * 4, (2,) * 4, (1, 2, 3, 4, 5), (7,)))
    prompt = sum(draw(st.lists(pieces, min_size=1, max_size=7)), ())
    output = draw(st.integers(1, 64 - len(prompt)))
    leaves = draw(st.none() | st.none() | st.integers(0, output - 1))
    return draw(st.floats(0, 1)), prompt, output, draw(st.sampled_from((False, False, False, True))), leaves


def make(prompt, output, remote, knows_tokens):
    return Request(len(prompt), output, block_hashes(prompt, SIZE), prompt if knows_tokens else (), remote)


class Run:
    """An engine driven from one step to the next, and checked at each."""

    def __init__(self, profile, wanted, knows_tokens):
        self.engine = Engine(profile, record_events=True)
        self.profile = profile
        self.wanted = sorted(wanted, key=lambda one: one[0])
        self.knows_tokens = knows_tokens
        self.requests = []
        self.leaving = {}
        self.cached = set()
        self.now = 0.0

    def run(self):
        steps = 0
        while self.wanted or not self.engine.is_idle:
            if self.engine.is_idle:
                self.now = max(self.now, self.wanted[0][0])
            self.arrive()
            if self.engine.is_idle:
                continue
            self.step()
            steps += 1
            assert steps < 20_000, "never finished"

    def arrive(self):
        while self.wanted and self.wanted[0][0] <= self.now:
            _, prompt, output, remote, leaves = self.wanted.pop(0)
            request = make(prompt, output, remote, self.knows_tokens)
            self.engine.submit(request, self.now)
            self.requests.append(request)
            if leaves == 0:
                self.engine.abort(request)
            elif leaves is not None:
                self.leaving[id(request)] = leaves

    def step(self):
        engine, profile = self.engine, self.profile
        before = {id(one): one.generated for one in self.requests}
        transferring = [one for one in engine.waiting if one.remote_prefill]
        seconds = engine.plan(self.now)
        assert seconds > 0, "requests wait and nothing is done"
        planned = list(engine._step)
        decodes = [one for one in planned if not one.is_prefilling]
        prefills = [one for one in planned if one.is_prefilling]
        assert len({id(one) for one in planned}) == len(planned)
        assert all(one.chunk >= 1 for one in planned)
        assert sum(one.chunk for one in planned) <= profile.step_tokens
        assert len(engine.running) <= profile.running_requests
        expected = profile.step_seconds + profile.decode_seconds * len(decodes)
        expected += sum(one.chunk for one in prefills) / profile.prefill_tokens_per_second
        if any(one in engine.running for one in transferring):
            assert seconds >= expected - 1e-9
        else:
            assert abs(seconds - expected) < 1e-9
        self.check_blocks()
        for one in planned:
            assert (len(one.held) + one.private) * SIZE >= one.computed + one.chunk
        self.now += seconds
        produced = engine.complete(self.now)
        for one in produced:
            assert one.generated == before[id(one)] + 1
            assert one.generated <= one.output_length
            if not one.finished:
                assert not one.is_prefilling, "who has got a token decodes, until it is preempted"
            one.output.append(len(one.output) + 100)
            if self.leaving.get(id(one)) == one.generated:
                engine.abort(one)
        for one in self.requests:
            if one not in produced:
                assert one.generated == before[id(one)]
        self.check_blocks()
        self.follow_events()

    def check_blocks(self):
        cache = self.engine.cache
        held = {block for one in self.engine.running for block in one.held}
        assert all(one.private >= 0 for one in self.engine.running)
        assert cache.used == len(held) + sum(one.private for one in self.engine.running)
        assert 0 <= cache.used <= cache.capacity
        assert all(not one.held and not one.private for one in self.engine.waiting)

    def follow_events(self):
        cache = self.engine.cache
        for event in cache.events:
            match event:
                case Stored(hashes, parent, _):
                    assert parent is None or parent in self.cached
                    self.cached |= set(hashes)
                case Removed(hashes):
                    assert set(hashes) <= self.cached
                    self.cached -= set(hashes)
        cache.events.clear()
        assert self.cached == set(cache._in_use) | set(cache._reusable)


@settings(max_examples=examples(250), deadline=None)
@given(PROFILES, st.lists(arrivals(), min_size=1, max_size=12), st.booleans())
def test_every_request_is_finished_with_its_tokens_and_nothing_is_held_after(profile, wanted, knows_tokens):
    run = Run(profile, wanted, knows_tokens)
    run.run()
    totals = run.engine.totals
    assert run.engine.cache.used == 0
    stayed = [one for one in run.requests if not one.aborted]
    for one in stayed:
        assert one.generated == one.output_length
        assert one.arrived <= one.started < one.first_token <= one.finished
        assert one.cached <= max(0, one.prompt_length - 1)
    assert totals.finished == len(stayed)
    assert totals.generated_tokens == sum(one.generated for one in run.requests)
    # first come, first admitted
    started = [one.started for one in run.requests if one.started]
    assert started == sorted(started)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(arrivals(), min_size=1, max_size=6))
def test_with_room_for_all_nothing_is_preempted_and_every_prompt_token_is_computed_or_cached(wanted):
    profile = Profile(step_tokens=64, running_requests=64, kv_tokens=4096, block_size=SIZE)
    run = Run(profile, [(at, prompt, output, False, None) for at, prompt, output, _, _ in wanted], True)
    run.run()
    totals = run.engine.totals
    assert totals.preemptions == 0
    assert totals.prompt_tokens + totals.prefix_hits == sum(one.prompt_length for one in run.requests)
    assert totals.prefix_queries == sum(one.prompt_length for one in run.requests)
    assert totals.prefix_hits == sum(one.cached for one in run.requests)


@settings(max_examples=examples(60), deadline=None)
@given(arrivals(), arrivals())
def test_a_prompt_that_was_just_served_is_cached_up_to_its_last_block(one, other):
    profile = Profile(step_tokens=64, running_requests=4, kv_tokens=4096, block_size=SIZE)
    first = Run(profile, [(0.0, *one[1:3], False, None)], True)
    first.run()
    prompt = one[1] + other[1]
    request = make(prompt, 1, False, True)
    first.engine.submit(request, 100.0)
    first.engine.plan(100.0)
    known = len(one[1]) // SIZE * SIZE
    assert request.cached >= min(known, (len(prompt) - 1) // SIZE * SIZE)
    assert request.cached % SIZE == 0
