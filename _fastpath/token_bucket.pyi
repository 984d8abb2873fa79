"""Token buckets that all workers share, and the journal of what each worker holds of them.

The state of a bucket is one word (GCRA, "theoretical arrival time": I.371 annex A), so that no process can leave it locked or half
written. A change of limits keeps the share of the bucket that is used: it rescales once and never refills.
"""

from collections.abc import Sequence
from typing import Literal, TypedDict, final, type_check_only

from _fastpath.shared_memory import SharedMemory

KINDS: dict[str, int]
STALE: int

class BucketsFull(Exception):
    """More token buckets than the shared memory has places."""

class JournalFull(Exception):
    """More requests in flight in one worker than its journal has records."""

@type_check_only
class BucketState(TypedDict):
    burst: float
    available: float
    seconds_until_full: float

@final
class TokenBuckets:
    def __init__(self, memory: SharedMemory) -> None: ...
    def open(self, identity: int, now: int, keyed: bool = False, store: int = 0, key: int = 0) -> int:
        """Find or claim the bucket of a 64-bit identity; ``now`` in monotonic nanoseconds. It is full once configured.

        When every place is taken, one whose bucket is full is given away: a full bucket has no state. Raises BucketsFull when none
        is. A quarter of the places is not for ``keyed`` buckets, whose number clients decide.

        With a ``store`` (64 bits, see ``_fastpath.leased_bucket``) it does not fill with time: it is empty once configured, and holds
        what is leased for it; ``key`` is what the store calls it. Both are of the identity: who opens it with others changes nothing.
        """

    def sweep(self) -> None:
        """Supervisor only, once a second: remove claims that a killed process left half made."""

    def configure(self, index: int, generation: int, tokens: float, seconds: float, burst: float, now: int) -> None:
        """Let ``tokens`` flow in every ``seconds``, up to ``burst``. ``now`` in monotonic nanoseconds.

        Does nothing when limits of the same or a later ``generation`` stand already. Raises ValueError for numbers that are not
        above 0, or a bucket that would take more than four years to fill.
        """

    def reserve(self, index: int, tokens: int, now: int) -> float:
        """Take tokens: 0.0 when they were there, else the seconds until they would be, ``inf`` if the bucket is too small."""

    def settle(self, index: int, reserved: int, used: int, now: int) -> None:
        """Correct an earlier reservation to what was used, up or down; the bucket may go below zero."""

    def available(self, index: int, now: int) -> float:
        """Tokens that could be taken now; below zero in debt."""

    def describe(self, index: int, now: int) -> BucketState | None:
        """One bucket in words; None before :meth:`configure`."""

    def left(self, identities: Sequence[int], now: int) -> list[float | None]:
        """Tokens that could be taken now of each, by the 64-bit identities of their buckets; below zero in debt.

        Of leased ones with what the store had left when it was asked last. None where there is no bucket, or none configured: nobody has
        taken anything that is not back by now. Opens nothing; one pass over all places.
        """

@final
class LimitSet:
    """The limits that one kind of request is held to, in the order in which they are asked."""

    def __init__(self, limits: Sequence[tuple[int, int, Literal["input", "output", "requests"]]]) -> None:
        """Each limit: the bucket, the identity that it was opened for, and what it counts."""

    def __len__(self) -> int: ...

@final
class Journal:
    """One worker's reservations: all limits of a request taken in one call, or none; given back if the worker dies."""

    refused: int
    """Position in the LimitSet of the limit that refused the last :meth:`take`, else -1: the first that could never hold it, before those
    that only lack it now.
    """
    wait: float
    """Seconds until that limit would admit it, ``inf`` for never."""
    def __init__(self, memory: SharedMemory, worker: int) -> None: ...
    def take(self, limits: LimitSet, input_tokens: int, output_tokens: int, now: int) -> int:
        """Reserve at every limit: a handle, or -1 when one refused (see :attr:`refused`) and nothing is held.

        :data:`STALE` when a bucket of the set was given to another identity: open it again.

        Raises JournalFull.
        """

    is_closed: bool
    """Whether it is leased, and nobody may have more while its store is away."""
    def ask(self, limits: LimitSet, input_tokens: int, output_tokens: int, now: int, again: bool = False) -> bool:
        """After a refusal: whether the bucket is leased, and its store may have what was refused. It is asked for then, unless ``again``
        says that it was before.
        """

    def settle(self, limits: LimitSet, handle: int, input_tokens: int, output_tokens: int, now: int) -> None:
        """Correct the reservation to what was used and close it."""

    def cancel(self, handle: int, now: int) -> None:
        """Give everything back, the count of requests too, and close it."""

    def recover(self, now: int) -> int:
        """Give back what a dead worker held: how many requests that were. Only when the worker is known to be dead."""

    @property
    def in_use(self) -> int:
        """Requests that hold a record."""
