"""Who waits for an endpoint, and who is next: strict priorities, and within one of them every tenant its share by the tokens it asks for.

Start-time fair queueing (Goyal, Vin, Cheng 1996): a request's tag is when its tenant's earlier ones are paid for; the smallest is next,
and what is served moves the virtual time on. Who had less than its share may be behind that time by a bounded credit: a burst of a
tenant that asks seldom is not held up by one that always does. Virtual time and what tenants have paid are one for all workers
(``_fastpath.fair_share``). Nothing here waits, and nothing has a rate: whoever has room asks for the next one.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable

from _fastpath.fair_share import FairShare
from _fastpath.slots import endpoint_identity
from gateway.waiting import Signal

LOWEST_PRIORITY = -1_000_000
"""What a request may lower its own to; the files of tenants and keys keep to as much above."""
OUTPUT_WEIGHT = 4.0
"""Tokens of a prompt that an output token counts as: about what engines' prices say."""


class Waiter:
    """A request that waits until it has an endpoint, or is refused with an ``error``; either sets ``signal``.

    ``answered``: when its conversation had its last answer, where that lets it go before others of its tenant; else 0.
    """

    def __init__(
        self,
        tenant: str,
        priority: int,
        tokens: float,
        deadline: float,
        place: Callable[[bool], None],
        answered: float = 0.0,
    ) -> None:
        self.tenant = tenant
        self.priority = priority
        self.tokens = tokens
        """Its weighted cost: tokens over the tenant's weight."""
        self.deadline = deadline
        self.place = place
        """Takes an endpoint for it, told whether its tenant is owed one (:meth:`FairQueue.is_owed`).

        Raises QueueFull while there is none, and other PenstockErrors when there will be none.
        """
        self.answered = answered
        self.signal = Signal()
        self.tag = 0.0
        self.number = 0
        self.joined = 0.0
        self.position = 0
        """How many of its worker were before it when it came."""
        self.estimate = 0.0
        """Seconds that it was expected to wait then."""
        self.is_waiting = False
        self.outcome = "left"
        """How its wait ended: ``served``, ``refused``, ``late``, or ``left`` when its client did."""
        self.error: Exception | None = None

    @property
    def key(self) -> tuple[int, float, int]:
        """Its place in the line."""
        return (-self.priority, self.tag, self.number)


def weighted_tokens(prompt_tokens: int, output_tokens: int, weight: float) -> float:
    """What a request counts for in its tenant's share."""
    return (prompt_tokens + OUTPUT_WEIGHT * output_tokens) / weight


