"""The choice of an endpoint in one call: filters, prefix match, scores, the pick, the charge of load, the learned prefix.

``cost`` (the default) is the seconds that the request is expected to add: what is left of the prefill that is queued there, its own
uncached prompt tokens (which count the more the more endpoints are busy, since whoever comes later waits for them too, and the more was
sent or computed there lately, by whomever; a gateway among others has likings of its own as well, so that they do not all choose alike),
both together once more the longer they take, the slow-down of and by what runs there, the pressure on a nearly full KV cache, and the
loading of an adapter that is not there; at the speed that was measured of each endpoint's prefills. Where engines say how much they hold,
a prompt is taken to be cached only for as long as it takes to fill the pool's caches with others. ``weighted`` is the sum
of the reference system's scores, each 0 to 100, times their weights. Among equals one is taken at random.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict, final, type_check_only

from _fastpath.adapters import Adapters
from _fastpath.hashing import BlockHashes
from _fastpath.health import Health, Outlier
from _fastpath.load import Load
from _fastpath.prefix_index import PrefixIndex
from _fastpath.shared_memory import SharedMemory

REASONS: tuple[str, ...]
SCORES_BY_NAME: dict[str, int]

@type_check_only
class Cost(TypedDict):
    """Seconds that the request is expected to add."""

    queue: float
    """Until what is queued there is computed."""
    prefill: float
    """Of its own prompt, with what that costs others."""
    lateness: float
    """What a first token costs beyond its time, the later the more."""
    decode: float
    memory: float
    adapter: float

@type_check_only
class Explanation(TypedDict):
    filtered: str
    """Why it is no candidate, one of :data:`REASONS`; empty for a candidate."""
    score: float | None
    """Larger is better; by cost it is minus the seconds."""
    matched_blocks: int
    in_flight: int
    prefill_tokens: int
    running: float
    waiting: float
    kv_usage: float
    scraped: bool
    adapter: str
    """How it stands to the adapter that is asked for, one of ``_fastpath.adapters.AFFINITIES``; empty when none is."""
    prefill_tokens_per_second: float
    """As measured, the policy's until then."""
    cost: Cost | None
    """The parts of the score by cost; None for no candidate and another policy."""

@final
class Policy:
    by_cost: bool
    stale_after: float
    maximum_waiting: float
    prefill_tokens_per_second: float
    decode_seconds_per_request: float
    latency_factor: float
    session_bound: float
    adapter_seconds: float
    prefix_blocks: int
    kvcache_blocks: int
    adapter_filter: bool
    def __init__(
        self,
        *,
        by_cost: bool = True,
        weights: Mapping[str, float] | None = None,
        stale_after: float = 5.0,
        maximum_waiting: float = 0.0,
        prefill_tokens_per_second: float = 8000.0,
        decode_seconds_per_request: float = 0.00035,
        latency_factor: float = 0.5,
        session_bound: float = 1.25,
        adapter_seconds: float = 0.5,
        prefix_blocks: int = 0,
        kvcache_blocks: int = 0,
        adapter_filter: bool = False,
    ) -> None:
        """``weights`` by the names of :data:`SCORES_BY_NAME`, for ``by_cost=False``.

        ``prefill_tokens_per_second`` and ``decode_seconds_per_request`` hold until an endpoint's own speed is measured.
        ``stale_after``: seconds after which a scrape says nothing any more. ``maximum_waiting``: the least-request filter, an endpoint
        with that many waiting requests is left out; 0 is off. ``latency_factor``: share of the first token in least-latency.
        ``session_bound``: an endpoint with so many times the mean of requests in flight does not get its sessions' requests.
        ``adapter_seconds``: what the loading of an adapter takes, by cost. ``prefix_blocks``, ``kvcache_blocks``: first blocks of a prompt
        that count in prefix-cache and kvcache-aware, 0 for all. ``adapter_filter``: the lora-affinity filter, for requests with an adapter:
        where candidates have it loaded, or room for it, those are left out that say that they have neither.
        """

