"""Twin of ``_fastpath.load``: a dict of cells for each worker, and a dict of scrapes."""

from dataclasses import dataclass
from math import inf
from typing import TypedDict

from tests.reference.shared_memory import SharedMemory
from tests.reference.slots import Slots

KEPT = 0.97
TICKS = 8
RECENT_SECONDS = 90


class EngineMetrics(TypedDict):
    running: float
    waiting: float
    kv_usage: float
    first_token_seconds: float
    inter_token_seconds: float
    prefix_hit_ratio: float
    time: float
    others: float
    kv_tokens: float


def faded(recent: tuple[int, float], now: float) -> float:
    """Of so many eighths of a second and tokens: the tokens that still count."""
    ticks, tokens = recent
    return tokens * (1 / (1 + max(0.0, now * TICKS - ticks) * (1 / (TICKS * RECENT_SECONDS))))


@dataclass
class Cell:
    """What one worker has sent to one endpoint."""

    generation: int = 0
    in_flight: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    spent_tokens: float = 0.0
    spent_seconds: float = 0.0
    began: float = 0.0
    """When its outstanding prefill was charged into none; 0 when that is not known, or a first token has come since."""
    first_token: float = 0.0
    """When the last one came, 0 for none since ``began``."""
    recent: tuple[int, int] = (0, 0)
    """Eighths of a second, and tokens to compute."""
    asked: float = 0.0
    """Requests, as of the same moment."""

    def faded(self, now: float) -> float:
        """Tokens sent lately."""
        return faded(self.recent, now)


