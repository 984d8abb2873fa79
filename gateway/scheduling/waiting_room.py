"""Where requests wait while every endpoint of their server has as many as it may: a fair queue a server, in each worker.

Whoever gives an endpoint back lets the next one in, in the same moment. What other workers give back is seen a few milliseconds later,
while somebody waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.errors import PenstockError, QueueFull
from gateway.scheduling.fair_queue import FairQueue, Waiter

LOOK_SECONDS = 0.005
"""Time between two looks at what other workers gave back; deadlines are kept as exactly."""
_KEPT = 0.9
"""Share of the earlier mean that stays when another request is let in."""


class _Room:
    """One server's queue, and how fast it moves."""

    def __init__(self, longest: int) -> None:
        self.queue = FairQueue(longest)
        self.interval = 0.0
        self.last = 0.0

    def moved(self, now: float) -> None:
        """Somebody was let in."""
        if self.last:
            gap = now - self.last
            self.interval = gap if not self.interval else self.interval * _KEPT + gap * (1 - _KEPT)
        self.last = now

    def seconds_to_wait(self) -> float:
        """Until all who wait will have been let in, as fast as it moved of late: 1 to 60."""
        return max(1.0, min(60.0, len(self.queue) * self.interval))


class WaitingRoom:
    """The queues of one worker. ``longest``: how many may wait for one server; ``seconds``: for how long at most, 0 for not at all."""

    def __init__(self, longest: int, seconds: float, clock: Callable[[], float]) -> None:
        self._longest = longest
        self.seconds = seconds
        self._clock = clock
        self._rooms: dict[str, _Room] = {}
        self._timer: asyncio.TimerHandle | None = None

    def is_waited(self, server: str) -> bool:
        """Whether somebody waits for a server: whoever comes then must not overtake."""
        room = self._rooms.get(server)
        return room is not None and len(room.queue) > 0

    def lengths(self) -> dict[str, int]:
        """How many wait, by server."""
        return {server: len(room.queue) for server, room in self._rooms.items() if len(room.queue)}

    async def wait(self, server: str, waiter: Waiter) -> None:
        """Until its turn has come and ``waiter.place`` has taken an endpoint. Raises QueueFull when there is no room to wait, or when its
        deadline is there, and what else ``place`` raises.
        """
        waiter.joined = self._clock()
        waiter.deadline = min(waiter.deadline, waiter.joined + self.seconds)
        room = self._rooms.get(server)
        if room is None:
            room = self._rooms[server] = _Room(self._longest)
        crowded_out = room.queue.join(waiter) if waiter.deadline > waiter.joined else waiter
        if crowded_out is not None:
            self._refuse(
                room, crowded_out, "refused", f"As many requests as may wait for an endpoint of ModelServer `{server}`."
            )
        try:
            if waiter.is_waiting:
                self._look_later()
                await waiter.signal
        finally:
            room.queue.leave(waiter)
        if waiter.error is not None:
            raise waiter.error

    def move(self, server: str) -> None:
        """An endpoint of the server may have room: let in whoever is next, as many as there is room for."""
        room = self._rooms.get(server)
        if room is None:
            return
        while (waiter := room.queue.next()) is not None:
            try:
                waiter.place()
            except QueueFull:
                return
            except PenstockError as error:
                waiter.error = error
            room.queue.serve(waiter)
            room.moved(self._clock())
            waiter.signal.set()

    def _refuse(self, room: _Room, waiter: Waiter, outcome: str, why: str) -> None:
        waiter.outcome = outcome
        waiter.error = QueueFull(why, retry_after=room.seconds_to_wait())
        room.queue.leave(waiter)
        waiter.signal.set()

    def _look_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._clock()
        for server, room in list(self._rooms.items()):
            for waiter in room.queue.late(now):
                waited = now - waiter.joined
                self._refuse(
                    room, waiter, "late", f"No endpoint of ModelServer `{server}` had room for {waited:.1f} s."
                )
            self.move(server)
        if any(len(room.queue) for room in self._rooms.values()):
            self._look_later()
