"""Labelled counters and histograms in shared memory: a row a worker, one call a request, capped series.

The supervisor reads every row and adds them up for the metrics page; counting never waits for it.
"""

from collections.abc import Sequence
from typing import final

from _fastpath.shared_memory import SharedMemory

OVERFLOW: str
"""Value of every label of the series that counts what no longer fits."""

@final
class Counters:
    families: tuple[tuple[str, tuple[str, ...], tuple[float, ...]], ...]
    def __init__(
        self, memory: SharedMemory, worker: int, families: Sequence[tuple[str, Sequence[str], Sequence[float]]]
    ) -> None:
        """``families``: name, label names, and the upper boundaries of a histogram's buckets (none for a counter or gauge).

        The same families in the same order for every row. What an earlier worker counted in the row stands.
        """

    def series(self, family: int, labels: tuple[str, ...]) -> int:
        """A handle for the series of these label values; the family's overflow series when the row is full."""

    def add(self, handle: int, value: float) -> None:
        """Add a value to one series: to a counter's number, or as an observation of a histogram."""

    def record(self, items: tuple[tuple[int, float], ...]) -> None:
        """The same for several series, each with its value."""

    def set(self, handle: int, value: float) -> None:
        """Set a gauge."""

    @property
    def dropped(self) -> int:
        """How often a new series did not fit."""

    def read(self) -> list[tuple[int, tuple[str, ...], tuple[int, ...], float]]:
        """Every series: family, label values, a histogram's counts by bucket, and the number or the sum."""

@final
class CounterRow:
    """Up to 16 series that are counted together, each found once."""

    def __init__(self, counters: Counters, handles: tuple[int, ...]) -> None:
        """``handles``: of the series, as :meth:`Counters.series` gives them. ValueError for more; IndexError for one that is none."""

    def add(self, position: int, value: float) -> None:
        """Add a value to the series at a position of the row; NaN is nothing. IndexError beyond the row."""
