"""What a request's outcome says of the engine that had it, and who is told when an engine is left alone or comes back."""

from __future__ import annotations

import logging

from _fastpath.health import EVENTS, OUTCOMES
from gateway.counting import Count
from gateway.errors import UpstreamError
from gateway.exchange import Exchange
from gateway.observability.metrics import RequestMetrics
from gateway.scheduling.place import Placement, Placer

NEUTRAL, ANSWERS, SERVED, FAILED = (OUTCOMES.index(word) for word in ("neutral", "answers", "served", "failed"))
_EJECTED = EVENTS.index("ejected")
_NOT_IMPLEMENTED = 501

logger = logging.getLogger(__name__)


class HealthNotes:
    """Notes the outcomes of one worker's requests."""

    def __init__(self, placer: Placer, metrics: RequestMetrics) -> None:
        self._placer = placer
        self._metrics = metrics

    def answers(self, exchange: Exchange) -> None:
        """The first piece of an answer is there. Only for a probe is that news: who hangs no more may serve others too."""
        placement = exchange.placement
        if placement is not None and placement.probe and exchange.status < 400:
            self._note(exchange, placement, ANSWERS, None)

    def over(self, exchange: Exchange, placement: Placement, error: UpstreamError | None) -> None:
        """An endpoint is done with a request. ``error`` is what it failed with before it answered."""
        outcome = outcome_of(exchange) if error is None else FAILED if error.is_engines_fault else NEUTRAL
        # an answer that is served was noted a moment ago
        now = exchange.last_byte if error is None and outcome == SERVED else 0.0
        self._note(exchange, placement, outcome, error, now)

    def _note(
        self, exchange: Exchange, placement: Placement, outcome: Count, error: UpstreamError | None, now: float = 0.0
    ) -> None:
        event = self._placer.note(placement, outcome, exchange.sent, now)
        if event:
            code = error.code if error is not None else exchange.error_code
            self._tell(placement, event, code or f"status_{exchange.status}")

    def _tell(self, placement: Placement, event: int, reason: str) -> None:
        server, endpoint = placement.pool.server, placement.placed.endpoint
        if event == _EJECTED:
            seconds = self._placer.reading(placement)["seconds_left"]
            logger.warning("endpoint %s of %s is ejected for %.3g s: %s", endpoint.name, server.name, seconds, reason)
            self._metrics.ejected(server.name, reason)
        else:
            logger.warning("endpoint %s of %s is back", endpoint.name, server.name)


def outcome_of(exchange: Exchange) -> Count:
    """What the end of a request that an engine answered says of the engine.

    Its status is the engine's as long as nothing went wrong here or at the client. 4xx is a client's fault, and so is 501; 503 with
    ``retry-after`` is an engine that knows that it has too much to do.
    """
    if exchange.client_gone:
        return NEUTRAL
    if exchange.error_code:
        return FAILED if exchange.error_source == "upstream" else NEUTRAL
    status = exchange.status
    if 200 <= status < 400:
        return SERVED
    if status < 500 or status == _NOT_IMPLEMENTED or exchange.pushes_back:
        return NEUTRAL
    return FAILED
