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
    kv_tokens: float
    """Tokens that its KV cache holds, 0 when it does not say."""

@final
class Load:
    def __init__(self, memory: SharedMemory, row: int = -1) -> None:
        """``row`` is the worker's own; -1 for who only reads load or writes metrics."""

    def charge(self, slot: int, generation: int, prefill_tokens: int, decode_tokens: int, now: float = 0.0) -> bool:
        """One more request there. False, and nothing done, when the slot has another generation by now.

        ``now`` in monotonic seconds; 0 when it is not known: then nothing is said of when the prefill began or what was sent lately.
        """

    def first_token(self, slot: int, generation: int, prefill_tokens: int, now: float = 0.0) -> bool:
        """Its prefill is over: take these tokens off the outstanding prefill. The next one begins ``now`` (0: not known)."""

    def read_prefill_since(self, slot: int, generation: int) -> float:
        """Monotonic seconds at which the engine began what it prefills now; 0 when nothing is outstanding or it is not known.

        Engines prefill in turn: that is the last first token, or the earliest charge of those that are outstanding.
        """

    def read_recent_requests(self, slot: int, generation: int, now: float) -> float:
        """Requests sent there lately, over all workers, faded as the tokens of :meth:`read_recent` are."""

    def read_recent(self, slot: int, generation: int, now: float) -> float:
        """Tokens sent there lately to be computed, prompts without what is cached and expected answers, over all workers.

        Those of 90 s ago count half. They fill its cache.
        """

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

    def read_computed(self, slot: int, generation: int, now: float) -> float:
        """Tokens that the engine says it computed lately, whoever sent them, faded as in :meth:`read_recent`."""

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
        kv_tokens: float = 0.0,
        computed_tokens: float = 0.0,
    ) -> bool:
        """Sidecar only: what one scrape said, ``now`` in monotonic seconds.

        ``in_flight_before``: what :meth:`read` said when the page was asked for. The requests on the page that this gateway did not
        send are those beyond the larger of this and what it says now. ``kv_tokens``: what its KV cache holds, 0 when it does not say.
        ``computed_tokens``: of prompts and answers, since the scrape before.
        False, and nothing written, for an old generation or a number that is not finite.
        """

    def read_metrics(self, slot: int, generation: int) -> EngineMetrics | None:
        """The last scrape, None when this endpoint was never scraped."""
