"""How much of the traffic may be retries: in an outage, trying again is what keeps engines down."""

from __future__ import annotations

FEWEST = 3
"""Retries at once that are always allowed (Envoy's default)."""


class RetryBudget:
    """Counts the retries under way in one worker."""

    def __init__(self) -> None:
        self.under_way = 0
        """Retries that wait for an engine's head now; whoever makes one counts it."""

    def allows(self, percent: float, in_flight: int) -> bool:
        """Whether one more retry is within ``percent`` of the requests in flight."""
        return self.under_way < max(FEWEST, in_flight * percent / 100)
