"""What a gateway's policy is asked and told, and what most of them keep."""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.fleet.engine import Scrape
from bench.fleet.trace import Prompted


@dataclass(frozen=True, slots=True)
class Setting:
    """What a policy may know of the fleet before the first request."""

    engines: int
    block_size: int
    """Tokens of the block that an id of the trace stands for."""
    kv_tokens: int
    """KV cache of an engine."""
    seed: int = 0


class Router:
    """One gateway: chooses an engine for each request that it gets, and is told what comes of it. Times in virtual seconds."""

    scrape_seconds = 1.0
    """How often it reads its engines' metrics; infinite for who never does."""
    wants_events = False
    """Whether it listens to its engines' KV events."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.random = random.Random(setting.seed)
        self.in_flight = [0] * setting.engines
        """Requests that it sent and that are not over."""
        self.placed: dict[int, int] = {}
        """Engine, by the number of a request in flight."""
        self.scrapes = [Scrape(0, 0, 0.0)] * setting.engines

    def choose(self, request: Prompted, now: float) -> int:
        """The engine for it. Nothing of the request is counted yet."""
        raise NotImplementedError

    def sent(self, request: Prompted, engine: int, now: float) -> None:
        """It goes there."""

    def ended(self, request: Prompted, engine: int, now: float) -> None:
        """Its last token has come."""

    def first_token(self, request: Prompted, now: float) -> None:
        """Its first token has come."""

    def stored(self, engine: int, ids: Sequence[int]) -> None:
        """KV event: blocks that the engine can reuse from now on."""

    def removed(self, engine: int, ids: Sequence[int]) -> None:
        """KV event: blocks that the engine holds no more."""

    def close(self) -> None:
        """The run is over."""

    def route(self, request: Prompted, now: float) -> int:
        """Choose an engine, and count the request."""
        engine = self.choose(request, now)
        self.in_flight[engine] += 1
        self.placed[request.number] = engine
        self.sent(request, engine, now)
        return engine

    def finish(self, request: Prompted, now: float) -> None:
        """The request is over."""
        engine = self.placed.pop(request.number)
        self.in_flight[engine] -= 1
        self.ended(request, engine, now)

    def scraped(self, engine: int, scrape: Scrape, now: float) -> None:
        """What the engine's metrics page says."""
        self.scrapes[engine] = scrape

    def lowest(self, values: Sequence[float], among: Iterable[int] | None = None) -> int:
        """The engine with the lowest value; one at random of those that are equal."""
        candidates = range(len(values)) if among is None else list(among)
        low = min(values[one] for one in candidates)
        return self.random.choice([one for one in candidates if values[one] == low])

    def highest(self, values: Sequence[float], among: Iterable[int] | None = None) -> int:
        """The engine with the highest value; one at random of those that are equal."""
        return self.lowest([-one for one in values], among)


class Blind(Router):
    """A gateway that goes by what it sent, and reads no metrics."""

    scrape_seconds = math.inf


class Prefixes:
    """Which engine is believed to hold which block: an LRU for each engine, of so many blocks (None: no bound)."""

    def __init__(self, engines: int, capacity: int | None = None) -> None:
        self._capacity = capacity
        self._held: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(engines)]
        self._holders: dict[int, int] = {}
        """A bit for each engine, by block."""

    def learn(self, engine: int, ids: Sequence[int]) -> None:
        """The engine holds these blocks. The first are the youngest: a prefix outlives what continues it."""
        held = self._held[engine]
        for one in reversed(ids):
            held[one] = None
            held.move_to_end(one)
            self._holders[one] = self._holders.get(one, 0) | 1 << engine
        while self._capacity is not None and len(held) > self._capacity:
            self._forget_holder(engine, held.popitem(last=False)[0])

    def forget(self, engine: int, ids: Iterable[int]) -> None:
        """The engine holds these blocks no more."""
        for one in ids:
            if one in self._held[engine]:
                del self._held[engine][one]
                self._forget_holder(engine, one)

    def holds(self, engine: int, one: int) -> bool:
        """Whether the engine has this block."""
        return bool(self._holders.get(one, 0) >> engine & 1)

    def match(self, ids: Sequence[int]) -> list[int]:
        """How many blocks from the first each engine holds."""
        lengths = [0] * len(self._held)
        alive = (1 << len(self._held)) - 1
        for at, one in enumerate(ids):
            left = alive & self._holders.get(one, 0)
            _set_bits(lengths, alive & ~left, at)
            alive = left
            if not alive:
                return lengths
        _set_bits(lengths, alive, len(ids))
        return lengths

    def _forget_holder(self, engine: int, one: int) -> None:
        left = self._holders[one] & ~(1 << engine)
        if left:
            self._holders[one] = left
        else:
            del self._holders[one]


def _set_bits(lengths: list[int], bits: int, length: int) -> None:
    while bits:
        lengths[(bits & -bits).bit_length() - 1] = length
        bits &= bits - 1


def matched_tokens(request: Prompted, blocks: int, block_size: int) -> int:
    """Prompt tokens in so many of its first blocks."""
    return min(blocks * block_size, request.prompt_tokens)
