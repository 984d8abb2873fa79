"""Plain-Python twin of ``_fastpath.output_lengths``: sets of named tuples, which all workers' twins over one memory share."""

from math import floor
from typing import NamedTuple

from tests.reference.shared_memory import SharedMemory

SETS, WAYS = 512, 8
LARGEST = 262143.0
PRIOR_COUNT = 8


class Length(NamedTuple):
    mark: int
    moment: int
    """Units of 64 s, as far as twelve bits say them."""
    count: int
    mean: float

    def more(self, tokens: float, moment: int) -> "Length":
        count = min(self.count + 1, 63)
        mean = self.mean + max(1 / 64, 1 / (count + PRIOR_COUNT)) * (tokens - self.mean)
        return Length(self.mark, moment, count, floor(mean * 256 + 0.5) / 256)


class OutputLengths:
    LARGEST = LARGEST

    def __init__(self, memory: SharedMemory) -> None:
        self._sets: dict[int, list[Length | None]] = memory.part("output_lengths", dict)

    def _set(self, kind: int) -> list[Length | None]:
        return self._sets.setdefault(kind % SETS, [None] * WAYS)

    def mean(self, kind: int) -> float:
        return next((one.mean for one in self._set(kind) if one is not None and one.mark == kind >> 44), -1.0)

    def expected(self, kind: int, prior: int) -> int:
        mean = self.mean(kind)
        return prior if mean < 0 else max(round(mean), 1)

    def learn(self, kind: int, tokens: float, prior: float, now: float) -> None:
        if not tokens >= 0 or not prior >= 0:
            raise ValueError(tokens, prior)
        tokens, prior = min(tokens, LARGEST), min(prior, LARGEST)
        cells, mark, moment = self._set(kind), kind >> 44, int(now / 64) % 4096
        for place, one in enumerate(cells):
            if one is not None and one.mark == mark:
                cells[place] = one.more(tokens, moment)
                return
        ages = [4097 if one is None else (moment - one.moment) % 4096 for one in cells]
        cells[ages.index(max(ages))] = Length(mark, moment, 0, prior).more(tokens, moment)
