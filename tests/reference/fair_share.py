"""Plain-Python twin of ``_fastpath.fair_share``: dicts by place, which all workers' twins over one memory share."""

from dataclasses import dataclass, field

from tests.reference.shared_memory import MASK, SharedMemory

PLACES = 256
DEBTS = 8192
SESSIONS = 8192
MULTIPLIER = 0x9E3779B97F4A7C15
TIME_BITS = 40


@dataclass
class Place:
    virtual_time: float = 0.0
    most_paid: float = 0.0
    tenant: int = 0
    contested: float = 0.0
    asked: int = 0
    heads: dict[int, tuple[int, int, float, float]] = field(default_factory=dict)
    """By worker: server, priority, tag, and when it was shown."""


class FairShare:
    FRESH_SECONDS = 0.05
    CONTESTED_SECONDS = 10.0

    def __init__(self, memory: SharedMemory, worker: int) -> None:
        if not -1 <= worker < memory.workers:
            raise IndexError(worker)
        self._places: dict[int, Place] = memory.part("fair_places", dict)
        self._debts: dict[int, float] = memory.part("fair_debts", dict)
        self._sessions: dict[int, tuple[int, int]] = memory.part("fair_sessions", dict)
        self._own = worker

    def _place(self, server: int) -> Place:
        return self._places.setdefault(server % PLACES, Place())

    def _heads(self, server: int, now: float) -> dict[int, tuple[int, float]]:
        """Priority and tag of those who are first in a worker, by worker."""
        heads = self._place(server).heads.items()
        return {worker: one[1:3] for worker, one in heads if one[0] == server and now - one[3] <= self.FRESH_SECONDS}

    def join(self, server: int, tenant: int, tokens: float, credit: float, now: float) -> float:
        if not tokens >= 0 or not credit >= 0:
            raise ValueError(tokens, credit)
        place = self._place(server)
        if not self._heads(server, now):
            place.virtual_time = max(place.virtual_time, place.most_paid)
        debt = (server ^ (tenant * MULTIPLIER & MASK)) % DEBTS
        tag = max(place.virtual_time - credit, self._debts.get(debt, 0.0))
        self._debts[debt] = tag + tokens
        place.most_paid = max(place.most_paid, tag + tokens)
        return tag

    def leave(self, server: int, tenant: int, tag: float, tokens: float, credit: float) -> float:
        if not tokens >= 0 or not credit >= 0:
            raise ValueError(tokens, credit)
        returned = max(0.0, tag + tokens - max(tag, self._place(server).virtual_time - credit))
        debt = (server ^ (tenant * MULTIPLIER & MASK)) % DEBTS
        if returned:
            self._debts[debt] = max(0.0, self._debts.get(debt, 0.0) - returned)
        return returned

    def served(self, server: int, tag: float) -> None:
        place = self._place(server)
        place.virtual_time = max(place.virtual_time, tag)

    def show(self, server: int, priority: int, tag: float, now: float) -> None:
        if self._own < 0:
            raise ValueError
        self._place(server).heads[self._own] = (server, priority, tag, now)

    def hide(self, server: int) -> None:
        if self._own < 0:
            raise ValueError
        heads = self._place(server).heads
        if heads.get(self._own, (0,))[0] == server:
            del heads[self._own]

    def is_waited(self, server: int, now: float) -> bool:
        return any(worker != self._own for worker in self._heads(server, now))

    def is_first(self, server: int, priority: int, tag: float, now: float) -> bool:
        others = [head for worker, head in self._heads(server, now).items() if worker != self._own]
        return not any((-theirs, their_tag) < (-priority, tag) for theirs, their_tag in others)

    def note(self, server: int, tenant: int, now: float) -> None:
        place = self._place(server)
        if place.tenant not in (0, tenant) and place.asked == server:
            place.contested = now
        place.tenant, place.asked = tenant, server

    def is_contested(self, server: int, now: float) -> bool:
        at = self._place(server).contested
        return at > 0 and now - at <= self.CONTESTED_SECONDS

    def virtual_time(self, server: int) -> float:
        return self._place(server).virtual_time

    def paid(self, server: int, tenant: int) -> float:
        return self._debts.get((server ^ (tenant * MULTIPLIER & MASK)) % DEBTS, 0.0)

    def answered(self, server: int, session: int, now: float) -> None:
        key = (server ^ session) * MULTIPLIER & MASK
        self._sessions[key % SESSIONS] = (key >> TIME_BITS, int(now * 1000))

    def last_answer(self, server: int, session: int) -> float:
        key = (server ^ session) * MULTIPLIER & MASK
        mark, milliseconds = self._sessions.get(key % SESSIONS, (0, 0))
        return milliseconds / 1000 if mark == key >> TIME_BITS else 0.0
