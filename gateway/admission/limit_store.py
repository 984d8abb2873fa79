"""What a store of limits that gateways share is asked, and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class StoreAway(Exception):
    """The store cannot be asked now; the message says why. Whether it has done what it was asked is not known."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What one gateway wants of one bucket, in this order: give tokens back, pay for others, lease as many as there are."""

    key: int
    interval: float
    """Seconds a token."""
    burst: float
    wanted: int = 0
    returned: int = 0
    owed: int = 0
    """Tokens that were spent while the store was away: taken even if they are not there."""
    born: int = 0
    """When the store made the bucket, as it said the last time; 0 when it was never asked."""
    debt: float = 0.0
    """Seconds until the bucket is full, as far as this gateway knows: what a store begins with that has forgotten the bucket."""


@dataclass(frozen=True, slots=True)
class Leased:
    """What a store answers."""

    granted: int
    left: float
    """Tokens that others may have; below zero in debt."""
    born: int


class LimitStore(Protocol):
    """A store. Each call ends within the store's own deadline, or raises StoreAway."""

    async def lease(self, asks: Sequence[Ask]) -> list[Leased]: ...

    async def beat(self) -> int:
        """Say that this gateway lives; how many do."""

    async def leave(self) -> None:
        """Say that it lives no more."""

    async def close(self) -> None: ...


class NoStore:
    """In place of a store that cannot even be looked for."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def lease(self, asks: Sequence[Ask]) -> list[Leased]:
        """Raises StoreAway."""
        raise StoreAway(self._reason)

    async def beat(self) -> int:
        """Raises StoreAway."""
        raise StoreAway(self._reason)

    async def leave(self) -> None:
        """Raises StoreAway."""
        raise StoreAway(self._reason)

    async def close(self) -> None:
        """Holds nothing."""
