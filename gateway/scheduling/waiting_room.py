"""Where requests wait while every endpoint of their server has as many as it may: a fair queue a server, in each worker.

Whoever gives an endpoint back lets the next one in, in the same moment, unless the next one of all waits in another worker: that one looks
every few milliseconds for what others gave back, and is left to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from _fastpath.fair_share import FairShare
from _fastpath.slots import endpoint_identity
from gateway.errors import QueueFull
from gateway.scheduling.fair_queue import FairQueue, Waiter

LOOK_SECONDS = 0.005
"""Time between two looks at what other workers gave back; deadlines are kept as exactly."""
GIVE_WAY_SECONDS = 0.02
"""What was given back here is left to another worker's waiter for so long: one that cannot take it shall not keep it from all."""
MOST_TENANTS = 20
"""Named in the report on a queue; the others are counted together."""
_KEPT = 0.9
"""Share of the earlier mean that stays when another request is let in."""
_SHORTEST_RETRY, _LONGEST_RETRY = 1.0, 60.0


class _Room:
    """One server's queue, and how fast it moves."""

    def __init__(self, queue: FairQueue) -> None:
        self.queue = queue
        self.interval = 0.0
        self.last = 0.0
        self.gives_way_until = 0.0
        self.tenant = ""
        """Who asked last, and what stands for it: mostly the same one asks again."""
        self.tenant_identity: int = endpoint_identity("")

    def moved(self, now: float) -> None:
        """Somebody was let in."""
        if self.last:
            gap = now - self.last
            self.interval = gap if not self.interval else self.interval * _KEPT + gap * (1 - _KEPT)
        self.last = now

    def estimate(self, position: int) -> float:
        """Seconds until whoever has so many before it will be let in, as fast as it moved of late; 0 while that is not known."""
        return max(1, position) * self.interval

    def may_go(self, now: float) -> bool:
        """Whether it is the turn of who is next here."""
        if self.queue.is_first(now):
            self.gives_way_until = 0.0
            return True
        if self.gives_way_until and now >= self.gives_way_until:
            self.gives_way_until = 0.0
            return True
        return False


