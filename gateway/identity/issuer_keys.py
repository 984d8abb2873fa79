"""The issuer's keys of one worker: fetched beside the requests, kept for a day when the issuer is away, also on disk.

No request waits for a fetch but those that come before the first one has ended. A token that names an unknown key asks for another
fetch, once a minute at most, and is refused meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.errors import IdentityUnavailable, Unauthorized
from gateway.identity.faults import UnusableKeys
from gateway.identity.key_set import KeySet, TokenRules
from gateway.waiting import Signal

Fetcher = Callable[[str], Awaitable[bytes]]
"""The document at an address, within a few seconds. Raises OSError (``TimeoutError`` is one) when it cannot be had."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds."""

    refresh: float = 300.0
    """Between two fetches of keys that are known."""
    asked: float = 60.0
    """Between two fetches that tokens with unknown keys ask for."""
    first_retry: float = 0.5
    """After a failure; doubled with each one more."""
    longest_retry: float = 60.0
    kept: float = 86_400.0
    """How long the last good keys count while none can be fetched."""


class IssuerKeys:
    """The keys, and what is needed to check a token. With an empty ``address`` they are given by :meth:`take`, and do not grow old."""

    def __init__(
        self,
        *,
        rules: TokenRules,
        algorithms: Collection[str],
        address: str,
        fetch: Fetcher | None,
        saved: Path,
        changed: Callable[[], None],
        wall: Callable[[], float],
        clock: Callable[[], float],
        pace: Pace | None = None,
    ) -> None:
        """``fetch`` is needed with an address. ``saved``: where the last good keys lie; ``changed`` is called when the keys are others;
        ``wall``: Unix time.
        """
        self._rules = rules
        self._algorithms = algorithms
        self._address = address
        self._fetch = fetch
        self._saved = saved
        self._changed = changed
        self._wall = wall
        self._clock = clock
        self._pace = pace or Pace()
        self._text = b""
        self._keys: KeySet | None = None
        self._until = 0.0
        self._failures = 0
        self._fault = ""
        self._asked = asyncio.Event()
        self._answered = float("-inf")
        self._waiters: list[Signal] = []
        self.is_waiting = bool(address)

    def restore(self) -> None:
        """Begin with the keys that a gateway of before has left on disk, if they still count."""
        try:
            content = json.loads(self._saved.read_text())
            until = min(content["fetched"], self._wall()) + self._pace.kept
            if content["address"] != self._address or self._wall() >= until:
                return
            self.take(content["keys"].encode())
        except (OSError, ValueError, TypeError, KeyError, AttributeError, UnusableKeys):
            return  # they are fetched
        self._until, self.is_waiting = until, False

    async def wait(self) -> None:
        """Until the first fetch has ended, well or not."""
        if self.is_waiting:
            signal = Signal()
            self._waiters.append(signal)
            await signal

    def verify(self, token: str, now: float) -> tuple[str, float]:
        """Subject of a token, and until when it may be remembered. Raises Unauthorized and IdentityUnavailable."""
        if self._keys is None or now >= self._until:
            raise IdentityUnavailable(
                "The keys that tokens are checked with cannot be had now. Try again.", retry_after=5.0
            )
        try:
            subject, expires = self._rules.verify(token, self._keys, now)
        except Unauthorized as refused:
            if refused.reason == "unknown_key":
                self._asked.set()
            raise
        return subject, min(expires, self._until)

    def take(self, text: bytes) -> None:
        """Other keys, from now on. Raises UnusableKeys, and those that stood go on to count."""
        if text != self._text:
            keys = KeySet(text, self._algorithms)
            for reason in keys.skipped:
                logger.warning("a key of the issuer is not used: %s", reason)
            logger.info("keys of the issuer that count: %d", len(keys))
            self._text, self._keys = text, keys
            self._changed()
        self._until = self._wall() + self._pace.kept if self._address else float("inf")

    def report(self) -> dict[str, Any]:
        """How many keys count, since when and until when (Unix time; null for keys of a file, which do not grow old), fetches that failed
        since, and why the last one did.
        """
        ages = self._until > 0 and math.isfinite(self._until)
        return {
            "keys": len(self._keys) if self._keys is not None else 0,
            "fetched": self._until - self._pace.kept if ages else None,
            "until": self._until if ages else None,
            "failures": self._failures,
            "fault": self._fault or None,
        }

    async def run(self) -> None:
        """Fetch now, and go on to."""
        while True:
            await self.refresh()
            await self._pause()

    async def refresh(self) -> None:
        """Fetch the keys once; a failure is logged when it is another than the last."""
        assert self._fetch is not None
        try:
            self.take(await self._fetch(self._address))
        except (OSError, UnusableKeys) as error:
            self._failed(f"{self._address}: {error or type(error).__name__}")
        else:
            self._failures = 0
            self._fault = ""
            self._save()
        self._wake()

    def _failed(self, fault: str) -> None:
        self._failures += 1
        if fault != self._fault:
            self._fault = fault
            state = "none are known" if self._keys is None else f"those of before count for {self._pace.kept:g} s"
            logger.warning("the issuer's keys cannot be had, %s: %s", state, fault)

    def _wake(self) -> None:
        self.is_waiting = False
        loop = asyncio.get_running_loop()
        for signal in self._waiters:
            loop.call_soon(signal.set)  # each goes on in a turn of its own, not in this task
        self._waiters.clear()

    async def _pause(self) -> None:
        """Until the next fetch is due, or a token has asked for one."""
        pace = self._pace
        seconds = pace.refresh
        if self._failures:
            seconds = min(pace.longest_retry, pace.first_retry * 2 ** min(self._failures - 1, 20))
        due = self._clock() + seconds
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._asked.wait(), seconds)
            allowed = self._answered + pace.asked
            await asyncio.sleep(max(0.0, min(allowed, due) - self._clock()))
            if self._clock() >= allowed:
                self._asked.clear()
                self._answered = self._clock()

    def _save(self) -> None:
        content = json.dumps({"address": self._address, "fetched": self._wall(), "keys": self._text.decode()})
        draft = self._saved.with_suffix(f".{os.getpid()}")
        try:
            draft.write_text(content)
            draft.replace(self._saved)
        except OSError as error:
            logger.warning("the issuer's keys cannot be kept in %s: %s", self._saved, error)
