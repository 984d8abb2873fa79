"""A store of shared limits in memory: the arithmetic of the Redis script on plain numbers, with a clock that tests move."""

from dataclasses import dataclass
from math import floor

from gateway.admission.limit_store import Leased, StoreAway


@dataclass
class StoredBucket:
    """Times in microseconds of the store's clock."""

    arrival: float
    tolerance: float
    seen: int
    born: int


class StoredLimits:
    """What several gateways share: buckets, the gateways that live, and the clock."""

    def __init__(self, now=10**15):
        self.now = now
        self.buckets = {}
        self.gateways = set()
        self.fault = ""
        self.loses_answers = False
        self.calls = 0

    def forget(self):
        """It was started anew and had kept nothing."""
        self.buckets.clear()
        self.gateways.clear()

    def lease(self, ask):
        """One call of the script."""
        now, interval = self.now, ask.interval * 1e6
        tolerance = interval * ask.burst
        bucket = self.buckets.get(ask.key)
        if bucket is None:
            arrival, born = float(now), now
        else:
            arrival, born = bucket.arrival, bucket.born
            if now < bucket.seen:
                arrival -= bucket.seen - now
            if arrival > now and bucket.tolerance != tolerance:
                arrival = now + (arrival - now) / bucket.tolerance * tolerance
        if ask.born not in (0, born):
            arrival = max(arrival, now + ask.debt * 1e6)
        arrival = max(now, max(arrival, now) + (ask.owed - ask.returned) * interval)
        left = (tolerance - (arrival - now)) / interval
        granted = max(0, min(ask.wanted, floor(left + 1e-6)))
        self.buckets[ask.key] = StoredBucket(arrival + granted * interval, tolerance, now, born)
        return Leased(granted, left - granted, born)


class MemoryStore:
    """One gateway's connection to :class:`StoredLimits`."""

    def __init__(self, limits, name="gateway"):
        self.limits = limits
        self.name = name
        self.closed = False

    def _call(self):
        self.limits.calls += 1
        if self.limits.fault:
            raise StoreAway(self.limits.fault)

    async def lease(self, asks):
        self._call()
        answers = [self.limits.lease(ask) for ask in asks]
        if self.limits.loses_answers:
            raise StoreAway("no answer in time")
        return answers

    async def beat(self):
        self._call()
        self.limits.gateways.add(self.name)
        return len(self.limits.gateways)

    async def leave(self):
        self._call()
        self.limits.gateways.discard(self.name)

    async def close(self):
        self.closed = True
