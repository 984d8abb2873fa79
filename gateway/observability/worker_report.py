"""What a worker says of itself beside its numbers in shared memory: who waits for what, and how its issuer's keys stand.

A file a worker in the run directory, written at most once a second and only when it says something else, and read when the admin port is
asked. It names its process: what a dead worker left there says nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from gateway.scheduling.waiting_room import MOST_TENANTS


class Report(Struct, frozen=True):
    """The document. ``queues``: of :meth:`WaitingRoom.report`; ``issuer``: of :meth:`IssuerKeys.report`, None without an issuer."""

    process: int = 0
    queues: list[dict[str, Any]] = []
    issuer: dict[str, Any] | None = None


class Reporter:
    """Writes the report of one worker."""

    def __init__(self, directory: Path, index: int) -> None:
        self._path = path_of(directory, index)
        self._written = b""

    def write(self, report: Report) -> None:
        """Write it if it is another than the last. Raises OSError."""
        content = msgspec.json.encode(report)
        if content == self._written:
            return
        draft = self._path.with_suffix(f".{os.getpid()}")
        draft.write_bytes(content)
        draft.replace(self._path)
        self._written = content


def path_of(directory: Path, index: int) -> Path:
    """Where a worker's report is."""
    return directory / f"worker-{index}.json"


def read(directory: Path, index: int, process: int) -> Report:
    """What the worker with this process id says; an empty report while it has said nothing."""
    try:
        found = msgspec.json.decode(path_of(directory, index).read_bytes(), type=Report)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return Report()
    return found if found.process == process else Report()


def merged(reports: list[Report]) -> list[dict[str, Any]]:
    """The queues of all workers, by server: those of one tenant together, and the longest of the times."""
    servers: dict[str, dict[str, Any]] = {}
    for queue in (queue for report in reports for queue in report.queues):
        one = servers.setdefault(
            queue["server"],
            {"server": queue["server"], "waiting": 0, "estimated_seconds": 0.0, "tenants": {}, "waiting_of_others": 0},
        )
        one["waiting"] += queue["waiting"]
        one["waiting_of_others"] += queue["waiting_of_others"]
        one["estimated_seconds"] = max(one["estimated_seconds"], queue["estimated_seconds"])
        for tenant in queue["tenants"]:
            count, longest = one["tenants"].get(tenant["tenant"], (0, 0.0))
            one["tenants"][tenant["tenant"]] = (count + tenant["waiting"], max(longest, tenant["longest_seconds"]))
    return [_bounded(one) for one in servers.values()]


def _bounded(queue: dict[str, Any]) -> dict[str, Any]:
    tenants = sorted(queue["tenants"].items(), key=lambda one: -one[1][0])
    named = [
        {"tenant": tenant, "waiting": count, "longest_seconds": longest}
        for tenant, (count, longest) in tenants[:MOST_TENANTS]
    ]
    others = sum(count for _, (count, _) in tenants[MOST_TENANTS:])
    return queue | {"tenants": named, "waiting_of_others": queue["waiting_of_others"] + others}
