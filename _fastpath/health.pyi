"""Which endpoints are left alone, for how long, and how they come back.

An endpoint that fails so many requests in a row is *ejected*, each time for twice as long as the time before. Then one request at a time,
over all workers, *probes* it: an answer brings it back, a failure ejects it again. Who is back, or new, is *warming*: it gets a share that
grows in ten steps. Times are monotonic seconds, and arguments.
"""

from typing import Literal, TypedDict, final, type_check_only

from _fastpath.shared_memory import SharedMemory

OUTCOMES: tuple[str, ...]
"""What became of a request: ``neutral`` says nothing of the engine (a client's error, a client that left), ``answers`` is the first
piece of an answer, ``served`` the whole, ``failed`` is the engine's fault."""
EVENTS: tuple[str, ...]
"""What :meth:`Health.note` has done: nothing worth a word, ``ejected``, ``returned``."""

@type_check_only
class Reading(TypedDict):
    state: Literal["serving", "warming", "ejected", "probing"]
    seconds_left: float
    """Until the end of the ejection (0: a request may probe it), of the probe's lease, or of the warm-up."""
    share: float
    """What it is given, compared with others: 0.1 to 1."""
    failures: int
    """In a row, while it serves."""
    ejections: int
    """That count for the length of the next one."""

@final
class Outlier:
    """The rules of one server."""

    maximum_ejected_percent: float
    def __init__(
        self,
        *,
        failures: int = 3,
        base_ejection: float = 10.0,
        maximum_ejection: float = 300.0,
        maximum_ejected_percent: float = 50.0,
        slow_start: float = 30.0,
        probe_seconds: float = 120.0,
    ) -> None:
        """``failures`` in a row eject, 0 to 100; 0 turns ejection off. ``maximum_ejected_percent``: with more of a pool ejected, nobody is.
        ``slow_start``: seconds of the warm-up, 0 for none. ``probe_seconds``: after so long without an outcome a probe is taken for lost.

        Raises ValueError for what is out of range; no time may be longer than a day.
        """

@final
class Health:
    def __init__(self, memory: SharedMemory, row: int = -1) -> None:
        """``row`` is the worker's own; -1 for who claims no probe."""

    def begin(self, slot: int, generation: int, now: float) -> bool:
        """An endpoint is seen: whether it is for the first time by anybody, and warms up from now."""

    def note(
        self, slot: int, generation: int, outlier: Outlier, outcome: int, sent: float, now: float, probe: int = 0
    ) -> int:
        """Note an outcome (its place in :data:`OUTCOMES`) of a request that went out at ``sent``; ``probe`` is the token of its claim.

        Returns the place in :data:`EVENTS` of what follows. What was sent before an endpoint was ejected, or came back, changes nothing.
        """

    def claim(self, slot: int, generation: int, outlier: Outlier, now: float) -> int:
        """Claim the probe of an endpoint whose ejection is over: its token, 0 when there is none to claim."""

    def read(self, slot: int, generation: int, outlier: Outlier, now: float) -> Reading:
        """How an endpoint stands."""

    def clear_worker(self, worker: int, now: float) -> None:
        """Free the probes that a dead worker held."""
