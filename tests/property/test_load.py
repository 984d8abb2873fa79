"""The load table, written by two workers and a sidecar while endpoints come and go, against its twin."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from _fastpath.load import Load
from _fastpath.slots import Slots
from tests.property.pairs import Pair, outcome
from tests.reference import load as reference
from tests.reference import slots as reference_slots
from tests.support.examples import examples

WORKERS = 2
CAPACITY = 64
IDENTITIES = (10, 20, 30)
ENDPOINTS = st.tuples(st.integers(0, 3), st.sampled_from((0, 2, 4, 6)))  # slot and generation, mostly stale ones
WRITER = st.integers(-1, WORKERS - 1)
TOKENS = st.integers(0, 1 << 40)
MOMENT = st.just(0.0) | st.floats(0.001, 1e9)
NUMBER = st.floats(0, 1e9)


class LoadMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.both = Pair(workers=WORKERS, slots=CAPACITY)
        self.slots = Slots(self.both.compiled)
        self.plain_slots = reference_slots.Slots(self.both.plain)
        rows = range(-1, WORKERS)
        self.compiled = {row: Load(self.both.attach(), row) for row in rows}
        self.plain = {row: reference.Load(self.both.plain, row) for row in rows}
        self.seen = set()

    def teardown(self):
        self.both.close()

    def agree(self, row, name, *arguments):
        expected = outcome(getattr(self.plain[row], name), *arguments)
        assert outcome(getattr(self.compiled[row], name), *arguments) == expected

    @rule(row=st.integers(0, WORKERS), identity=st.sampled_from(IDENTITIES))
    def acquire(self, row, identity):
        endpoint = self.slots.acquire(row, identity)
        assert endpoint == self.plain_slots.acquire(row, identity)
        self.seen.add(endpoint)

    @rule(row=st.integers(0, WORKERS))
    def drop_and_sweep(self, row):
        for slots in (self.slots, self.plain_slots):
            slots.drop_row(row)
            slots.sweep()

    @rule(row=WRITER, endpoint=ENDPOINTS, prefill=TOKENS, decode=TOKENS, now=MOMENT)
    def charge(self, row, endpoint, prefill, decode, now):
        self.seen.add(endpoint)
        self.agree(row, "charge", *endpoint, prefill, decode, now)

    @rule(row=WRITER, endpoint=ENDPOINTS, prefill=TOKENS, now=MOMENT)
    def first_token(self, row, endpoint, prefill, now):
        self.agree(row, "first_token", *endpoint, prefill, now)

    @rule(row=WRITER, endpoint=ENDPOINTS, now=MOMENT)
    def read_recent(self, row, endpoint, now):
        self.agree(row, "read_recent", *endpoint, now)
        self.agree(row, "read_recent_requests", *endpoint, now)
        self.agree(row, "read_computed", *endpoint, now)

    @rule(row=WRITER, endpoint=ENDPOINTS, tokens=st.floats(), seconds=st.floats() | st.floats(0.001, 100))
    def prefilled(self, row, endpoint, tokens, seconds):
        self.agree(row, "prefilled", *endpoint, tokens, seconds)

    @rule(row=WRITER, endpoint=ENDPOINTS, prefill=TOKENS, decode=TOKENS)
    def release(self, row, endpoint, prefill, decode):
        self.agree(row, "release", *endpoint, prefill, decode)

    @rule(row=WRITER, worker=st.integers(0, WORKERS))
    def clear_worker(self, row, worker):
        self.agree(row, "clear_worker", worker)

    @rule(
        row=WRITER,
        endpoint=ENDPOINTS,
        numbers=st.tuples(*[NUMBER] * 6),
        now=st.floats(0.001, 1e9),
        before=st.integers(0, 3),
        kv_tokens=NUMBER,
        computed=NUMBER,
    )
    def write_metrics(self, row, endpoint, numbers, now, before, kv_tokens, computed):
        self.seen.add(endpoint)
        self.agree(row, "write_metrics", *endpoint, *numbers, now, before, kv_tokens, computed)

    @invariant()
    def every_mapping_reads_the_same(self):
        for endpoint in self.seen:
            for row in self.compiled:
                self.agree(row, "read", *endpoint)
                self.agree(row, "read_prefills", *endpoint)
                self.agree(row, "read_prefill_since", *endpoint)
                self.agree(row, "read_metrics", *endpoint)

    @invariant()
    def workers_are_as_busy_as_their_rows_say(self):
        for worker in range(WORKERS + 1):
            self.agree(-1, "worker_in_flight", worker)


LoadMachine.TestCase.settings = settings(max_examples=examples(60), stateful_step_count=40, deadline=None)
TestLoad = LoadMachine.TestCase
