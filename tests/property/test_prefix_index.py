"""The prefix index against a dict of sets, in a table large enough that nothing makes room."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from _fastpath.hashing import BlockHashes
from _fastpath.prefix_index import PrefixIndex
from tests.property.pairs import Pair, pair
from tests.reference import prefix_index as reference
from tests.support.examples import examples

SLOTS = 192  # three pages
PROMPTS = 6
# some neighbours within a page, and some on other pages
SLOT = st.sampled_from((0, 1, 62, 63, 64, 65, 127, 128, 191))
# spread like real hashes: multiples of the constant that tells pages apart would look like one another on other pages
RANDOM = Random(1)
CHAINS = [[RANDOM.getrandbits(64) for _ in range(30)] for _ in range(PROMPTS)]
SECONDS = st.just(0.0) | st.floats(0, 20) | st.floats(0, 4e9)
HASH = st.one_of(st.integers(0, 40), st.integers(0, (1 << 64) - 1))


class PrefixMachine(RuleBasedStateMachine):
    """Prompts share a stem: prompt i takes the first blocks of prompt 0 and goes on with its own."""

    def __init__(self):
        super().__init__()
        self.both = Pair(slots=SLOTS, prefix_bytes=1 << 20)
        self.compiled = [PrefixIndex(self.both.attach()) for _ in range(2)]
        self.plain = reference.PrefixIndex(self.both.plain)

    def teardown(self):
        self.both.close()

    @staticmethod
    def hashes(prompt, stem, length):
        return (CHAINS[0][:stem] + CHAINS[prompt][stem:])[:length]

    @rule(mapping=st.integers(0, 1), slot=SLOT, prompt=st.integers(0, PROMPTS - 1), data=st.data())
    def learn(self, mapping, slot, prompt, data):
        hashes = self.hashes(prompt, data.draw(st.integers(0, 30)), data.draw(st.integers(0, 30)))
        now, oldest = data.draw(SECONDS), data.draw(SECONDS)
        self.compiled[mapping].learn(BlockHashes.of(hashes), slot, now, oldest)
        self.plain.learn(hashes, slot, now, oldest)

    @rule(
        mapping=st.integers(0, 1),
        slots=st.lists(SLOT, unique=True),
        prompt=st.integers(0, PROMPTS - 1),
        stem=st.integers(0, 30),
        length=st.integers(0, 30),
        oldest=SECONDS,
    )
    def match(self, mapping, slots, prompt, stem, length, oldest):
        hashes = self.hashes(prompt, stem, length)
        matched = self.compiled[mapping].match(BlockHashes.of(hashes), slots, oldest)
        assert matched == self.plain.match(hashes, slots, oldest)

    @rule(mapping=st.integers(0, 1), slot=SLOT)
    def forget(self, mapping, slot):
        self.compiled[mapping].forget(slot)
        self.plain.forget(slot)

    @rule(
        mapping=st.integers(0, 1),
        slot=SLOT,
        prompt=st.integers(0, PROMPTS - 1),
        stem=st.integers(0, 30),
        first=st.integers(0, 30),
        last=st.integers(0, 30),
    )
    def discard(self, mapping, slot, prompt, stem, first, last):
        hashes = self.hashes(prompt, stem, last)[first:]
        self.compiled[mapping].discard(BlockHashes.of(hashes), slot)
        self.plain.discard(hashes, slot)

    @rule(mapping=st.integers(0, 1), before=st.dictionaries(SLOT, st.integers(0, 2**32 - 1), max_size=4))
    def forget_before(self, mapping, before):
        assert self.compiled[mapping].forget_before(before) == self.plain.forget_before(before)

    @rule(mapping=st.integers(0, 1))
    def clear(self, mapping):
        self.compiled[mapping].clear()
        self.plain.clear()

    @invariant()
    def entries_are_counted_and_none_made_room(self):
        statistics = self.compiled[0].statistics()
        assert (statistics["entries"], statistics["evictions"]) == (self.plain.entries, 0)


PrefixMachine.TestCase.settings = settings(max_examples=examples(60), stateful_step_count=30, deadline=None)
TestPrefixIndex = PrefixMachine.TestCase


@settings(max_examples=examples(150), deadline=None)
@given(
    learned=st.lists(st.tuples(st.lists(HASH, max_size=40), st.integers(0, SLOTS - 1)), max_size=8),
    asked=st.lists(HASH, max_size=40),
    slots=st.lists(st.integers(0, SLOTS - 1), unique=True, max_size=SLOTS),
)
def test_any_hashes_match_as_a_dict_of_sets_does(learned, asked, slots):
    with pair(slots=SLOTS, prefix_bytes=1 << 18) as both:
        compiled, plain = PrefixIndex(both.compiled), reference.PrefixIndex(both.plain)
        for hashes, slot in learned:
            compiled.learn(BlockHashes.of(hashes), slot, 1.0)
            plain.learn(hashes, slot, 1.0)
        for hashes in [asked, *[hashes for hashes, _ in learned]]:
            assert compiled.match(BlockHashes.of(hashes), slots) == plain.match(hashes, slots)


@settings(max_examples=examples(60), deadline=None)
@given(
    prompts=st.lists(st.tuples(st.integers(1, 400), st.integers(0, SLOTS - 1)), min_size=1, max_size=20),
    prefix_bytes=st.integers(192, 1 << 14),
)
def test_a_full_table_keeps_its_bytes_and_never_names_a_slot_that_did_not_learn(prompts, prefix_bytes):
    with pair(slots=SLOTS, prefix_bytes=prefix_bytes) as both:
        compiled, plain = PrefixIndex(both.compiled), reference.PrefixIndex(both.plain)
        for second, (length, slot) in enumerate(prompts):
            hashes = [(i + 1) * 0xD6E8FEB86659FD93 % (1 << 64) for i in range(length)]
            compiled.learn(BlockHashes.of(hashes), slot, second)
            plain.learn(hashes, slot, second)
            upper = plain.match(hashes, range(SLOTS))
            matched = compiled.match(BlockHashes.of(hashes), range(SLOTS))
            assert all(found <= allowed for found, allowed in zip(matched, upper, strict=True))
        statistics = compiled.statistics()
        assert statistics["entries"] <= statistics["capacity"] <= prefix_bytes // 24
        assert statistics["evictions"] >= plain.entries - statistics["capacity"]


LONG = [RANDOM.getrandbits(64) for _ in range(300)]


@settings(max_examples=examples(200), deadline=None)
@given(
    held=st.dictionaries(SLOT, st.integers(0, 300), max_size=9),
    length=st.integers(0, 300),
)
def test_lengths_of_long_prompts_are_exact_whoever_was_sent_their_beginnings(held, length):
    both = Pair(slots=SLOTS, prefix_bytes=1 << 20)
    try:
        index = PrefixIndex(both.attach())
        for slot, count in held.items():
            index.learn(BlockHashes.of(LONG[:count]), slot, 1.0)
        found = index.match(BlockHashes.of(LONG[:length]), list(held))
        assert found == [min(count, length) for count in held.values()]
    finally:
        both.close()


@settings(max_examples=examples(200), deadline=None)
@given(
    held=st.dictionaries(SLOT, st.sets(st.integers(0, 119), max_size=120), max_size=6),
    from_first=st.integers(0, 60),
    length=st.integers(0, 120),
)
def test_where_blocks_are_missing_in_between_the_length_is_the_twins(held, from_first, length):
    both = Pair(slots=SLOTS, prefix_bytes=1 << 20)
    try:
        compiled, plain = PrefixIndex(both.attach()), reference.PrefixIndex(both.plain)
        for slot, places in held.items():
            hashes = [LONG[place] for place in sorted(places | set(range(from_first)))]
            compiled.learn(BlockHashes.of(hashes), slot, 1.0)
            plain.learn(hashes, slot, 1.0)
        assert compiled.match(BlockHashes.of(LONG[:length]), list(held)) == plain.match(LONG[:length], list(held))
    finally:
        both.close()
