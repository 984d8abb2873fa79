"""Adapters of engines against their plain-Python twin, over slots that are dropped and given away again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath import adapters as compiled
from _fastpath import shared_memory, slots
from tests.reference import adapters as twin
from tests.reference import shared_memory as twin_memory
from tests.reference import slots as twin_slots
from tests.support.examples import examples

NAMES = st.sampled_from([0, 1, 2, 3, 8, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("acquire"), st.integers(2, 5)),
        st.tuples(st.just("drop"), st.integers(0, 3)),
        st.tuples(
            st.just("write"),
            st.integers(0, 3),
            st.integers(0, 4),
            st.integers(0, 4),
            st.lists(NAMES, max_size=32),
            st.lists(NAMES, max_size=4),
        ),
        st.tuples(st.just("ask"), st.integers(0, 3), NAMES),
    ),
    max_size=25,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("adapters") / "memory")


class Pair:
    """The same calls on both; what each answers must be equal."""

    def __init__(self, path: str) -> None:
        memory = shared_memory.SharedMemory.create(path, workers=1, slots=64, prefix_bytes=192)
        other = twin_memory.SharedMemory(workers=1)
        self.slots = slots.Slots(memory), twin_slots.Slots(other)
        self.adapters = compiled.Adapters(memory), twin.Adapters(other)
        self.names: list[tuple[int, int]] = []
        self.asked: set[int] = set()

    def acquire(self, identity: int) -> None:
        ours, theirs = (one.acquire(0, identity) for one in self.slots)
        assert ours == theirs
        if ours not in self.names:
            self.names.append(ours)

    def drop(self, position: int) -> None:
        if position < len(self.names):
            for one in self.slots:
                one.drop(0, self.names[position][0])
                one.sweep()

    def write(self, position: int, capacity: int, busy: int, loaded: list[int], waited_for: list[int]) -> None:
        if position < len(self.names):
            ours, theirs = (
                one.write(*self.names[position], capacity, busy, loaded, waited_for) for one in self.adapters
            )
            assert ours == theirs
            self.asked |= {*loaded, *waited_for}

    def ask(self, position: int, name: int) -> None:
        self.asked.add(name)

    def check(self) -> None:
        for name in self.names:
            ours, theirs = (one.read(*name) for one in self.adapters)
            # a name that is both is loaded; the row keeps either, and a set says no more
            assert ours == theirs
            for adapter in self.asked:
                ours, theirs = (one.affinity_of(*name, adapter) for one in self.adapters)
                assert ours == theirs


@settings(deadline=None, max_examples=examples(100))
@given(STEPS)
def test_rows_and_affinities_are_the_twins(path: str, steps: list[tuple]) -> None:
    pair = Pair(path)
    for name, *arguments in steps:
        getattr(pair, name)(*arguments)
        pair.check()
