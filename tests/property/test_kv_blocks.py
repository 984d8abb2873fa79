"""What an engine says it holds, against a dict: any events leave the same in the index."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from _fastpath.hashing import BlockHashes, Hasher
from _fastpath.kv_blocks import KVBlocks
from _fastpath.prefix_index import PrefixIndex
from tests.property.pairs import Pair, outcome, pair
from tests.reference import hashing as reference_hashing
from tests.reference import kv_blocks as reference
from tests.reference import prefix_index as reference_index
from tests.support.examples import examples

KEY = (0x0123456789ABCDEF, 0xFEDCBA9876543210)
SLOT = 5
NAME = st.one_of(st.integers(0, 30), st.sampled_from([-1, (1 << 64) - 1, b"", b"\0", b"a" * 32, b"b" * 32]))
TIER = st.sampled_from([1, 2])
EXTRA = st.sampled_from([None, b"", b"salt"])
ODD = st.one_of(NAME, st.none(), st.integers(-(1 << 70), 1 << 70), st.text(max_size=2), st.booleans(), st.floats())


class BlocksMachine(RuleBasedStateMachine):
    """Events of one engine, few names, so that they stand twice, continue each other and come back."""

    def __init__(self):
        super().__init__()
        self.both = Pair(slots=64, prefix_bytes=1 << 20)
        self.index = PrefixIndex(self.both.compiled), reference_index.PrefixIndex(self.both.plain)
        self.compiled = KVBlocks(self.index[0], KEY, 12)
        self.plain = reference.KVBlocks(self.index[1], KEY, 12)
        self.seconds = 0

    def teardown(self):
        self.both.close()

    @rule(
        names=st.lists(NAME, max_size=6),
        parent=st.one_of(st.none(), NAME),
        size=st.integers(1, 3),
        first=st.integers(0, 3),
        seed=st.integers(0, 2),
        tier=TIER,
        data=st.data(),
    )
    def store(self, names, parent, size, first, seed, tier, data):
        extras = data.draw(st.one_of(st.none(), st.lists(EXTRA, min_size=len(names), max_size=len(names))))
        tokens = list(range(first, first + size * len(names)))
        given = (names, parent, tokens, size, seed, SLOT, float(self.seconds), extras, tier)
        assert outcome(self.compiled.store, *given) == outcome(self.plain.store, *given)
        self.seconds += 1

    @rule(names=st.lists(NAME, max_size=6), tier=TIER)
    def told_again_without_tokens(self, names, tier):
        given = (names, None, [], 1, 0, SLOT, float(self.seconds), None, tier)
        assert self.compiled.store(*given) == self.plain.store(*given)

    @rule(names=st.lists(NAME, max_size=6), tier=TIER)
    def remove(self, names, tier):
        assert self.compiled.remove(names, SLOT, tier) == self.plain.remove(names, SLOT, tier)

    @rule()
    def clear(self):
        for blocks, index in zip((self.compiled, self.plain), self.index, strict=True):
            blocks.clear()
            index.forget(SLOT)

    @rule(step=st.integers(1, 2000))
    def forgotten_by_the_index_and_refreshed(self, step):
        for index in self.index:
            index.forget(SLOT)
        place = self.compiled.refresh(SLOT, float(self.seconds), 0, step)
        while place:
            place = self.compiled.refresh(SLOT, float(self.seconds), place, step)
        self.plain.refresh(SLOT, float(self.seconds))

    @invariant()
    def both_hold_the_same(self):
        assert len(self.compiled) == len(self.plain) <= 12
        assert self.index[0].statistics()["entries"] == self.index[1].entries


BlocksMachine.TestCase.settings = settings(max_examples=examples(80), stateful_step_count=30, deadline=None)
TestKVBlocks = BlocksMachine.TestCase


@settings(max_examples=examples(100), deadline=None)
@given(lengths=st.lists(st.integers(1, 900), min_size=1, max_size=6), data=st.data())
def test_a_table_that_grows_and_shrinks_keeps_every_block_that_is_held(lengths, data):
    with pair(slots=64, prefix_bytes=1 << 20) as both:
        index = PrefixIndex(both.compiled)
        blocks, held, number = KVBlocks(index, KEY), {}, 0
        for length in lengths:
            names = list(range(number * 7919, (number + length) * 7919, 7919))
            blocks.store(names, None, list(range(number, number + length)), 1, 0, SLOT, 1.0)
            held |= dict.fromkeys(names)
            number += length
            gone = data.draw(st.lists(st.sampled_from(sorted(held)), max_size=400, unique=True)) if held else []
            assert blocks.remove(gone, SLOT) == len(gone)
            for name in gone:
                del held[name]
            assert len(blocks) == len(held)
        assert blocks.remove(sorted(held), SLOT) == len(held)
        assert (len(blocks), index.statistics()["entries"]) == (0, 0)


@settings(max_examples=examples(200), deadline=None)
@given(
    names=st.lists(ODD, max_size=5),
    parent=ODD,
    tokens=st.lists(
        st.one_of(st.integers(-2, 3), st.sampled_from([1 << 32, (1 << 32) - 1, 1 << 90, None, "1", True])), max_size=5
    ),
    size=st.integers(0, 3),
    extras=st.one_of(st.none(), st.lists(EXTRA, max_size=5)),
)
def test_odd_events_are_refused_alike_and_change_nothing(names, parent, tokens, size, extras):
    with pair(slots=64, prefix_bytes=1 << 16) as both:
        compiled = KVBlocks(PrefixIndex(both.compiled), KEY)
        plain = reference.KVBlocks(reference_index.PrefixIndex(both.plain), KEY)
        given = (names, parent, tokens, size, 7, SLOT, 1.0, extras)
        found = outcome(compiled.store, *given)
        assert found == outcome(plain.store, *given)
        assert isinstance(found, int) or len(compiled) == 0
        assert outcome(compiled.remove, names, SLOT) == outcome(plain.remove, names, SLOT)


@settings(max_examples=examples(100), deadline=None)
@given(
    tokens=st.lists(st.integers(0, (1 << 32) - 1), min_size=3, max_size=60),
    size=st.integers(1, 3),
    cut=st.integers(0, 20),
)
def test_events_make_the_hashes_that_a_prompt_of_those_tokens_has(tokens, size, cut):
    from array import array

    with pair(slots=64, prefix_bytes=1 << 18) as both:
        index = PrefixIndex(both.compiled)
        blocks, hasher = KVBlocks(index, KEY), Hasher(KEY)
        seed, count = hasher.seed("adapter"), len(tokens) // size
        cut = min(cut, count)
        names = [b"%d" % number for number in range(count)]
        blocks.store(names[:cut], None, tokens[: cut * size], size, seed, SLOT, 1.0)
        blocks.store(
            names[cut:], names[cut - 1] if cut else None, tokens[cut * size : count * size], size, seed, SLOT, 1.0
        )
        hashes = hasher.hash_tokens(array("I", tokens), size, seed)
        assert list(hashes) == list(reference_hashing.Hasher(KEY).hash_tokens(tokens, size, seed))
        assert index.match(BlockHashes.of(list(hashes)), [SLOT, 6]) == [count, 0]
        if hasher.seed("other") != seed:
            assert index.match(hasher.hash_tokens(array("I", tokens), size, hasher.seed("other")), [SLOT]) == [0]
