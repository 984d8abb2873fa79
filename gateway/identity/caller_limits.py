"""The limits that a caller is held to over all routes: its tenant's, and its API key's."""

from __future__ import annotations

from typing import Literal, NamedTuple

from gateway.datastore.model import Limit

Scope = Literal["tenant", "key"]


class CallerLimit(NamedTuple):
    """One limit, and who has a bucket of it: the tenant by its name, or an API key by its SHA-256."""

    scope: Scope
    holder: str
    limit: Limit


class CallerLimits:
    """All limits of one tenant, or of one API key with its tenant's: at least one.

    ``name``: the same for all callers that have the same limits by the same reading of the files, and for no others. ``generation``: when
    the files were read, in monotonic nanoseconds; what was read later counts.
    """

    __slots__ = ("generation", "limits", "name")

    def __init__(self, name: str, generation: int, limits: tuple[CallerLimit, ...]) -> None:
        self.name = name
        self.generation = generation
        self.limits = limits
