"""How many tokens answers have, learned from those that there were: what is reserved and scheduled for before the engine has counted."""

from __future__ import annotations

from collections.abc import Callable

from _fastpath.hashing import Hasher
from _fastpath.output_lengths import OutputLengths
from _fastpath.shared_memory import SharedMemory
from gateway.counting import Count

LONGEST = 1 << 17
"""Tokens; an engine that says more is not believed for those to come."""
_MOST_KINDS = 10_000
Kind = tuple[str, str, str]
"""Route, model and operation."""


class OutputEstimates:
    """Estimates for each route, model and operation, the same in all workers.

    An estimate decides when tokens are taken: settling decides how many.
    """

    def __init__(self, memory: SharedMemory, prior: int, clock: Callable[[], float]) -> None:
        """``prior``: tokens of an answer where none was seen yet. ``clock``: monotonic seconds."""
        self._prior = prior
        self._clock = clock
        self._lengths = OutputLengths(memory)
        self._hasher = Hasher(memory.hash_key)
        self._known: dict[Kind, int] = {}

    def expected(self, kind: Kind, most: Count, choices: Count) -> Count:
        """Tokens to expect of a request that names ``most`` for each of its choices, below 0 for none."""
        mean = self._lengths.mean(self._identity(kind))
        each = self._prior if mean < 0 else max(1, round(mean))
        return (most if 0 <= most < each else each) * choices

    def learn(self, kind: Kind, tokens: Count, most: Count, choices: Count) -> None:
        """A request was answered with so many tokens in all.

        One that was cut off where it asked to be says nothing of longer answers: it counts only when it is longer than what is expected.
        """
        identity = self._identity(kind)
        each = min(tokens, LONGEST * choices) / choices
        if 0 <= most <= each:
            mean = self._lengths.mean(identity)
            if each < (self._prior if mean < 0 else mean):
                return
        self._lengths.learn(identity, each, float(self._prior), self._clock())

    def _identity(self, kind: Kind) -> int:
        identity = self._known.get(kind)
        if identity is None:
            if len(self._known) >= _MOST_KINDS:
                self._known.clear()
            identity = self._known[kind] = self._hasher.seed(*kind)
        return identity
