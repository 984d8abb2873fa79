"""Filters and scores of one's own, in Python: found by name, asked at every choice, and never the reason that a request fails.

A plugin is what a factory returns: an entry point of the group ``penstock.scheduling``, or ``name=module:attribute`` in the setting
``scheduling_plugins``. It has ``filter``, ``score`` or both. They run in the event loop, while nothing else does.
"""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from msgspec import Struct

from gateway.datastore.model import PluginSpec
from gateway.plugin_paths import named_paths

GROUP = "penstock.scheduling"
OUT = math.nan
"""Instead of a score: the endpoint is left out."""

logger = logging.getLogger(__name__)

Factory = Callable[..., Any]
CountError = Callable[[str, str], None]


class Asked(Struct, frozen=True, gc=False):
    """The request, as a plugin sees it."""

    model: str
    path: str
    tenant: str
    prompt_tokens: int
    output_tokens: int
    blocks: int
    """Blocks of its prompt, 0 where prompts are not matched."""
    header: Callable[[str], str | None]
    """A header by its name in lower case, None for one that is not there."""


class Candidate(Struct, frozen=True, gc=False):
    """An endpoint that may have the request."""

    name: str
    address: str
    score: float
    """By policy ``cost`` minus the seconds that the request adds, by ``weighted`` the weighted sum."""
    matched_blocks: int
    in_flight: int
    prefill_tokens: int
    """Prompt tokens that are queued there."""
    running: float
    waiting: float
    kv_usage: float
    scraped: bool
    """Whether the three before come from a scrape lately; else they are the mean of the others."""


class Plugin:
    """One plugin as one server uses it. Whatever it does wrong is logged once a kind, counted, and passed over."""

    def __init__(self, spec: PluginSpec, made: object, count: CountError) -> None:
        self.name = spec.name
        self._weight = spec.weight
        self._filter: Callable[[Asked, Sequence[Candidate]], Collection[Candidate]] | None = getattr(
            made, "filter", None
        )
        self._score: Callable[[Asked, Sequence[Candidate]], Sequence[float]] | None = getattr(made, "score", None)
        self._count = count
        self._logged: set[tuple[str, str]] = set()
        self.errors: dict[str, str] = {}
        """What its last call as ``filter`` and as ``score`` did wrong, for who wants to see it."""

    def adjust(self, asked: Asked, candidates: Sequence[Candidate], adjustments: list[float]) -> None:
        """Add what it says of each candidate: its score times the weight, or :data:`OUT`."""
        if self.errors:
            self.errors.clear()
        left = [place for place, one in enumerate(adjustments) if not math.isnan(one)]
        if self._filter is not None and left:
            left = self._left_by_filter(asked, candidates, adjustments, left)
        if self._score is not None and left:
            self._add_scores(asked, candidates, adjustments, left)

    def _left_by_filter(
        self, asked: Asked, candidates: Sequence[Candidate], adjustments: list[float], left: list[int]
    ) -> list[int]:
        assert self._filter is not None
        try:
            names = {one.name for one in self._filter(asked, [candidates[place] for place in left])}
        except Exception as error:
            self._failed("filter", error)
            return left
        for place in left:
            if candidates[place].name not in names:
                adjustments[place] = OUT
        return [place for place in left if candidates[place].name in names]

    def _add_scores(
        self, asked: Asked, candidates: Sequence[Candidate], adjustments: list[float], left: list[int]
    ) -> None:
        assert self._score is not None
        try:
            scores = [float(one) for one in self._score(asked, [candidates[place] for place in left])]
            if len(scores) != len(left):
                raise ValueError(f"{len(scores)} scores for {len(left)} candidates")
            if not all(map(math.isfinite, scores)):
                raise ValueError(f"a score is not finite: {scores}")
        except Exception as error:
            self._failed("score", error)
            return
        for place, score in zip(left, scores, strict=True):
            adjustments[place] += self._weight * score

    def _failed(self, kind: str, error: Exception) -> None:
        self._count(self.name, kind)
        self.errors[kind] = _spoken(error)
        seen = (kind, type(error).__name__)
        if seen not in self._logged:
            self._logged.add(seen)
            logger.error("the %s of plugin %s failed and is passed over", kind, self.name, exc_info=error)


