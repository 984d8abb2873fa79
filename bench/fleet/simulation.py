"""The fleet: arrivals, engines and scrapes on one virtual clock."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.fleet.engine import Replica, Sent, SkippingEngine
from bench.fleet.measures import Outcome, window_edges
from bench.fleet.oracle import Oracle
from bench.fleet.policies.base import Router
from bench.fleet.trace import Trace
from simulator.engine import Profile, Request
from simulator.kv_cache import Stored

Progress = Callable[[int, int], None]
_REPORTS = 20


@dataclass(frozen=True, slots=True)
class Fleet:
    """What serves: equal engines."""

    engines: int
    profile: Profile


def default_profile(block_size: int) -> Profile:
    """The engine of all published figures: the simulator's defaults, in blocks of the trace's size.

    Ids say nothing of what is equal within a block, so smaller blocks would find no more; larger ones only count memory coarser.
    """
    return Profile(
        prefill_tokens_per_second=8000.0,
        step_tokens=2048,
        step_seconds=0.006,
        decode_seconds=0.00035,
        running_requests=256,
        kv_tokens=524_288,
        block_size=block_size,
    )


@dataclass(slots=True)
class Simulation:
    """One replay of a trace. Make one, and :meth:`run` it once."""

    fleet: Fleet
    trace: Trace
    rate: float
    """Requests a second."""
    gateways: Sequence[Router]
    """Each knows only what it sent and what it scraped; requests go to them in turn."""
    progress: Progress = lambda done, of: None
    outcome: Outcome = field(default_factory=Outcome)
    _replicas: list[Replica] = field(default_factory=list)
    _oracle: Oracle = field(default_factory=lambda: Oracle(0))
    _shareable: Oracle = field(default_factory=lambda: Oracle(0))
    _ends: list[tuple[float, int]] = field(default_factory=list)

    def run(self) -> Outcome:
        """Replay it to the last token. Raises ValueError for a request that no engine can hold."""
        self._check()
        started = time.perf_counter()
        profile = self.fleet.profile
        blocks = self.fleet.engines * (profile.kv_tokens // profile.block_size)
        self._oracle, self._shareable = Oracle(blocks), Oracle(blocks)
        events = any(one.wants_events for one in self.gateways)
        self._replicas = [
            Replica(SkippingEngine(profile, self._started, self._computed, events)) for _ in range(self.fleet.engines)
        ]
        self._replay()
        self.outcome.preemptions = sum(one.engine.totals.preemptions for one in self._replicas)
        self.outcome.wall_seconds = time.perf_counter() - started
        return self.outcome

    def _check(self) -> None:
        profile = self.fleet.profile
        for one in self.trace.requests:
            tokens = one.prompt_tokens + one.output_tokens
            if -(-tokens // profile.block_size) > profile.kv_tokens // profile.block_size:
                raise ValueError(f"request {one.number + 1} has {tokens} tokens; an engine holds {profile.kv_tokens}")

    def _replay(self) -> None:
        arrivals = self.trace.arrivals(self.rate)
        edges = window_edges(arrivals[-1])
        every = min(one.scrape_seconds for one in self.gateways)
        scrape = 0.0 if every < math.inf else math.inf
        arrived = finished = scrapes = 0
        while finished < len(arrivals):
            arrival = arrivals[arrived] if arrived < len(arrivals) else math.inf
            edge = edges[len(self.outcome.windows)] if len(self.outcome.windows) < len(edges) else math.inf
            end = self._ends[0][0] if self._ends else math.inf
            if end <= min(arrival, edge, scrape):
                finished += self._step()
            elif edge <= min(arrival, scrape):
                self.outcome.windows.append([one.computed_tokens(edge) for one in self._replicas])
            elif scrape <= arrival:
                self._scrape(scrape)
                scrapes += 1
                scrape = scrapes * every
            else:
                self._send(arrived, arrival)
                arrived += 1
                if arrived % max(1, len(arrivals) // _REPORTS) == 0 or arrived == len(arrivals):
                    self.progress(arrived, len(arrivals))

    def _send(self, number: int, now: float) -> None:
        prompted = self.trace.requests[number]
        gateway = number % len(self.gateways)
        chosen = self.gateways[gateway].route(prompted, now)
        request = Sent(
            prompted.prompt_tokens,
            prompted.output_tokens,
            prompted.whole,
            prompted=prompted,
            gateway=gateway,
            arrival=now,
        )
        self._shareable.taken = sum(one.engine.cache.private for one in self._replicas)
        replica = self._replicas[chosen]
        before = replica.end
        replica.submit(request, now)
        if replica.end != before:
            heapq.heappush(self._ends, (replica.end, chosen))
        self._tell_events(chosen)

    def _step(self) -> int:
        """The steps of one engine are over; how many requests are with them."""
        end, chosen = heapq.heappop(self._ends)
        replica = self._replicas[chosen]
        if replica.end != end:
            return 0  # an arrival has cut them short
        finished = 0
        for request in replica.advance():
            assert isinstance(request, Sent)
            gateway = self.gateways[request.gateway]
            if request.generated == 1:
                self.outcome.first_tokens.append(end - request.arrival)
                gateway.first_token(request.prompted, end)
            if request.finished:
                self.outcome.ends.append(end - request.arrival)
                gateway.finish(request.prompted, end)
                self._computed(request.prompted.whole)
                finished += 1
        if replica.end != math.inf:
            heapq.heappush(self._ends, (replica.end, chosen))
        self._tell_events(chosen)
        return finished

    def _scrape(self, now: float) -> None:
        for engine, replica in enumerate(self._replicas):
            scrape = replica.scrape(now)
            for gateway in self.gateways:
                gateway.scraped(engine, scrape, now)

    def _tell_events(self, engine: int) -> None:
        events = self._replicas[engine].engine.cache.events
        if not events:
            return
        for event in events:
            for gateway in self.gateways:
                (gateway.stored if isinstance(event, Stored) else gateway.removed)(engine, event.hashes)
        events.clear()

    def _computed(self, ids: Sequence[int]) -> None:
        self._oracle.computed(ids)
        self._shareable.computed(ids)

    def _started(self, request: Request) -> None:
        size = self.fleet.profile.block_size
        usable = (request.prompt_length - 1) // size  # an engine computes one token at the least
        self.outcome.prompt_tokens += request.prompt_length
        self.outcome.cached_tokens += request.cached
        self.outcome.oracle_tokens += self._oracle.match(request.hashes[:usable]) * size
        self.outcome.shareable_tokens += self._shareable.match(request.hashes[:usable]) * size
