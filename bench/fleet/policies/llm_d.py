"""llm-d's endpoint picker: scores from 0 to 1, weighted; the best wins, among equals one at random."""

from __future__ import annotations

from collections.abc import Sequence

from bench.fleet.policies.base import Prefixes, Router, Setting, matched_tokens
from bench.fleet.trace import Prompted

PREFIX_WEIGHT, QUEUE_WEIGHT, KV_WEIGHT, NO_HIT_WEIGHT = 3.0, 2.0, 2.0, 2.0  # endpoint-pickers 1.2: "optimized baseline"
LRU_BLOCKS, LRU_BLOCK_TOKENS = 31_250, 64  # endpoint-pickers 1.4: approx-prefix-cache-producer, a server
MATCHED_TOKENS = 131_072  # endpoint-pickers 1.4: maxPrefixTokensToMatch
AFFINITY_THRESHOLD = 0.80  # endpoint-pickers 1.2: prefixcacheaffinity
TTFT_PENALTY_SECONDS = 18.0  # endpoint-pickers 1.2: prefixcacheaffinity
# endpoint-pickers 1.2: tokens a second, the recipe's and not calibrated for the simulated engine
PEAK_PREFILL = 15_928.0
TOKEN_LOAD = 4_194_304.0  # endpoint-pickers 1.2: token-load-scorer


def queue_scores(waiting: Sequence[int]) -> list[float]:
    """1 for the shortest queue, 0 for the longest, 1 for all when they are equal."""
    low, high = min(waiting), max(waiting)
    return [(high - one) / (high - low) if high > low else 1.0 for one in waiting]


def token_load_score(in_flight: float, added: float) -> float:
    """1 for an engine without prefill to do."""
    return 1.0 - min(1.0, (in_flight + added) / TOKEN_LOAD)


def sticky(hits: Sequence[float], in_flight: Sequence[float]) -> list[int]:
    """Those that hold 80 % of the prompt, unless the best of them would be 18 s later than the best of all."""
    holders = [engine for engine, share in enumerate(hits) if share >= AFFINITY_THRESHOLD]
    best = min(in_flight)
    kept = [engine for engine in holders if (in_flight[engine] - best) / PEAK_PREFILL <= TTFT_PENALTY_SECONDS]
    return kept or list(range(len(hits)))


class _Picker(Router):
    """The approximate index that both configurations use."""

    scrape_seconds = 0.05  # endpoint-pickers 1.1: --refresh-metrics-interval

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._prefixes = Prefixes(setting.engines, max(1, LRU_BLOCKS * LRU_BLOCK_TOKENS // setting.block_size))

    def hits(self, request: Prompted) -> list[float]:
        """Share of the prompt that each engine is believed to hold."""
        size = self.setting.block_size
        lengths = self._prefixes.match(request.ids[: MATCHED_TOKENS // size])
        return [matched_tokens(request, length, size) / request.prompt_tokens for length in lengths]

    def sent(self, request: Prompted, engine: int, now: float) -> None:
        self._prefixes.learn(engine, request.ids[: MATCHED_TOKENS // self.setting.block_size])


class LlmDDefault(_Picker):
    """Prefix 3, queue 2, KV usage 2, no-hit-LRU 2."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._cold = list(range(setting.engines))
        """Engines by when they last got a cold request, the longest ago first."""

    def choose(self, request: Prompted, now: float) -> int:
        hits = self.hits(request)
        queues = queue_scores([one.waiting for one in self.scrapes])
        cold = self.no_hit_scores(hits)
        return self.highest(
            [
                PREFIX_WEIGHT * hits[one]
                + QUEUE_WEIGHT * queues[one]
                + KV_WEIGHT * (1 - self.scrapes[one].kv_usage)
                + NO_HIT_WEIGHT * cold[one]
                for one in range(self.setting.engines)
            ]
        )

    def no_hit_scores(self, hits: Sequence[float]) -> list[float]:
        """Ranks for a prompt that nobody has a block of, from 1 to 0; else a half for all."""
        if any(hits) or len(hits) == 1:
            return [0.5] * len(hits)
        return [1.0 - self._cold.index(engine) / (len(hits) - 1) for engine in range(len(hits))]

    def sent(self, request: Prompted, engine: int, now: float) -> None:
        if not any(self.hits(request)):
            self._cold.remove(engine)
            self._cold.append(engine)
        super().sent(request, engine, now)


class LlmDNewest(_Picker):
    """Sticky until saturated: the affinity filter, then the least prefill in flight.

    A request counts by its uncached prompt tokens until its first token (endpoint-pickers 1.4: inflight-load; its outputRatio is left out,
    since what it adds is released with them).
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._tokens = [0.0] * setting.engines
        self._charged: dict[int, float] = {}

    def choose(self, request: Prompted, now: float) -> int:
        hits = self.hits(request)
        scores = [
            token_load_score(load, request.prompt_tokens * (1 - hit))
            for load, hit in zip(self._tokens, hits, strict=True)
        ]
        return self.highest(scores, sticky(hits, self._tokens))

    def sent(self, request: Prompted, engine: int, now: float) -> None:
        uncached = request.prompt_tokens * (1 - self.hits(request)[engine])
        self._charged[request.number] = uncached
        self._tokens[engine] += uncached
        super().sent(request, engine, now)

    def first_token(self, request: Prompted, now: float) -> None:
        self._tokens[self.placed[request.number]] -= self._charged.pop(request.number)
