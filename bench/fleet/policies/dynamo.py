"""Dynamo's KV router: the cost of routers 1.6, with KV events and predict-on-route."""

from __future__ import annotations

from collections.abc import Sequence

from bench.fleet.policies.base import Blind, Prefixes, Setting
from bench.fleet.trace import Prompted

# routers 1.6
OVERLAP_CREDIT = 1.0
PREFILL_LOAD_SCALE = 1.0
PREDICTED_SECONDS = 5.0


def cost(active_prefill: float, blocks: float, overlap: float, decode_blocks: float) -> float:
    """In blocks; lower is better. Decay and the weight of active requests are off by default."""
    return PREFILL_LOAD_SCALE * max(active_prefill + blocks - OVERLAP_CREDIT * overlap, 0.0) + decode_blocks


class DynamoCost(Blind):
    """Least cost, among exact ties at random (temperature 0).

    Prompts weigh by their uncached tokens until the first token, and by their blocks until the end, a shared block once.
    """

    wants_events = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._held = Prefixes(setting.engines)
        self._predicted: list[dict[int, float]] = [{} for _ in range(setting.engines)]
        """Until when an engine is expected to get a block that was sent there."""
        self._prefill = [0.0] * setting.engines
        self._charged: dict[int, float] = {}
        self._active: list[dict[int, int]] = [{} for _ in range(setting.engines)]
        """Requests in flight, by the block that they hold."""

    def choose(self, request: Prompted, now: float) -> int:
        overlaps = self.overlaps(request, now)
        blocks = request.prompt_tokens / self.setting.block_size
        costs = [
            cost(self._prefill[one], blocks, overlaps[one], self.decode_blocks(one, request.ids))
            for one in range(self.setting.engines)
        ]
        return self.lowest(costs)

    def overlaps(self, request: Prompted, now: float) -> list[int]:
        """Blocks that each engine has or is expected to get: the larger of both indexes."""
        lengths = self._held.match(request.whole)
        for engine, until in enumerate(self._predicted):
            predicted = 0
            while predicted < len(request.whole) and until.get(request.whole[predicted], -1.0) > now:
                predicted += 1
            lengths[engine] = max(lengths[engine], predicted)
        return lengths

    def decode_blocks(self, engine: int, ids: Sequence[int]) -> int:
        """Blocks in use there with this prompt."""
        active = self._active[engine]
        shared = next((at for at, one in enumerate(ids) if one not in active), len(ids))
        return len(active) + len(ids) - shared

    def sent(self, request: Prompted, engine: int, now: float) -> None:
        overlap = self.overlaps(request, now)[engine]
        uncached = max(0.0, request.prompt_tokens / self.setting.block_size - overlap)
        self._charged[request.number] = uncached
        self._prefill[engine] += uncached
        active = self._active[engine]
        for one in request.ids:
            active[one] = active.get(one, 0) + 1
            self._predicted[engine][one] = now + PREDICTED_SECONDS

    def first_token(self, request: Prompted, now: float) -> None:
        self._prefill[self.placed[request.number]] -= self._charged.pop(request.number)

    def ended(self, request: Prompted, engine: int, now: float) -> None:
        active = self._active[engine]
        for one in request.ids:
            active[one] -= 1
            if not active[one]:
                del active[one]

    def stored(self, engine: int, ids: Sequence[int]) -> None:
        self._held.learn(engine, ids)

    def removed(self, engine: int, ids: Sequence[int]) -> None:
        self._held.forget(engine, ids)
