"""The reference system's scheduler plugins; scores are whole numbers from 0 to 100, as there."""

from __future__ import annotations

from collections.abc import Sequence

from bench.fleet.engine import Scrape
from bench.fleet.policies.base import Prefixes, Router, Setting
from bench.fleet.trace import Prompted

MAXIMUM_WAITING = 10  # reference-system 3.2: least-request
QUEUE_PENALTY = 100  # reference-system 3.2: least-request
LATENCY_FACTOR = 0.5  # reference-system 3.2: least-latency
HASHED_TOKENS = 16  # reference-system 3.2: 64 bytes of prefix-cache, about 4 to a token; 16 tokens of kvcache-aware
MAXIMUM_BLOCKS = 128  # reference-system 3.2: both
CACHED_HASHES = 50_000  # reference-system 3.2: prefix-cache, for each pod
TOP_MATCHES = 5  # reference-system 3.2: prefix-cache


def filtered(scrapes: Sequence[Scrape]) -> list[int]:
    """Engines with fewer than 10 waiting; all where the original refuses the request, since here each is served in the end."""
    few = [engine for engine, one in enumerate(scrapes) if one.waiting < MAXIMUM_WAITING]
    return few or list(range(len(scrapes)))


def least_request(in_flight: Sequence[int], scrapes: Sequence[Scrape]) -> list[int]:
    """Relative to the most loaded, which has 0; what was sent beyond what runs counts a hundredfold."""
    bases = [
        sent + QUEUE_PENALTY * max(sent - scrape.running, 0) for sent, scrape in zip(in_flight, scrapes, strict=True)
    ]
    most = max(bases)
    return [100 * (most - base) // most if most else 100 for base in bases]


def least_latency(scrapes: Sequence[Scrape]) -> list[int]:
    """By the means of the last second; 50 for who had no first token or no further token in it."""
    measured = [one for one in scrapes if one.first_token_seconds > 0 and one.inter_token_seconds > 0]
    scores = []
    for one in scrapes:
        if one.first_token_seconds <= 0 or one.inter_token_seconds <= 0:
            scores.append(50)
            continue
        first = _between(one.first_token_seconds, [each.first_token_seconds for each in measured])
        inter = _between(one.inter_token_seconds, [each.inter_token_seconds for each in measured])
        scores.append(int(LATENCY_FACTOR * first + (1 - LATENCY_FACTOR) * inter))
    return scores


def gpu_usage(scrapes: Sequence[Scrape]) -> list[int]:
    """What is free of the KV cache."""
    return [int((1 - one.kv_usage) * 100) for one in scrapes]


def _between(value: float, values: Sequence[float]) -> float:
    low, high = min(values), max(values)
    return 100 * (high - value) / (high - low) if high > low else 100.0


class _Plugins(Router):
    """Filter by least-request, then the sum of the scores."""

    def choose(self, request: Prompted, now: float) -> int:
        candidates = filtered(self.scrapes)
        return self.highest([float(sum(each)) for each in zip(*self.scores(request), strict=True)], candidates)

    def scores(self, request: Prompted) -> list[list[int]]:
        """One list a plugin."""
        raise NotImplementedError

    def hashed_ids(self, request: Prompted) -> tuple[int, ...]:
        """The blocks of the trace that the first 128 of its blocks lie in."""
        return request.ids[: -(-MAXIMUM_BLOCKS * HASHED_TOKENS // self.setting.block_size)]

    def match_scores(self, request: Prompted, lengths: Sequence[int]) -> list[int]:
        """Shares of its first 128 blocks, from lengths in blocks of the trace."""
        total = min(MAXIMUM_BLOCKS, -(-request.prompt_tokens // HASHED_TOKENS))
        size = self.setting.block_size
        return [100 * min(total, length * size // HASHED_TOKENS) // total for length in lengths]


class KthenaDefault(_Plugins):
    """reference-system 2.1, Helm default: least-request, gpu-usage, least-latency and prefix-cache, each with weight 1."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._prefixes = Prefixes(setting.engines, max(1, CACHED_HASHES * HASHED_TOKENS // setting.block_size))

    def scores(self, request: Prompted) -> list[list[int]]:
        return [
            least_request(self.in_flight, self.scrapes),
            gpu_usage(self.scrapes),
            least_latency(self.scrapes),
            self.prefix_cache(request),
        ]

    def prefix_cache(self, request: Prompted) -> list[int]:
        """Only the five longest matches count."""
        lengths = self._prefixes.match(self.hashed_ids(request))
        best = sorted(range(len(lengths)), key=lambda engine: -lengths[engine])[:TOP_MATCHES]
        return self.match_scores(request, [length if at in best else 0 for at, length in enumerate(lengths)])

    def ended(self, request: Prompted, engine: int, now: float) -> None:
        self._prefixes.learn(engine, self.hashed_ids(request))  # learned after the whole answer: reference-system 3.2


class KthenaBest(_Plugins):
    """reference-system 10.3, the fastest row: least-request and kvcache-aware (KV events through Redis), weights not stated: 1."""

    wants_events = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._blocks = Prefixes(setting.engines)

    def scores(self, request: Prompted) -> list[list[int]]:
        lengths = self._blocks.match(self.hashed_ids(request))
        return [least_request(self.in_flight, self.scrapes), self.match_scores(request, lengths)]

    def stored(self, engine: int, ids: Sequence[int]) -> None:
        self._blocks.learn(engine, ids)

    def removed(self, engine: int, ids: Sequence[int]) -> None:
        self._blocks.forget(engine, ids)
