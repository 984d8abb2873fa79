"""What a message's sequence number says of those that came before. No I/O."""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """What to do with a message."""

    NEXT = "next"
    KNOWN = "known"
    """It was applied already."""
    GAP = "gap"
    """Messages before it are missing."""
    RESTARTED = "restarted"
    """Its engine counts from the start again: what was known of it is void."""


class Sequence:
    """Numbers of one publisher, which counts its messages from 0 on; a replay repeats old ones beside those that come live."""

    def __init__(self) -> None:
        self.applied = -1
        """Number of the last message that was applied."""
        self._applied_time = 0.0
        self._last_live = -1

    @property
    def wanted(self) -> int:
        """Number of the message that comes next."""
        return self.applied + 1

    def live(self, number: int, time: float) -> Verdict:
        """A message came live; ``time`` is what its batch says, by the engine's clock.

        Live numbers only grow. One that a replay has brought already comes once more when it waited meanwhile, and then it is no younger
        than the last that was applied.
        """
        if number <= self._last_live:
            return Verdict.RESTARTED
        self._last_live = number
        if number <= self.applied:
            return Verdict.RESTARTED if time > self._applied_time else Verdict.KNOWN
        return Verdict.NEXT if number == self.wanted else Verdict.GAP

    def apply(self, number: int, time: float) -> None:
        """It was applied."""
        self.applied = number
        self._applied_time = max(self._applied_time, time)
