"""Counters by named behaviour: series, overflow, buckets, successors, and what is refused."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from _fastpath.counters import OVERFLOW, CounterRow, Counters
from _fastpath.shared_memory import SharedMemory

REQUESTS, UP, SECONDS, ACTIVE = range(4)
FAMILIES = (
    ("requests", ("model", "code"), ()),
    ("up", (), ()),
    ("seconds", ("model",), (0.1, 1.0, 10.0)),
    ("active", ("model",), ()),
)

NAN = float("nan")
Make = Callable[..., SharedMemory]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make_memory(workers: int = 2, series: int = 64, cells: int = 1024) -> SharedMemory:
        return SharedMemory.create(
            str(tmp_path / "memory"), workers=workers, slots=64, buckets=1, journal_records=1, prefix_bytes=192,
            counter_series=series, counter_cells=cells,
        )  # fmt: skip

    return make_memory


@pytest.fixture
def counters(make: Make) -> Counters:
    return Counters(make(), 0, FAMILIES)


def test_a_new_row_is_empty(counters: Counters) -> None:
    assert counters.read() == []
    assert counters.dropped == 0
    assert counters.families == FAMILIES


def test_a_series_starts_at_zero(counters: Counters) -> None:
    assert counters.series(REQUESTS, ("m", "200")) == 0
    assert counters.series(SECONDS, ("m",)) == 1
    assert counters.read() == [(REQUESTS, ("m", "200"), (), 0.0), (SECONDS, ("m",), (0, 0, 0, 0), 0.0)]


def test_the_same_labels_are_the_same_series(counters: Counters) -> None:
    handle = counters.series(REQUESTS, ("m", "200"))
    assert counters.series(REQUESTS, ("m", "500")) != handle
    assert counters.series(ACTIVE, ("m",)) != counters.series(SECONDS, ("m",))
    assert counters.series(REQUESTS, ("m", "200")) == handle
    assert len(counters.read()) == 4


def test_counting_adds_up(counters: Counters) -> None:
    first, second = counters.series(REQUESTS, ("m", "200")), counters.series(REQUESTS, ("m", "500"))
    counters.record(((first, 1), (second, 2), (first, 0.5)))
    counters.record(((first, 1),))
    counters.record(())
    assert [row[3] for row in counters.read()] == [2.5, 2.0]


def test_counting_is_exact_for_whole_numbers(counters: Counters) -> None:
    handle = counters.series(REQUESTS, ("m", "200"))
    counters.record(((handle, 2**52),))
    counters.record(((handle, 1),) * 1000)
    assert counters.read()[0][3] == 2**52 + 1000


@pytest.mark.parametrize(
    ("value", "bucket"),
    [(-1, 0), (0, 0), (0.05, 0), (0.1, 0), (0.10000000000000002, 1), (1, 1), (1.5, 2), (10, 2), (10.000001, 3), (1e300, 3),
     (float("inf"), 3), (float("-inf"), 0)],
)  # fmt: skip
def test_a_value_equal_to_a_boundary_is_in_that_bucket(counters: Counters, value: float, bucket: int) -> None:
    counters.record(((counters.series(SECONDS, ("m",)), value),))
    counts, total = counters.read()[0][2:]
    assert counts == tuple(int(position == bucket) for position in range(4))
    assert total == value


def test_a_histogram_keeps_counts_and_sum(counters: Counters) -> None:
    handle = counters.series(SECONDS, ("m",))
    counters.record(tuple((handle, value) for value in (0.0625, 0.5, 0.5, 4.0, 100.0)))
    assert counters.read() == [(SECONDS, ("m",), (1, 2, 1, 1), 105.0625)]


def test_thirty_two_boundaries(make: Make) -> None:
    boundaries = tuple(float(edge) for edge in range(32))
    counters = Counters(make(), 0, [("wide", (), boundaries), ("next", (), ())])
    wide, after = counters.series(0, ()), counters.series(1, ())
    counters.record(tuple((wide, float(value)) for value in range(40)))
    counters.record(((after, 7),))
    assert counters.read()[0][2:] == ((1,) * 32 + (8,), float(sum(range(40))))
    assert counters.read()[1][3] == 7.0


def test_observations_that_are_no_number_are_ignored(counters: Counters) -> None:
    """A sum that is NaN once would stay so until the process ends."""
    seconds, active = counters.series(SECONDS, ("m",)), counters.series(ACTIVE, ("m",))
    counters.record(((seconds, 0.5), (active, 2), (seconds, NAN), (active, NAN), (seconds, 0.25), (active, 1)))
    assert counters.read() == [(SECONDS, ("m",), (0, 2, 0, 0), 0.75), (ACTIVE, ("m",), (), 3.0)]


def test_a_row_of_series_is_counted_by_position(counters: Counters) -> None:
    seconds, active = counters.series(SECONDS, ("m",)), counters.series(ACTIVE, ("m",))
    row = CounterRow(counters, (seconds, active, active))
    for position, value in ((0, 0.5), (1, 2), (2, 1), (2, NAN)):
        row.add(position, value)
    assert counters.read() == [(SECONDS, ("m",), (0, 1, 0, 0), 0.5), (ACTIVE, ("m",), (), 3.0)]
    with pytest.raises(IndexError, match="series 3 of a row of 3"):
        row.add(3, 1.0)


def test_a_row_goes_on_when_series_are_added_and_counts_what_a_handle_counts(counters: Counters) -> None:
    row = CounterRow(counters, (counters.series(ACTIVE, ("m",)),))
    counters.add(counters.series(ACTIVE, ("n",)), 5)
    row.add(0, 1)
    counters.add(counters.series(ACTIVE, ("m",)), 1)
    assert [one[3] for one in counters.read()] == [2.0, 5.0]


def test_a_row_of_what_is_no_series_or_of_too_many_is_refused(counters: Counters) -> None:
    handle = counters.series(ACTIVE, ("m",))
    with pytest.raises(IndexError, match="series 7 of 1"):
        CounterRow(counters, (handle, 7))
    with pytest.raises(ValueError, match="at most 16 series, not 17"):
        CounterRow(counters, (handle,) * 17)


def test_a_gauge_is_set(counters: Counters) -> None:
    handle = counters.series(ACTIVE, ("m",))
    counters.set(handle, 5)
    counters.set(handle, 3.5)
    counters.record(((handle, -1),))
    assert counters.read()[0][3] == 2.5


def test_a_histogram_cannot_be_set(counters: Counters) -> None:
    with pytest.raises(IndexError):
        counters.set(counters.series(SECONDS, ("m",)), 1)


@pytest.mark.parametrize("handle", [1, 2, 1023, 2**40, 2**64 - 1])
def test_unknown_handles_are_refused(counters: Counters, handle: int) -> None:
    counters.series(ACTIVE, ("m",))
    with pytest.raises(IndexError):
        counters.set(handle, 1)
    with pytest.raises(IndexError):
        counters.record(((handle, 1),))


@pytest.mark.parametrize("handle", [-1, 2**64])
def test_handles_out_of_range_are_refused(counters: Counters, handle: int) -> None:
    with pytest.raises(OverflowError):
        counters.record(((handle, 1),))


def test_what_stands_before_an_unknown_handle_is_counted(counters: Counters) -> None:
    handle = counters.series(ACTIVE, ("m",))
    with pytest.raises(IndexError):
        counters.record(((handle, 1), (99, 1), (handle, 1)))
    assert counters.read()[0][3] == 1.0


@pytest.mark.parametrize("items", [[(0, 1)], None, ((0, "x"),), (("x", 1),), ((0, None),)])
def test_items_of_another_type_are_refused(counters: Counters, items: object) -> None:
    counters.series(ACTIVE, ("m",))
    with pytest.raises(TypeError):
        counters.record(items)  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", [(), ("m",), ("m", "200", "x")])
def test_wrong_number_of_labels(counters: Counters, labels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="requests has the labels"):
        counters.series(REQUESTS, labels)
    assert counters.read() == []


@pytest.mark.parametrize("family", [4, 5, 63, 64, 2**16 - 1])
@pytest.mark.parametrize("labels", [(), ("m",)])
def test_a_family_that_is_not_there(counters: Counters, family: int, labels: tuple[str, ...]) -> None:
    with pytest.raises(IndexError, match=f"family {family} of 4"):
        counters.series(family, labels)
    assert counters.read() == []
    assert counters.dropped == 0


@pytest.mark.parametrize("family", [-1, 2**16])
def test_families_out_of_range_are_refused(counters: Counters, family: int) -> None:
    with pytest.raises(OverflowError):
        counters.series(family, ())


@pytest.mark.parametrize("labels", [("m", 200), (None, "x"), (b"m", "x"), ["m", "200"], None, "m2", ([], "x")])
def test_labels_of_another_type_are_refused(counters: Counters, labels: object) -> None:
    with pytest.raises((TypeError, AttributeError)):
        counters.series(REQUESTS, labels)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "model", ["", "é", "漢字", "😀", "a/b:c", "x" * 300, 'quote"', "new\nline", "zero\x00", "漢" * 100]
)
def test_any_text_is_a_label(make: Make, model: str) -> None:
    memory = make()
    handle = Counters(memory, 0, FAMILIES).series(REQUESTS, (model, "200"))
    again = Counters(memory, 0, FAMILIES)
    assert again.read() == [(REQUESTS, (model, "200"), (), 0.0)]
    assert again.series(REQUESTS, (model, "200")) == handle


@pytest.mark.parametrize(
    ("label", "stored"), [("a\ud800b", "a?b"), ("a\x1fb", "a\ufffdb")], ids=["surrogate", "separator"]
)
def test_a_character_that_cannot_be_stored_is_replaced(counters: Counters, label: str, stored: str) -> None:
    handle = counters.series(ACTIVE, (label,))
    assert counters.series(ACTIVE, (label,)) == handle
    assert [row[1] for row in counters.read()] == [(stored,)]


@pytest.mark.parametrize(
    ("label", "stored"), [("a\ud800b", "a?b"), ("a\x1fb", "a\ufffdb")], ids=["surrogate", "separator"]
)
def test_a_replaced_character_makes_no_second_series(make: Make, label: str, stored: str) -> None:
    """Neither beside the label that it turns into, nor in the hands of a successor."""
    memory = make()
    handles = {Counters(memory, 0, FAMILIES).series(ACTIVE, (text,)) for text in (label, stored, label)}
    assert handles == {0}
    assert Counters(memory, 0, FAMILIES).read() == [(ACTIVE, (stored,), (), 0.0)]


def test_a_replaced_character_is_dropped_once_when_the_row_is_full(make: Make) -> None:
    """Whether a label had to be cleaned, and was looked up again, does not show in the count."""
    counters = Counters(make(series=4), 0, FAMILIES)
    assert (
        counters.series(ACTIVE, ("a\x1fb",))
        == counters.series(ACTIVE, ("a\ufffdb",))
        == counters.series(ACTIVE, ("c\ud800",))
    )
    assert counters.dropped == 3
    assert counters.read() == [(ACTIVE, (OVERFLOW,), (), 0.0)]


def test_labels_longer_than_their_place_overflow(counters: Counters) -> None:
    """304 bytes, with one between each two labels."""
    assert counters.series(REQUESTS, ("m" * 300, "200")) == 0
    assert counters.dropped == 0
    handle = counters.series(REQUESTS, ("m" * 301, "200"))
    assert counters.read()[handle][1] == (OVERFLOW, OVERFLOW)
    assert counters.series(REQUESTS, ("é" * 151, "200")) == handle
    assert counters.dropped == 2


def test_a_full_row_counts_in_the_overflow_series(make: Make) -> None:
    counters = Counters(make(series=8), 0, FAMILIES)
    handles = [counters.series(ACTIVE, (f"m{i}",)) for i in range(20)]
    # eight places, of which one a family is kept
    assert handles[:4] == [0, 1, 2, 3]
    assert set(handles[4:]) == {4}
    assert counters.dropped == 16
    counters.record(tuple((handle, 1) for handle in handles))
    assert [row[3] for row in counters.read()] == [1, 1, 1, 1, 16]
    assert counters.read()[4][:2] == (ACTIVE, (OVERFLOW,))


def test_a_full_row_still_finds_its_series(make: Make) -> None:
    counters = Counters(make(series=8), 0, FAMILIES)
    handles = [counters.series(ACTIVE, (f"m{i}",)) for i in range(20)]
    assert [counters.series(ACTIVE, (f"m{i}",)) for i in range(4)] == handles[:4]


def test_every_family_has_a_place_to_overflow_to(make: Make) -> None:
    counters = Counters(make(series=8), 0, FAMILIES)
    for i in range(20):
        counters.series(REQUESTS, (f"m{i}", "200"))
    handles = [counters.series(family, ("x",) * len(FAMILIES[family][1])) for family in range(4)]
    assert len(set(handles)) == 4
    counters.record(tuple((handle, 0.5) for handle in handles))
    assert sum(row[3] for row in counters.read()) == 2.0
    assert len(counters.read()) == 8
    assert counters.read()[handles[SECONDS]][:3] == (SECONDS, (OVERFLOW,), (0, 1, 0, 0))


def test_a_row_too_small_for_the_families_is_refused(make: Make) -> None:
    counters = Counters(make(series=2), 0, FAMILIES)
    counters.series(ACTIVE, ("m",))
    counters.series(UP, ())
    with pytest.raises(ValueError, match="counter_series"):
        counters.series(REQUESTS, ("m", "200"))


def test_a_row_without_cells_counts_in_the_overflow_series(make: Make) -> None:
    """Room for many series, whose histograms use up the numbers before."""
    counters = Counters(make(series=64, cells=20), 0, FAMILIES)
    for i in range(20):
        counters.series(SECONDS, (f"m{i}",))
    assert counters.dropped > 0
    assert any(row[1] == (OVERFLOW,) for row in counters.read())


def test_a_row_with_just_enough_cells(make: Make) -> None:
    """Five a histogram here, and eight for what the families may overflow to."""
    counters = Counters(make(series=64, cells=18), 0, FAMILIES)
    handles = [counters.series(SECONDS, (f"m{i}",)) for i in range(2)]
    counters.record(((handles[0], 100), (handles[1], 0)))
    assert counters.dropped == 0
    assert counters.read() == [(SECONDS, ("m0",), (0, 0, 0, 1), 100), (SECONDS, ("m1",), (1, 0, 0, 0), 0)]
    counters.series(SECONDS, ("m2",))
    assert counters.dropped == 1


def test_a_successor_goes_on_counting(make: Make) -> None:
    memory = make()
    dead = Counters(memory, 1, FAMILIES)
    seconds, active = dead.series(SECONDS, ("m",)), dead.series(ACTIVE, ("m",))
    dead.record(((seconds, 0.5), (active, 3)))
    heir = Counters(SharedMemory.attach(memory.path), 1, FAMILIES)
    assert heir.series(SECONDS, ("m",)) == seconds
    assert heir.series(ACTIVE, ("m",)) == active
    assert heir.series(ACTIVE, ("other",)) not in (seconds, active)
    heir.record(((seconds, 0.25), (active, 1)))
    assert heir.read() == [
        (SECONDS, ("m",), (0, 2, 0, 0), 0.75),
        (ACTIVE, ("m",), (), 4.0),
        (ACTIVE, ("other",), (), 0.0),
    ]


def test_a_successor_of_a_full_row_finds_the_overflow_series(make: Make) -> None:
    memory = make(series=8)
    dead = Counters(memory, 0, FAMILIES)
    handles = [dead.series(ACTIVE, (f"m{i}",)) for i in range(10)]
    heir = Counters(memory, 0, FAMILIES)
    assert heir.dropped == 6
    assert [heir.series(ACTIVE, (f"m{i}",)) for i in range(10)] == handles
    assert heir.dropped == 12


def test_rows_do_not_touch_each_other(make: Make) -> None:
    memory = make(workers=3, series=8, cells=64)
    rows = [Counters(memory, worker, FAMILIES) for worker in range(3)]
    for worker, row in enumerate(rows):
        for i in range(10):
            row.record(((row.series(ACTIVE, (f"m{i}",)), worker + 1),))
    for worker, row in enumerate(rows):
        assert [number for *_rest, number in row.read()] == [worker + 1.0] * 4 + [(worker + 1.0) * 6]


def test_the_supervisor_sees_what_a_worker_counts(make: Make) -> None:
    memory = make()
    worker, reader = Counters(memory, 0, FAMILIES), Counters(SharedMemory.attach(memory.path), 0, FAMILIES)
    worker.record(((worker.series(UP, ()), 1),))
    assert reader.read() == worker.read()
    assert len(reader.read()) == 1


@pytest.mark.parametrize("worker", [2, 3, 1000])
def test_a_row_that_is_not_there(make: Make, worker: int) -> None:
    with pytest.raises(IndexError):
        Counters(make(), worker, FAMILIES)


@pytest.mark.parametrize(
    ("families", "message"),
    [
        ([("a", (), ())] * 65, "64 families"),
        ([("a", (), tuple(range(33)))], "32 boundaries"),
        ([("a", (), (2.0, 1.0))], "must rise"),
        ([("a", (), (1.0, 1.0))], "must rise"),
    ],
)
def test_families_that_do_not_fit(make: Make, families: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Counters(make(), 0, families)


def test_sixty_four_families(make: Make) -> None:
    counters = Counters(make(series=256), 0, [(f"family{i}", ("a",), ()) for i in range(64)])
    handles = [counters.series(i, (str(i),)) for i in range(64)]
    counters.record(tuple((handle, handle) for handle in handles))
    assert [(row[0], row[3]) for row in counters.read()] == [(i, float(i)) for i in range(64)]


def test_a_family_without_labels(counters: Counters) -> None:
    counters.series(UP, ())
    assert counters.read() == [(UP, (), (), 0.0)]


def test_a_separator_in_a_label(counters: Counters) -> None:
    assert counters.series(REQUESTS, ("a\x1fb", "c")) != counters.series(REQUESTS, ("a", "b\x1fc"))
    assert all(len(labels) == 2 for _family, labels, *_rest in counters.read())


ROOT = Path(__file__).parents[3]
CRASHES = """
from _fastpath.counters import CounterRow, Counters
from _fastpath.shared_memory import SharedMemory
memory = SharedMemory.create({path!r}, workers=1, slots=64, buckets=1, journal_records=1, prefix_bytes=192, counter_series=16)
counters = Counters(memory, 0, [("up", (), ())])
handle = counters.series(0, ())
try:
    counters.{call}
except (IndexError, TypeError, ValueError):
    pass
"""


def runs(path: Path, call: str) -> bool:
    """Whether a process of its own survives the call."""
    script = CRASHES.format(path=str(path / "crash"), call=call)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=30, capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.parametrize(
    "call",
    [
        "series(0, ())",
        "series(1, ())",
        "series(60000, ())",
        "record(((handle, 1.0),))",
        "record(((),) * 4)",
        "record(((handle,),))",
        "record((5,))",
    ],
)
def test_mistakes_of_the_caller_raise(tmp_path: Path, call: str) -> None:
    assert runs(tmp_path, call)
