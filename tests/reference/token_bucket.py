"""Twin of ``_fastpath.token_bucket``: the same arithmetic in nanoseconds, on plain objects."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Literal, NamedTuple, TypedDict

from tests.reference.shared_memory import SharedMemory
from tests.reference.slots import identity_word

Kind = Literal["input", "output", "requests"]
FARTHEST = 1 << 58
OPENING = 1_000_000_000
"""Nanoseconds for which a bucket that was opened and not configured is not given away."""
LONGEST_FILL = 1 << 57
STALE = -2
FROZEN = 1 << 57
"""The moment that a leased bucket stands at."""
UNASKED, LEASED, SHARED, OPENED, CLOSED = range(5)


class BucketsFull(Exception):
    """More token buckets than places."""


class JournalFull(Exception):
    """More requests in flight than records."""


class BucketState(TypedDict):
    burst: float
    available: float
    seconds_until_full: float


@dataclass
class Bucket:
    """``arrival`` is the moment at which the bucket will be full again."""

    identity: int | None = None
    generation: int | None = None
    interval: float = 0.0
    tolerance: float = 0.0
    arrival: int = 0
    place: int = 0
    """Of the limits in force, in their ring."""
    store: int = 0
    key: int = 0
    standing: int = UNASKED
    dry_until: int = 0
    wanted: int = 0
    elsewhere: float = 0.0
    shares: float = 1.0

    def moment(self, now: int) -> int:
        """Leases alone fill a leased bucket."""
        return FROZEN if self.store else now

    def is_stateless(self, now: int) -> bool:
        """Full; of a leased one: less than a token there, and no debt."""
        if not self.store or not self.configured:
            return self.arrival <= now
        return -self.interval < self.arrival - FROZEN - self.tolerance <= 1

    @property
    def configured(self) -> bool:
        return self.generation is not None

    def configure(self, generation: int, interval: float, tolerance: float, now: int) -> None:
        if self.generation is None:
            self.arrival = FROZEN + int(tolerance) if self.store else 0
        else:
            if generation <= self.generation:
                return
            if (interval, tolerance) == (self.interval, self.tolerance):
                pass
            elif self.store:
                held = (self.tolerance - (self.arrival - FROZEN)) / self.interval
                self.arrival = min(FARTHEST, FROZEN + int(min(max(tolerance - held * interval, 0.0), FARTHEST)))
            elif self.arrival > now:
                share = (self.arrival - now) / self.tolerance
                self.arrival = min(FARTHEST, now + int(share * tolerance))
        if (interval, tolerance) != (self.interval, self.tolerance) or not self.place:
            place = 1 + generation % 14
            self.place = place + 1 if self.place and place >= self.place else place
        self.generation, self.interval, self.tolerance = generation, interval, tolerance

    def take(self, tokens: int, now: int) -> float:
        """Nanoseconds to wait, 0 when they were taken."""
        now = self.moment(now)
        cost = tokens * self.interval
        if not self.configured or cost > self.tolerance:
            return inf
        after = max(self.arrival, now) + int(cost + 0.5)
        if after - now > self.tolerance + 1 and not (self.store and self.standing == OPENED):
            return int(after - now - self.tolerance) + 1
        self.arrival = min(FARTHEST, after)
        return 0

    def give(self, tokens: int, now: int) -> None:
        """Below zero: take them even if they are not there."""
        if not self.configured or tokens == 0:
            return
        span = int(min(abs(tokens) * self.interval + 0.5, FARTHEST))
        now = self.moment(now)
        self.arrival = max(0, self.arrival - span) if tokens > 0 else min(FARTHEST, max(self.arrival, now) + span)

    def available(self, now: int) -> float:
        if not self.configured:
            return 0.0
        return (self.tolerance - max(0, self.arrival - self.moment(now))) / self.interval

    def left(self, now: int) -> float:
        """As much as there is here and at the store."""
        elsewhere = self.elsewhere * self.interval if self.store else 0.0
        return (self.tolerance - max(0.0, self.arrival - self.moment(now) - elsewhere)) / self.interval

    def longer(self, wait: float, now: int) -> float:
        """A refused request's wait, where others share the limit."""
        if not self.store or wait == inf:
            return wait
        return max(int(min(wait * max(self.shares, 1.0), FARTHEST)), self.dry_until - now)


