"""Our own scheduler, compiled, as a gateway uses it: in a shared memory of its own, with the settings' defaults.

Prompts are matched by text, as what was sent where (``Penstock``), or by what engines say they hold (``PenstockEvents``).
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from _fastpath.hashing import BlockHashes
from _fastpath.policy import Policy
from _fastpath.pool import Pool
from _fastpath.scheduler import Scheduler
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots
from bench.fleet.engine import Scrape
from bench.fleet.policies.base import Router, Setting
from bench.fleet.trace import Prompted
from gateway.scheduling.place import MEASURED_TOKENS

HASHED_TOKENS = 16
"""A gateway hashes blocks of 64 bytes; a token has about 4."""
EXPECTED_OUTPUT_TOKENS = 256
"""The setting's default: a trace does not say what its requests allowed."""
PREFIX_BYTES = 64 << 20
"""The setting's default."""
EVENT_SECONDS = 0.02
"""From an engine's KV event to the index: a batch, a socket, and the sidecar's loop."""
START = 1000.0
"""Seconds that are added to the virtual clock, since a scrape at 0 is none."""


class Penstock(Router):
    """``Scheduler.decide``, ``first_token`` and ``release``; metrics are written as the sidecar does."""

    learns = True
    """Whether a prompt is taken to be held where it was sent."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._folder = tempfile.TemporaryDirectory(prefix="penstock-fleet-")
        path = str(Path(self._folder.name) / "memory")
        memory = SharedMemory.create(
            path, workers=1, slots=max(64, setting.engines), buckets=1, journal_records=1, prefix_bytes=PREFIX_BYTES
        )
        slots = Slots(memory)
        self._slots = [slots.acquire(memory.workers, 2 * engine + 2) for engine in range(setting.engines)]
        self._scheduler = Scheduler(memory, 0, setting.seed)
        self._pool = Pool([(*slot, 1, 0) for slot in self._slots])
        self._policy = Policy()
        self._charged: dict[int, int] = {}
        """Prompt tokens, by the number of a request without its first token."""
        self._began: dict[int, float] = {}
        self._sent: dict[int, tuple[float, int]] = {}
        """When it was sent, and how many prompt tokens were computed until its first token."""

    def choose(self, request: Prompted, now: float) -> int:
        decision = self._scheduler.decide(
            self._pool,
            self._policy,
            self.hashes(request),
            request.prompt_tokens,
            EXPECTED_OUTPUT_TOKENS,
            now + START,
            learn=self.learns,
        )
        assert decision is not None, "no filter is on"
        engine, _, uncached = decision
        self._charged[request.number] = uncached
        self._began[request.number] = now
        self._sent[request.number] = now, self._scheduler.queued_tokens + uncached
        return engine

    def hashes(self, request: Prompted) -> BlockHashes:
        """The gateway's smaller blocks: as many for each block of the trace as it has of them."""
        values = self.parts(request.ids)
        return BlockHashes.of(
            values[: len(values) * request.prompt_tokens // (len(request.ids) * self.setting.block_size)]
        )

    def parts(self, ids: Sequence[int]) -> list[int]:
        """The smaller blocks of some blocks of the trace."""
        each = self.parts_of_a_block()
        return [one * each + part for one in ids for part in range(each)]

    def parts_of_a_block(self) -> int:
        """How many of the blocks that are hashed are in one of the trace."""
        return max(1, self.setting.block_size // HASHED_TOKENS)

    def first_token(self, request: Prompted, now: float) -> None:
        self._scheduler.first_token(
            self._pool, self.placed[request.number], self._charged.pop(request.number), now + START
        )
        sent, tokens = self._sent.pop(request.number)
        if tokens >= MEASURED_TOKENS and now > sent:
            self._scheduler.prefilled(self._pool, self.placed[request.number], tokens, now - sent)

    def ended(self, request: Prompted, engine: int, now: float) -> None:
        began = self._began.pop(request.number)
        if self.learns:
            self._scheduler.refresh(self._pool, engine, self.hashes(request), began + START, now + START)
        self._scheduler.release(self._pool, engine, 0, EXPECTED_OUTPUT_TOKENS)

    def scraped(self, engine: int, scrape: Scrape, now: float) -> None:
        self._scheduler.load.write_metrics(
            *self._slots[engine],
            scrape.running,
            scrape.waiting,
            scrape.kv_usage,
            scrape.first_token_seconds,
            scrape.inter_token_seconds,
            scrape.prefix_hit_ratio,
            now + START,
            kv_tokens=self.setting.kv_tokens,
            computed_tokens=scrape.computed_tokens,
        )

    def close(self) -> None:
        self._folder.cleanup()


class PenstockEvents(Penstock):
    """As with ``prefixCache.mode: tokens``: every gateway hears what every engine stores and lets go of, a moment later."""

    wants_events = True
    learns = False

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._heard: deque[tuple[float, int, bool, Sequence[int]]] = deque()
        """When it reaches the index, of which engine, whether it was stored, which blocks."""
        self._now = 0.0

    def parts_of_a_block(self) -> int:
        """Engines tell of their own blocks, and these are hashed."""
        return 1

    def choose(self, request: Prompted, now: float) -> int:
        self._now = now
        self._hear()
        return super().choose(request, now)

    def first_token(self, request: Prompted, now: float) -> None:
        self._now = now
        super().first_token(request, now)

    def ended(self, request: Prompted, engine: int, now: float) -> None:
        self._now = now
        super().ended(request, engine, now)

    def stored(self, engine: int, ids: Sequence[int]) -> None:
        self._heard.append((self._now + EVENT_SECONDS, engine, True, ids))

    def removed(self, engine: int, ids: Sequence[int]) -> None:
        self._heard.append((self._now + EVENT_SECONDS, engine, False, ids))

    def _hear(self) -> None:
        while self._heard and self._heard[0][0] <= self._now:
            time, engine, is_stored, ids = self._heard.popleft()
            slot = self._slots[engine][0]
            if is_stored:
                self._scheduler.prefixes.learn(BlockHashes.of(self.parts(ids)), slot, time + START)
            else:
                self._scheduler.prefixes.discard(BlockHashes.of(self.parts(ids)), slot)
