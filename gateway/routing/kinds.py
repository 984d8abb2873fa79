"""Kinds of requests: what is kept of one request for those that are like it lies here, and is found once a request."""

from __future__ import annotations

from _fastpath.counters import CounterRow
from gateway.counting import Count


class Outcome:
    """One way in which requests of a kind end, and what counts them."""

    def __init__(self, server: str, policy: str, status: Count, error_code: str, row: CounterRow) -> None:
        self.server = server
        self.policy = policy
        self.status = status
        self.error_code = error_code
        self.row = row


class Kind:
    """Requests whose answers are alike: of one route, model and operation."""

    def __init__(self, route: str, model: str, operation: str) -> None:
        self.route = route
        self.model = model
        self.operation = operation
        self.lengths: Count = 0
        """What :class:`gateway.admission.output_estimates.OutputEstimates` knows it by, 0 before it was asked."""
        self.outcomes: list[Outcome] = []
        """Of :class:`gateway.observability.metrics.RequestMetrics`."""


class Kinds:
    """The kinds of one route's requests: as many as it has models and adapters, for each operation."""

    def __init__(self, route: str) -> None:
        self._route = route
        self._known: dict[str, dict[str, Kind]] = {}

    def of(self, model: str, operation: str) -> Kind:
        """The kind of a model, which the route has, and an operation."""
        models = self._known.get(operation)
        found = models.get(model) if models is not None else None
        if found is None:
            found = Kind(self._route, model, operation)
            self._known.setdefault(operation, {})[model] = found
        return found
