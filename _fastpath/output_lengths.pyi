"""How long answers are, as all workers learn it: a mean for each kind of request, the newest answers counting more.

Kinds are 64 bits (``Hasher.seed`` of what they have in common). There is room for 4,096, in sets of eight: the kind whose last answer is
the oldest of its set gives way.
"""

from typing import final

from _fastpath.shared_memory import SharedMemory

@final
class OutputLengths:
    LARGEST: float
    """Tokens; a longer answer counts as one of so many."""
    def __init__(self, memory: SharedMemory) -> None: ...
    def mean(self, kind: int) -> float:
        """Tokens of an answer, to 1/256; below 0 for a kind of which none is known."""

    def expected(self, kind: int, prior: int) -> int:
        """The mean in whole tokens, at least 1; ``prior`` for a kind of which none is known."""

    def learn(self, kind: int, tokens: float, prior: float, now: float) -> None:
        """One more answer of so many tokens, at ``now`` (monotonic seconds). The first one finds a mean of ``prior`` that counts as eight.

        Raises ValueError for tokens or a prior below 0.
        """
