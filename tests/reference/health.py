"""Plain-Python twin of ``_fastpath.health``: a record a slot, in whole milliseconds, and no packing into words."""

from dataclasses import dataclass, replace
from typing import TypedDict

from tests.reference.shared_memory import SharedMemory
from tests.reference.slots import Slots

OUTCOMES = ("neutral", "answers", "served", "failed")
EVENTS = ("", "ejected", "returned")
MOST_EJECTIONS = 31
DAY = 86400.0


class Reading(TypedDict):
    state: str
    seconds_left: float
    share: float
    failures: int
    ejections: int


def milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


class Outlier:
    """The rules of one server."""

    def __init__(
        self,
        *,
        failures: int = 3,
        base_ejection: float = 10.0,
        maximum_ejection: float = 300.0,
        maximum_ejected_percent: float = 50.0,
        slow_start: float = 30.0,
        probe_seconds: float = 120.0,
    ) -> None:
        times = (base_ejection, maximum_ejection, probe_seconds)
        in_range = all(0.001 <= one <= DAY for one in times) and 0 <= slow_start <= DAY
        if not (0 <= failures <= 100 and in_range and 0 <= maximum_ejected_percent <= 100):
            raise ValueError
        self.failures = failures
        self.base = milliseconds(base_ejection)
        self.longest = max(self.base, milliseconds(maximum_ejection))
        self.slow_start = milliseconds(slow_start)
        self.lease = milliseconds(probe_seconds)
        self.maximum_ejected_percent = maximum_ejected_percent

    def ejection(self, ejections: int) -> int:
        return min(self.longest, self.base * 2 ** max(0, ejections - 1))


@dataclass(frozen=True)
class Record:
    """``time``: since when it serves, until when it is out, until when its probe is waited for."""

    generation: int
    state: str = "serving"
    failures: int = 0
    ejections: int = 0
    time: int = 0
    prober: int = -1


class Health:
    def __init__(self, memory: SharedMemory, row: int = -1) -> None:
        if row >= memory.workers:
            raise IndexError
        self._row = row
        self._capacity = memory.slots
        self._slots = Slots(memory)
        self._records: dict[int, Record] = memory.part("health", dict)

    def _record(self, slot: int, generation: int, time: int = 0) -> Record:
        if slot >= self._capacity:
            raise IndexError
        found = self._records.get(slot)
        return found if found is not None and found.generation == generation else Record(generation, time=time)

    def begin(self, slot: int, generation: int, now: float) -> bool:
        self._record(slot, generation)
        known = slot in self._records and self._records[slot].generation == generation
        if known or not self._slots.is_live(slot, generation):
            return False
        self._records[slot] = Record(generation, "warming", time=milliseconds(now))
        return True

    def note(
        self, slot: int, generation: int, outlier: Outlier, outcome: int, sent: float, now: float, probe: int = 0
    ) -> int:
        record = self._record(slot, generation, milliseconds(sent))
        word = OUTCOMES[outcome] if 0 <= outcome < len(OUTCOMES) else None
        if word is None:
            raise ValueError
        if outlier.failures == 0 or not self._slots.is_live(slot, generation):
            return 0
        in_service = record.state in ("serving", "warming")
        change = _in_service if in_service else _out if record.state == "out" else _probed
        after = change(record, outlier, word, milliseconds(sent), milliseconds(now), probe)
        if after == record:
            return 0
        self._records[slot] = after
        if word == "failed" and after.state == "out":
            return EVENTS.index("ejected")
        return EVENTS.index("returned") if not in_service and after.state == "warming" else 0

    def claim(self, slot: int, generation: int, outlier: Outlier, now: float) -> int:
        record = self._record(slot, generation)
        moment = milliseconds(now)
        if self._row < 0 or record.state not in ("out", "probing") or moment < record.time:
            return 0
        until = moment + outlier.lease
        self._records[slot] = replace(record, state="probing", time=until, prober=self._row, failures=0)
        return token(until)

    def read(self, slot: int, generation: int, outlier: Outlier, now: float) -> Reading:
        record = self._record(slot, generation)
        since = milliseconds(now) - record.time
        state, left, share = "serving", 0, 1.0
        if record.state in ("out", "probing") and outlier.failures > 0:
            state = "probing" if record.state == "probing" and since < 0 else "ejected"
            left = max(0, -since)
        elif record.state == "warming" and since < outlier.slow_start:
            state, left = "warming", outlier.slow_start - max(0, since)
            share = (1 + 9 * max(0, since) // outlier.slow_start) / 10
        return Reading(
            state=state, seconds_left=left / 1000, share=share, failures=record.failures, ejections=record.ejections
        )

    def clear_worker(self, worker: int, now: float) -> None:
        for slot, record in self._records.items():
            if record.state == "probing" and record.prober == worker:
                self._records[slot] = replace(record, state="out", time=milliseconds(now), prober=-1)


def token(until: int) -> int:
    """What a prober holds: never 0."""
    return until | 1 << 36


def _ejected(record: Record, outlier: Outlier, now: int, ejections: int) -> Record:
    count = min(MOST_EJECTIONS, max(0, ejections) + 1)
    return Record(record.generation, "out", ejections=count, time=now + outlier.ejection(count))


def _returned(record: Record, outlier: Outlier, word: str, now: int) -> Record:
    failures = outlier.failures - 1 if word == "answers" else 0
    return Record(record.generation, "warming", failures, record.ejections, now)


def _in_service(record: Record, outlier: Outlier, word: str, sent: int, now: int, probe: int) -> Record:
    if sent < record.time and not probe:
        return record
    if word == "failed" and record.failures + 1 < outlier.failures:
        return replace(record, failures=record.failures + 1)
    if word == "failed":
        return _ejected(record, outlier, now, record.ejections - max(0, now - record.time) // outlier.longest)
    if word == "served":
        is_warm = now - record.time >= outlier.slow_start
        return replace(record, failures=0, state="serving" if is_warm else record.state)
    return record


def _out(record: Record, outlier: Outlier, word: str, sent: int, now: int, _probe: int) -> Record:
    is_news = sent >= record.time - outlier.ejection(record.ejections)
    return _returned(record, outlier, word, now) if word in ("answers", "served") and is_news else record


def _probed(record: Record, outlier: Outlier, word: str, sent: int, now: int, probe: int) -> Record:
    if word in ("answers", "served"):
        is_news = probe or sent >= record.time - outlier.lease
        return _returned(record, outlier, word, now) if is_news else record
    if probe != token(record.time):
        return record
    if word == "failed":
        return _ejected(record, outlier, now, record.ejections)
    return Record(record.generation, "out", ejections=record.ejections, time=now)
