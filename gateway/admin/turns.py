"""Whether a request that is explained would have to wait: for others that do already, or since the places that are left are kept."""

from __future__ import annotations

from msgspec import Struct

from _fastpath.fair_share import FairShare
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import endpoint_identity
from gateway.scheduling.pool import ServerPool, reserved_of
from gateway.settings import Queue


class Turn(Struct, frozen=True):
    """How a request of one tenant stands to those of others that ask the same server."""

    is_waited: bool
    """Somebody waits for an endpoint, in whichever worker: it would wait in turn."""
    is_contested: bool
    """Several tenants asked of late: places are kept for those that had less than their share."""
    is_owed: bool
    """Its tenant is one of those: when its turn comes it may have a place that is kept, at once where nobody waits."""
    kept_places: int
    """Of each endpoint's ``maxInFlight``; 0 for none."""
    kept_prefill_seconds: float
    """Nor is a place free for others beyond half of ``maxInFlight`` while prompts take longer than this to compute; 0: no bound."""

    @property
    def is_narrow(self) -> bool:
        """Whether it would have to do without the places that are kept, as long as it is not owed one."""
        return self.is_contested and self.kept_places > 0


class Turns:
    """Looks on at the queues of all workers, and changes nothing there."""

    def __init__(self, memory: SharedMemory, queue: Queue) -> None:
        self._share = FairShare(memory, -1)
        self._queue = queue

    def of(self, pool: ServerPool, tenant: str, now: float) -> Turn:
        """The turn of a tenant's request (empty: where nobody is asked), at ``now`` in monotonic seconds."""
        server, waits = endpoint_identity(pool.name), self._queue.seconds > 0
        is_waited = self._share.is_waited(server, now)
        # while nobody waits all debts are forgiven
        is_owed = not is_waited or self._share.paid(server, endpoint_identity(tenant)) <= self._share.virtual_time(
            server
        )
        kept = reserved_of(pool.traffic.maximum_in_flight, self._queue.reserved_percent) if waits else 0
        return Turn(
            is_waited,
            waits and self._share.is_contested(server, now),
            is_owed,
            kept,
            self._queue.reserved_prefill_seconds if kept else 0.0,
        )