class WaitingRoom:
    """The queues of one worker. ``longest``: how many may wait for one server; ``seconds``: for how long at most, 0 for not at all.

    ``credit``: see :class:`FairQueue`. ``session_seconds``: for how long after an answer a conversation's next request goes before
    others of its tenant, 0 for never.
    """

    def __init__(
        self,
        longest: int,
        seconds: float,
        clock: Callable[[], float],
        share: FairShare,
        session_seconds: float = 0.0,
        credit: float = 0.0,
    ) -> None:
        self._longest = longest
        self.seconds = seconds
        self.session_seconds = session_seconds
        self._clock = clock
        self._share = share
        self._credit = credit
        self._rooms: dict[str, _Room] = {}
        self._timer: asyncio.TimerHandle | None = None

    def comes(self, server: str, tenant: str, now: float = 0.0) -> bool:
        """A tenant asks for a server: whether somebody waits for it, in whichever worker, whom it must not overtake.

        ``now``: 0 when the caller has not looked at the clock.
        """
        room = self._room(server)
        now = now or self._clock()
        if tenant != room.tenant:
            room.tenant, room.tenant_identity = tenant, endpoint_identity(tenant)
        self._share.note(room.queue.server, room.tenant_identity, now)
        return room.queue.next() is not None or self._share.is_waited(room.queue.server, now)

    def is_contested(self, server: str, now: float = 0.0) -> bool:
        """Whether several tenants asked for a server of late: then some places are kept for those who had less than their share."""
        return self._share.is_contested(self._room(server).queue.server, now or self._clock())

    def lengths(self) -> dict[str, int]:
        """How many wait, by server."""
        return {server: len(room.queue) for server, room in self._rooms.items() if len(room.queue)}

    def report(self) -> list[dict[str, Any]]:
        """Who waits for what, by tenant; those with most waiting first, and at most :data:`MOST_TENANTS` of them by name."""
        now = self._clock()
        return [_report(server, room, now) for server, room in self._rooms.items() if len(room.queue)]

    def answered(self, server: str, session: int) -> None:
        """A conversation's request is over."""
        self._share.answered(self._room(server).queue.server, session, self._clock())

    def last_answer(self, server: str, session: int) -> float:
        """When a conversation had its last answer, 0 when that is too long ago to count."""
        at = self._share.last_answer(self._room(server).queue.server, session)
        return at if self._clock() - at <= self.session_seconds else 0.0

    async def wait(self, server: str, waiter: Waiter) -> None:
        """Until its turn has come and ``waiter.place`` has taken an endpoint. Raises QueueFull when there is no room to wait, or when its
        deadline is there, and what else ``place`` raises.
        """
        now = waiter.joined = self._clock()
        waiter.deadline = min(waiter.deadline, now + self.seconds)
        room = self._room(server)
        try:
            crowded_out = room.queue.join(waiter, now) if waiter.deadline > now else waiter
            waiter.estimate = room.estimate(waiter.position)
            if crowded_out is not None:
                why = f"As many requests as may wait for an endpoint of ModelServer `{server}`."
                self._refuse(room, crowded_out, "refused", why)
            if room.queue.next() is waiter:
                self._let_in(room, now)  # it came because others wait elsewhere, who may be after it
            if waiter.is_waiting:
                self._look_later()
                await waiter.signal
        finally:
            room.queue.leave(waiter, self._clock())
        if waiter.error is not None:
            raise waiter.error

    def move(self, server: str) -> None:
        """An endpoint of the server may have room: let in whoever is next, as many as there is room for."""
        room: _Room | None = self._rooms.get(server)
        if room is None or room.queue.next() is None:
            return
        now = self._clock()
        if not room.gives_way_until:
            room.gives_way_until = now + GIVE_WAY_SECONDS
        self._let_in(room, now)

    def _let_in(self, room: _Room, now: float) -> None:
        while (waiter := room.queue.next()) is not None and room.may_go(now):
            try:
                waiter.place(room.queue.is_owed(waiter))
            except QueueFull:
                return
            except Exception as error:  # its own: whoever makes room here is another request
                waiter.outcome, waiter.error = "refused", error
                room.queue.leave(waiter, now)
            else:
                room.queue.serve(waiter, now)
                room.moved(now)
            waiter.signal.set()

    def _room(self, server: str) -> _Room:
        room: _Room | None = self._rooms.get(server)
        if room is None:
            room = self._rooms[server] = _Room(FairQueue(self._longest, self._share, server, self._credit))
        return room

    def _refuse(self, room: _Room, waiter: Waiter, outcome: str, why: str) -> None:
        waiter.outcome = outcome
        retry_after = max(_SHORTEST_RETRY, min(_LONGEST_RETRY, room.estimate(waiter.position)))
        waiter.error = QueueFull(why, retry_after=retry_after)
        room.queue.leave(waiter, self._clock())
        waiter.signal.set()

    def _look_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._clock()
        for server, room in list(self._rooms.items()):
            if not len(room.queue):
                continue
            # the last first: then nobody has to move up who leaves as well
            for earlier, waiter in reversed(list(enumerate(room.queue.late(now)))):
                waited = now - waiter.joined
                waiter.position = room.queue.position(waiter) - earlier
                self._refuse(
                    room, waiter, "late", f"No endpoint of ModelServer `{server}` had room for {waited:.1f} s."
                )
            room.queue.show(now)
            self._let_in(room, now)
        if any(len(room.queue) for room in self._rooms.values()):
            self._look_later()


def _report(server: str, room: _Room, now: float) -> dict[str, Any]:
    tenants = sorted(room.queue.tenants().items(), key=lambda one: -one[1][0])
    named = [
        {"tenant": tenant, "waiting": count, "longest_seconds": round(now - since, 3)}
        for tenant, (count, since) in tenants[:MOST_TENANTS]
    ]
    return {
        "server": server,
        "waiting": len(room.queue),
        "estimated_seconds": round(room.estimate(len(room.queue)), 3),
        "tenants": named,
        "waiting_of_others": len(room.queue) - sum(count for _, (count, _) in tenants[:MOST_TENANTS]),
    }
