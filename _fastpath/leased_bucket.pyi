"""Token buckets that are filled by leases, for their one keeper."""

from typing import final

from _fastpath.token_bucket import TokenBuckets

STANDINGS: tuple[str, ...]
"""How the store of a bucket stands: ``unasked``, ``leased``, and while it is away ``shared``, ``opened`` or ``closed``."""

@final
class LeasedBuckets:
    def __init__(self, buckets: TokenBuckets) -> None: ...
    def changed(self) -> list[tuple[int, int, int, int, float, float, float, int]]:
        """The leased buckets that were changed since the last call, by others or the keeper, or that more is wanted for.

        Each one's place, identity, store and key; the tokens that are there (below zero in debt), its burst, the seconds a token; and the
        tokens that were refused and asked for since the last call.
        """

    def grant(self, index: int, identity: int, tokens: int) -> bool:
        """Put leased tokens into a bucket; False when it was given to another identity, and nothing is put there."""

    def withdraw(self, index: int, identity: int, tokens: int) -> int:
        """Take tokens out again, as many as are there: how many that was, none from a bucket of another identity."""

    def tell(self, index: int, identity: int, standing: int, dry_until: int, elsewhere: float, shares: float) -> None:
        """Say how the store stands: a place in STANDINGS, the monotonic nanoseconds before which it has nothing, the tokens that it had
        left, and by how much a wait is longer than at the whole rate.
        """
