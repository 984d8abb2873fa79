"""The load table: what workers have sent to each endpoint, and what each engine says of itself.

Load is charged at the moment of choice and released once on every way out. The row of a worker that died is cleared whole.
"""

from typing import TypedDict, final, type_check_only

from _fastpath.shared_memory import SharedMemory

@type_check_only
class EngineMetrics(TypedDict):
    running: float
    waiting: float
    kv_usage: float
    """Share of the KV cache in use, 0 to 1."""
    first_token_seconds: float
    inter_token_seconds: float
    """Means of the last interval in which the engine produced any; 0 when unknown."""
    prefix_hit_ratio: float
    """Share of prompt tokens that the engine found cached in the last interval, 0 to 1."""
    time: float
    """Monotonic seconds of the scrape."""
    others: float
    """Requests there that no worker of this gateway has sent: the fewer of the last two scrapes."""

@final
class Load:
    def __init__(self, memory: SharedMemory, row: int = -1) -> None:
        """``row`` is the worker's own; -1 for who only reads load or writes metrics."""

    def charge(self, slot: int, generation: int, prefill_tokens: int, decode_tokens: int) -> bool:
        """One more request there. False, and nothing done, when the slot has another generation by now."""

    def first_token(self, slot: int, generation: int, prefill_tokens: int) -> bool:
        """Its prefill is over: take these tokens off the outstanding prefill."""

    def prefilled(self, slot: int, generation: int, tokens: float, seconds: float) -> bool:
        """So long it took from the dispatch to the first token, for so many prompt tokens: its own, and those that were queued there.

        Earlier measurements fade: about the last 33 of a worker count. False for an old generation or what is no measurement.
        """

    def read_prefills(self, slot: int, generation: int) -> tuple[float, float]:
        """Tokens and seconds of the prefills that were measured lately, over all workers: their ratio is the endpoint's speed."""

    def release(self, slot: int, generation: int, prefill_tokens: int, decode_tokens: int) -> bool:
        """One request less. ``prefill_tokens`` is 0 after :meth:`first_token`. False for an old generation."""

    def read(self, slot: int, generation: int) -> tuple[int, int, int]:
        """In-flight requests, outstanding prefill tokens and expected decode tokens, over all workers."""

    def clear_worker(self, worker: int) -> None:
        """Forget all that a dead worker had sent."""

    def worker_in_flight(self, worker: int) -> int:
        """Requests in flight in one worker's row, over all endpoints."""

    def write_metrics(
        self,
        slot: int,
        generation: int,
        running: float,
        waiting: float,
        kv_usage: float,
        first_token_seconds: float,
        inter_token_seconds: float,
        prefix_hit_ratio: float,
        now: float,
        in_flight_before: int = 0,
    ) -> bool:
        """Sidecar only: what one scrape said, ``now`` in monotonic seconds.

        ``in_flight_before``: what :meth:`read` said when the page was asked for. The requests on the page that this gateway did not
        send are those beyond the larger of this and what it says now. False, and nothing written, for an old generation or a
        number that is not finite.
        """

    def read_metrics(self, slot: int, generation: int) -> EngineMetrics | None:
        """The last scrape, None when this endpoint was never scraped."""
