"""Twin of ``_fastpath.shared_memory``: the file's layout in plain numbers, and its parts as Python objects."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict, TypeVar, cast

STATES = ("starting", "serving", "draining")
MASK = (1 << 64) - 1
PAGE = 4096
MAGIC = int.from_bytes(b"PENSTOCK", "little")
LAYOUT_VERSION = 9
FIELDS = (
    "magic",
    "layout_version",
    "size",
    "checksum",
    "hash_key_low",
    "hash_key_high",
    "workers",
    "slots",
    "buckets",
    "journal_records",
    "prefix_entries",
    "counter_series",
    "counter_cells",
    "worker_rows_at",
    "slots_at",
    "load_at",
    "metrics_at",
    "buckets_at",
    "journals_at",
    "prefix_at",
    "counters_at",
    "health_at",
    "adapters_at",
    "fair_at",
    "lengths_at",
)
HEADER = struct.Struct(f"<{len(FIELDS)}Q")

Part = TypeVar("Part")


class WorkerRow(TypedDict):
    process: int
    started: int
    heartbeat: int
    state: str
    epoch: int
    sequence: int
    applied: int
    in_flight: int
    resident: int
    loop_lag: int
    waiting: int


def checksum(header: dict[str, int]) -> int:
    """Over every field after the checksum itself."""
    total = 0x9E3779B97F4A7C15
    for field in FIELDS[FIELDS.index("checksum") + 1 :]:
        total = ((total ^ header[field]) * 0xD6E8FEB86659FD93) & MASK
        total ^= total >> 32
    return total


def read_header(path: str | Path) -> dict[str, int]:
    """The header of a file, field by field."""
    with Path(path).open("rb") as file:
        return dict(zip(FIELDS, HEADER.unpack(file.read(HEADER.size)), strict=True))


def write_header(path: str | Path, header: dict[str, int]) -> None:
    """Overwrite the header of a file, as damage or another version of Penstock would."""
    with Path(path).open("r+b") as file:
        file.write(HEADER.pack(*(header[field] for field in FIELDS)))


def lay_out(
    *,
    workers: int,
    slots: int = 8192,
    buckets: int = 4096,
    journal_records: int = 4096,
    prefix_bytes: int = 64 << 20,
    counter_series: int = 1024,
    counter_cells: int = 65536,
) -> dict[str, int]:
    """The fields of the header that follow from the sizes: each part starts at a page of its own."""
    slots = -(-slots // 64) * 64
    prefix_entries = prefix_bytes // (8 * 24) * 8
    header = {
        "workers": workers,
        "slots": slots,
        "buckets": buckets,
        "journal_records": journal_records,
        "prefix_entries": prefix_entries,
        "counter_series": counter_series,
        "counter_cells": counter_cells,
    }
    parts = {
        "worker_rows_at": (workers + 1) * 128,
        "slots_at": 64 + slots * 16 + (workers + 1) * slots,
        "load_at": workers * slots * 72,
        "metrics_at": slots * 128,
        "buckets_at": 64 + buckets * 448,
        "journals_at": workers * journal_records * 400,
        "prefix_at": 64 + prefix_entries * 24,
        "counters_at": workers * (64 + counter_series * 320 + counter_cells * 8),
        "health_at": slots * 8,
        "adapters_at": slots * 256,
        "fair_at": 256 * (64 + workers * 32) + 2 * 8192 * 8,
        "lengths_at": 512 * 8 * 8,
    }
    end = PAGE
    for name, size in parts.items():
        header[name] = end
        end += -(-size // PAGE) * PAGE
    header["size"] = end
    return header


def empty_row() -> WorkerRow:
    return WorkerRow(
        process=0,
        started=0,
        heartbeat=0,
        state=STATES[0],
        epoch=0,
        sequence=0,
        applied=0,
        in_flight=0,
        resident=0,
        loop_lag=0,
        waiting=0,
    )


class SharedMemory:
    """What one file holds. The other twins keep their state in a part of it, as the compiled modules do."""

    def __init__(self, *, workers: int, slots: int = 64, buckets: int = 8, journal_records: int = 8) -> None:
        self.workers = workers
        self.slots = -(-slots // 64) * 64
        self.buckets = buckets
        self.journal_records = journal_records
        self._rows = [empty_row() for _ in range(workers + 1)]
        self._parts: dict[str, object] = {}

    def part(self, name: str, make: Callable[[], Part]) -> Part:
        """State that all twins over this memory share, made by the first who asks."""
        if name not in self._parts:
            self._parts[name] = make()
        return cast(Part, self._parts[name])

    def claim_row(self, index: int, process: int, started: int) -> None:
        self._rows[index] = empty_row()
        self._rows[index].update({"process": process, "started": started})

    def release_row(self, index: int) -> None:
        self._rows[index].update({"process": 0, "state": STATES[0], "in_flight": 0, "heartbeat": 0})

    def beat(self, index: int, now: int, in_flight: int, resident: int, loop_lag: int, waiting: int = 0) -> None:
        self._rows[index].update(
            {"heartbeat": now, "in_flight": in_flight, "resident": resident, "loop_lag": loop_lag, "waiting": waiting}
        )

    def set_state(self, index: int, state: int) -> None:
        self._rows[index]["state"] = STATES[state]

    def set_snapshot(self, index: int, epoch: int, sequence: int, now: int) -> None:
        self._rows[index].update({"epoch": epoch, "sequence": sequence, "applied": now})

    def read_row(self, index: int) -> WorkerRow:
        return self._rows[index].copy()
