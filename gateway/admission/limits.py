"""The rate limiter: reserves at admission, settles at the end, in buckets that all workers share."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from _fastpath.clock import nanoseconds
from _fastpath.limit_headers import limit_headers
from _fastpath.shared_memory import SharedMemory
from _fastpath.token_bucket import STALE, BucketsFull, Journal, JournalFull, LimitSet, TokenBuckets
from gateway.admission.limit_names import LimitNames
from gateway.counting import Count
from gateway.datastore.model import Limit, Route
from gateway.errors import Overloaded, PenstockError, RateLimited
from gateway.identity.caller_limits import CallerLimits
from gateway.routing.match import CompiledRoute

BYTES_PER_TOKEN = 4
"""Estimate for text that nobody has tokenised (the reference system's)."""
_MOST_KEYS = 10_000
_STORE_AWAY_SECONDS = 1.0
_OTHER_KEYS = "\0others"

logger = logging.getLogger(__name__)


class Reservation:
    """What one request holds of its limits until it is settled or cancelled."""

    def __init__(self, limits: LimitSet, handle: int) -> None:
        self.limits = limits
        self.handle = handle


class RouteSets:
    """The sets of limits that requests of one route are held to."""

    def __init__(self, limits: tuple[Limit, ...]) -> None:
        """``limits``: the route's."""
        self.limits = limits
        self.is_keyed = any(limit.key != "route" for limit in limits)
        self.no_keys = ("",) * len(limits)
        self.alone: LimitSet | None = None
        """Of requests whose caller has no limits of its own, where it is one for all of them."""
        self.known: dict[tuple[str, ...], LimitSet] = {}
        """Of all others: by the keys of the route's limits and the name of the caller's."""


class RateLimiter:
    """One worker's view of the limits of routes, tenants and API keys."""

    def __init__(
        self,
        memory: SharedMemory,
        worker: int,
        generation: Callable[[], int],
        clock: Callable[[], int],
        ring: Callable[[], object] = lambda: None,
    ) -> None:
        """``ring`` calls the keeper of leases."""
        self._buckets = TokenBuckets(memory)
        self._journal = Journal(memory, worker)
        self._names = LimitNames()
        self._generation = generation
        self._clock = clock
        self._ring = ring
        self._sets: dict[str, RouteSets] = {}

    def route_changed(self, before: Route | None, after: Route | None) -> None:
        """The datastore's call back: new limits stand at once, each bucket as full as it was; removed limits are gone."""
        name = (after or before).name  # type: ignore[union-attr]
        self._sets.pop(name, None)
        if after is not None and after.limits and all(limit.key == "route" for limit in after.limits):
            try:
                sets = self._begin(after.name, after.limits)
                sets.alone = self._limit_set(after.name, after.limits, sets.no_keys)
            except PenstockError:
                pass  # logged; requests of this route are refused until a bucket is free

    def callers_changed(self) -> None:
        """Tenants or keys may have other limits from now on: each bucket is as full as it was, and removed limits are gone."""
        self._sets.clear()

    def reserve(
        self,
        route: CompiledRoute,
        header: Callable[[str], str | None],
        tenant: str,
        input_tokens: Count,
        output_tokens: Count,
        again: bool = False,
        own: CallerLimits | None = None,
    ) -> Reservation | None:
        """Hold the tokens at every limit of the route and of the caller's ``own``, or at none. Raises RateLimited.

        A refusal that ``is_awaited`` may be none in a moment: more was asked of the store, or had been before, says ``again``.
        """
        if not route.limits and own is None:
            return None
        limits = self._set_of(route, header, tenant, own, False)
        handle = self._take(limits, input_tokens, output_tokens)
        if handle < 0:
            if handle == STALE:
                limits = self._set_of(route, header, tenant, own, True)
                handle = self._take(limits, input_tokens, output_tokens)
                if handle == STALE:
                    raise _cannot_keep()
            if handle < 0:
                raise self._refuse(route, own, limits, input_tokens, output_tokens, again)
        # as its constructor, which takes a number for an object
        reservation = Reservation.__new__(Reservation)
        reservation.limits = limits
        reservation.handle = handle
        return reservation

    def headers(self, reservation: Reservation) -> tuple[tuple[str, str], ...]:
        """``x-ratelimit-*``: the tightest limit on tokens and the one on requests, as they stand now."""
        return limit_headers(self._buckets, reservation.limits, nanoseconds(self._clock))

    def settle(self, reservation: Reservation, input_tokens: Count, output_tokens: Count) -> None:
        """Correct to what the engine really used."""
        self._journal.settle(
            reservation.limits, reservation.handle, input_tokens, output_tokens, nanoseconds(self._clock)
        )

    def cancel(self, reservation: Reservation) -> None:
        """Nothing was used: give everything back."""
        self._journal.cancel(reservation.handle, nanoseconds(self._clock))

    def _take(self, limits: LimitSet, input_tokens: Count, output_tokens: Count) -> Count:
        try:
            return self._journal.take(limits, input_tokens, output_tokens, nanoseconds(self._clock))
        except JournalFull as error:
            raise _cannot_keep() from error

    def _begin(self, name: str, limits: tuple[Limit, ...]) -> RouteSets:
        sets = self._sets[name] = RouteSets(limits)
        return sets

    def _set_of(
        self,
        route: CompiledRoute,
        header: Callable[[str], str | None],
        tenant: str,
        own: CallerLimits | None,
        anew: bool,
    ) -> LimitSet:
        """What a request is held to; ``anew``: a bucket of what is known was given away."""
        sets = self._sets.get(route.name)
        if sets is None or sets.limits is not route.limits:
            sets = self._begin(route.name, route.limits)
        if own is None and not sets.is_keyed:
            if sets.alone is None or anew:
                sets.alone = self._limit_set(route.name, route.limits, sets.no_keys)
            return sets.alone
        keys = tuple([_key(limit, header, tenant) for limit in route.limits]) if sets.is_keyed else sets.no_keys
        name = keys if own is None else (*keys, own.name)
        found = sets.known.get(name)
        if found is None or anew:
            found = self._limit_set(route.name, route.limits, keys, own)
            if len(sets.known) >= _MOST_KEYS:
                sets.known.clear()
            sets.known[name] = found
        return found

    def _limit_set(
        self, route: str, route_limits: tuple[Limit, ...], keys: tuple[str, ...], own: CallerLimits | None = None
    ) -> LimitSet:
        generation = self._generation()
        wanted = [(route, limit, key, _OTHER_KEYS, generation) for limit, key in zip(route_limits, keys, strict=True)]
        if own is not None:
            for scope, holder, limit in own.limits:
                # tenants may have other amounts by the same name
                others = f"{_OTHER_KEYS}{limit.amount:g}/{limit.seconds:g}/{limit.burst:g}"
                wanted.append((scope, limit, holder, others, own.generation))
        now = nanoseconds(self._clock)
        opened = [(*self._open(scope, limit, key, others, now), limit) for scope, limit, key, others, _ in wanted]
        # after all are open: a bucket that is configured is full, and full ones give way to those that are opened
        for (bucket, _, limit), (*_, changed) in zip(opened, wanted, strict=True):
            self._buckets.configure(bucket, changed, limit.amount, limit.seconds, limit.burst, now)
        return LimitSet([(bucket, identity, limit.kind) for bucket, identity, limit in opened])

    def _open(self, scope: str, limit: Limit, key: str, others: str, now: int) -> tuple[int, int]:
        """Place and identity of the bucket of a limit and key; that of the ``others`` for all keys that find no place of their own."""
        identity = self._names.identity(scope, limit, key)
        is_keyed = key not in ("", others)
        try:
            store, name = self._names.store(limit), self._names.key(scope, limit, key)
            bucket = self._buckets.open(identity, now, is_keyed, store, name)
        except BucketsFull as error:
            if is_keyed:
                return self._open(scope, limit, others, others, now)
            logger.warning("%s", error)
            raise _cannot_keep() from error
        return bucket, identity

    def _refuse(
        self,
        route: CompiledRoute,
        own: CallerLimits | None,
        limits: LimitSet,
        input_tokens: Count,
        output_tokens: Count,
        again: bool,
    ) -> RateLimited:
        """What the last :meth:`_take` is refused with; a store is asked for what it has not."""
        refusal = self._refusal(route, own)
        if self._journal.ask(limits, input_tokens, output_tokens, nanoseconds(self._clock), again):
            refusal.is_awaited = True
            self._ring()
        refusal.extra_headers = limit_headers(self._buckets, limits, nanoseconds(self._clock))
        return refusal

    def _refusal(self, route: CompiledRoute, own: CallerLimits | None) -> RateLimited:
        position = self._journal.refused - len(route.limits)
        if position < 0 or own is None:
            limit = route.limits[self._journal.refused]
            refusal = _refusal(limit, "the route", self._journal.wait, self._journal.is_closed)
            refusal.scope = "route"
            return refusal
        scope, holder, limit = own.limits[position]
        whose = f"tenant `{holder}`" if scope == "tenant" else "this API key"
        refusal = _refusal(limit, whose, self._journal.wait, self._journal.is_closed)
        refusal.scope = scope
        return refusal


def _key(limit: Limit, header: Callable[[str], str | None], tenant: str) -> str:
    if limit.key == "tenant":
        return tenant
    if limit.key == "header":
        return header(limit.header) or ""
    return ""


def _cannot_keep() -> Overloaded:
    return Overloaded("The gateway cannot keep the limits of more requests now. Try again.", retry_after=1.0)


def _refusal(limit: Limit, whose: str, wait: float, is_closed: bool) -> RateLimited:
    what = {"input": "input tokens", "output": "output tokens", "requests": "requests"}[limit.kind]
    if math.isinf(wait):
        refusal = RateLimited(
            f"This request needs more {what} than limit `{limit.name}` of {whose} can ever hold ({limit.burst:g}): make it smaller."
        )
        refusal.retryable = False
    elif is_closed:
        refusal = RateLimited(
            f"Limit `{limit.name}` of {whose} cannot be asked for now: its store is away. Try again in {_STORE_AWAY_SECONDS:.1f} s.",
            retry_after=_STORE_AWAY_SECONDS,
        )
    else:
        refusal = RateLimited(
            f"Limit `{limit.name}` of {whose}, {limit.amount:g} {what} in {limit.seconds:g} s, is reached. Try again in {wait:.1f} s.",
            retry_after=wait,
        )
    refusal.limit = limit.name
    return refusal
