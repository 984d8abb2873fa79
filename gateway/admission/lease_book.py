"""What one gateway holds of one store's limits: which leases it wants, what it gives back, and its own share while the store is away.

No I/O and no clock: times are monotonic seconds that the caller gives. Tokens leave the bucket before they are returned, and are taken at
the store before they are in a bucket: what is lost on the way is lost, and never there twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from _fastpath.leased_bucket import STANDINGS, LeasedBuckets
from gateway.admission.limit_names import parted
from gateway.admission.limit_store import Ask, Leased

TICK_SECONDS = 0.05
"""How often a keeper looks at its buckets when nobody calls it."""
AHEAD_SECONDS = 0.2
"""A bucket is to hold what is spent in so long."""
AHEAD_SHARE = 0.02
"""And at least this part of a gateway's share of the burst, while anybody spends."""
IDLE_SECONDS = 2.0
"""After so long without a request everything goes back."""
_SMOOTHING_SECONDS = 0.5
_LONGEST_DRY_SECONDS = 0.5
_LEASED, _SHARED, _OPENED = (STANDINGS.index(name) for name in ("leased", "shared", "opened"))
_AWAY = {"local": _SHARED, "allow": _OPENED, "deny": STANDINGS.index("closed")}


class Changed(NamedTuple):
    """A bucket that somebody took from, gave back to or was refused by, as ``LeasedBuckets.changed`` says it."""

    place: int
    identity: int
    store: int
    key: int
    tokens: float
    burst: float
    interval: float
    wanted: int


@dataclass(slots=True)
class Lease:
    """One bucket. ``level``: tokens that it held when it was looked at last, with what was done to it since then by the keeper."""

    index: int
    identity: int
    key: int
    failure: str
    burst: float
    interval: float
    level: float
    elsewhere: float
    """Tokens that the store had left when it was asked last."""
    told_at: float
    seen_at: float
    rated_at: float
    born: int = 0
    wished: int = 0
    spent: float = 0.0
    rate: float = 0.0
    """Tokens a second."""
    owed: int = 0
    credit: float = 0.0
    """Of this gateway's share, what is not in the bucket yet."""
    shared_at: float = -math.inf

    def left(self, now: float) -> float:
        """Tokens that the store has left by now if nobody else took any."""
        return min(self.burst, self.elsewhere + (now - self.told_at) / self.interval)

    def settle_rate(self, now: float) -> None:
        """Take what was spent since the last time into the rate."""
        passed = now - self.rated_at
        if passed > 0:
            weight = 1 - math.exp(-passed / _SMOOTHING_SECONDS)
            self.rate += weight * (max(0.0, self.spent) / passed - self.rate)
            self.spent, self.rated_at = 0.0, now

    def target(self, now: float, gateways: int) -> float:
        """Tokens that the bucket shall hold."""
        if now - self.seen_at > IDLE_SECONDS:
            return 0.0
        least = max(1.0, self.burst * AHEAD_SHARE / gateways)
        return min(self.burst, max(least, self.rate * AHEAD_SECONDS))


