"""AIBrix's prefix-cache strategy."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench.fleet.policies.base import Blind, Prefixes, Setting
from bench.fleet.trace import Prompted

# endpoint-pickers 1.4: what the code has, not the documentation's 16 and 2
IMBALANCE = 8
DEVIATIONS = 1.0
# The documentation's 128 bytes: with the code's 4 the index would hold 200,000 tokens in all, less than two of the longest prompts.
BLOCK_TOKENS = 32
BLOCKS = 200_000


def is_imbalanced(running: Sequence[int]) -> bool:
    """Whether prefixes are left aside."""
    return max(running) - min(running) > IMBALANCE


def is_near_mean(running: Sequence[int]) -> list[bool]:
    """Which engines may be chosen for their cache."""
    bound = statistics.fmean(running) + DEVIATIONS * statistics.pstdev(running)
    return [one <= bound for one in running]


class AibrixPrefixCache(Blind):
    """The longest match that is not far above the mean load, then the fewest requests; the fewest alone when out of balance.

    Blocks are forgotten by number alone: the 20 minutes after which they also go are longer than their stay in an engine.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        # the table is one for all engines; each gets its part of it
        blocks = BLOCKS * BLOCK_TOKENS // setting.block_size // setting.engines
        self._prefixes = Prefixes(setting.engines, max(1, blocks))

    def choose(self, request: Prompted, now: float) -> int:
        if is_imbalanced(self.in_flight):
            return self.lowest(self.in_flight)
        lengths = self._prefixes.match(request.ids)
        near = is_near_mean(self.in_flight)
        longest = max(length for length, is_candidate in zip(lengths, near, strict=True) if is_candidate)
        if longest == 0:
            return self.lowest(self.in_flight)
        return self.lowest(
            self.in_flight, [one for one, length in enumerate(lengths) if near[one] and length == longest]
        )

    def sent(self, request: Prompted, engine: int, now: float) -> None:
        self._prefixes.learn(engine, request.ids)
