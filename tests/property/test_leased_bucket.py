"""Limits that gateways share: whatever is leased, spent, settled, returned, lost on the way or crashes, nobody gets more than the limit.

That the compiled buckets do what their twins do is a part of ``test_token_bucket.py``, where all that can be done with a bucket meets.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from _fastpath.leased_bucket import LeasedBuckets
from _fastpath.token_bucket import TokenBuckets
from gateway.admission.lease_book import LeaseBook
from gateway.admission.limit_names import FAILURES
from tests.property.pairs import Pair
from tests.support.examples import examples
from tests.support.limit_store import StoredLimits

GATEWAYS = 3
TOKENS, SECONDS, BURST = 1000, 10, 80
RATE = TOKENS / SECONDS
KEY, IDENTITY = 77, 4242
STORE = 1 << 20
NOW = 10**15
GATEWAY = st.integers(0, GATEWAYS - 1)


class OneGateway:
    """Its shared memory, one leased bucket in it, and the book of its keeper."""

    def __init__(self, failure, gateways):
        self.memory = Pair(workers=1, buckets=4)
        self.buckets = TokenBuckets(self.memory.compiled)
        self.leased = LeasedBuckets(self.buckets)
        self.book = LeaseBook(self.leased, gateways)
        self.bucket = self.buckets.open(IDENTITY, NOW, False, STORE | (FAILURES.index(failure) + 1), KEY)
        self.buckets.configure(self.bucket, 1, TOKENS, SECONDS, BURST, NOW)
        self.requests = []

    def look(self, now):
        for seen in self.leased.changed():
            self.book.note(seen, now)


class SharedLimit(RuleBasedStateMachine):
    """Several gateways, one store, and requests of which each is settled, perhaps with more than was reserved."""

    failure = "local"

    def __init__(self):
        super().__init__()
        self.store = StoredLimits()
        self.now = 1000.0
        self.gateways = [OneGateway(self.failure, GATEWAYS) for _ in range(GATEWAYS)]
        self.admitted = self.elapsed = self.alone = 0

    def teardown(self):
        for gateway in self.gateways:
            gateway.memory.close()

    @rule(seconds=st.floats(0.001, 3))
    def time_passes(self, seconds):
        self.now += seconds
        self.store.now += int(seconds * 1e6)
        self.elapsed += seconds

    @rule(seconds=st.floats(-100, 1))
    def clock_of_the_store_is_set(self, seconds):
        self.store.now += int(seconds * 1e6)
        self.elapsed += max(0.0, seconds)

    @rule(gateway=GATEWAY, tokens=st.integers(1, BURST), times=st.integers(1, 4))
    def spend(self, gateway, tokens, times):
        one = self.gateways[gateway]
        for _ in range(times):
            if one.buckets.reserve(one.bucket, tokens, NOW) == 0.0:
                one.requests.append(tokens)
                self.admitted += tokens

    @rule(gateway=GATEWAY, used=st.integers(0, 2 * BURST))
    def settle(self, gateway, used):
        one = self.gateways[gateway]
        if one.requests:
            reserved = one.requests.pop()
            one.buckets.settle(one.bucket, reserved, used, NOW)
            # what was used beyond the reservation was admitted by nobody: it is paid for by those who come later
            self.admitted -= max(0, reserved - used)

    @rule(gateway=GATEWAY, fate=st.sampled_from(("answered", "answered", "answered", "not asked", "answer lost")))
    def exchange(self, gateway, fate):
        book = self.gateways[gateway].book
        self.gateways[gateway].look(self.now)
        if book.is_away:
            book.came_back(self.now)
        asks = book.plan(self.now)
        answers = [self.store.lease(ask) for ask in asks] if fate != "not asked" else []
        if fate == "answered":
            book.answered(answers, self.now)
        else:
            self.alone += 1
            book.went_away(self.now)

    @rule(gateway=GATEWAY)
    def share(self, gateway):
        one = self.gateways[gateway]
        one.look(self.now)
        if one.book.is_away:
            one.book.share(self.now)

    @rule(gateway=GATEWAY)
    def crash(self, gateway):
        self.gateways[gateway].memory.close()
        self.gateways[gateway] = OneGateway(self.failure, GATEWAYS)

    @rule(gateway=GATEWAY)
    def end(self, gateway):
        one = self.gateways[gateway]
        one.look(self.now)
        if not one.book.is_away:
            one.book.answered([self.store.lease(ask) for ask in one.book.give_back(self.now)], self.now)
            self.crash(gateway)

    @property
    def allowed(self):
        return BURST + RATE * self.elapsed

    @invariant()
    def nobody_gets_more(self):
        # a gateway that is left alone counts on its part of what the store had left then: one burst among all of them
        assert self.admitted <= self.allowed + self.alone * BURST / GATEWAYS + 1e-3 * (self.elapsed + 1)


class ClosedLimit(SharedLimit):
    """Without a share of one's own there is nothing beyond the limit, whatever is lost."""

    failure = "deny"

    @invariant()
    def nobody_gets_more(self):
        assert self.admitted <= self.allowed + 1e-3 * (self.elapsed + 1)

    def __init__(self):
        super().__init__()
        self.before, self.elapsed_before = float(BURST), 0.0

    @invariant()
    def no_step_makes_tokens_but_time(self):
        """What was admitted, what lies in buckets and what the store has left: together they grow by the rate alone."""
        there = sum(max(0.0, one.buckets.available(one.bucket, NOW)) for one in self.gateways)
        stored = self.store.buckets.get(KEY)
        left = float(BURST)
        if stored is not None:
            left = (stored.tolerance - max(0.0, stored.arrival - max(self.store.now, stored.seen))) / 1e6 * RATE
        total = self.admitted + there + left
        assert total <= self.before + RATE * (self.elapsed - self.elapsed_before) + 1e-2
        self.before, self.elapsed_before = total, self.elapsed


for machine in (SharedLimit, ClosedLimit):
    machine.TestCase.settings = settings(max_examples=examples(100), stateful_step_count=50, deadline=None)
TestSharedLimit = SharedLimit.TestCase
TestClosedLimit = ClosedLimit.TestCase
