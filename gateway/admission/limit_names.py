"""What limits, and the stores that gateways share them in, are called in 64 bits; the same in every gateway."""

from __future__ import annotations

from _fastpath.hashing import Hasher
from gateway.datastore.model import Limit

FAILURES = ("local", "allow", "deny")
"""What becomes of a limit while its store is away, in the order of the places that a store's word has for them."""
_FAILURE_BITS = 2


class LimitNames:
    """Identities of buckets, keys in a store, and the words that stand for stores."""

    def __init__(self) -> None:
        self._hasher = Hasher((0x50656E73746F636B, 0x6C696D697473))

    def key(self, scope: str, limit: Limit, key: str) -> int:
        """What a limit counts, for all gateways. ``scope``: the route by ``namespace/name``, or what else has limits, in a word."""
        return self._hasher.seed(scope, limit.name, limit.kind, key)

    def identity(self, scope: str, limit: Limit, key: str) -> int:
        """The bucket in this gateway: another one when the limit moves to another store."""
        if not limit.store:
            return self.key(scope, limit, key)
        return self._hasher.seed(scope, limit.name, limit.kind, key, limit.store, limit.on_store_failure)

    def store(self, limit: Limit) -> int:
        """The word of a bucket for who fills it, 0 for time."""
        if not limit.store:
            return 0
        return self.address(limit.store) | (FAILURES.index(limit.on_store_failure) + 1)

    def address(self, address: str) -> int:
        """The word of a store, without what becomes of a limit while it is away."""
        return self._hasher.seed(address) >> _FAILURE_BITS << _FAILURE_BITS


def parted(store: int) -> tuple[int, str]:
    """Word of the store, and what becomes of the limit while it is away."""
    return store >> _FAILURE_BITS << _FAILURE_BITS, FAILURES[(store & ((1 << _FAILURE_BITS) - 1)) - 1]
