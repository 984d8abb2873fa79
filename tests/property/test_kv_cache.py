"""The simulator's cache under requests that come, compute, share and end in any order."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from simulator.kv_cache import ROOT_HASH, KVCache, Removed, Stored, block_hashes
from tests.support.examples import examples

CAPACITY = 10
SIZE = 2
# few tokens, so that prompts have prefixes in common
PROMPTS = st.lists(st.integers(0, 1), min_size=1, max_size=12).map(tuple)


class Request:
    """What holds blocks: some full and known by their hashes, some not."""

    def __init__(self, tokens, matched, private):
        self.tokens = tokens
        self.hashes = block_hashes(tokens, SIZE)
        self.held = list(self.hashes[:matched])
        self.private = private


class CacheMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.cache = KVCache(CAPACITY, SIZE, [])
        self.requests = []
        self.followed = {}
        self.age = 0
        self.released = {}

    @rule(tokens=PROMPTS)
    def arrive(self, tokens):
        hashes = block_hashes(tokens, SIZE)
        matched = self.cache.match(hashes)
        assert matched == next((i for i, one in enumerate(hashes) if one not in self.followed), len(hashes))
        self.cache.hold(hashes[:matched])
        wanted = -(-len(tokens) // SIZE) - matched
        free = self.cache.free
        reusable = {one for one in self.followed if not any(one in request.held for request in self.requests)}
        reusable -= set(hashes[:matched])
        before = len(self.cache.events)
        if self.cache.take(wanted):
            assert wanted <= free
            for one in hashes[:matched]:
                self.released.pop(one, None)
            removed = [one for event in self.cache.events[before:] for one in event.hashes]
            assert set(removed) <= reusable
            # the oldest go first
            kept = [self.released[one] for one in reusable - set(removed)]
            assert all(self.released[one] < oldest for one in removed for oldest in kept)
            self.requests.append(Request(tokens, matched, wanted))
        else:
            assert wanted > free
            self.cache.release(hashes[:matched], 0)
            self.note_released(hashes[:matched])

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), count=st.integers(1, 4))
    def compute(self, data, count):
        request = data.draw(st.sampled_from(self.requests))
        held = len(request.held)
        fresh = request.hashes[held : held + count]
        if fresh:
            parent = request.held[-1] if request.held else None
            tokens = request.tokens[held * SIZE : (held + len(fresh)) * SIZE]
            self.cache.fill(fresh, parent, tokens)
            request.held += fresh
            request.private -= len(fresh)
            for one in fresh:
                self.released.pop(one, None)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def end(self, data):
        request = data.draw(st.sampled_from(self.requests))
        self.requests.remove(request)
        self.cache.release(request.held, request.private)
        self.note_released(request.held)

    def note_released(self, hashes):
        for one in reversed(hashes):
            if not any(one in request.held for request in self.requests):
                self.age += 1
                self.released[one] = self.age

    def follow(self):
        """What somebody who hears the events believes to be cached, with the tokens that he can check."""
        for event in self.cache.events:
            match event:
                case Stored(hashes, parent, tokens):
                    assert hashes
                    assert parent is None or parent in self.followed
                    assert len(tokens) == len(hashes) * SIZE
                    chain = ROOT_HASH if parent is None else parent
                    # the hashes are those of the tokens, continued from the parent: so the event is whole in itself
                    for place, one in enumerate(hashes):
                        block = tokens[place * SIZE : (place + 1) * SIZE]
                        assert one == hash((chain, tuple(block))) & ((1 << 64) - 1)
                        assert one not in self.followed
                        self.followed[one] = block
                        chain = one
                case Removed(hashes):
                    for one in hashes:
                        del self.followed[one]
        self.cache.events.clear()

    @invariant()
    def blocks_are_counted_right(self):
        self.follow()
        in_use = Counter(one for request in self.requests for one in request.held)
        private = sum(request.private for request in self.requests)
        assert self.cache.used == len(in_use) + private
        assert 0 <= self.cache.used <= CAPACITY
        assert self.cache.free == CAPACITY - self.cache.used
        assert 0 <= self.cache.usage <= 1
        assert set(in_use) <= set(self.followed)
        # what is kept fits beside what is used
        assert len(self.followed) + private <= CAPACITY

    @invariant()
    def what_the_events_say_is_what_is_found(self):
        assert set(self.followed) == set(self.cache._in_use) | set(self.cache._reusable)

    def teardown(self):
        for request in self.requests:
            self.cache.release(request.held, request.private)
        assert self.cache.used == 0


CacheMachine.TestCase.settings = settings(max_examples=examples(150), stateful_step_count=40, deadline=None)
TestCache = CacheMachine.TestCase
