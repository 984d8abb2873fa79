"""Token buckets and journals, over several mappings of one file, against their twins; and what holds for any bucket."""

from itertools import accumulate
from math import ceil, inf, isclose

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from _fastpath.leased_bucket import LeasedBuckets
from _fastpath.limit_headers import limit_headers
from _fastpath.token_bucket import Journal, LimitSet, TokenBuckets
from tests.property.pairs import Pair, outcome, pair
from tests.reference import leased_bucket as reference_keeper
from tests.reference import token_bucket as reference
from tests.reference.limit_headers import limit_headers as plain_headers
from tests.support.examples import examples

START = 10**15
BUCKETS = 5
WORKERS = 2
MAPPING = st.integers(0, 2)
BUCKET = st.integers(0, BUCKETS)  # one too many, for the error
TOKENS = st.integers(0, 10**5)
# tokens, seconds, burst: none takes longer than nine years to fill, which is as far as a bucket's clock goes
LIMITS = st.tuples(st.integers(10, 10**6), st.integers(1, 3600), st.integers(1, 10**5))
# with so many bursts of debt as the state machine makes, these still stay within the clock
SHORT_LIMITS = st.tuples(st.integers(1000, 10**6), st.integers(1, 60), st.integers(1000, 10**5))
STEP = st.one_of(st.integers(0, 10**6), st.integers(0, 10**13))
IDENTITY = st.sampled_from((100, 200, 300, 400, 401, 500, 600, 700))
KIND = st.sampled_from(("input", "output", "requests"))
# mostly the identity that a bucket was opened for, now and then another: a stale limit
LIMIT = st.tuples(st.integers(0, BUCKETS - 1), st.one_of(st.none(), st.none(), st.none(), IDENTITY), KIND)
LIMIT_SET = st.lists(LIMIT, max_size=16)


class TokenBucketMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.now = START
        self.both = Pair(workers=WORKERS, buckets=BUCKETS, journal_records=4)
        self.compiled = [TokenBuckets(self.both.attach()) for _ in range(3)]
        self.plain = reference.TokenBuckets(self.both.plain)
        self.journals = [Journal(self.both.attach(), worker) for worker in range(WORKERS)]
        self.plain_journals = [reference.Journal(self.both.plain, worker) for worker in range(WORKERS)]
        self.keepers = [LeasedBuckets(buckets) for buckets in self.compiled]
        self.plain_keepers = [reference_keeper.LeasedBuckets(self.plain, BUCKETS) for _ in range(3)]
        self.open_requests = [[] for _ in range(WORKERS)]
        self.names = {}
        for bucket, identity in enumerate((100, 200, 300, 400, 500)):  # all places: one more must wait for a full one
            self.open(0, identity)
            self.configure(0, bucket, 0, (1000, 10, 1000))
            self.reserve(0, bucket, 100 * bucket, 0)

    def teardown(self):
        self.both.close()

    def agree(self, mapping, name, *arguments):
        expected = outcome(getattr(self.plain, name), *arguments)
        assert outcome(getattr(self.compiled[mapping], name), *arguments) == expected
        return expected

    @rule(step=STEP)
    def time_passes(self, step):
        self.now += step

    @rule(mapping=MAPPING, identity=IDENTITY)
    def open(self, mapping, identity):
        index = self.agree(mapping, "open", identity, self.now)
        if isinstance(index, int):
            self.names[index] = identity

    @rule(mapping=MAPPING, identity=IDENTITY, store=st.integers(1, 3), key=st.integers(0, 9))
    def open_leased(self, mapping, identity, store, key):
        identity += 1000
        index = outcome(self.compiled[mapping].open, identity, self.now, False, store, key)
        assert index == outcome(self.plain.open, identity, self.now, store, key)
        if isinstance(index, int):
            self.names[index] = identity

    @rule(mapping=MAPPING)
    def changed(self, mapping):
        assert self.keepers[mapping].changed() == self.plain_keepers[mapping].changed()

    @rule(mapping=MAPPING, bucket=BUCKET, identity=st.one_of(st.none(), st.none(), IDENTITY), tokens=TOKENS)
    def grant(self, mapping, bucket, identity, tokens):
        self.both_keep(mapping, "grant", bucket, identity or self.names.get(bucket, 0), tokens)

    @rule(mapping=MAPPING, bucket=BUCKET, identity=st.one_of(st.none(), st.none(), IDENTITY), tokens=TOKENS)
    def withdraw(self, mapping, bucket, identity, tokens):
        self.both_keep(mapping, "withdraw", bucket, identity or self.names.get(bucket, 0), tokens)

    @rule(
        mapping=MAPPING,
        bucket=BUCKET,
        standing=st.integers(0, 5),
        dry=st.integers(-(10**9), 10**9),
        elsewhere=st.integers(0, 10**5),
        shares=st.integers(1, 4),
    )
    def tell(self, mapping, bucket, standing, dry, elsewhere, shares):
        told = (standing, self.now + dry, float(elsewhere), float(shares))
        self.both_keep(mapping, "tell", bucket, self.names.get(bucket, 0), *told)

    def both_keep(self, mapping, name, *arguments):
        compiled, plain = self.keepers[mapping], self.plain_keepers[mapping]
        assert outcome(getattr(compiled, name), *arguments) == outcome(getattr(plain, name), *arguments)

    @rule(mapping=MAPPING)
    def sweep(self, mapping):
        self.compiled[mapping].sweep()

    @rule(mapping=MAPPING, bucket=BUCKET, generation=st.integers(0, 30), limits=SHORT_LIMITS)
    def configure(self, mapping, bucket, generation, limits):
        assume(bucket in self.names or bucket == BUCKETS)  # nobody configures what nobody opened
        self.agree(mapping, "configure", bucket, generation, *limits, self.now)

    @rule(mapping=MAPPING, bucket=BUCKET, tokens=TOKENS, late=st.integers(0, 10**9))
    def reserve(self, mapping, bucket, tokens, late):
        # other processes read the clock earlier than they reach the bucket
        self.agree(mapping, "reserve", bucket, tokens, self.now - late)

    @rule(mapping=MAPPING, bucket=BUCKET, reserved=TOKENS, used=TOKENS)
    def settle(self, mapping, bucket, reserved, used):
        self.agree(mapping, "settle", bucket, reserved, used, self.now)

    @rule(
        worker=st.integers(0, WORKERS - 1),
        limits=LIMIT_SET,
        input_tokens=TOKENS,
        output_tokens=TOKENS,
        again=st.booleans(),
    )
    def take(self, worker, limits, input_tokens, output_tokens, again):
        compiled, plain = self.journals[worker], self.plain_journals[worker]
        before = [self.compiled[0].available(bucket, self.now) for bucket in range(BUCKETS)]
        limits = [(bucket, identity or self.names.get(bucket, 0), kind) for bucket, identity, kind in limits]
        handle = outcome(compiled.take, LimitSet(limits), input_tokens, output_tokens, self.now)
        plain_limits = reference.LimitSet(limits)
        plain_handle = outcome(plain.take, plain_limits, input_tokens, output_tokens, self.now)
        assert compiled.refused == plain.refused
        headers = outcome(limit_headers, self.compiled[0], LimitSet(limits), self.now)
        assert headers == outcome(plain_headers, self.plain, plain_limits, self.now)
        if isinstance(handle, str) or handle < 0:
            assert handle == plain_handle
            assert compiled.wait == plain.wait
            asked = compiled.ask(LimitSet(limits), input_tokens, output_tokens, self.now, again)
            assert asked == plain.ask(plain_limits, input_tokens, output_tokens, self.now, again)
            assert asked or compiled.is_closed == plain.is_closed
            assert before == [self.compiled[0].available(bucket, self.now) for bucket in range(BUCKETS)]
        else:
            assert plain_handle >= 0
            self.open_requests[worker].append((handle, plain_handle, LimitSet(limits), plain_limits))

    def closing(self, worker, choice):
        assume(self.open_requests[worker])
        return self.open_requests[worker].pop(choice % len(self.open_requests[worker]))

    @rule(worker=st.integers(0, WORKERS - 1), choice=st.integers(0, 3), input_tokens=TOKENS, output_tokens=TOKENS)
    def settle_request(self, worker, choice, input_tokens, output_tokens):
        handle, plain_handle, limits, plain_limits = self.closing(worker, choice)
        self.journals[worker].settle(limits, handle, input_tokens, output_tokens, self.now)
        self.plain_journals[worker].settle(plain_limits, plain_handle, input_tokens, output_tokens, self.now)
        assert outcome(self.journals[worker].cancel, handle, self.now) == "ValueError"

    @rule(worker=st.integers(0, WORKERS - 1), choice=st.integers(0, 3))
    def cancel_request(self, worker, choice):
        handle, plain_handle, limits, _ = self.closing(worker, choice)
        self.journals[worker].cancel(handle, self.now)
        self.plain_journals[worker].cancel(plain_handle, self.now)
        assert outcome(self.journals[worker].settle, limits, handle, 0, 0, self.now) == "ValueError"

    @rule(worker=st.integers(0, WORKERS - 1))
    def die_and_be_recovered(self, worker):
        held = len(self.open_requests[worker])
        self.open_requests[worker].clear()
        assert Journal(self.both.attach(), worker).recover(self.now) == held
        assert self.plain_journals[worker].recover(self.now) == held
        self.journals[worker] = Journal(self.both.attach(), worker)
        self.plain_journals[worker] = reference.Journal(self.both.plain, worker)

    @invariant()
    def all_mappings_say_the_same(self):
        for bucket in range(BUCKETS + 1):
            for mapping in range(3):
                self.agree(mapping, "available", bucket, self.now)
                self.agree(mapping, "describe", bucket, self.now)
        named = [identity + more for identity in (100, 200, 300, 400, 401, 500, 600, 700) for more in (0, 1000)]
        self.agree(0, "left", named, self.now)
        for worker in range(WORKERS):
            assert self.journals[worker].in_use == len(self.open_requests[worker])


