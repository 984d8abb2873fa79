"""SMG's cache_aware over HTTP: an approximate tree of what was sent where, until load is out of balance."""

from __future__ import annotations

from collections.abc import Sequence

from bench.fleet.policies.base import Blind, Prefixes, Setting, matched_tokens
from bench.fleet.trace import Prompted

# routers 1.2, the defaults of the command line
MATCH_THRESHOLD = 0.3
BALANCE_ABSOLUTE = 64
BALANCE_RELATIVE = 1.5
TREE_CHARACTERS = 67_108_864
_CHARACTERS_PER_TOKEN = 4


def is_imbalanced(loads: Sequence[int]) -> bool:
    """Whether the spread is above both bounds."""
    low, high = min(loads), max(loads)
    return high - low > BALANCE_ABSOLUTE and high > BALANCE_RELATIVE * low


class SmgCacheAware(Blind):
    """The matched engine when enough of the prompt matches; else, and when out of balance, the one with the fewest requests."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._tree = Prefixes(setting.engines, TREE_CHARACTERS // _CHARACTERS_PER_TOKEN // setting.block_size)
        self._last: dict[int, int] = {}
        """The engine that a block was last sent to: which of several owners is matched is left open in routers 1.2."""
        self._processed = [0] * setting.engines

    def choose(self, request: Prompted, now: float) -> int:
        if not is_imbalanced(self.in_flight):
            lengths = self._tree.match(request.ids)
            longest = max(lengths)
            matched = matched_tokens(request, longest, self.setting.block_size)
            if matched > MATCH_THRESHOLD * request.prompt_tokens:
                owner = self._last[request.ids[longest - 1]]
                return owner if lengths[owner] == longest else lengths.index(longest)
        return min(range(self.setting.engines), key=lambda one: (self.in_flight[one], self._processed[one], one))

    def sent(self, request: Prompted, engine: int, now: float) -> None:
        self._processed[engine] += 1
        self._tree.learn(engine, request.ids)
        self._last.update(dict.fromkeys(request.ids, engine))