class LeaseBook:
    """The leases of one store."""

    def __init__(self, buckets: LeasedBuckets, gateways: int = 1) -> None:
        """``gateways``: how many share a store that was never heard of."""
        self._buckets = buckets
        self._leases: dict[int, Lease] = {}
        self._active: set[int] = set()
        self._asked: list[tuple[Lease, Ask]] = []
        self._away_at: float | None = None
        self.gateways = gateways

    @property
    def is_away(self) -> bool:
        """Whether the store cannot be asked."""
        return self._away_at is not None

    @property
    def has_wishes(self) -> bool:
        """Whether somebody waits for tokens."""
        return any(self._leases[index].wished for index in self._active)

    def note(self, changed: tuple[int, int, int, int, float, float, float, int], now: float) -> None:
        """A bucket has changed."""
        seen = Changed(*changed)
        lease = self._leases.get(seen.place)
        if lease is None or lease.identity != seen.identity:
            lease = Lease(
                seen.place, seen.identity, seen.key, parted(seen.store)[1], seen.burst, seen.interval, seen.tokens,
                elsewhere=seen.burst, told_at=now, seen_at=now, rated_at=now,
            )  # fmt: skip
            self._leases[seen.place] = lease
            self._active.add(seen.place)
            if self.is_away:
                self._serve_alone(lease, now)
                self._tell(lease, _AWAY[lease.failure], now)
                return
        spent = lease.level - seen.tokens
        lease.burst, lease.interval, lease.level = seen.burst, seen.interval, seen.tokens
        lease.spent += spent
        lease.wished += seen.wanted
        if seen.wanted or abs(spent) > 1e-3:
            lease.seen_at = now
            self._active.add(seen.place)

    def plan(self, now: float) -> list[Ask]:
        """What to ask the store for; :meth:`answered` or :meth:`went_away` comes next."""
        self._asked = []
        for index in list(self._active):
            lease = self._leases[index]
            ask = self._ask(lease, now)
            if ask is not None:
                self._asked.append((lease, ask))
            elif now - lease.seen_at > IDLE_SECONDS and lease.level < 1:
                self._active.discard(index)
        return [ask for _, ask in self._asked]

    def _ask(self, lease: Lease, now: float) -> Ask | None:
        lease.settle_rate(now)
        target = lease.target(now, self.gateways)
        wanted = returned = 0
        if lease.wished or lease.level < target / 2:
            wanted = max(0, math.ceil(min(lease.wished + target, lease.burst) - lease.level))
        elif lease.level > 2 * target + 1 or (target == 0 and lease.level >= 1):
            returned = self._buckets.withdraw(lease.index, lease.identity, int(lease.level - target))
            lease.level -= returned
        lease.wished = 0
        if not (wanted or returned or lease.owed):
            return None
        debt = max(0.0, lease.burst - lease.left(now)) * lease.interval if lease.born else 0.0
        return Ask(lease.key, lease.interval, lease.burst, wanted, returned, lease.owed, lease.born, debt)

    def answered(self, answers: Sequence[Leased], now: float) -> None:
        """The store has done what :meth:`plan` asked."""
        if self.is_away:
            self._came_back(now)
        for (lease, ask), answer in zip(self._asked, answers, strict=True):
            lease.owed -= ask.owed
            lease.born, lease.elsewhere, lease.told_at = answer.born, answer.left, now
            if answer.granted and self._buckets.grant(lease.index, lease.identity, answer.granted):
                lease.level += answer.granted
            dry = 0.0
            if answer.granted < ask.wanted:
                dry = min(max((1 - answer.left) * lease.interval, TICK_SECONDS), _LONGEST_DRY_SECONDS)
            self._tell(lease, _LEASED, now, dry)
        self._asked = []

    def went_away(self, now: float) -> None:
        """The store does not answer; whether it did what it was asked is not known, and counts as done."""
        self._asked = []
        if self.is_away:
            return
        self._away_at = now
        self.share(now)
        for lease in self._leases.values():
            self._tell(lease, _AWAY[lease.failure], now)

    def came_back(self, now: float) -> None:
        """The store answers again: what was spent meanwhile is told it with the next plan."""
        if self.is_away:
            self._came_back(now)

    def _came_back(self, now: float) -> None:
        for index, lease in self._leases.items():
            if lease.failure == "local" and lease.owed:
                self._accrue(lease, now)
                # the store's own bucket was filling as well, and is full now at the most: of this gateway's part of it only what it
                # would have left by itself is to be left
                lease.owed = min(lease.owed, math.ceil(lease.burst / self.gateways - lease.credit))
            if lease.failure == "allow":
                self._forgive(lease)
            lease.credit, lease.shared_at = 0.0, -math.inf
            if lease.owed:
                self._active.add(index)
            self._tell(lease, _LEASED, now)
        self._away_at = None

    def share(self, now: float) -> None:
        """While the store is away: let this gateway's share flow in."""
        for index in self._active:
            self._serve_alone(self._leases[index], now)

    def _serve_alone(self, lease: Lease, now: float) -> None:
        lease.settle_rate(now)
        lease.wished = 0
        if lease.failure == "local":
            self._share(lease, now)
        elif lease.failure == "allow":
            self._forgive(lease)

    def _share(self, lease: Lease, now: float) -> None:
        self._accrue(lease, now)
        granted = int(min(lease.credit, lease.burst / self.gateways - lease.level))
        if granted > 0 and self._buckets.grant(lease.index, lease.identity, granted):
            lease.credit -= granted
            lease.level += granted
            lease.owed += granted

    def _accrue(self, lease: Lease, now: float) -> None:
        assert self._away_at is not None
        if lease.shared_at < self._away_at:
            lease.credit = max(0.0, lease.left(self._away_at)) / self.gateways
            lease.shared_at = self._away_at
        flowed = (now - lease.shared_at) / lease.interval / self.gateways
        lease.credit = min(lease.burst / self.gateways, lease.credit + flowed)
        lease.shared_at = now

    def _forgive(self, lease: Lease) -> None:
        debt = math.ceil(-lease.level)
        if debt > 0 and self._buckets.grant(lease.index, lease.identity, debt):
            lease.level += debt

    def give_back(self, now: float) -> list[Ask]:
        """The gateway ends: everything that is there goes back. As :meth:`plan`."""
        for lease in self._leases.values():
            lease.seen_at, lease.wished = -math.inf, 0
        self._active = set(self._leases)
        return self.plan(now)

    def _tell(self, lease: Lease, standing: int, now: float, dry: float = 0.0) -> None:
        away = standing == _SHARED
        elsewhere = 0.0 if standing > _LEASED else max(0.0, lease.elsewhere)
        until = int((now + dry) * 1e9) if dry else 0
        shares = float(self.gateways) if away else 1.0
        self._buckets.tell(lease.index, lease.identity, standing, until, elsewhere, shares)
