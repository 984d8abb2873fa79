"""Slots, over three mappings of one file, against their twin."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from _fastpath.slots import Slots
from tests.property.pairs import Pair, outcome
from tests.reference import slots as reference
from tests.support.examples import examples

WORKERS = 2
CAPACITY = 64
# few identities, so that they meet again; neighbours, so that the low bit matters; the ends of the range
IDENTITY = st.one_of(st.integers(0, 12), st.integers((1 << 64) - 4, (1 << 64) - 1), st.integers(0, (1 << 64) - 1))
MAPPING = st.integers(0, 2)
ROW = st.integers(0, WORKERS + 1)  # one too many, for the error
SLOT = st.integers(0, CAPACITY)


class SlotsMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.both = Pair(workers=WORKERS, slots=CAPACITY)
        self.compiled = [Slots(self.both.attach()) for _ in range(3)]
        self.plain = reference.Slots(self.both.plain)
        self.given_out = set()

    def teardown(self):
        self.both.close()

    def agree(self, mapping, name, *arguments):
        expected = outcome(getattr(self.plain, name), *arguments)
        assert outcome(getattr(self.compiled[mapping], name), *arguments) == expected
        return expected

    @rule(mapping=MAPPING, row=ROW, identity=IDENTITY)
    def acquire(self, mapping, row, identity):
        acquired = self.agree(mapping, "acquire", row, identity)
        if isinstance(acquired, tuple):
            self.given_out.add(acquired)

    @rule(mapping=MAPPING, row=ROW, first=st.integers(100, 120), count=st.integers(20, CAPACITY))
    def acquire_many(self, mapping, row, first, count):
        for identity in range(first, first + 2 * count, 2):
            self.acquire(mapping, row, identity)

    @rule(mapping=MAPPING, identity=IDENTITY)
    def find(self, mapping, identity):
        self.agree(mapping, "find", identity)

    @rule(mapping=MAPPING, row=ROW, slot=SLOT)
    def drop(self, mapping, row, slot):
        self.agree(mapping, "drop", row, slot)

    @rule(mapping=MAPPING, row=ROW)
    def drop_row(self, mapping, row):
        self.agree(mapping, "drop_row", row)

    @rule(mapping=MAPPING)
    def sweep(self, mapping):
        self.agree(mapping, "sweep")

    @invariant()
    def all_mappings_know_what_is_in_use_and_live(self):
        for mapping in range(3):
            assert self.compiled[mapping].in_use == self.plain.in_use
            for slot, generation in self.given_out:
                self.agree(mapping, "is_live", slot, generation)


SlotsMachine.TestCase.settings = settings(max_examples=examples(60), stateful_step_count=40, deadline=None)
TestSlots = SlotsMachine.TestCase
