"""Who waits for an endpoint, and who is next: strict priorities, and within one of them every tenant its share by the tokens it asks for.

Start-time fair queueing (Goyal, Vin, Cheng 1996): a request's tag is when its tenant's earlier ones are paid for; the smallest is next, and
what is served moves the virtual time on. Nothing here waits, and nothing has a rate: whoever has room asks for the next one.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable

from gateway.errors import PenstockError
from gateway.waiting import Signal

OUTPUT_WEIGHT = 4.0
"""Tokens of a prompt that an output token counts as: about what engines' prices say."""
_MOST_IDLE = 1024
"""Tenants that nobody waits of and whose debts are kept at the most."""


class Waiter:
    """A request that waits until it has an endpoint, or is refused with an ``error``; either sets ``signal``."""

    def __init__(self, tenant: str, priority: int, tokens: float, deadline: float, place: Callable[[], None]) -> None:
        self.tenant = tenant
        self.priority = priority
        self.tokens = tokens
        """Its weighted cost: tokens over the tenant's weight."""
        self.deadline = deadline
        self.place = place
        """Takes an endpoint for it. Raises QueueFull while there is none, and other PenstockErrors when there will be none."""
        self.signal = Signal()
        self.tag = 0.0
        self.joined = 0.0
        self.is_waiting = False
        self.outcome = "left"
        """How its wait ended: ``served``, ``refused``, ``late``, or ``left`` when its client did."""
        self.error: PenstockError | None = None


def weighted_tokens(prompt_tokens: int, output_tokens: int, weight: float) -> float:
    """What a request counts for in its tenant's share."""
    return (prompt_tokens + OUTPUT_WEIGHT * output_tokens) / weight


class FairQueue:
    """The waiters of one server in one worker; at most ``longest`` of them."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._heap: list[tuple[int, float, int, Waiter]] = []
        self._of_tenant: dict[str, deque[Waiter]] = {}
        self._paid: dict[str, float] = {}
        self._virtual = 0.0
        self._count = 0
        self._joined = 0

    def __len__(self) -> int:
        return self._count

    def join(self, waiter: Waiter) -> Waiter | None:
        """Wait. Who has to give way for it, None for nobody: itself, when nobody has more waiting than its tenant."""
        evicted = self._crowded_out(waiter) if self._count >= self._longest else None
        if evicted is waiter:
            return waiter
        if evicted is not None:
            self.leave(evicted)
        self._joined += 1
        waiter.tag = max(self._virtual, self._paid.get(waiter.tenant, 0.0))
        self._paid[waiter.tenant] = waiter.tag + waiter.tokens
        waiter.is_waiting = True
        self._count += 1
        self._of_tenant.setdefault(waiter.tenant, deque()).append(waiter)
        heapq.heappush(self._heap, (-waiter.priority, waiter.tag, self._joined, waiter))
        return evicted

    def next(self) -> Waiter | None:
        """Who is next; it waits on until it leaves or is served."""
        while self._heap and not self._heap[0][3].is_waiting:
            heapq.heappop(self._heap)
        return self._heap[0][3] if self._heap else None

    def serve(self, waiter: Waiter) -> None:
        """It has an endpoint."""
        waiter.outcome = "served"
        self._virtual = max(self._virtual, waiter.tag)
        self.leave(waiter)

    def leave(self, waiter: Waiter) -> None:
        """It waits no more; its place is free at once."""
        if not waiter.is_waiting:
            return
        waiter.is_waiting = False
        self._count -= 1
        mates = self._of_tenant[waiter.tenant]
        while mates and not mates[-1].is_waiting:
            mates.pop()
        while mates and not mates[0].is_waiting:
            mates.popleft()
        if not mates:
            del self._of_tenant[waiter.tenant]
        if not self._count:
            # nobody waits, so nobody is in debt
            self._heap.clear()
            self._of_tenant.clear()
            self._paid.clear()
            self._virtual = 0.0
        elif len(self._heap) > 2 * self._count + 16:
            self._heap = [one for one in self._heap if one[3].is_waiting]
            heapq.heapify(self._heap)
        if len(self._paid) > len(self._of_tenant) + _MOST_IDLE:
            self._forget_debts()

    def _forget_debts(self) -> None:
        """Of tenants that nobody waits of keep the largest debts alone."""
        idle = sorted((paid, tenant) for tenant, paid in self._paid.items() if tenant not in self._of_tenant)
        for _, tenant in idle[: -_MOST_IDLE // 2]:
            del self._paid[tenant]

    def late(self, now: float) -> list[Waiter]:
        """Those whose deadline has come."""
        return [one[3] for one in self._heap if one[3].is_waiting and one[3].deadline <= now]

    def position(self, waiter: Waiter) -> int:
        """How many are before it."""
        mine = (-waiter.priority, waiter.tag)
        return sum(one[3].is_waiting and one[3] is not waiter and one[:2] < mine for one in self._heap)

    def _crowded_out(self, waiter: Waiter) -> Waiter:
        """The last that came of those with the lowest priority whose tenant has most waiting there; the newcomer among equals."""
        lowest = min(-one[0] for one in self._heap if one[3].is_waiting)
        if waiter.priority < lowest:
            return waiter
        waiting: dict[str, int] = {}
        for one in self._heap:
            if one[3].is_waiting and one[3].priority == lowest:
                waiting[one[3].tenant] = waiting.get(one[3].tenant, 0) + 1
        most = max(waiting.values())
        if waiter.priority == lowest and waiting.get(waiter.tenant, 0) + 1 >= most:
            return waiter
        tenant = next(name for name, count in waiting.items() if count == most)
        return next(one for one in reversed(self._of_tenant[tenant]) if one.is_waiting and one.priority == lowest)
