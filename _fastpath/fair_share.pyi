"""What the workers' queues for a server have in common, so that a tenant's share is one over all of them.

Start-time fair queueing needs a virtual time, and what each tenant has paid ahead of it; both lie in shared memory, and so does who is
first in each worker's queue. Servers and tenants are 64-bit identities (:func:`_fastpath.slots.endpoint_identity` of their names). The
place of a server is one of 256, that of a tenant's debt one of 8,192: those that meet there share it.
"""

from typing import final

from _fastpath.shared_memory import SharedMemory

@final
class FairShare:
    FRESH_SECONDS: float
    """A head that its worker has not shown for so long counts no more: its worker is dead, or hangs."""
    CONTESTED_SECONDS: float
    """So long after one tenant asked after another a server is taken to have several."""
    def __init__(self, memory: SharedMemory, worker: int) -> None:
        """``worker``: the own one; -1 for who looks on and has no queue to show. IndexError for one that is none."""

    def join(self, server: int, tenant: int, tokens: float, credit: float, now: float) -> float:
        """A request of so many weighted tokens waits from now on (monotonic seconds): its tag. The smallest is next.

        ``credit``: so far may a tenant that had less than its share be behind the virtual time: what it may ask for at once.

        While nobody waits for the server in any worker all debts are forgiven. Raises ValueError for tokens or a credit below 0.
        """

    def leave(self, server: int, tenant: int, tag: float, tokens: float, credit: float) -> float:
        """A request that joined with this tag and tokens leaves and was not served: how much its tenant's debt is less for it.

        All of it, but for what has been forgiven meanwhile, since the virtual time has passed it by more than the ``credit``. Raises
        ValueError for tokens or a credit below 0.
        """

    def served(self, server: int, tag: float) -> None:
        """A request with this tag waits no more, since it has an endpoint."""

    def show(self, server: int, priority: int, tag: float, now: float) -> None:
        """Who is first in the own queue: to be said again at least every 20 ms while somebody waits. ValueError for who has none."""

    def hide(self, server: int) -> None:
        """Nobody waits in the own queue. ValueError for who has none."""

    def is_waited(self, server: int, now: float) -> bool:
        """Whether somebody waits in another worker."""

    def is_first(self, server: int, priority: int, tag: float, now: float) -> bool:
        """Whether nobody in another worker is before: none with a higher priority, or with the same and a smaller tag."""

    def note(self, server: int, tenant: int, now: float) -> None:
        """A tenant asks a server for something."""

    def is_contested(self, server: int, now: float) -> bool:
        """Whether several tenants asked a server of late."""

    def virtual_time(self, server: int) -> float:
        """The largest tag that was served: a tenant that has paid no more than this has had no more than its share."""

    def paid(self, server: int, tenant: int) -> float:
        """The tag that a tenant's next request would have at least: more than the virtual time for one that had its share."""

    def answered(self, server: int, session: int, now: float) -> None:
        """A session's request at the server is over (monotonic seconds). Later ones take the places of earlier ones, of 8,192."""

    def last_answer(self, server: int, session: int) -> float:
        """When that was, to the millisecond; 0 for a session of which nothing is remembered."""
