"""Looks after a request while it waits: whether its client is still there, and whether its body comes in time."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from gateway.deadlines import Deadlines
from gateway.errors import RequestTimeout
from gateway.exchange import Exchange
from gateway.settings import Requests

LOOK_AFTER_SECONDS = 0.02
"""A request that is over sooner is never asked about: to wait for a client's leaving costs more than to answer it."""

logger = logging.getLogger(__name__)


class Watches:
    """Looks at the requests of one worker together, now and then, and gives one of its own to each that is still there."""

    def __init__(self, deadlines: Deadlines, requests: Requests) -> None:
        self._deadlines = deadlines
        self._requests = requests
        self._young: list[Exchange] = []

    def begin(self, exchange: Exchange) -> None:
        """Look at it for the first time in a moment, and a moment later at the latest."""
        if not self._young:
            self._deadlines.add(self, exchange.started + LOOK_AFTER_SECONDS)
        self._young.append(exchange)

    def check(self, now: float) -> None:
        """See who is still there."""
        seen, self._young = self._young, []
        exchange: Exchange
        for exchange in seen:
            if exchange.run is None or exchange.run.is_over:
                continue
            if now - exchange.started < LOOK_AFTER_SECONDS:
                self.begin(exchange)
            else:
                self._look(exchange, now)

    def _look(self, exchange: Exchange, now: float) -> None:
        try:
            Watch(exchange, self._deadlines, self._requests).check(now)
        except Exception:
            logger.exception("request %s cannot be looked after", exchange.request_id)


class Watch:
    """One request's own entry in the worker's timer."""

    def __init__(self, exchange: Exchange, deadlines: Deadlines, requests: Requests) -> None:
        self._exchange = exchange
        self._deadlines = deadlines
        self._requests = requests
        self._is_watching = False
        self._leaving: asyncio.Future[Any] | None = None

    def check(self, now: float) -> None:
        """See to the client and the body."""
        exchange = self._exchange
        run = exchange.run
        if run is None or run.is_over:
            leaving, self._leaving = self._leaving, None
            if leaving is not None:
                # RSGI's future holds this watch, out of the garbage collector's sight: it must not be held in turn
                leaving.cancel()
            return
        if exchange.deadline and now >= exchange.deadline:
            run.throw(
                RequestTimeout(
                    f"The body did not arrive within {self._requests.body_seconds:g} s.",
                    extra_headers=(("connection", "close"),),
                )
            )
        elif not self._is_watching:
            self._is_watching = True
            self._leaving = asyncio.ensure_future(exchange.protocol.client_disconnect())
            self._leaving.add_done_callback(self._left)
        self._deadlines.add(self, exchange.deadline or now + 1.0)

    def _left(self, leaving: asyncio.Future[Any]) -> None:
        self._leaving = None
        if not leaving.cancelled():
            leave(self._exchange)


def leave(exchange: Exchange) -> None:
    """The client is gone: end its request, wherever it is."""
    if exchange.run is not None and not exchange.run.is_over:
        exchange.client_gone = True
        exchange.run.throw(asyncio.CancelledError())
