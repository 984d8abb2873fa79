"""Counters against their plain-Python twin: the same handles, the same numbers, whatever the order and whoever dies."""

from math import isnan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath.counters import OVERFLOW, CounterRow, Counters
from _fastpath.shared_memory import SharedMemory
from tests.reference import counters as twin
from tests.support.examples import examples

FAST = settings(deadline=None, max_examples=examples(200))

FAMILIES = (
    ("requests", ("model", "code"), ()),
    ("seconds", ("model",), (0.1, 1.0, 10.0)),
    ("active", ("model",), ()),
    ("tokens", ("model", "kind", "user"), (1.0, 2.0)),
    ("up", (), ()),
)
TEXTS = st.text(max_size=6).filter(lambda text: "\x1f" not in text)
# what cannot be stored as it is
ODD = st.sampled_from(["a\x1fb", "a\ufffdb", "a?b", "a\ud800b", "\x1f", "\ufffd"])
# mostly from a few, so that series come again; some too long for their place
LABELS = st.sampled_from(["a", "b", "c", OVERFLOW, "", "é" * 152, "x" * 304]) | TEXTS
# quarters add up exactly, in any order
VALUES = st.integers(-(2**20), 2**20).map(lambda quarters: quarters / 4) | st.sampled_from([0.0, 1.0, 2.0, 10.0])
OBSERVED = VALUES | st.just(float("nan"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("counters") / "memory"


def make(path: Path, series: int, cells: int, workers: int = 1) -> SharedMemory:
    return SharedMemory.create(
        str(path), workers=workers, slots=64, buckets=1, journal_records=1, prefix_bytes=192,
        counter_series=series, counter_cells=cells,
    )  # fmt: skip


def new_series(labels: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[Any, ...]]:
    families = [
        st.tuples(st.just("series"), st.just(number), st.tuples(*[labels] * len(names)))
        for number, (_name, names, _boundaries) in enumerate(FAMILIES)
    ]
    return st.one_of(*families)


NO_FAMILY = st.tuples(st.just("series"), st.integers(len(FAMILIES), 2**16 - 1), st.just(("a",)))


HANDLES = st.integers(0, 24)


def steps(labels: st.SearchStrategy[str]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    counting = st.one_of(
        st.tuples(st.just("add"), HANDLES, OBSERVED),
        st.tuples(st.just("record"), st.lists(st.tuples(HANDLES, OBSERVED), max_size=6).map(tuple)),
        st.tuples(st.just("row"), st.lists(st.tuples(HANDLES, OBSERVED), max_size=6).map(tuple)),
        st.tuples(st.just("set"), HANDLES, VALUES),
        st.tuples(st.just("restart")),
        NO_FAMILY,
    )
    return st.lists(new_series(labels) | new_series(labels) | counting, max_size=40)


def count_by_row(counters: Any, items: tuple[tuple[int, float], ...]) -> None:
    row = (CounterRow if isinstance(counters, Counters) else twin.CounterRow)(counters, tuple(one for one, _ in items))
    for position, (_, value) in enumerate(items):
        row.add(position, value)


def outcome(counters: Any, name: str, *arguments: Any) -> Any:
    try:
        if name == "row":
            return count_by_row(counters, *arguments)
        return getattr(counters, name)(*arguments)
    except (IndexError, ValueError) as error:
        return type(error)


def assert_same(path: Path, todo: list[tuple[Any, ...]], series: int, cells: int) -> None:
    memory = make(path, series, cells)
    row = twin.Row(series, cells)
    compiled, plain = Counters(memory, 0, FAMILIES), twin.Counters(row, FAMILIES)
    for step in todo:
        if step[0] == "restart":
            compiled, plain = Counters(SharedMemory.attach(str(path)), 0, FAMILIES), twin.Counters(row, FAMILIES)
        else:
            assert outcome(compiled, *step) == outcome(plain, *step)
        assert compiled.read() == plain.read()
        assert compiled.dropped == plain.dropped


@FAST
@given(todo=steps(LABELS), series=st.integers(1, 24), cells=st.integers(1, 60))
def test_counts_as_the_twin_does(path: Path, todo: list[tuple[Any, ...]], series: int, cells: int) -> None:
    assert_same(path, todo, series, cells)


@FAST
@given(todo=steps(ODD))
def test_labels_that_cannot_be_stored_count_as_the_twins(path: Path, todo: list[tuple[Any, ...]]) -> None:
    assert_same(path, todo, 1000, 10000)


@FAST
@given(
    boundaries=st.lists(st.floats(allow_nan=False), unique=True, min_size=1, max_size=32).map(sorted),
    values=st.lists(st.floats(), max_size=20),
    data=st.data(),
)
def test_buckets_are_the_twins(path: Path, boundaries: list[float], values: list[float], data: st.DataObject) -> None:
    values += data.draw(st.lists(st.sampled_from(boundaries), max_size=10))
    families = (("seconds", ("model",), tuple(boundaries)),)
    compiled = Counters(make(path, 2, 64), 0, families)
    plain = twin.Counters(twin.Row(2, 64), families)
    for counters in (compiled, plain):
        handle = counters.series(0, ("m",))
        counters.record(tuple((handle, value) for value in values))
    assert compiled.read()[0][:3] == plain.read()[0][:3]
    assert repr(compiled.read()[0][3]) == repr(plain.read()[0][3])
    assert sum(compiled.read()[0][2]) == sum(not isnan(value) for value in values)


@FAST
@given(st.lists(st.tuples(st.integers(0, 2), new_series(LABELS), VALUES), max_size=40))
def test_rows_add_up(path: Path, todo: list[tuple[int, tuple[Any, ...], float]]) -> None:
    """What several workers count, read by another process and added up, is what was counted."""
    memory = make(path, 12, 60, workers=3)
    workers = [Counters(memory, worker, FAMILIES) for worker in range(3)]
    total: dict[int, float] = {}
    for worker, (_name, family, labels), value in todo:
        workers[worker].record(((workers[worker].series(family, labels), value),))
        total[family] = total.get(family, 0.0) + value
    found: dict[int, float] = {}
    reader = SharedMemory.attach(str(path))
    for worker in range(3):
        for family, _labels, _counts, number in Counters(reader, worker, FAMILIES).read():
            found[family] = found.get(family, 0.0) + number
    assert found == total


@FAST
@given(st.lists(st.tuples(*[LABELS] * 2).filter((OVERFLOW, OVERFLOW).__ne__), unique=True, max_size=30))
def test_nothing_is_lost_when_the_row_is_full(path: Path, labels: list[tuple[str, str]]) -> None:
    counters = Counters(make(path, 12, 100), 0, FAMILIES)
    handles = [counters.series(0, pair) for pair in labels]
    counters.record(tuple((handle, 1) for handle in handles))
    rows = counters.read()
    assert sum(row[3] for row in rows) == len(labels)
    assert len(rows) <= 12 - len(FAMILIES) + 1
    overflowed = [handle for handle, pair in zip(handles, labels, strict=True) if rows[handle][1] != pair]
    assert counters.dropped == len(overflowed)
    assert len(set(overflowed)) <= 1