class Plugins:
    """The plugins of one worker, by name, and the instances that its servers have."""

    def __init__(self, factories: Mapping[str, Factory], count: CountError) -> None:
        self._factories = factories
        self._count = count
        self._made: dict[str, tuple[tuple[PluginSpec, ...], tuple[Plugin, ...]]] = {}
        self._missing: dict[str, dict[str, str]] = {}

    def of(self, server: str, specs: tuple[PluginSpec, ...]) -> tuple[Plugin, ...]:
        """The plugins of a server; the same ones as long as nothing that is said of them changes. One that cannot be had is left out."""
        if not specs:
            self._made.pop(server, None)
            self._missing.pop(server, None)
            return ()
        known = self._made.get(server)
        if known is None or known[0] != specs:
            self._missing.pop(server, None)
            known = self._made[server] = specs, tuple(filter(None, (self._make(server, one) for one in specs)))
        return known[1]

    def missing(self, server: str) -> Mapping[str, str]:
        """Plugins of a server that could not be had, with the reason."""
        return self._missing.get(server, {})

    def _make(self, server: str, spec: PluginSpec) -> Plugin | None:
        try:
            if spec.name not in self._factories:
                raise LookupError(
                    f"no plugin `{spec.name}`: install one in the entry point group {GROUP}, or name it in `scheduling_plugins`"
                )
            made = self._factories[spec.name](**spec.args)
            if not callable(getattr(made, "filter", None)) and not callable(getattr(made, "score", None)):
                raise TypeError(f"plugin `{spec.name}` has neither `filter` nor `score`")
        except Exception as error:
            self._count(spec.name, "load")
            self._missing.setdefault(server, {})[spec.name] = _spoken(error)
            logger.exception("plugin %s of ModelServer %s is left out", spec.name, server)
            return None
        return Plugin(spec, made, self._count)


def find_factories(setting: str) -> dict[str, Factory]:
    """Factories by name, imported when they are used: entry points, and what ``scheduling_plugins`` adds or replaces."""
    factories: dict[str, Factory] = {}
    for point in entry_points(group=GROUP):
        factories[point.name] = _Imported(point.value)
    for name, path in named_paths(setting):
        factories[name] = _Imported(path)
    return factories


class _Imported:
    """A factory that is imported at its first use: what is wrong with it is a fault of the server that names it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, **args: Any) -> object:
        module, _, attribute = self._path.partition(":")
        found: Any = importlib.import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
        return found(**args)


def adjustments_of(
    plugins: Sequence[Plugin], asked: Asked, names: Sequence[tuple[str, str]], seen: Sequence[Mapping[str, Any]]
) -> list[float]:
    """What all of them say of each endpoint of a pool; ``names``: names and addresses, ``seen``: what the scheduler saw of each."""
    places, candidates = _candidates(names, seen)
    of_candidates = [0.0] * len(candidates)
    for plugin in plugins:
        plugin.adjust(asked, candidates, of_candidates)
    return _of_pool(places, of_candidates, len(seen))


def opinions_of(
    plugins: Iterable[Plugin], asked: Asked, names: Sequence[tuple[str, str]], seen: Sequence[Mapping[str, Any]]
) -> list[list[float]]:
    """What each of them says, asked in turn, of each endpoint of a pool: what it adds, :data:`OUT` for whom it or one before left out."""
    places, candidates = _candidates(names, seen)
    opinions: list[list[float]] = []
    own = [0.0] * len(candidates)
    for plugin in plugins:
        own = [OUT if math.isnan(one) else 0.0 for one in own]
        plugin.adjust(asked, candidates, own)
        opinions.append(_of_pool(places, own, len(seen)))
    return opinions


def _candidates(
    names: Sequence[tuple[str, str]], seen: Sequence[Mapping[str, Any]]
) -> tuple[list[int], list[Candidate]]:
    """Those that no filter took out, and their places in the pool."""
    places = [place for place, row in enumerate(seen) if not row["filtered"]]
    candidates = [
        Candidate(
            *names[place],
            row["score"],
            row["matched_blocks"],
            row["in_flight"],
            row["prefill_tokens"],
            row["running"],
            row["waiting"],
            row["kv_usage"],
            row["scraped"],
        )
        for place, row in ((place, seen[place]) for place in places)
    ]
    return places, candidates


def _of_pool(places: Sequence[int], of_candidates: Sequence[float], count: int) -> list[float]:
    adjustments = [0.0] * count
    for place, one in zip(places, of_candidates, strict=True):
        adjustments[place] = one
    return adjustments


def _spoken(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
