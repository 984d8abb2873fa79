"""A run's samples, asked by gateway and measure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.load.measure import Sample
from bench.load.rounds import DIRECT

OURS = "penstock"


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None when there is nothing."""
        return cls(statistics.median(values), min(values), max(values)) if values else None

    def show(self, digits: int = 0) -> str:
        """Like ``53,800 (52,900-54,100)``."""
        median, low, high = (f"{one:,.{digits}f}" for one in (self.median, self.low, self.high))
        return median if low == high else f"{median} ({low}-{high})"


class Findings:
    """A run's samples, asked by gateway and measure."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def spread(self, peer: str, measure: str, value: str) -> Spread | None:
        """A value over the rounds that had it."""
        return Spread.of(
            [
                one.values[value]
                for one in self._samples
                if one.peer == peer and one.measure == measure and value in one.values
            ]
        )

    def median(self, peer: str, measure: str, value: str) -> float | None:
        """Its middle."""
        spread = self.spread(peer, measure, value)
        return spread.median if spread else None

    def failed(self, peer: str) -> int:
        """Requests and streams that failed in all rounds, and measurements that broke."""
        return sum(one.failed for one in self._samples if one.peer == peer)

    def rates(self, peer: str) -> list[float]:
        """Rates at which its latency was measured."""
        found = {one.values["rate"] for one in self._samples if one.peer == peer and "rate" in one.values}
        return sorted(found)

    def added(self, peer: str, rate: float, value: str) -> Spread | None:
        """Microseconds more than the engine by itself took at the same rate in the same round."""
        direct = self.latencies(DIRECT, rate, value)
        own = self.latencies(peer, rate, value)
        return Spread.of([own[number] - direct[number] for number in own if number in direct])

    def half_rate(self, peer: str) -> float | None:
        """The measured rate nearest to half of its capacity."""
        capacity, rates = self.median(peer, "unary-1k", "requests_per_second"), self.rates(peer)
        return min(rates, key=lambda rate: abs(rate - capacity / 2)) if capacity and rates else None

    def latencies(self, peer: str, rate: float, value: str) -> dict[int, float]:
        """By round, what it took at this rate."""
        return {
            one.round: one.values[value]
            for one in self._samples
            if one.peer == peer and one.measure == "latency" and one.values.get("rate") == rate
        }


def ratio(ours: float | None, other: float | None) -> float | None:
    """How many times the other ours is; None when either is unknown or the other is not above nothing."""
    return None if ours is None or other is None or other <= 0 else ours / other


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
