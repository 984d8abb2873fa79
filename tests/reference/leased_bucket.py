"""Twin of ``_fastpath.leased_bucket``: a keeper of leases on plain objects."""

from tests.reference.slots import identity_word
from tests.reference.token_bucket import FROZEN, Bucket, TokenBuckets

STANDINGS = ("unasked", "leased", "shared", "opened", "closed")


class LeasedBuckets:
    def __init__(self, buckets: TokenBuckets, count: int) -> None:
        self._buckets = buckets
        self._seen: list[tuple[object, ...] | None] = [None] * count

    def _of(self, index: int, identity: int) -> Bucket | None:
        bucket = self._buckets.at(index)
        return bucket if bucket.store and bucket.identity == identity_word(identity) else None

    @staticmethod
    def _tokens(bucket: Bucket) -> float:
        return (bucket.tolerance - (bucket.arrival - FROZEN)) / bucket.interval

    def changed(self) -> list[tuple[object, ...]]:
        found = []
        for index, seen in enumerate(self._seen):
            bucket = self._buckets.at(index)
            if not bucket.store or not bucket.configured:
                continue
            state = (bucket.arrival, bucket.place)
            if state == seen and not bucket.wanted:
                continue
            self._seen[index], wanted, bucket.wanted = state, bucket.wanted, 0
            assert bucket.identity is not None
            tokens, burst, interval = self._tokens(bucket), bucket.tolerance / bucket.interval, bucket.interval * 1e-9
            found.append((index, bucket.identity, bucket.store, bucket.key, tokens, burst, interval, wanted))
        return found

    def grant(self, index: int, identity: int, tokens: int) -> bool:
        if tokens < 0:
            raise ValueError
        bucket = self._of(index, identity)
        if bucket is not None:
            bucket.give(tokens, 0)
            self._seen[index] = None
        return bucket is not None

    def withdraw(self, index: int, identity: int, tokens: int) -> int:
        bucket = self._of(index, identity)
        there = min(int(self._tokens(bucket)), tokens) if bucket is not None and bucket.configured else 0
        if bucket is None or there <= 0 or bucket.take(there, 0) != 0:
            return 0
        self._seen[index] = None
        return there

    def tell(self, index: int, identity: int, standing: int, dry_until: int, elsewhere: float, shares: float) -> None:
        bucket = self._of(index, identity)
        if not 0 <= standing < len(STANDINGS):
            raise ValueError
        if bucket is not None:
            bucket.standing, bucket.dry_until = standing, dry_until
            bucket.elsewhere, bucket.shares = elsewhere, shares
