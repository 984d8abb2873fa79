"""A limit as it is written, in a ModelRoute and for a tenant or an API key: so many tokens or requests in a unit of time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from msgspec import Struct

from gateway.datastore.model import Kind, Limit

Unit = Literal["second", "minute", "hour", "day", "month"]
OnStoreFailure = Literal["allow", "deny", "local"]
LARGEST_AMOUNT = 10**15
LONGEST_FILL_SECONDS = 4 * 365 * 86_400.0
UNIT_SECONDS: dict[Unit, float] = {
    "second": 1.0,
    "minute": 60.0,
    "hour": 3600.0,
    "day": 86_400.0,
    "month": 30 * 86_400.0,
}


class LimitSpec(Struct, frozen=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """Any of its three amounts in a unit of time; ``burst`` defaults to the amount."""

    name: str
    unit: Unit = "second"
    input_tokens: int | None = None
    output_tokens: int | None = None
    requests: int | None = None
    burst: int | None = None

    def amounts(self) -> list[tuple[Kind, str, int]]:
        """Those that are given, each with what it counts and the field that says it."""
        given: list[tuple[Kind, str, int | None]] = [
            ("input", "inputTokens", self.input_tokens),
            ("output", "outputTokens", self.output_tokens),
            ("requests", "requests", self.requests),
        ]
        return [(kind, field, amount) for kind, field, amount in given if amount is not None]

    def limits(self, store: str = "", on_store_failure: OnStoreFailure = "local") -> Iterator[Limit]:
        """A limit for each amount. ``store``: address of the Redis that gateways share it in, empty for none."""
        for kind, _, amount in self.amounts():
            yield Limit(
                name=self.name,
                kind=kind,
                amount=float(amount),
                seconds=UNIT_SECONDS[self.unit],
                burst=float(amount if self.burst is None else self.burst),
                store=store,
                on_store_failure=on_store_failure if store else "local",
            )


def amount_faults(field: str, amount: int | None) -> Iterator[tuple[str, str]]:
    """Where an amount is wrong, and what to do."""
    if amount is not None and not 1 <= amount <= LARGEST_AMOUNT:
        yield field, f"must be 1 to {LARGEST_AMOUNT}, not {amount}"


def limit_faults(listed: Sequence[LimitSpec]) -> Iterator[tuple[str, str]]:
    """What is wrong with a list of limits: the path within it (``[0].burst``), and what to do."""
    names = set()
    for position, one in enumerate(listed):
        here = f"[{position}]"
        amounts = one.amounts()
        if not amounts:
            yield here, "give at least one of `inputTokens`, `outputTokens` and `requests`"
        faults = [fault for _, field, amount in amounts for fault in amount_faults(f"{here}.{field}", amount)]
        faults += amount_faults(f"{here}.burst", one.burst)
        yield from faults
        if one.burst is not None and amounts and not faults:
            smallest = min(amount for *_, amount in amounts)
            if one.burst / smallest * UNIT_SECONDS[one.unit] > LONGEST_FILL_SECONDS:
                yield f"{here}.burst", f"{one.burst} take more than four years to flow in: make it smaller"
        if one.name in names:
            yield f"{here}.name", f"`{one.name}` stands twice"
        names.add(one.name)
