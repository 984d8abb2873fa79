"""Pieces of many streams handled together, as a network card coalesces its interrupts.

A turn of the loop for each piece costs more than the piece: two threads wake up for it, and go to sleep again. While pieces of streams
come in quick succession, the loop lets some of them gather before it looks again. A client gets a token up to a millisecond later, tens of
milliseconds after the one before.
"""

from __future__ import annotations

import asyncio
import threading

_TOGETHER = 10
"""Pieces that shall gather."""
_ENOUGH = 2 * _TOGETHER
"""Where so many came in one turn there is no need to wait for more: the loop is busy without."""
_WEIGHT = 1 / 64
_LONGEST_GAP = 0.1
"""A pause counts for as much at most, so that streams that begin after it are soon handled together."""


class Coalescer:
    """Holds the event loop up for a moment while pieces of streams come faster than ``longest`` (seconds) would gather two."""

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._gap = self._longest_gap = _LONGEST_GAP  # C numbers, here and below
        self._weight = _WEIGHT
        self._last = 0.0
        self._pieces = 0
        self._is_due = self._is_hurried = False
        self._bell = threading.Lock()
        self._bell.acquire()  # whoever lets go of it ends the wait
        self.is_waiting = False

    def note(self, now: float) -> None:
        """A piece of a stream was read."""
        gap = now - self._last
        self._last = now
        self._pieces += 1
        self._gap += ((gap if gap < self._longest_gap else self._longest_gap) - self._gap) * self._weight
        if not self._is_due and self._gap * 2 < self._longest:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._wait)

    def hurry(self) -> None:
        """Something has come that shall not wait. For any thread."""
        if self.is_waiting:
            self.is_waiting = False
            self._bell.release()
        else:
            self._is_hurried = self._is_due

    def _wait(self) -> None:
        pieces, self._pieces = self._pieces, 0
        is_hurried, self._is_hurried = self._is_hurried, False
        self._is_due = False
        if is_hurried or pieces >= _ENOUGH:
            return
        seconds = self._gap * _TOGETHER
        self.is_waiting = True
        rung = self._bell.acquire(timeout=seconds if seconds < self._longest else self._longest)
        if not rung and not self.is_waiting:
            self._bell.acquire()  # rung too late to be heard
        self.is_waiting = False
