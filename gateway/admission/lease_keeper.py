"""Keeps the buckets of shared limits filled: one keeper a gateway, in the supervisor; the hot path never waits for a store.

Workers ring its bell when a bucket lacks what a request needs and its store may have it; else it looks every 50 ms. What happens at
one store holds up no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random as randomness
import time
from collections.abc import Callable, Iterable, Sequence

from _fastpath.leased_bucket import LeasedBuckets
from _fastpath.token_bucket import TokenBuckets
from gateway.admission.lease_book import TICK_SECONDS, Changed, LeaseBook
from gateway.admission.limit_names import LimitNames, parted
from gateway.admission.limit_store import Ask, LimitStore, StoreAway
from gateway.datastore.model import Route
from gateway.datastore.store_states import StoreState

BEAT_SECONDS = 1.0
_AWAY_TICK_SECONDS = 0.01
_RETRY_SECONDS = 0.5
_LAST_SECONDS = 1.0

logger = logging.getLogger(__name__)


class StoreLine:
    """One store: its book, and at most one exchange with it at a time."""

    def __init__(
        self,
        address: str,
        store: LimitStore,
        book: LeaseBook,
        clock: Callable[[], float],
        after: Callable[[StoreLine], None],
    ) -> None:
        """``after`` is called when an exchange has ended."""
        self.address = address
        self.book = book
        self.reason = ""
        self.is_heard = False
        self.failures = 0
        self._store = store
        self._clock = clock
        self._after = after
        self._exchange: asyncio.Task[None] | None = None
        self._next_beat = 0.0
        self._next_try = 0.0

    def turn(self) -> None:
        """Begin an exchange if there is something to ask; or fill the buckets by share."""
        now = self._clock()
        if self.book.is_away:
            self.book.share(now)
        if self._exchange is not None or now < self._next_try:
            return
        asks = [] if self.book.is_away else self.book.plan(now)
        if asks or now >= self._next_beat:
            self._exchange = asyncio.get_running_loop().create_task(self._talk(asks))

    async def _talk(self, asks: Sequence[Ask]) -> None:
        try:
            if asks:
                self.book.answered(await self._store.lease(asks), self._clock())
            if self._clock() >= self._next_beat:
                self.book.gateways = await self._store.beat()
                self._next_beat = self._clock() + BEAT_SECONDS
            self._heard()
        except StoreAway as away:
            self._away(str(away))
        except Exception as error:
            # a store that answers nonsense is as good as none; without this the line would end, and with it every lease
            logger.exception("the store of limits at %s", self.address)
            self._away(f"{type(error).__name__}: {error}")
        finally:
            self._exchange = None
            self._after(self)

    def _heard(self) -> None:
        if self.book.is_away:
            logger.warning("limits are shared again in %s", self.address)
        self.is_heard, self.reason = True, ""
        self.book.came_back(self._clock())

    def _away(self, reason: str) -> None:
        if not self.book.is_away or reason != self.reason:
            logger.warning("limits cannot be shared in %s: %s", self.address, reason)
        self.failures += 1
        self.is_heard, self.reason = True, reason
        self.book.went_away(self._clock())
        self._next_beat = 0.0
        self._next_try = self._clock() + _RETRY_SECONDS

    def state(self) -> StoreState:
        """What is known of the store."""
        return StoreState(self.address, not self.book.is_away, self.reason, self.book.gateways)

    async def end(self, give_back: bool) -> None:
        """Stop asking; with ``give_back`` return what is held first."""
        exchange = self._exchange
        if exchange is not None:
            exchange.cancel()
            await asyncio.gather(exchange, return_exceptions=True)
        if give_back and self.is_heard and not self.book.is_away:
            with contextlib.suppress(StoreAway, TimeoutError):
                async with asyncio.timeout(_LAST_SECONDS):
                    asks = self.book.give_back(self._clock())
                    if asks:
                        self.book.answered(await self._store.lease(asks), self._clock())
                    await self._store.leave()
        await self._store.close()


class LeaseKeeper:
    """All stores of one gateway."""

    def __init__(
        self,
        buckets: TokenBuckets,
        open_store: Callable[[str], LimitStore],
        changed: Callable[[list[StoreState]], None],
        *,
        gateways: int = 1,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        """``changed`` is called with all states when one is another. ``gateways``: how many share a store that was never heard of."""
        self._buckets = LeasedBuckets(buckets)
        self._open_store = open_store
        self._changed = changed
        self._gateways = gateways
        self._clock = clock
        self._random = random
        self._names = LimitNames()
        self._wanted: dict[str, frozenset[str]] = {}
        self._lines: dict[int, StoreLine] = {}
        self._gone: set[asyncio.Task[None]] = set()
        self._told: list[StoreState] = []
        self._woken = asyncio.Event()
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def route_changed(self, before: Route | None, after: Route | None) -> None:
        """The datastore's call back: open the stores that routes name, let go of those that none does any more."""
        name = (after or before).name  # type: ignore[union-attr]
        self.wants(name, [limit.store for limit in after.limits if limit.store] if after else [])

    def wants(self, name: str, addresses: Iterable[str]) -> None:
        """The stores that a route needs, by ``namespace/name``, or that others do, in a word; none for none any more."""
        self._wanted[name] = frozenset(addresses)
        if not self._wanted[name]:
            del self._wanted[name]
        self._woken.set()

    async def run(self) -> None:
        """Lease until cancelled."""
        asyncio.get_running_loop().add_reader(self.bell, self._rung)
        while True:
            try:
                self._open_and_close()
                self._turn()
            except Exception:
                # the next turn may do better; without any, every shared limit would run dry
                logger.exception("a turn of the keeper of leases failed")
            await self._pause()

    async def stop(self) -> None:
        """Return what is held, as far as stores can be asked. After :meth:`run` was cancelled."""
        asyncio.get_running_loop().remove_reader(self.bell)
        self._note()
        await asyncio.gather(*(line.end(give_back=True) for line in self._lines.values()), *self._gone)
        self._lines.clear()

    def close(self) -> None:
        """Let go of the bell."""
        if self.bell >= 0:
            os.close(self.bell)
            self.bell = -1

    def states(self) -> list[StoreState]:
        """Every store."""
        return sorted((line.state() for line in self._lines.values() if line.is_heard), key=lambda one: one.address)

    def failures(self) -> dict[str, int]:
        """Exchanges that failed, by address."""
        return {line.address: line.failures for line in self._lines.values()}

    def _rung(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.bell)
        self._woken.set()

    async def _pause(self) -> None:
        if self._wanted or self._lines:
            away = any(line.book.is_away for line in self._lines.values())
            # unevenly, so that of gateways that look in step none is always the first
            seconds = _AWAY_TICK_SECONDS if away else TICK_SECONDS * (0.5 + self._random())
        else:
            seconds = None
        # not `wait_for`: Python 3.11's takes a cancellation for an end of the wait when both come at once
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._woken.clear()

    def _note(self) -> None:
        now = self._clock()
        for changed in self._buckets.changed():
            seen = Changed(*changed)
            line = self._lines.get(parted(seen.store)[0])
            if line is not None:
                line.book.note(seen, now)

    def _turn(self) -> None:
        if not self._lines:
            return
        self._note()
        for line in self._lines.values():
            line.turn()

    def _after(self, line: StoreLine) -> None:
        if line.book.has_wishes:
            self._woken.set()
        states = self.states()
        if states != self._told:
            self._told = states
            self._changed(states)

    def _open_and_close(self) -> None:
        wanted = {self._names.address(address): address for one in self._wanted.values() for address in one}
        for word, address in wanted.items():
            if word not in self._lines:
                book = LeaseBook(self._buckets, self._gateways)
                self._lines[word] = StoreLine(address, self._open_store(address), book, self._clock, self._after)
        for word in self._lines.keys() - wanted.keys():
            task = asyncio.get_running_loop().create_task(self._lines.pop(word).end(give_back=True))
            self._gone.add(task)
            task.add_done_callback(self._gone.discard)
