"""How many tokens answers have, learned from those that there were: what is reserved and scheduled for before the engine has counted."""

from __future__ import annotations

from _fastpath.hashing import Hasher
from _fastpath.output_lengths import OutputLengths
from _fastpath.shared_memory import SharedMemory
from gateway.counting import Count
from gateway.routing.kinds import Kind

LONGEST = 1 << 17
"""Tokens; an engine that says more is not believed for those to come."""


class OutputEstimates:
    """Estimates for each route, model and operation, the same in all workers.

    An estimate decides when tokens are taken: settling decides how many.
    """

    def __init__(self, memory: SharedMemory, prior: int) -> None:
        """``prior``: tokens of an answer where none was seen yet."""
        self._prior = prior
        self._longest = LONGEST
        self._lengths = OutputLengths(memory)
        self._hasher = Hasher(memory.hash_key)

    def expected(self, kind: Kind, most: Count, choices: Count) -> Count:
        """Tokens to expect of a request that names ``most`` for each of its choices, below 0 for none."""
        each = self._lengths.expected(self._identity(kind), self._prior)
        return (most if 0 <= most < each else each) * choices

    def learn(self, kind: Kind, tokens: Count, most: Count, choices: Count, now: float) -> None:
        """A request was answered with so many tokens in all, at ``now`` (monotonic seconds).

        One that was cut off where it asked to be says nothing of longer answers: it counts only when it is longer than what is expected.
        """
        identity = self._identity(kind)
        each = min(tokens, self._longest * choices) / choices
        if 0 <= most <= each:
            mean = self._lengths.mean(identity)
            if each < (self._prior if mean < 0 else mean):
                return
        self._lengths.learn(identity, each, self._prior, now)

    def _identity(self, kind: Kind) -> Count:
        if kind.lengths == 0:
            kind.lengths = self._hasher.seed(kind.route, kind.model, kind.operation)
        return kind.lengths
