"""The metrics of the request path: names, labels, and the one call that counts a finished request.

Labels come from configuration or fixed words alone: a model's name that no route has is ``_unknown``.
"""

from __future__ import annotations

from _fastpath.counters import CounterRow, Counters
from _fastpath.shared_memory import SharedMemory
from gateway.counting import Count
from gateway.exchange import Exchange
from gateway.routing.kinds import Kinds, Outcome
from gateway.scheduling.fair_queue import Waiter

REQUEST_SECONDS = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68,
)  # fmt: skip
FIRST_TOKEN_SECONDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
OVERHEAD_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
SCHEDULE_SECONDS = (0.000005, 0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.001, 0.01)
POSITIONS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)

Family = tuple[str, tuple[str, ...], tuple[float, ...]]

FAMILIES: tuple[Family, ...] = (
    ("penstock_requests_total", ("model", "route", "server", "operation", "code", "error_type"), ()),
    ("penstock_request_duration_seconds", ("model", "route", "server", "operation", "code_class"), REQUEST_SECONDS),
    ("penstock_time_to_first_token_seconds", ("model", "server", "operation"), FIRST_TOKEN_SECONDS),
    ("penstock_time_per_output_token_seconds", ("model", "server"), TOKEN_SECONDS),
    ("penstock_overhead_seconds", ("operation",), OVERHEAD_SECONDS),
    ("penstock_tokens_total", ("model", "server", "type"), ()),
    ("penstock_tokens_estimated_total", ("model",), ()),
    ("penstock_prefix_match_ratio", ("model",), RATIOS),
    ("penstock_upstream_retries_total", ("server", "reason"), ()),
    ("penstock_client_cancelled_total", ("model", "phase"), ()),
    ("penstock_ratelimit_decisions_total", ("route", "scope", "limit", "decision"), ()),
    ("penstock_client_retries_total", ("model",), ()),
    ("penstock_inter_token_latency_seconds", ("model", "server"), TOKEN_SECONDS),
    ("penstock_schedule_duration_seconds", ("policy",), SCHEDULE_SECONDS),
    ("penstock_queue_duration_seconds", ("server", "outcome"), REQUEST_SECONDS),
    ("penstock_schedule_decisions_total", ("model", "policy", "outcome"), ()),
    ("penstock_upstream_ejections_total", ("server", "reason"), ()),
    ("penstock_prompts_tokenised_total", ("server", "outcome"), ()),
    ("penstock_prefix_corrections_total", ("server", "reason"), ()),
    ("penstock_plugin_errors_total", ("plugin", "kind"), ()),
    ("penstock_queue_position", ("server",), POSITIONS),
    ("penstock_queue_estimated_wait_seconds", ("server",), REQUEST_SECONDS),
)
HELP = {
    "penstock_requests_total": "Requests by outcome; code 499 is a client that left.",
    "penstock_request_duration_seconds": "From the head of a request to the last byte of its answer.",
    "penstock_time_to_first_token_seconds": "From the head of a request to the first byte of its answer.",
    "penstock_time_per_output_token_seconds": "Mean time between tokens of a streamed answer.",
    "penstock_overhead_seconds": "What the gateway itself took before the request went to an engine.",
    "penstock_tokens_total": "Tokens as the engines counted them.",
    "penstock_tokens_estimated_total": "Prompt tokens of requests whose engine did not count them.",
    "penstock_prefix_match_ratio": "Share of a prompt's blocks that the chosen endpoint was expected to hold.",
    "penstock_upstream_retries_total": "Requests sent to a further endpoint, by what went wrong at the one before.",
    "penstock_client_cancelled_total": "Clients that left before their answer was whole.",
    "penstock_ratelimit_decisions_total": "Requests refused by a limit; scope says of what it is one: `route`, `tenant` or `key`.",
    "penstock_inter_token_latency_seconds": "Time between two pieces of a streamed answer, as they came from the engine.",
    "penstock_schedule_duration_seconds": "What the choice of an endpoint took.",
    "penstock_schedule_decisions_total": "Choices of an endpoint; outcome is `chosen`, or why nobody was.",
    "penstock_queue_duration_seconds": "What requests waited while every endpoint was full; outcome is served, refused, late or left.",
    "penstock_prompts_tokenised_total": "Prompts for servers that match by token; those but `tokens` and `engine` went by text.",
    "penstock_prefix_corrections_total": "Answers with much fewer cached tokens than expected; the reason is evicted or uncached.",
    "penstock_plugin_errors_total": "What scheduling plugins did wrong, each passed over; the kind is load, filter or score.",
    "penstock_queue_position": "How many of the same worker were before a request that had to wait, when it came.",
    "penstock_queue_estimated_wait_seconds": "What a request that had to wait was expected to wait when it came; 0 while nothing is known.",
    "penstock_client_retries_total": "Requests that their SDK called a retry.",
    "penstock_upstream_ejections_total": "Endpoints that were left alone, by their last failure: an error's code, or `status_503`.",
}
_INDEX = {name: position for position, (name, _, _) in enumerate(FAMILIES)}
UNKNOWN = "_unknown"
_MOST_OUTCOMES = 1_000
"""Of one kind of requests: what has gone from configuration is forgotten some time."""
# the places of a finished request's series in its row
_REQUESTS, _DURATION, _OVERHEAD, _SCHEDULING, _CHOSEN, _FIRST_TOKEN = 0, 1, 2, 3, 4, 5
_MATCH_RATIO, _ESTIMATED, _INPUT, _OUTPUT, _CACHED, _EACH_TOKEN = 6, 7, 8, 9, 10, 11


