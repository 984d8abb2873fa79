"""Looks after a request while it waits: whether its client is still there, and whether its body comes in time."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.deadlines import Deadlines
from gateway.errors import RequestTimeout
from gateway.exchange import Exchange
from gateway.settings import Requests

LOOK_AFTER_SECONDS = 0.02
"""A request that is over sooner is never asked about: to wait for a client's leaving costs more than to answer it."""


class Watch:
    """One request's entry in the worker's timer."""

    def __init__(self, exchange: Exchange, deadlines: Deadlines, requests: Requests) -> None:
        self._exchange = exchange
        self._deadlines = deadlines
        self._requests = requests
        self._is_watching = False
        self._leaving: asyncio.Future[Any] | None = None

    def begin(self) -> None:
        """Look for the first time in a moment."""
        self._deadlines.add(self, self._exchange.started + LOOK_AFTER_SECONDS)

    def check(self, now: float) -> None:
        """See to the client and the body."""
        exchange = self._exchange
        run = exchange.run
        if run is None or run.finished.is_set:
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
    if exchange.run is not None and not exchange.run.finished.is_set:
        exchange.client_gone = True
        exchange.run.throw(asyncio.CancelledError())
