"""The health of endpoints, noted by two workers while endpoints come and go, against its twin; and what holds for every history."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from _fastpath.health import EVENTS, OUTCOMES, Health, Outlier
from _fastpath.slots import Slots
from tests.property.pairs import Pair, outcome, pair
from tests.reference import health as reference
from tests.reference import slots as reference_slots
from tests.support.examples import examples

WORKERS = 2
CAPACITY = 64
IDENTITIES = (10, 20)
START = 1000.0
RULES = (
    {"failures": 1, "base_ejection": 0.5, "maximum_ejection": 3.0, "slow_start": 0.0, "probe_seconds": 1.0},
    {"failures": 3, "base_ejection": 1.0, "maximum_ejection": 60.0, "slow_start": 7.0, "probe_seconds": 5.0},
    {"failures": 100, "base_ejection": 5.0, "maximum_ejection": 1.0, "slow_start": 30.0},
    {"failures": 0},
)
ENDPOINTS = st.tuples(st.integers(0, 2), st.sampled_from((0, 2, 4)))
WRITER = st.integers(-1, WORKERS - 1)
OUTCOME = st.integers(0, len(OUTCOMES) - 1)
# eighths of a second are whole binary fractions, so that both cut milliseconds alike
STEP = st.integers(0, 80).map(lambda eighths: eighths / 8)


class HealthMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.both = Pair(workers=WORKERS, slots=CAPACITY)
        self.slots = Slots(self.both.compiled)
        self.plain_slots = reference_slots.Slots(self.both.plain)
        rows = range(-1, WORKERS)
        self.compiled = {row: Health(self.both.attach(), row) for row in rows}
        self.plain = {row: reference.Health(self.both.plain, row) for row in rows}
        self.rules = [(Outlier(**one), reference.Outlier(**one)) for one in RULES]
        self.now = START
        self.seen = {(0, 0)}
        self.probes = []

    def teardown(self):
        self.both.close()

    def agree(self, row, name, *arguments, rules=None):
        ours, plain = self.rules[rules] if rules is not None else (None, None)
        compiled_arguments = [*arguments[:2], ours, *arguments[2:]] if ours is not None else arguments
        plain_arguments = [*arguments[:2], plain, *arguments[2:]] if plain is not None else arguments
        expected = outcome(getattr(self.plain[row], name), *plain_arguments)
        assert outcome(getattr(self.compiled[row], name), *compiled_arguments) == expected, (name, arguments)
        return expected

    @rule(seconds=STEP)
    def time_goes_on(self, seconds):
        self.now += seconds

    @rule(row=st.integers(0, WORKERS), identity=st.sampled_from(IDENTITIES))
    def acquire(self, row, identity):
        endpoint = self.slots.acquire(row, identity)
        assert endpoint == self.plain_slots.acquire(row, identity)
        self.seen.add(endpoint)
        self.agree(-1, "begin", *endpoint, self.now)

    @rule(row=st.integers(0, WORKERS))
    def drop_and_sweep(self, row):
        for slots in (self.slots, self.plain_slots):
            slots.drop_row(row)
            slots.sweep()

    @rule(row=WRITER, endpoint=ENDPOINTS, rules=st.integers(0, 3), outcome=OUTCOME, ago=STEP)
    def note(self, row, endpoint, rules, outcome, ago):
        self.seen.add(endpoint)
        self.agree(row, "note", *endpoint, outcome, self.now - ago, self.now, rules=rules)

    @rule(row=WRITER, endpoint=ENDPOINTS, rules=st.integers(0, 3), times=st.integers(1, 4))
    def fail_often(self, row, endpoint, rules, times):
        for _ in range(times):
            self.agree(row, "note", *endpoint, 3, self.now, self.now, rules=rules)

    @rule(row=WRITER, endpoint=ENDPOINTS, rules=st.integers(0, 3))
    def claim(self, row, endpoint, rules):
        token = self.agree(row, "claim", *endpoint, self.now, rules=rules)
        if token:
            self.probes.append((endpoint, rules, token, self.now))

    @precondition(lambda self: self.probes)
    @rule(row=WRITER, outcome=OUTCOME, data=st.data())
    def probe_ends(self, row, outcome, data):
        probe = data.draw(st.sampled_from(self.probes))
        if OUTCOMES[outcome] != "answers":
            self.probes.remove(probe)
        endpoint, rules, token, sent = probe
        self.agree(row, "note", *endpoint, outcome, sent, self.now, token, rules=rules)

    @rule(row=WRITER, worker=st.integers(0, WORKERS - 1))
    def bury(self, row, worker):
        self.agree(row, "clear_worker", worker, self.now)

    @rule(row=WRITER, slot=st.integers(0, CAPACITY + 1))
    def begin(self, row, slot):
        self.agree(row, "begin", slot, 0, self.now)

    @invariant()
    def every_mapping_reads_the_same(self):
        for endpoint in self.seen:
            for row in self.compiled:
                for rules in range(len(RULES)):
                    self.agree(row, "read", *endpoint, self.now, rules=rules)


HealthMachine.TestCase.settings = settings(max_examples=examples(80), stateful_step_count=40, deadline=None)
TestHealth = HealthMachine.TestCase

FAST = settings(deadline=None, max_examples=examples(60))
RULE = st.builds(
    dict,
    failures=st.integers(1, 5),
    base_ejection=st.sampled_from((0.125, 1.0, 10.0)),
    maximum_ejection=st.sampled_from((1.0, 40.0, 300.0)),
    slow_start=st.sampled_from((0.0, 1.0, 30.0)),
)
HISTORY = st.lists(st.tuples(st.sampled_from(("neutral", "answers", "served", "failed")), STEP), max_size=40)


def one_endpoint(both, row=0):
    slots = Slots(both.compiled)
    return Health(both.compiled, row), slots.acquire(0, 2)


@FAST
@given(rules=RULE, history=HISTORY)
def test_without_a_failure_nobody_is_ever_ejected(rules, history):
    with pair() as both:
        health, endpoint = one_endpoint(both)
        outlier, now = Outlier(**rules), START
        for word, seconds in history:
            if word != "failed":
                health.note(*endpoint, outlier, OUTCOMES.index(word), now, now + seconds)
                now += seconds
        reading = health.read(*endpoint, outlier, now)
        assert reading["state"] in ("serving", "warming")
        assert (reading["failures"], reading["ejections"]) == (0, 0)


@FAST
@given(rules=RULE, history=HISTORY)
def test_an_ejection_lasts_from_the_base_to_the_longest(rules, history):
    with pair() as both:
        health, endpoint = one_endpoint(both)
        outlier, now = Outlier(**rules), START
        least, most = rules["base_ejection"], max(rules["base_ejection"], rules["maximum_ejection"])
        for word, seconds in history:
            now += seconds
            probe = health.claim(*endpoint, outlier, now)
            event = EVENTS[health.note(*endpoint, outlier, OUTCOMES.index(word), now, now, probe)]
            if event == "ejected":
                assert word == "failed"
                assert least <= health.read(*endpoint, outlier, now)["seconds_left"] <= most
            if event == "returned":
                assert word in ("answers", "served")


@FAST
@given(rules=RULE, workers=st.lists(st.integers(0, 1), min_size=2, max_size=8))
def test_of_all_who_claim_at_once_one_has_the_probe(rules, workers):
    with pair() as both:
        health, endpoint = one_endpoint(both)
        outlier = Outlier(**rules)
        for _ in range(rules["failures"]):
            health.note(*endpoint, outlier, OUTCOMES.index("failed"), START, START)
        later = START + 1000.0
        tokens = [Health(both.attach(), row).claim(*endpoint, outlier, later) for row in workers]
        assert [bool(token) for token in tokens] == [True] + [False] * (len(workers) - 1)
        # a prober that says nothing more is given up
        assert health.claim(*endpoint, outlier, later + 119.0) == 0
        assert health.claim(*endpoint, outlier, later + 120.5) != 0


@FAST
@given(
    values=st.fixed_dictionaries(
        {},
        optional={
            "failures": st.integers(0, 200),
            **dict.fromkeys(
                ("base_ejection", "maximum_ejection", "slow_start", "probe_seconds", "maximum_ejected_percent"),
                st.floats() | st.sampled_from((0.0, 0.001, 100.0, 86400.0)),
            ),
        },
    )
)
def test_the_same_rules_are_refused(values):
    found = outcome(lambda: bool(Outlier(**values)))
    assert found == outcome(lambda: bool(reference.Outlier(**values)))


@pytest.mark.parametrize("uptime", [2**36 / 1000 - 1.0, 2**36 / 1000 + 1.0, 3 * 2**36 / 1000 - 0.5])
def test_the_word_s_time_may_wrap(uptime):
    """After 795 days the milliseconds begin anew."""
    with pair() as both:
        health, endpoint = one_endpoint(both)
        outlier = Outlier(failures=1, base_ejection=2.0, probe_seconds=2.0)
        health.begin(*endpoint, uptime - 1)
        health.note(*endpoint, outlier, OUTCOMES.index("failed"), uptime, uptime)
        assert health.read(*endpoint, outlier, uptime)["seconds_left"] == pytest.approx(2.0, abs=0.01)
        assert not health.claim(*endpoint, outlier, uptime + 1.9)
        assert (probe := health.claim(*endpoint, outlier, uptime + 2.1))
        assert (
            EVENTS[health.note(*endpoint, outlier, OUTCOMES.index("served"), uptime + 2.1, uptime + 2.2, probe)]
            == "returned"
        )
