"""A proposed change of our cost function, rendered in plain Python over the compiled tables; everything else is :class:`Penstock`.

Prompt tokens that an engine computes are work that a cached prefix would have saved the fleet, and whoever comes while it is busy waits
for them too. So a request's own uncached tokens weigh more than those that it finds queued, and the more so the busier the fleet is: an
idle one can afford to compute a popular prefix in several places.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.fleet.engine import Scrape
from bench.fleet.policies.base import Setting
from bench.fleet.policies.penstock import EXPECTED_OUTPUT_TOKENS, START, Penstock
from bench.fleet.trace import Prompted

WORK_WEIGHT = 12.0
"""Times more that a request's own uncached tokens count when every candidate has a prompt to compute; 0 is the compiled cost."""
# those of _fastpath/scoring.pyx
STALE_SECONDS = 5.0
PREFILL_TOKENS_PER_SECOND = 8000.0
DECODE_SECONDS_PER_REQUEST = 0.00035
KV_COMFORT = 0.9
KV_PRESSURE_SECONDS = 10.0


def work_factor(queued: Sequence[float]) -> float:
    """Times that uncached tokens count, from the prompt tokens that wait at each candidate: 1 when nobody has any."""
    return 1.0 + WORK_WEIGHT * sum(one > 0 for one in queued) / len(queued)


def cost(queued: float, uncached: float, factor: float, running: float, kv_usage: float) -> float:
    """Seconds: prompt tokens queued there, the request's own uncached ones, requests that run there, share of the KV cache."""
    seconds = (queued + factor * uncached) / PREFILL_TOKENS_PER_SECOND
    seconds += 2 * EXPECTED_OUTPUT_TOKENS * DECODE_SECONDS_PER_REQUEST * running
    return seconds + max(0.0, (kv_usage - KV_COMFORT) / (1 - KV_COMFORT)) * KV_PRESSURE_SECONDS


class Proposed(Penstock):
    """The same tables, charges and lessons; the choice alone is another's."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._indices = [slot for slot, _ in self._slots]
        self._scraped = [-STALE_SECONDS] * setting.engines

    def choose(self, request: Prompted, now: float) -> int:
        hashes = self.hashes(request)
        matched = self._scheduler.prefixes.match(hashes, self._indices)
        shares = [blocks / len(hashes) if len(hashes) else 0.0 for blocks in matched]
        engine = self.lowest(self.costs(request, shares, now))
        uncached = request.prompt_tokens - int(request.prompt_tokens * shares[engine])
        load = self._scheduler.load
        load.charge(*self._slots[engine], uncached, EXPECTED_OUTPUT_TOKENS)
        self._scheduler.prefixes.learn(hashes, self._indices[engine], now + START)
        self._charged[request.number] = uncached
        return engine

    def costs(self, request: Prompted, shares: Sequence[float], now: float) -> list[float]:
        """Seconds, by engine; ``shares`` of the prompt that they hold."""
        loads = [self._scheduler.load.read(*slot) for slot in self._slots]
        factor = work_factor([queued for _, queued, _ in loads])
        found = []
        for engine, (in_flight, queued, _) in enumerate(loads):
            scrape = self.scrapes[engine] if now - self._scraped[engine] <= STALE_SECONDS else Scrape(0, 0, 0.0)
            running = max(in_flight, scrape.running + scrape.waiting)
            uncached = request.prompt_tokens * (1 - shares[engine])
            found.append(cost(queued, uncached, factor, running, scrape.kv_usage))
        return found

    def scraped(self, engine: int, scrape: Scrape, now: float) -> None:
        super().scraped(engine, scrape, now)
        self.scrapes[engine] = scrape
        self._scraped[engine] = now
