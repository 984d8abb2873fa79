"""The endpoints among which a decision chooses, and what it saw of each."""

from collections.abc import Sequence
from typing import TypedDict, final, type_check_only

from _fastpath.health import Outlier

REASONS: tuple[str, ...]

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
class Pool:
    """The endpoints of one ModelServer, as the scheduler sees them. Not for use from two threads at once."""

    outlier: Outlier | None
    prefill_seconds: float
    kept_seconds: float
    """For how long its engines keep blocks that nobody uses, as of the last decision that matched by text; 0 where they do not say what
    they hold."""
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
    def explain(self) -> list[Explanation]:
        """What the last decision over this pool saw of each endpoint."""

    def filtered(self) -> dict[str, int]:
        """How many endpoints each filter took out of the last decision."""