class TokenBuckets:
    def __init__(self, memory: SharedMemory) -> None:
        self._buckets = memory.part("buckets", lambda: [Bucket() for _ in range(memory.buckets)])

    def at(self, index: int) -> Bucket:
        return self._buckets[index]

    def open(self, identity: int, now: int, store: int = 0, key: int = 0) -> int:
        word = identity_word(identity)
        identities = [bucket.identity for bucket in self._buckets]
        if word in identities:
            return identities.index(word)
        full = [index for index, bucket in enumerate(self._buckets) if bucket.is_stateless(now)]
        index = identities.index(None) if None in identities else next(iter(full), None)
        if index is None:
            raise BucketsFull
        self._buckets[index] = Bucket(word, arrival=now + OPENING, store=store, key=key)
        return index

    def sweep(self) -> None:
        """No claim is ever half made here."""

    def configure(self, index: int, generation: int, tokens: float, seconds: float, burst: float, now: int) -> None:
        if not all(isfinite(number) and number > 0 for number in (tokens, seconds, burst)):
            raise ValueError
        interval = seconds * 1e9 / tokens
        if interval * burst > LONGEST_FILL:
            raise ValueError
        self.at(index).configure(generation, interval, interval * burst, now)

    def reserve(self, index: int, tokens: int, now: int) -> float:
        if tokens < 0:
            raise ValueError
        return self.at(index).take(tokens, now) * 1e-9

    def settle(self, index: int, reserved: int, used: int, now: int) -> None:
        self.at(index).give(reserved - used, now)

    def available(self, index: int, now: int) -> float:
        return self.at(index).available(now)

    def describe(self, index: int, now: int) -> BucketState | None:
        bucket = self.at(index)
        if not bucket.configured:
            return None
        return BucketState(
            burst=bucket.tolerance / bucket.interval,
            available=bucket.available(now),
            seconds_until_full=max(0, bucket.arrival - bucket.moment(now)) * 1e-9,
        )

    def left(self, identities: Sequence[int], now: int) -> list[float | None]:
        buckets = {bucket.identity: bucket for bucket in self._buckets if bucket.configured}
        found = [buckets.get(identity_word(identity)) for identity in identities]
        return [None if bucket is None else bucket.left(now) for bucket in found]


class Held(NamedTuple):
    """Tokens of a bucket, and the identity that it had when they were taken."""

    bucket: int
    identity: int
    tokens: int


class LimitSet:
    def __init__(self, limits: Sequence[tuple[int, int, Kind]]) -> None:
        if len(limits) > 16:
            raise ValueError
        self.limits = [(bucket, identity_word(identity), kind) for bucket, identity, kind in limits]

    def __len__(self) -> int:
        return len(self.limits)

    def amounts(self, input_tokens: int, output_tokens: int) -> list[Held]:
        """What each limit asks for, in order."""
        tokens = {"input": input_tokens, "output": output_tokens, "requests": 1}
        return [Held(bucket, identity, tokens[kind]) for bucket, identity, kind in self.limits]


@dataclass
class Records:
    """One worker's part of the memory: what each open handle holds."""

    held: dict[int, list[Held]] = field(default_factory=dict)


class Journal:
    def __init__(self, memory: SharedMemory, worker: int) -> None:
        if worker >= memory.workers:
            raise IndexError
        self._buckets = TokenBuckets(memory)
        self._capacity = memory.journal_records
        self._records = memory.part(f"journal {worker}", Records)
        self.refused = -1
        self.wait = 0.0
        self.is_closed = False

    def take(self, limits: LimitSet, input_tokens: int, output_tokens: int, now: int) -> int:
        if input_tokens < 0 or output_tokens < 0:
            raise ValueError
        if self.in_use == self._capacity:
            raise JournalFull
        wanted = limits.amounts(input_tokens, output_tokens)
        if any(self._buckets.at(each.bucket).identity != each.identity for each in wanted):
            self.refused = -1
            return STALE
        for position, each in enumerate(wanted):
            wait = self._buckets.at(each.bucket).take(each.tokens, now)
            if wait:
                self._give_back(wanted[:position], now)
                bucket = self._buckets.at(each.bucket)
                if wait != inf:
                    too_large = self._too_large(wanted, position + 1)
                    if too_large is not None:
                        position, wait = too_large, inf
                if wait != inf:
                    self.is_closed = bucket.store != 0 and bucket.standing == CLOSED
                self.refused, self.wait = position, bucket.longer(wait, now) * 1e-9
                return -1
        self.refused = -1
        handle = next(handle for handle in range(self._capacity) if handle not in self._records.held)
        self._records.held[handle] = wanted
        return handle

    def _too_large(self, wanted: list[Held], first: int) -> int | None:
        for position, each in enumerate(wanted[first:], first):
            bucket = self._buckets.at(each.bucket)
            if bucket.configured and each.tokens * bucket.interval > bucket.tolerance:
                return position
        return None

    def ask(self, limits: LimitSet, input_tokens: int, output_tokens: int, now: int, again: bool = False) -> bool:
        wanted = limits.amounts(input_tokens, output_tokens)
        if not 0 <= self.refused < len(wanted) or self.wait == inf:
            return False
        each = wanted[self.refused]
        bucket = self._buckets.at(each.bucket)
        if bucket.identity != each.identity or not bucket.store or bucket.standing > LEASED or bucket.dry_until > now:
            return False
        bucket.wanted += 0 if again else each.tokens
        return True

    def _give_back(self, held: list[Held], now: int) -> None:
        for bucket, identity, tokens in reversed(held):
            if self._buckets.at(bucket).identity == identity:
                self._buckets.at(bucket).give(tokens, now)

    def _close(self, handle: int) -> list[Held]:
        if handle not in self._records.held:
            raise ValueError
        return self._records.held.pop(handle)

    def settle(self, limits: LimitSet, handle: int, input_tokens: int, output_tokens: int, now: int) -> None:
        held = self._close(handle)
        used = limits.amounts(input_tokens, output_tokens)
        pairs = zip(held, used, strict=True)
        self._give_back([taken._replace(tokens=taken.tokens - spent.tokens) for taken, spent in pairs], now)

    def cancel(self, handle: int, now: int) -> None:
        self._give_back(self._close(handle), now)

    def recover(self, now: int) -> int:
        handles = list(self._records.held)
        for handle in handles:
            self.cancel(handle, now)
        return len(handles)

    @property
    def in_use(self) -> int:
        return len(self._records.held)