@final
class Pool:
    """The endpoints of one ModelServer, as the scheduler sees them. Not for use from two threads at once."""

    outlier: Outlier | None
    prefill_seconds: float
    def __init__(
        self,
        endpoints: Sequence[tuple[int, int, int, int] | tuple[int, int, int, int, int]],
        outlier: Outlier | None = None,
        prefill_seconds: float = 0.0,
    ) -> None:
        """Each endpoint: slot, generation, role bits, largest number of requests in flight (0 = no bound), and what tells it from others
        in every gateway (:func:`_fastpath.slots.endpoint_identity`; the slot when it is left out).

        ``outlier``: the rules by which endpoints that fail are left out, and new ones warm up; without it nobody's health is looked at.
        ``prefill_seconds``: an endpoint with half of its largest number in flight is full already while its prompts take longer than this
        to compute, at its own speed; 0 is no bound.

        Raises ValueError for a slot that stands twice.
        """

    def __len__(self) -> int: ...

@final
class Scheduler:
    load: Load
    prefixes: PrefixIndex
    adapters: Adapters
    matched_blocks: int
    """Blocks that the last decision found at the endpoint that it chose."""
    uncached_tokens: int
    """Prompt tokens that it charged there."""
    queued_tokens: int
    """Prompt tokens that the last decision found queued at the endpoint that it chose, without what it has computed of them by then."""
    prefill_seconds: float
    """That these and its own were expected to take there, at the speed that was measured."""
    matched_at: int
    """Second of the clock in which the last block that was matched there had been learned, before the last decision; 0 for none."""
    health: Health
    probe: int
    """Token of the probe that the last decision claimed: the request is the one that tries an ejected endpoint. Else 0."""
    gateway: int
    """Stands for the gateway, whose schedulers have the same biases: it comes from the memory, or from the seed where one is given."""
    def __init__(self, memory: SharedMemory, row: int = -1, random_seed: int | None = None) -> None:
        """``row`` is the worker's own; -1 for dry decisions only."""

    def decide(
        self,
        pool: Pool,
        policy: Policy,
        hashes: BlockHashes | None,
        prompt_tokens: int,
        output_tokens: int,
        now: float,
        role: int = 1,
        excluded: Iterable[int] | None = None,
        dry: bool = False,
        session: int = 0,
        learn: bool = True,
        adapter: int = 0,
        adjustments: Sequence[float] | None = None,
    ) -> tuple[int, int, int] | None:
        """Choose: position in the pool, matched blocks, and the uncached prompt tokens that were charged.

        ``now`` in monotonic seconds; ``role`` is one bit; ``excluded`` are positions tried already. None when no endpoint is
        left; :meth:`filtered` says why. With ``dry`` nothing is charged or learned. Without ``learn`` the prompt is charged and not
        learned: it is matched by token, and the engine itself says what it holds; kvcache-aware counts only then.
        ``session``: 64 bits that stand for the conversation, 0 for none. ``adapter``: the same of the LoRA adapter that is asked for.
        ``adjustments``: what is added to the score of each endpoint of the pool, NaN for one that is left out. Raises ValueError when
        they are not as many as the endpoints.
        """

    def choose(
        self,
        pool: Pool,
        policy: Policy,
        hashes: BlockHashes | None,
        prompt_tokens: int,
        output_tokens: int,
        now: float,
        role: int,
        excluded: Iterable[int] | None,
        dry: bool,
        session: int,
        learn: bool,
        adapter: int,
        adjustments: Sequence[float] | None,
    ) -> int:
        """The same without an object for the answer: the position, -1 for none; the rest is in the attributes above."""

    def release(self, pool: Pool, chosen: int, prefill_tokens: int, decode_tokens: int) -> bool:
        """The request is over. ``prefill_tokens`` is what was charged, 0 after :meth:`first_token`."""

    def first_token(self, pool: Pool, chosen: int, prefill_tokens: int, now: float = 0.0) -> bool:
        """Its prefill is over, and the next one begins ``now``, in monotonic seconds; 0 when it is not known."""

    def prefilled(self, pool: Pool, chosen: int, tokens: float, seconds: float) -> bool:
        """So long the prefill took, with so many prompt tokens: its own, and those that were queued before it."""

    def explain(self, pool: Pool) -> list[Explanation]:
        """What the last decision over this pool saw of each endpoint."""

    def filtered(self, pool: Pool) -> dict[str, int]:
        """How many endpoints each filter took out of the last decision."""