class Load:
    def __init__(self, memory: SharedMemory, row: int = -1) -> None:
        if row >= memory.workers:
            raise IndexError
        self._row = row
        self._capacity = memory.slots
        self._slots = Slots(memory)
        self._cells: list[dict[int, Cell]] = memory.part("load", lambda: [{} for _ in range(memory.workers)])
        self._metrics: dict[int, tuple[int, EngineMetrics]] = memory.part("metrics", dict)
        self._others: dict[int, tuple[int, float]] = memory.part("others", dict)
        self._computed: dict[int, tuple[int, tuple[int, int]]] = memory.part("computed", dict)

    def _own(self, slot: int) -> Cell:
        if self._row < 0:
            raise ValueError
        self._check(slot)
        return self._cells[self._row].setdefault(slot, Cell())

    def _check(self, slot: int) -> None:
        if slot >= self._capacity:
            raise IndexError

    def charge(self, slot: int, generation: int, prefill_tokens: int, decode_tokens: int, now: float = 0.0) -> bool:
        cell = self._own(slot)
        if not self._slots.is_live(slot, generation):
            return False
        if cell.generation != generation:
            cell = self._cells[self._row][slot] = Cell(generation)
        if now > 0:
            tokens = min(max(0.0, cell.faded(now) + prefill_tokens + decode_tokens), 2**32 - 1)
            cell.asked = faded((cell.recent[0], cell.asked), now) + 1
            cell.recent = int(now * TICKS) % 2**32, int(tokens)
        if cell.prefill_tokens == 0:
            cell.began, cell.first_token = now, 0.0
        cell.in_flight += 1
        cell.prefill_tokens += prefill_tokens
        cell.decode_tokens += decode_tokens
        return True

    def first_token(self, slot: int, generation: int, prefill_tokens: int, now: float = 0.0) -> bool:
        cell = self._own(slot)
        if cell.generation != generation:
            return False
        cell.prefill_tokens = max(0, cell.prefill_tokens - prefill_tokens)
        cell.began, cell.first_token = 0.0, now
        return True

    def _cells_of(self, slot: int, generation: int) -> list[Cell]:
        self._check(slot)
        return [cells[slot] for cells in self._cells if slot in cells and cells[slot].generation == generation]

    def read_prefill_since(self, slot: int, generation: int) -> float:
        cells = self._cells_of(slot, generation)
        if all(cell.prefill_tokens == 0 for cell in cells):
            return 0.0
        begun = [cell.began for cell in cells if cell.began > 0 and cell.prefill_tokens > 0]
        return max(min(begun, default=0.0), *(cell.first_token for cell in cells))

    def read_recent(self, slot: int, generation: int, now: float) -> float:
        return sum(cell.faded(now) for cell in self._cells_of(slot, generation))

    def read_recent_requests(self, slot: int, generation: int, now: float) -> float:
        return sum(faded((cell.recent[0], cell.asked), now) for cell in self._cells_of(slot, generation))

    def read_computed(self, slot: int, generation: int, now: float) -> float:
        self._check(slot)
        written, recent = self._computed.get(slot, (None, (0, 0)))
        return faded(recent, now) if written == generation else 0.0

    def prefilled(self, slot: int, generation: int, tokens: float, seconds: float) -> bool:
        cell = self._own(slot)
        if not 0 <= tokens < inf or not 0 < seconds < inf or cell.generation != generation:
            return False
        cell.spent_tokens = cell.spent_tokens * KEPT + tokens
        cell.spent_seconds = cell.spent_seconds * KEPT + seconds
        return True

    def read_prefills(self, slot: int, generation: int) -> tuple[float, float]:
        cells = self._cells_of(slot, generation)
        return sum(cell.spent_tokens for cell in cells), sum(cell.spent_seconds for cell in cells)

    def release(self, slot: int, generation: int, prefill_tokens: int, decode_tokens: int) -> bool:
        cell = self._own(slot)
        if cell.generation != generation or cell.in_flight == 0:
            return False
        cell.in_flight -= 1
        cell.prefill_tokens = max(0, cell.prefill_tokens - prefill_tokens)
        cell.decode_tokens = max(0, cell.decode_tokens - decode_tokens)
        return True

    def read(self, slot: int, generation: int) -> tuple[int, int, int]:
        cells = self._cells_of(slot, generation)
        return (
            sum(cell.in_flight for cell in cells),
            sum(cell.prefill_tokens for cell in cells),
            sum(cell.decode_tokens for cell in cells),
        )

    def clear_worker(self, worker: int) -> None:
        if worker >= len(self._cells):
            raise IndexError
        for slot, cell in self._cells[worker].items():
            self._cells[worker][slot] = Cell(
                cell.generation,
                spent_tokens=cell.spent_tokens,
                spent_seconds=cell.spent_seconds,
                recent=cell.recent,
                asked=cell.asked,
            )

    def worker_in_flight(self, worker: int) -> int:
        if worker >= len(self._cells):
            raise IndexError
        return sum(cell.in_flight for cell in self._cells[worker].values())

    def write_metrics(
        self,
        slot: int,
        generation: int,
        running: float,
        waiting: float,
        kv_usage: float,
        first_token_seconds: float,
        inter_token_seconds: float,
        prefix_hit_ratio: float,
        now: float,
        in_flight_before: int = 0,
        kv_tokens: float = 0.0,
        computed_tokens: float = 0.0,
    ) -> bool:
        self._check(slot)
        if not self._slots.is_live(slot, generation):
            return False
        others = max(0.0, running + waiting - max(in_flight_before, self.read(slot, generation)[0]))
        before = self._others[slot][1] if self._others.get(slot, (None, 0.0))[0] == generation else inf
        self._others[slot] = generation, others
        scrape = EngineMetrics(
            running=running,
            waiting=waiting,
            kv_usage=kv_usage,
            first_token_seconds=first_token_seconds,
            inter_token_seconds=inter_token_seconds,
            prefix_hit_ratio=prefix_hit_ratio,
            time=now,
            others=min(others, before),
            kv_tokens=kv_tokens,
        )
        self._metrics[slot] = (generation, scrape)
        tokens = self.read_computed(slot, generation, now) + max(0.0, computed_tokens)
        self._computed[slot] = generation, (int(now * TICKS) % 2**32, int(min(tokens, 2**32 - 1)))
        return True

    def read_metrics(self, slot: int, generation: int) -> EngineMetrics | None:
        self._check(slot)
        written, scrape = self._metrics.get(slot, (None, None))
        return scrape if written == generation else None
