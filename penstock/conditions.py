"""What the conditions of an object come to: whether it is ready, and the first reason why not."""

from __future__ import annotations

from typing import Any

UNHARMFUL = "Honoured"
"""Fields without effect are worth a reason, and the object is ready all the same."""


def with_conditions(rows: list[dict[str, Any]], objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Rows of ``/debug/state`` with what the controllers say of their objects (None of all where they say nothing)."""
    said = {one["name"]: one for one in objects if one["kind"] == kind}
    return [row | _summary(said.get(row["name"])) for row in rows]


def _summary(said: dict[str, Any] | None) -> dict[str, Any]:
    if said is None:
        return {"ready": None, "reason": None, "generation": None, "observedGeneration": None, "conditions": []}
    parts = {name: said[name] for name in ("generation", "observedGeneration", "conditions")}
    if said["observedGeneration"] < said["generation"]:
        return {"ready": "Unknown", "reason": "Pending", **parts}
    lacking = [one for one in said["conditions"] if one["status"] != "True"]
    ready = not any(one["type"] != UNHARMFUL for one in lacking)
    # what keeps it from being ready is said before what does not
    lacking.sort(key=lambda one: one["type"] == UNHARMFUL)
    return {"ready": str(ready), "reason": lacking[0]["reason"] if lacking else None, **parts}