class RequestMetrics:
    """Counts the requests of one worker."""

    def __init__(self, memory: SharedMemory, worker: int) -> None:
        self._counters = Counters(memory, worker, FAMILIES)
        self._unmatched = Kinds("")
        self._gaps: dict[tuple[str, str], int] = {}

    def _series(self, name: str, *labels: str) -> int:
        return self._counters.series(_INDEX[name], labels)

    def finished(self, exchange: Exchange, now: float) -> None:
        """Count a request that is over."""
        started, sent, first, placement = exchange.started, exchange.sent, exchange.first_byte, exchange.placement
        row = self._row_of(exchange)
        row.add(_REQUESTS, 1.0)
        row.add(_DURATION, now - started)
        if sent:
            row.add(_OVERHEAD, sent - started - exchange.waited)
            row.add(_SCHEDULING, exchange.scheduling)
            row.add(_CHOSEN, 1.0)
        if first:
            row.add(_FIRST_TOKEN, first - started)
            if placement is not None and placement.blocks:
                row.add(_MATCH_RATIO, placement.matched_blocks / placement.blocks)
            self._count_tokens(exchange, row)
        if exchange.client_gone:
            phase = "decode" if first else "prefill" if sent else "queued"
            self._count("penstock_client_cancelled_total", _model(exchange), phase)
        retries = exchange.header("x-stainless-retry-count")
        if retries is not None and retries != "0":
            self._count("penstock_client_retries_total", _model(exchange))

    def _count_tokens(self, exchange: Exchange, row: CounterRow) -> None:
        usage, tokens_out = exchange.usage, exchange.chunks
        if usage is None:
            row.add(_ESTIMATED, exchange.prompt_tokens)
        else:
            tokens_out, cached = usage[1], usage[2]
            row.add(_INPUT, usage[0])
            row.add(_OUTPUT, tokens_out)
            if cached >= 0:
                row.add(_CACHED, cached)
        if tokens_out > 1 and exchange.scan is not None and exchange.scan.stream:
            row.add(_EACH_TOKEN, (exchange.last_byte - exchange.first_byte) / (tokens_out - 1))

    def _count(self, name: str, *labels: str) -> None:
        self._counters.record(((self._series(name, *labels), 1.0),))

    def _row_of(self, exchange: Exchange) -> CounterRow:
        """The series of all requests of its kind that ended as it did."""
        kind, pool = exchange.kind, exchange.server
        if kind is None:
            kind = self._unmatched.of(UNKNOWN, exchange.operation.name)
        server = pool.name if pool is not None else ""
        policy = pool.policy_name if pool is not None else ""
        status, error_code = exchange.status, exchange.error_code
        for outcome in kind.outcomes:
            if (
                outcome.status == status
                and outcome.server == server
                and outcome.error_code == error_code
                and outcome.policy == policy
            ):
                return outcome.row
        if len(kind.outcomes) >= _MOST_OUTCOMES:
            kind.outcomes.clear()
        handles = self._make_handles(exchange, kind.model, kind.route)
        outcome = Outcome(server, policy, status, error_code, CounterRow(self._counters, handles))
        kind.outcomes.append(outcome)
        return outcome.row

    def _make_handles(self, exchange: Exchange, model: str, route: str) -> tuple[int, ...]:
        """The series of all requests of one kind and outcome, in the order of their places in a row."""
        server = exchange.server.name if exchange.server is not None else ""
        policy = exchange.server.policy_name if exchange.server is not None else ""
        operation, code = exchange.operation.name, str(exchange.status)
        series = self._series
        return (
            series("penstock_requests_total", model, route, server, operation, code, exchange.error_code),
            series("penstock_request_duration_seconds", model, route, server, operation, f"{code[0]}xx"),
            series("penstock_overhead_seconds", operation),
            series("penstock_schedule_duration_seconds", policy),
            series("penstock_schedule_decisions_total", model, policy, "chosen"),
            series("penstock_time_to_first_token_seconds", model, server, operation),
            series("penstock_prefix_match_ratio", model),
            series("penstock_tokens_estimated_total", model),
            series("penstock_tokens_total", model, server, "input"),
            series("penstock_tokens_total", model, server, "output"),
            series("penstock_tokens_total", model, server, "cached"),
            series("penstock_time_per_output_token_seconds", model, server),
        )

    def gap_series(self, exchange: Exchange) -> int:
        """Where the times between two pieces of this stream are counted."""
        assert exchange.server is not None
        key = (exchange.model, exchange.server.name)
        series = self._gaps.get(key)
        if series is None:
            series = self._gaps[key] = self._series("penstock_inter_token_latency_seconds", *key)
        return series

    def gap(self, series: Count, seconds: float) -> None:
        """Count the time between two pieces of a stream."""
        self._counters.add(series, seconds)

    def waited(self, server: str, seconds: float, waiter: Waiter) -> None:
        """Count a request that waited for an endpoint with room, however that ended."""
        series = self._series
        self._counters.record(
            (
                (series("penstock_queue_duration_seconds", server, waiter.outcome), seconds),
                (series("penstock_queue_position", server), waiter.position),
                (series("penstock_queue_estimated_wait_seconds", server), waiter.estimate),
            )
        )

    def unplaced(self, exchange: Exchange, reason: str) -> None:
        """Count a request for which there was no endpoint."""
        policy = exchange.server.policy_name if exchange.server is not None else ""
        series = self._series("penstock_schedule_decisions_total", _model(exchange), policy, reason)
        self._counters.record(((series, 1.0),))

    def elsewhere(self, operation: str, status: int, code: str) -> None:
        """Count a request that was answered without an engine."""
        series = self._series("penstock_requests_total", UNKNOWN, "", "", operation, str(status), code)
        self._counters.record(((series, 1.0),))

    def retried(self, server: str, reason: str) -> None:
        """Count a request that goes to a further endpoint."""
        self._counters.record(((self._series("penstock_upstream_retries_total", server, reason), 1.0),))

    def ejected(self, server: str, reason: str) -> None:
        """Count an endpoint that is left alone for a while."""
        self._count("penstock_upstream_ejections_total", server, reason)

    def tokenised(self, server: str, outcome: str) -> None:
        """Count a prompt that was to be matched by token."""
        self._count("penstock_prompts_tokenised_total", server, outcome)

    def corrected(self, server: str, reason: str) -> None:
        """Count an answer for which the index of prefixes forgets something."""
        self._count("penstock_prefix_corrections_total", server, reason)

    def plugin_failed(self, plugin: str, kind: str) -> None:
        """Count what a plugin did wrong."""
        self._count("penstock_plugin_errors_total", plugin, kind)

    def limited(self, route: str, scope: str, limit: str) -> None:
        """Count a request that a limit refused; ``scope``: ``route``, ``tenant`` or ``key``."""
        self._count("penstock_ratelimit_decisions_total", route, scope, limit, "refused")


def _model(exchange: Exchange) -> str:
    return exchange.model if exchange.matched is not None else UNKNOWN
