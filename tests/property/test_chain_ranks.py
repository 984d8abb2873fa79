"""Ranks of an engine against a dict of sets: any events of several ranks leave the same in the index, and what the ranks hold."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from _fastpath.chain_ranks import ChainRanks
from _fastpath.kv_blocks import KVBlocks
from _fastpath.prefix_index import PrefixIndex
from tests.property.pairs import Pair
from tests.reference import chain_ranks as reference
from tests.reference import kv_blocks as reference_blocks
from tests.reference import prefix_index as reference_index
from tests.support.examples import examples

KEY = (0x0123456789ABCDEF, 0xFEDCBA9876543210)
SLOT = 5
RANK = st.integers(0, 2)
# many with the same highest bits, which is where they stand
CHAIN = st.one_of(
    st.integers(0, 40), st.integers(0, 40).map(lambda low: (1 << 64) - 1 - low), st.integers(0, 2**64 - 1)
)


@settings(max_examples=examples(150), deadline=None)
@given(steps=st.lists(st.tuples(st.booleans(), CHAIN, st.integers(0, 63)), max_size=200))
def test_any_adding_and_dropping_leaves_the_same(steps):
    compiled, plain = ChainRanks(), reference.ChainRanks()
    for adds, chain, rank in steps:
        if adds:
            compiled.add(chain, rank)
            plain.add(chain, rank)
        else:
            assert compiled.drop(chain, rank) == plain.drop(chain, rank)
        assert compiled.ranks(chain) == plain.ranks(chain)
        assert len(compiled) == len(plain)
    for _, chain, _ in steps:
        assert compiled.ranks(chain) == plain.ranks(chain)


@settings(max_examples=examples(40), deadline=None)
@given(count=st.integers(700, 4000), step=st.sampled_from([1, 0x9E3779B97F4A7C15, 1 << 52]), data=st.data())
def test_a_table_that_grows_keeps_every_chain(count, step, data):
    compiled, chains = ChainRanks(), [number * step % 2**64 for number in range(count)]
    for chain in chains:
        compiled.add(chain, 1)
    gone = set(data.draw(st.lists(st.sampled_from(chains), max_size=300)))
    assert all(compiled.drop(chain, 1) for chain in gone)
    assert len(compiled) == len(set(chains)) - len(gone)
    assert all(compiled.ranks(chain) == (0 if chain in gone else 2) for chain in chains)


class RanksMachine(RuleBasedStateMachine):
    """Three ranks at one slot. Each names a block by its place in a chain of tokens, as an engine's own hash would."""

    def __init__(self):
        super().__init__()
        self.both = Pair(slots=64, prefix_bytes=1 << 20)
        self.index = PrefixIndex(self.both.compiled), reference_index.PrefixIndex(self.both.plain)
        held = ChainRanks(), reference.ChainRanks()
        self.held = held
        self.compiled = [KVBlocks(self.index[0], KEY, 12, held[0], rank) for rank in range(3)]
        self.plain = [reference_blocks.KVBlocks(self.index[1], KEY, 12, held[1], rank) for rank in range(3)]
        self.seconds = 0

    def teardown(self):
        self.both.close()

    @rule(rank=RANK, first=st.integers(0, 3), count=st.integers(0, 6))
    def store(self, rank, first, count):
        names, tokens = [10 * first + place for place in range(count)], list(range(first, first + count))
        given = (names, None, tokens, 1, 0, SLOT, float(self.seconds))
        assert self.compiled[rank].store(*given) == self.plain[rank].store(*given)
        self.seconds += 1

    @rule(rank=RANK, names=st.lists(st.integers(0, 40), max_size=8))
    def remove(self, rank, names):
        assert self.compiled[rank].remove(names, SLOT) == self.plain[rank].remove(names, SLOT)

    @rule(rank=RANK, step=st.integers(1, 2000))
    def restart(self, rank, step):
        place = self.compiled[rank].release(SLOT, 0, step)
        while place:
            place = self.compiled[rank].release(SLOT, place, step)
        self.compiled[rank].clear()
        self.plain[rank].release(SLOT)
        self.plain[rank].clear()

    @invariant()
    def the_index_has_what_any_rank_holds(self):
        assert [len(one) for one in self.compiled] == [len(one) for one in self.plain]
        assert len(self.held[0]) == len(self.held[1])
        assert self.index[0].statistics()["entries"] == self.index[1].entries == len(self.held[1])


RanksMachine.TestCase.settings = settings(max_examples=examples(80), stateful_step_count=30, deadline=None)
TestRanks = RanksMachine.TestCase
