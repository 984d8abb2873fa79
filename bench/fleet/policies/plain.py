"""Policies that look at no cache, and bounded consistent hashing."""

from __future__ import annotations

import bisect
import hashlib
import math
from collections import deque

from bench.fleet.policies.base import Blind, Setting
from bench.fleet.trace import Prompted


class RoundRobin(Blind):
    """One after the other."""

    _next = 0

    def choose(self, request: Prompted, now: float) -> int:
        engine = self._next
        self._next = (engine + 1) % self.setting.engines
        return engine


class Random(Blind):
    """Any."""

    def choose(self, request: Prompted, now: float) -> int:
        return self.random.randrange(self.setting.engines)


class LeastRequests(Blind):
    """The engine with the fewest requests in flight from here."""

    def choose(self, request: Prompted, now: float) -> int:
        return self.lowest(self.in_flight)


class LeastComputed(Blind):
    """Nobody's policy but a yardstick: whoever wants nothing but evenness, in windows as imbalance is measured in, gets no more of it."""

    WINDOW_SECONDS = 60.0

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._sent: deque[tuple[float, int, int]] = deque()
        self._tokens = [0] * setting.engines
        """Of prompts, sent in the last window."""

    def choose(self, request: Prompted, now: float) -> int:
        while self._sent and self._sent[0][0] < now - self.WINDOW_SECONDS:
            _, engine, tokens = self._sent.popleft()
            self._tokens[engine] -= tokens
        return self.lowest(self._tokens)

    def sent(self, request: Prompted, engine: int, now: float) -> None:
        self._sent.append((now, engine, request.prompt_tokens))
        self._tokens[engine] += request.prompt_tokens


class BoundedHash(Blind):
    """A ring by the first blocks; who has more than its bounded share of the requests in flight is passed by."""

    LOAD_FACTOR = 1.25  # routers 1.2: prefix_hash
    RING_COPIES = 256  # routers 2.1: KubeAI CHWBL, ring replication
    KEY_BLOCKS = 2
    """SMG hashes 256 tokens; in the conversation trace all requests share the first 512, so that would be one key."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        ring = sorted(
            (_position(f"{engine}/{copy}"), engine)
            for engine in range(setting.engines)
            for copy in range(self.RING_COPIES)
        )
        self._positions = [position for position, _ in ring]
        self._engines = [engine for _, engine in ring]

    def choose(self, request: Prompted, now: float) -> int:
        bound = math.ceil(self.LOAD_FACTOR * (sum(self.in_flight) + 1) / self.setting.engines)
        at = bisect.bisect(self._positions, _position(repr(request.ids[: self.KEY_BLOCKS])))
        while self.in_flight[self._engines[at % len(self._engines)]] >= bound:
            at += 1
        return self._engines[at % len(self._engines)]


def _position(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())
