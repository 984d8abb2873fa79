"""From what happened to figures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

WINDOW_SECONDS = 60.0


@dataclass(slots=True)
class Outcome:
    """What one run of a policy was like; times in virtual seconds."""

    first_tokens: list[float] = field(default_factory=list)
    """Of each request, from its arrival to its first token."""
    ends: list[float] = field(default_factory=list)
    """Of each request, from its arrival to its last token."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    oracle_tokens: int = 0
    shareable_tokens: int = 0
    """What the same oracle finds without the memory in which running requests keep what nobody can share."""
    windows: list[list[int]] = field(default_factory=list)
    """Tokens that each engine had computed since the start, at the start and at the end of each window."""
    preemptions: int = 0
    wall_seconds: float = 0.0
    """Real seconds that the simulation took."""


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share (0 to 1) of the values does not exceed. Raises ValueError for none."""
    if not values:
        raise ValueError("no values have no percentile")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def imbalance(windows: Sequence[Sequence[int]]) -> float:
    """Busiest engine over the mean engine by tokens computed in a window; the mean over windows in which anything was. 1 is even."""
    ratios = []
    for before, after in itertools.pairwise(windows):
        tokens = [new - old for old, new in zip(before, after, strict=True)]
        if sum(tokens):
            ratios.append(max(tokens) * len(tokens) / sum(tokens))
    return sum(ratios) / len(ratios) if ratios else 1.0


def window_edges(last_arrival: float) -> list[float]:
    """Starts and ends of the whole windows up to the last arrival; of one shorter one when there is no whole one."""
    whole = int(last_arrival / WINDOW_SECONDS)
    return [number * WINDOW_SECONDS for number in range(whole + 1)] if whole else [0.0, last_arrival]


def figures(outcome: Outcome) -> dict[str, Any]:
    """The numbers of a policy's JSON object; times in seconds, rates as shares of all prompt tokens."""
    found: dict[str, Any] = {
        "hit_rate": outcome.cached_tokens / outcome.prompt_tokens,
        "oracle_hit_rate": outcome.oracle_tokens / outcome.prompt_tokens,
        "shareable_hit_rate": outcome.shareable_tokens / outcome.prompt_tokens,
    }
    for name, values in (("ttft", outcome.first_tokens), ("e2e", outcome.ends)):
        found |= {f"{name}_p50": percentile(values, 0.5), f"{name}_p99": percentile(values, 0.99)}
    found["imbalance"] = imbalance(outcome.windows)
    found["preemptions"] = outcome.preemptions
    found["wall_seconds"] = outcome.wall_seconds
    return {name: round(value, 4) for name, value in found.items()}
