"""One timer for all deadlines of a worker: a wheel of lists, looked through as its time comes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

TICK_SECONDS = 0.02
LONGEST_SECONDS = 1.0
"""An entry is looked at so often at least; so what is over does not stay for long, however far its deadline was."""
_SLOTS = 64

logger = logging.getLogger(__name__)


class Entry(Protocol):
    """Something with a deadline."""

    def check(self, now: float) -> None:
        """Do what is due; add yourself again unless you are over."""


class Deadlines:
    """Calls ``check`` of its entries. To add one is an append to a list; to be done with one costs nothing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._slots: list[list[Entry]] = [[] for _ in range(_SLOTS)]
        self._at = int(clock() / TICK_SECONDS)
        self._count = 0
        self._tick = TICK_SECONDS  # here it is a C number, and so are what it is compared with and the next one
        self._size = _SLOTS
        self._farthest = int(LONGEST_SECONDS / TICK_SECONDS)
        self._timer: asyncio.TimerHandle | None = None

    def add(self, entry: Entry, due: float) -> float:
        """Have it looked at when ``due`` has come, a tick or two later at most, and earlier when it is far off: the time that will be."""
        if self._count == 0:
            self._at = int(self._clock() / TICK_SECONDS)
        place = self._at + self._farthest
        if due < place * self._tick:
            place = int(due / self._tick)
            place = (place if place > self._at else self._at) + 1
        slot: list[Entry] = self._slots[place % self._size]
        slot.append(entry)
        self._count += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._turn)
        return place * self._tick

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._slots = [[] for _ in range(_SLOTS)]
        self._count = 0

    def _turn(self) -> None:
        self._timer = None
        now = self._clock()
        last = int(now / TICK_SECONDS)
        due: list[Entry] = []
        for place in range(max(self._at + 1, last - _SLOTS + 1), last + 1):
            due += self._slots[place % _SLOTS]
            self._slots[place % _SLOTS] = []
        self._at = last
        self._count -= len(due)
        for entry in due:
            try:
                entry.check(now)
            except Exception:
                logger.exception("a deadline could not be kept")
        if self._count and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._turn)
