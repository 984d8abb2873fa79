"""The simulator's engine, fast: a run of equal decode steps is one event.

Between two arrivals and ends of requests an engine that only decodes repeats one step: same requests, same seconds. ``SkippingEngine`` says
how often, and passes over all but the last; ``Replica`` keeps the time. Everything else is :class:`simulator.engine.Engine` itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.fleet.trace import Prompted
from simulator.engine import Engine, Profile, Request


@dataclass(slots=True, eq=False, kw_only=True)
class Sent(Request):
    """A request of the trace inside an engine."""

    prompted: Prompted
    gateway: int = 0
    arrival: float = 0.0
    """Seconds at which the gateway got it."""


class Scrape(NamedTuple):
    """What an engine's metrics page says, made into means since the scrape before as the gateway's scraper does."""

    running: int
    waiting: int
    kv_usage: float
    first_token_seconds: float = 0.0
    """Mean of the interval; 0 when no request had its first token in it."""
    inter_token_seconds: float = 0.0
    prefix_hit_ratio: float = 0.0
    computed_tokens: float = 0.0
    """Of prompts that were not cached, and of answers, in the interval."""


class SkippingEngine(Engine):
    """An engine that can take many decode steps at once. ``on_start``, ``on_computed``: what it tells of its requests."""

    def __init__(
        self,
        profile: Profile,
        on_start: Callable[[Request], None],
        on_computed: Callable[[Sequence[int]], None],
        record_events: bool = False,
    ) -> None:
        super().__init__(profile, record_events)
        self._on_start = on_start
        self._on_computed = on_computed

    @property
    def decoding(self) -> int:
        """Requests that the planned step decodes a token of."""
        return sum(not request.is_prefilling for request in self._step)

    def repeats(self) -> int:
        """How many steps like the planned one come in a row, itself included, when nobody arrives."""
        if any(request.is_prefilling for request in self._step):
            return 1
        most = min(request.output_length - request.generated for request in self._step)
        free = self.cache.free
        if self.growth(most) <= free:
            return most
        fits, fails = 1, most  # the planned step has its blocks
        while fails - fits > 1:
            middle = (fits + fails) // 2
            fits, fails = (middle, fails) if self.growth(middle) <= free else (fits, middle)
        return fits

    def growth(self, steps: int) -> int:
        """KV blocks that so many steps like the planned one need beyond those taken; the planned one counts as the first."""
        size = self.profile.block_size
        return sum(
            max(0, -(-(one.prompt_length + one.generated + steps - 1) // size) - len(one.held) - one.private)
            for one in self._step
            if not one.is_prefilling
        )

    def skip(self, steps: int) -> None:
        """So many of the repeated steps are over; the planned step is now the one after them."""
        if steps == 0:
            return
        size = self.profile.block_size
        self.cache.take(self.growth(steps + 1))
        for one in self._step:
            one.computed += steps
            one.generated += steps
            one.private += max(0, -(-(one.prompt_length + one.generated) // size) - len(one.held) - one.private)
        self.totals.generated_tokens += steps * len(self._step)

    def _admit(self, request: Request, now: float) -> bool:
        was_started = request.is_started
        admitted = super()._admit(request, now)
        if admitted and not was_started:
            self._on_start(request)
        return admitted

    def _publish(self, request: Request) -> None:
        held = len(request.held)
        super()._publish(request)
        if len(request.held) > held:
            self._on_computed(request.held[held:])


class Replica:
    """One engine on the fleet's clock."""

    def __init__(self, engine: SkippingEngine) -> None:
        self.engine = engine
        self.end = math.inf
        """Seconds at which the steps that run are over; infinite when it is idle."""
        self._start = 0.0
        self._seconds = 0.0
        self._repeats = 1
        self._decoding = 0
        self._first_tokens = [0.0, 0.0]
        self._gaps = [0.0, 0.0]
        self._prefilled = 0
        """Tokens of prompts that were not cached; engines count them when the first token comes."""
        self._seen: tuple[float, ...] = (0.0,) * 7

    def submit(self, request: Sent, now: float) -> None:
        """A request arrives: it is looked at when the step that runs is over."""
        self.engine.submit(request, now)
        if self.end == math.inf:
            self._plan(now)
        else:
            self._repeats = min(self._repeats, self._passed(now) + 1)
            self.end = self._start + self._repeats * self._seconds

    def advance(self) -> list[Request]:
        """The steps are over: who got a token by the last one. The next are planned."""
        now = self.end
        self.engine.skip(self._repeats - 1)
        self._gaps[0] += self._seconds * self._decoding * self._repeats
        self._gaps[1] += self._decoding * self._repeats
        produced = self.engine.complete(now)
        for request in produced:
            if request.generated == 1:
                self._first_tokens[0] += now - request.arrived
                self._first_tokens[1] += 1
                self._prefilled += request.prompt_length - request.cached
        self._plan(now)
        return produced

    def scrape(self, now: float) -> Scrape:
        """What its metrics page says now."""
        engine = self.engine
        steps = self._passed(now)
        used = engine.cache.used + (engine.growth(steps + 1) if steps else 0)
        decoded = steps * self._decoding
        totals = engine.totals
        seen = (
            *self._first_tokens,
            self._gaps[0] + decoded * self._seconds,
            self._gaps[1] + decoded,
            float(totals.prefix_hits),
            float(totals.prefix_queries),
            float(self._prefilled + totals.generated_tokens + decoded),
        )
        fresh = [new - old for new, old in zip(seen, self._seen, strict=True)]
        self._seen = seen
        means = [fresh[at] / fresh[at + 1] if fresh[at + 1] else 0.0 for at in (0, 2, 4)]
        return Scrape(len(engine.running), len(engine.waiting), used / engine.cache.capacity, *means, fresh[6])

    def computed_tokens(self, now: float) -> int:
        """Prompt tokens that it computed (not those found cached) and tokens that it generated, since the start."""
        totals = self.engine.totals
        return totals.prompt_tokens + totals.generated_tokens + self._passed(now) * self._decoding

    def _plan(self, now: float) -> None:
        self._seconds = self.engine.plan(now)
        self._start, self._repeats, self._decoding = now, 1, self.engine.decoding
        if self._seconds == 0:
            self.end = math.inf
            return
        self._repeats = self.engine.repeats()
        self.end = now + self._repeats * self._seconds

    def _passed(self, now: float) -> int:
        """Steps of the run that are over, the last one never included."""
        if self._repeats == 1:
            return 0
        return min(self._repeats - 1, int((now - self._start) / self._seconds))
