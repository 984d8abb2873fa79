"""A choice in a few words, for the access log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson

from gateway.scheduling.pool import ServerPool

if TYPE_CHECKING:
    from _fastpath.pool import Explanation

MOST_CANDIDATES = 16
"""The best ones; how many there were in all is said as well."""


def describe(server: ServerPool, seen: Sequence[Explanation], chosen: int, blocks: int) -> bytes:
    """JSON: who was chosen, who would have been next, and the best candidates with what mattered. ``chosen``: position in the pool."""
    names = [placed.endpoint.name for placed in server.endpoints]
    order = sorted(
        (place for place, row in enumerate(seen) if not row["filtered"]),
        key=lambda place: (place != chosen, -(seen[place]["score"] or 0.0)),
    )
    document: dict[str, Any] = {
        "policy": server.server.scheduling.policy,
        "chosen": names[chosen],
        "runner_up": names[order[1]] if len(order) > 1 else None,
        "blocks": blocks,
        "endpoints": len(seen),
        "candidates": [_candidate(names[place], seen[place]) for place in order[:MOST_CANDIDATES]],
    }
    filtered = [row["filtered"] for row in seen if row["filtered"]]
    if filtered:
        document["filtered"] = {reason: filtered.count(reason) for reason in sorted(set(filtered))}
    return orjson.dumps(document)


def _candidate(name: str, row: Explanation) -> dict[str, Any]:
    return {
        "endpoint": name,
        "score": round(row["score"] or 0.0, 6),
        "matched_blocks": row["matched_blocks"],
        "in_flight": row["in_flight"],
        "prefill_tokens": row["prefill_tokens"],
    }
