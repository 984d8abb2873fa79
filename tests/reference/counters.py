"""Plain-Python twin of ``_fastpath.counters``: dictionaries."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan

OVERFLOW = "_other"
LABEL_BYTES = 304
SEPARATOR = "\x1f"

Family = tuple[str, Sequence[str], Sequence[float]]
Key = tuple[int, tuple[str, ...]]


@dataclass
class Series:
    """What one series counted."""

    counts: list[int]
    number: float = 0.0


@dataclass
class Row:
    """What stays when a worker dies: its series in the order in which they came."""

    maximum_series: int
    maximum_cells: int
    series: dict[Key, Series] = field(default_factory=dict)
    cells: int = 0
    dropped: int = 0


class Counters:
    """Labelled counters and histograms over one row."""

    def __init__(self, row: Row, families: Sequence[Family]) -> None:
        self.families = tuple((name, tuple(labels), tuple(boundaries)) for name, labels, boundaries in families)
        self.row = row
        self.kept_cells = sum(self._cells(family) for family in range(len(self.families)))

    def _cells(self, family: int) -> int:
        boundaries = self.families[family][2]
        return len(boundaries) + 2 if boundaries else 1

    def series(self, family: int, labels: tuple[str, ...]) -> int:
        if not 0 <= family < len(self.families):
            raise IndexError(family)
        name, names, _boundaries = self.families[family]
        if len(labels) != len(names):
            raise ValueError(f"{name} has the labels {names}, not {labels}")
        # what can't be stored: a lone surrogate becomes a question mark, the character between labels the replacement one
        clean = [label.encode("utf-8", "replace").decode().replace(SEPARATOR, "\ufffd") for label in labels]
        key = (family, tuple(clean))
        if key not in self.row.series and not self._add(key, len(self.families), self.kept_cells):
            self.row.dropped += 1
            key = (family, (OVERFLOW,) * len(names))
            if key not in self.row.series and not self._add(key, 0, 0):
                raise ValueError("the row is too small for the families")
        return list(self.row.series).index(key)

    def _add(self, key: Key, kept_series: int, kept_cells: int) -> bool:
        """Make the series unless it does not fit; what is kept stays free, for each family's overflow."""
        family, labels = key
        fits = (
            len(self.row.series) + kept_series < self.row.maximum_series
            and self.row.cells + self._cells(family) + kept_cells <= self.row.maximum_cells
            and len(SEPARATOR.join(labels).encode()) <= LABEL_BYTES
        )
        if fits:
            boundaries = self.families[family][2]
            self.row.cells += self._cells(family)
            self.row.series[key] = Series([0] * (len(boundaries) + 1) if boundaries else [])
        return fits

    def add(self, handle: int, value: float) -> None:
        self.record(((handle, value),))

    def record(self, items: tuple[tuple[int, float], ...]) -> None:
        by_handle = list(self.row.series.items())
        for handle, value in items:
            if isnan(value):
                continue
            if not 0 <= handle < len(by_handle):
                raise IndexError(handle)
            (family, _labels), series = by_handle[handle]
            if series.counts:
                # the first boundary that is not below the value
                series.counts[bisect_left(self.families[family][2], value)] += 1
            series.number += value

    def set(self, handle: int, value: float) -> None:
        by_handle = list(self.row.series.values())
        if not 0 <= handle < len(by_handle) or by_handle[handle].counts:
            raise IndexError(handle)
        by_handle[handle].number = value

    @property
    def dropped(self) -> int:
        return self.row.dropped

    def read(self) -> list[tuple[int, tuple[str, ...], tuple[int, ...], float]]:
        return [
            (family, labels, tuple(series.counts), series.number)
            for (family, labels), series in self.row.series.items()
        ]


class CounterRow:
    """Series that are counted together."""

    def __init__(self, counters: Counters, handles: tuple[int, ...]) -> None:
        for handle in handles:
            if not 0 <= handle < len(counters.row.series):
                raise IndexError(handle)
        self.counters = counters
        self.handles = handles

    def add(self, position: int, value: float) -> None:
        self.counters.add(self.handles[position], value)