TokenBucketMachine.TestCase.settings = settings(max_examples=examples(80), stateful_step_count=40, deadline=None)
TestTokenBucket = TokenBucketMachine.TestCase


def one_bucket(both, limits, now=START):
    buckets = TokenBuckets(both.compiled)
    index = buckets.open(77, now)
    buckets.configure(index, 1, *limits, now)
    return buckets, index


@settings(max_examples=examples(150), deadline=None)
@given(
    limits=LIMITS,
    attempts=st.lists(st.tuples(st.floats(0, 2), st.integers(1, 100)), min_size=1, max_size=60),
    mappings=st.integers(1, 3),
)
def test_no_window_of_time_admits_more_than_burst_and_rate(limits, attempts, mappings):
    tokens, seconds, burst = limits
    interval = seconds * 1e9 / tokens
    admitted = []
    with pair() as both:
        _, index = one_bucket(both, limits)
        buckets = [TokenBuckets(both.attach()) for _ in range(mappings)]
        now = START
        for i, (pause, percent) in enumerate(attempts):
            wanted = max(1, burst * percent // 100)
            now += int(pause * wanted * interval)
            if buckets[i % mappings].reserve(index, wanted, now) == 0.0:
                admitted.append((now, wanted))
    sums = list(accumulate((amount for _, amount in admitted), initial=0))
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            allowed = burst + (admitted[last][0] - admitted[first][0]) / interval
            # arrival times are whole nanoseconds: half a one is lost or won with each admission
            assert sums[last + 1] - sums[first] <= allowed + (last - first + 2) / interval


@settings(max_examples=examples(150), deadline=None)
@given(limits=LIMITS, taken=st.lists(st.integers(1, 100), max_size=10), percent=st.integers(1, 100))
def test_a_refusal_says_how_long_to_wait_and_no_longer(limits, taken, percent):
    burst = limits[2]
    wanted = max(1, burst * percent // 100)
    with pair() as both:
        buckets, index = one_bucket(both, limits)
        for part in taken:
            buckets.reserve(index, max(1, burst * part // 100), START)
        wait = buckets.reserve(index, wanted, START)
        assume(wait > 0)
        nanoseconds = wait * 1e9
        assert buckets.reserve(index, wanted, START + int(nanoseconds * (1 - 1e-9)) - 4) > 0
        assert buckets.reserve(index, wanted, START + ceil(nanoseconds)) == 0.0


@settings(max_examples=examples(100), deadline=None)
@given(limits=LIMITS, more=st.integers(1, 10**5))
def test_more_than_the_burst_is_never_admitted(limits, more):
    with pair() as both:
        buckets, index = one_bucket(both, limits)
        assert buckets.reserve(index, limits[2] + more, START + 10**17) == inf


@settings(max_examples=examples(150), deadline=None)
@given(limits=LIMITS, reserved=st.integers(1, 100), used=st.integers(0, 10**5))
def test_settling_leaves_what_was_used_even_below_zero(limits, reserved, used):
    burst = limits[2]
    amount = max(1, burst * reserved // 100)
    with pair() as both:
        buckets, index = one_bucket(both, limits)
        assert buckets.reserve(index, amount, START) == 0.0
        buckets.settle(index, amount, used, START)
        assert isclose(buckets.available(index, START), burst - used, rel_tol=1e-9, abs_tol=1e-2)
        assert (buckets.reserve(index, 1, START) > 0) == (used > burst - 1)


@settings(max_examples=examples(150), deadline=None)
@given(
    limits=LIMITS,
    changes=st.lists(st.tuples(st.integers(0, 6), LIMITS), min_size=1, max_size=20),
    percent=st.integers(0, 300),
    mappings=st.integers(1, 3),
)
def test_a_change_of_limits_keeps_the_share_in_use_and_an_old_one_changes_nothing(limits, changes, percent, mappings):
    used = limits[2] * percent // 100
    with pair() as both:
        buckets, index = one_bucket(both, limits)
        others = [TokenBuckets(both.attach()) for _ in range(mappings)]
        buckets.settle(index, 0, used, START)
        newest, share = 1, used / limits[2]
        for generation, changed in changes:
            before = buckets.describe(index, START)
            for other in others:  # each worker brings the same change
                other.configure(index, generation, *changed, START)
            after = buckets.describe(index, START)
            if generation <= newest:
                assert before == after
                continue
            newest = generation
            assert isclose(after["burst"], changed[2], rel_tol=1e-9)
            # whole nanoseconds of the emptiest of these buckets are a ten-millionth of it
            assert isclose(1 - after["available"] / after["burst"], share, rel_tol=1e-2, abs_tol=1e-2)
            seconds_to_fill = changed[1] / changed[0] * changed[2]
            assert isclose(after["seconds_until_full"], share * seconds_to_fill, rel_tol=1e-2, abs_tol=1e-2)


@settings(max_examples=examples(100), deadline=None)
@given(
    requests=st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, BUCKETS - 1), KIND), max_size=16),
            st.integers(0, 10**4),
            st.integers(0, 10**4),
        ),
        max_size=8,
    ),
    step=st.integers(0, 10**9),
)
def test_recovering_a_dead_worker_gives_everything_back(requests, step):
    with pair(buckets=BUCKETS, journal_records=8) as both:
        buckets = TokenBuckets(both.compiled)
        for bucket in range(BUCKETS):
            assert buckets.open(2 * bucket + 2, START) == bucket
            buckets.configure(bucket, 1, 1000, 3600, 10**5, START)
            buckets.settle(bucket, 0, 50_000, START)
        before = [buckets.available(bucket, START) for bucket in range(BUCKETS)]
        dead = Journal(both.attach(), 0)
        sets = [LimitSet([(bucket, 2 * bucket + 2, kind) for bucket, kind in limits]) for limits, *_ in requests]
        taken = [dead.take(limits, *tokens, START) for limits, (_, *tokens) in zip(sets, requests, strict=True)]
        supervisor = Journal(both.attach(), 0)
        held = sum(handle >= 0 for handle in taken)
        assert (supervisor.in_use, supervisor.recover(START + step), supervisor.in_use) == (held, held, 0)
        assert before == [buckets.available(bucket, START) for bucket in range(BUCKETS)]
        assert Journal(both.attach(), 0).recover(START) == 0