class FairQueue:
    """The waiters of one server in one worker; at most ``longest`` of them. ``now``: monotonic seconds of one clock."""

    def __init__(self, longest: int, share: FairShare, server: str, credit: float = 0.0) -> None:
        """``credit``: weighted tokens of its share that a tenant may have left unused and still ask for at once."""
        self._longest = longest
        self._credit = credit
        self._share = share
        self.server = endpoint_identity(server)
        self._line: list[tuple[int, float, int, Waiter]] = []
        self._counts: dict[int, dict[str, int]] = {}
        self._joined = 0

    def __len__(self) -> int:
        return len(self._line)

    def join(self, waiter: Waiter, now: float) -> Waiter | None:
        """Wait. Who has to give way for it, None for nobody: itself, when nobody has more waiting than its tenant."""
        evicted = self._crowded_out(waiter) if len(self._line) >= self._longest else None
        if evicted is waiter:
            waiter.position = len(self._line)
            return waiter
        if evicted is not None:
            evicted.position = self.position(evicted)
            self.leave(evicted, now)
        self.show(now)  # or it would seem that nobody waits here, when the loop was late
        self._joined += 1
        waiter.number = self._joined
        waiter.tag = self._share.join(self.server, endpoint_identity(waiter.tenant), waiter.tokens, self._credit, now)
        waiter.is_waiting = True
        counts = self._counts.setdefault(waiter.priority, {})
        counts[waiter.tenant] = counts.get(waiter.tenant, 0) + 1
        insort(self._line, (*waiter.key, waiter))
        if waiter.answered:
            self._bring_forward(waiter)
        waiter.position = self.position(waiter)
        self.show(now)
        return evicted

    def next(self) -> Waiter | None:
        """Who is next here; it waits on until it leaves or is served."""
        return self._line[0][3] if self._line else None

    def is_first(self, now: float) -> bool:
        """Whether who is next here is before all who wait in other workers."""
        priority, tag, _, _ = self._line[0]
        return self._share.is_first(self.server, -priority, tag, now)

    def is_owed(self, waiter: Waiter) -> bool:
        """Whether its tenant has had less than its share."""
        return waiter.tag <= self._share.virtual_time(self.server)

    def show(self, now: float) -> None:
        """Tell the other workers who is next here: again and again while somebody waits, or they take this one for dead."""
        if self._line:
            priority, tag, _, _ = self._line[0]
            self._share.show(self.server, -priority, tag, now)
        else:
            self._share.hide(self.server)

    def serve(self, waiter: Waiter, now: float) -> None:
        """It has an endpoint."""
        waiter.outcome = "served"
        self._share.served(self.server, waiter.tag)
        self._take_out(waiter)
        self.show(now)

    def leave(self, waiter: Waiter, now: float) -> None:
        """It waits no more and was not served: its place is free at once, and its tenant has paid nothing for it."""
        if not waiter.is_waiting:
            return
        self._take_out(waiter)
        tenant = endpoint_identity(waiter.tenant)
        returned = self._share.leave(self.server, tenant, waiter.tag, waiter.tokens, self._credit)
        if returned > 0:
            self._move_up(waiter, returned)
        self.show(now)

    def _take_out(self, waiter: Waiter) -> None:
        waiter.is_waiting = False
        del self._line[self.position(waiter)]
        counts = self._counts[waiter.priority]
        counts[waiter.tenant] -= 1
        if not counts[waiter.tenant]:
            del counts[waiter.tenant]
        if not counts:
            del self._counts[waiter.priority]

    def _move_up(self, gone: Waiter, tokens: float) -> None:
        """Those of its tenant that came after it need no longer wait until it is paid for. In other workers they keep their tags."""
        behind = [
            one
            for *_, one in self._line
            if one.tenant == gone.tenant and (one.tag, one.number) > (gone.tag, gone.number)
        ]
        if not behind:
            return
        # no further back than who comes now: nobody gets more credit than there is
        earliest = self._share.virtual_time(self.server) - self._credit
        for one in behind:
            one.tag = max(one.tag - tokens, min(one.tag, earliest))
        self._line = sorted((*one.key, one) for *_, one in self._line)

    def late(self, now: float) -> list[Waiter]:
        """Those whose deadline has come."""
        return [one[3] for one in self._line if one[3].deadline <= now]

    def position(self, waiter: Waiter) -> int:
        """How many are before it here."""
        return bisect_left(self._line, waiter.key)

    def tenants(self) -> dict[str, tuple[int, float]]:
        """How many of each tenant wait, and since when the first of them to come."""
        found: dict[str, tuple[int, float]] = {}
        for *_, one in self._line:
            count, since = found.get(one.tenant, (0, one.joined))
            found[one.tenant] = (count + 1, min(since, one.joined))
        return found

    def _bring_forward(self, waiter: Waiter) -> None:
        """Before those of its tenant and priority whose conversation had no answer, or an earlier one: they move on by one place each.

        Places stay the tenant's, so that no other tenant's request waits longer for it.
        """
        mates = [one for *_, one in self._line if (one.tenant, one.priority) == (waiter.tenant, waiter.priority)]
        keys = [one.key for one in mates]
        mates.remove(waiter)
        ahead = sum(one.answered >= waiter.answered for one in mates)
        for key, one in zip(keys, [*mates[:ahead], waiter, *mates[ahead:]], strict=True):
            _, one.tag, one.number = key
            self._line[bisect_left(self._line, key)] = (*key, one)

    def _crowded_out(self, waiter: Waiter) -> Waiter:
        """The last in line of those with the lowest priority whose tenant has most waiting there; the newcomer among equals."""
        if not self._counts:
            return waiter  # nobody may wait
        lowest = min(self._counts)
        if waiter.priority < lowest:
            return waiter
        counts = self._counts[lowest]
        most = max(counts.values())
        if waiter.priority == lowest and counts.get(waiter.tenant, 0) + 1 >= most:
            return waiter
        tenant = next(name for name, count in counts.items() if count == most)
        return next(one for *_, one in reversed(self._line) if one.tenant == tenant)
