"""The choice of an endpoint in one call: filters, prefix match, scores, the pick, the charge of load, the learned prefix.

Who may be chosen is said in :mod:`_fastpath.candidates`, what each is worth in :mod:`_fastpath.cost` and :mod:`_fastpath.weighted`. Where
engines say how much they hold, a prompt is taken to be cached only for as long as it takes to fill the pool's caches with others. Among
equals one is taken at random.
"""

from collections.abc import Iterable, Sequence
from typing import final

from _fastpath.adapters import Adapters
from _fastpath.hashing import BlockHashes
from _fastpath.health import Health
from _fastpath.load import Load
from _fastpath.policy import Policy
from _fastpath.pool import Pool
from _fastpath.prefix_index import PrefixIndex
from _fastpath.shared_memory import SharedMemory

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
        left; :meth:`Pool.filtered` says why. With ``dry`` nothing is charged or learned. Without ``learn`` the prompt is charged and not
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

    def refresh(self, pool: Pool, chosen: int, hashes: BlockHashes, sent: float, now: float) -> bool:
        """A request that was matched by text, sent at ``sent``, is over: its blocks are the youngest that its endpoint holds.

        Returns whether that was learned: not of one that was learned a moment ago, nor of an endpoint that is another by now. Raises
        IndexError for a position beyond the pool.
        """

    def release(self, pool: Pool, chosen: int, prefill_tokens: int, decode_tokens: int) -> bool:
        """The request is over. ``prefill_tokens`` is what was charged, 0 after :meth:`first_token`."""

    def first_token(self, pool: Pool, chosen: int, prefill_tokens: int, now: float = 0.0) -> bool:
        """Its prefill is over, and the next one begins ``now``, in monotonic seconds; 0 when it is not known."""

    def prefilled(self, pool: Pool, chosen: int, tokens: float, seconds: float) -> bool:
        """So long the prefill took, with so many prompt tokens: its own, and those that were queued before it."""
