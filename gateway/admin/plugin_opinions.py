"""What plugins say of a request that is explained: asked by instances of the supervisor's own, which nothing waits for or counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.scheduling.plugins import Asked, Plugins, find_factories, opinions_of
from gateway.scheduling.pool import ServerPool


class Opinions:
    """What the plugins of one server said of each endpoint of its pool, in the order in which they were asked."""

    def __init__(
        self,
        names: Sequence[str] = (),
        said: Sequence[Sequence[float]] = (),
        plugins: Sequence[dict[str, Any]] = (),
        candidates: Sequence[bool] = (),
    ) -> None:
        """``said``: for each name, what :func:`opinions_of` says. ``plugins``: each with what it did wrong.

        ``candidates``: for each endpoint, whether any plugin was asked of it.
        """
        self._names = names
        self._said = said
        self._candidates = candidates
        self.plugins = list(plugins)

    @property
    def adjustments(self) -> list[float] | None:
        """What all of them add to each endpoint, None without any."""
        return [sum(one) for one in zip(*self._said, strict=True)] if self._said else None

    def of(self, place: int) -> dict[str, float | str]:
        """What each said of an endpoint that came to it: a number that it added, or ``left_out``."""
        found: dict[str, float | str] = {}
        if not self._candidates or not self._candidates[place]:
            return found
        for name, said in zip(self._names, self._said, strict=True):
            if math.isnan(said[place]):
                found[name] = "left_out"
                break  # those behind it did not see the endpoint
            found[name] = said[place]
        return found


class PluginOpinions:
    """Plugins are looked for when a server that is explained names some, and not before."""

    def __init__(self, setting: str) -> None:
        """``setting``: ``scheduling_plugins``."""
        self._setting = setting
        self._found: Plugins | None = None

    def ask(self, pool: ServerPool, asked: Asked, seen: Sequence[Mapping[str, Any]]) -> Opinions:
        """Ask them of every candidate in ``seen``. What they do wrong is in the answer, and raises nothing."""
        if self._found is None:
            self._found = Plugins(find_factories(self._setting), lambda name, kind: None)
        server = pool.server
        plugins = self._found.of(server.name, server.scheduling.plugins)
        names = [(one.endpoint.name, one.endpoint.address) for one in pool.endpoints]
        said = opinions_of(plugins, asked, names, seen)
        errors = {plugin.name: dict(plugin.errors) for plugin in plugins}
        errors |= {name: {"load": reason} for name, reason in self._found.missing(server.name).items()}
        told = [
            {"name": spec.name, "weight": spec.weight, "errors": errors.get(spec.name, {})}
            for spec in server.scheduling.plugins
        ]
        return Opinions([plugin.name for plugin in plugins], said, told, [not row["filtered"] for row in seen])
