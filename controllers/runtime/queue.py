"""A queue of names: a burst of events for one object is one piece of work, and no object is worked on twice at once."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_DELAY_SECONDS = 0.005
LONGEST_DELAY_SECONDS = 60.0


class WorkQueue(Generic[K]):
    """Names that wait; a name that comes while it is worked on waits once more; one that failed waits longer each time."""

    def __init__(self) -> None:
        self._ready: deque[K] = deque()
        self._waiting: set[K] = set()
        self._working: set[K] = set()
        self._again: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def is_drained(self) -> bool:
        """Nothing waits and nothing is worked on; what failed or asked to be looked at again comes back by its timer."""
        return not (self._ready or self._working)

    def add(self, key: K) -> None:
        """Ask for work on a name."""
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
            self._arrived.set()

    def add_after(self, key: K, delay: float) -> None:
        """Ask for it in ``delay`` seconds, unless an earlier timer runs."""
        timer = self._timers.get(key)
        loop = asyncio.get_running_loop()
        if timer is not None:
            if timer.when() <= loop.time() + delay:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(delay, self._fire, key)

    async def get(self) -> K:
        """The next name; :meth:`done` must follow."""
        while not self._ready:
            self._arrived.clear()
            await self._arrived.wait()
        key = self._ready.popleft()
        self._waiting.discard(key)
        self._working.add(key)
        return key

    def done(self, key: K, succeeded: bool) -> None:
        """The work is over. A failure comes back after a delay that doubles from 5 ms to a minute, with jitter."""
        self._working.discard(key)
        if succeeded:
            self._failures.pop(key, None)
        else:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            delay = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** min(failures - 1, 30))
            self.add_after(key, delay * (1 + random.random() * 0.2))  # noqa: S311 - jitter, not a secret
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _fire(self, key: K) -> None:
        del self._timers[key]
        self.add(key)
