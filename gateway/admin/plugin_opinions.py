"""What plugins say of a request that is explained: asked by instances of the supervisor's own, which nothing waits for or counts."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.datastore.model import Server
from gateway.scheduling.plugins import Asked, Plugin, Plugins, find_factories, opinions_of
from gateway.scheduling.pool import ServerPool

ANSWER_SECONDS = 1.0
"""How long the plugins of a server may take for an explanation."""


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
    """Plugins are looked for when a server that is explained names some, and not before.

    They run in a thread of their own, for one may never return: it is left to itself then, and its server's plugins are asked again only
    when it has. For one caller at a time.
    """

    def __init__(self, setting: str, seconds: float = ANSWER_SECONDS) -> None:
        """``setting``: ``scheduling_plugins``. ``seconds``: how long all plugins of a server may take together."""
        self._setting = setting
        self._seconds = seconds
        self._found: dict[str, Plugins] = {}
        """By server: one that has not returned may still be at work in its own."""
        self._late: dict[str, _Asking] = {}
        """By server, whom its plugins never answered."""

    def ask(self, pool: ServerPool, asked: Asked, seen: Sequence[Mapping[str, Any]]) -> Opinions:
        """Ask them of every candidate in ``seen``. What they do wrong is in the answer, and raises nothing."""
        server = pool.server
        late = self._late.get(server.name)
        if late is not None and late.is_alive():
            return late.opinions_without(server)
        found = self._found.get(server.name)
        if found is None:
            found = self._found[server.name] = Plugins(find_factories(self._setting), lambda name, kind: None)
        asking = _Asking(found, pool, asked, seen)
        asking.start()
        asking.join(self._seconds)
        if asking.is_alive():
            self._late[server.name] = asking
            return asking.opinions_without(server)
        self._late.pop(server.name, None)
        return asking.opinions


class _Asking(threading.Thread):
    """One question to the plugins of a server. A daemon: the process ends whether it returns or not."""

    def __init__(self, found: Plugins, pool: ServerPool, asked: Asked, seen: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(name=f"plugins of {pool.name}", daemon=True)
        self._found = found
        self._pool = pool
        self._asked = asked
        self._seen = seen
        self._begun = time.monotonic()
        self._plugin = ""
        """Who was asked last; nobody while they are made."""
        self.opinions = Opinions(plugins=_told(pool.server, {}))

    def run(self) -> None:
        """Ask."""
        server = self._pool.server
        plugins = self._found.of(server.name, server.scheduling.plugins)
        names = [(one.endpoint.name, one.endpoint.address) for one in self._pool.endpoints]
        said = opinions_of(self._each(plugins), self._asked, names, self._seen)
        errors = {plugin.name: dict(plugin.errors) for plugin in plugins}
        errors |= {name: {"load": reason} for name, reason in self._found.missing(server.name).items()}
        told = _told(server, errors)
        self.opinions = Opinions(
            [plugin.name for plugin in plugins], said, told, [not row["filtered"] for row in self._seen]
        )

    def _each(self, plugins: Sequence[Plugin]) -> Iterator[Plugin]:
        for plugin in plugins:
            self._plugin = plugin.name
            yield plugin

    def opinions_without(self, server: Server) -> Opinions:
        """What is known while it has not returned: who does not answer."""
        seconds = time.monotonic() - self._begun
        if not self._plugin:
            error = {"load": f"they are still being imported and made, after {seconds:.0f} s"}
            return Opinions(plugins=_told(server, {one.name: error for one in server.scheduling.plugins}))
        error = {"answer": f"it has not returned for {seconds:.0f} s, and a worker that asks it stands still as long"}
        return Opinions(plugins=_told(server, {self._plugin: error}))


def _told(server: Server, errors: Mapping[str, dict[str, str]]) -> list[dict[str, Any]]:
    return [
        {"name": spec.name, "weight": spec.weight, "errors": errors.get(spec.name, {})}
        for spec in server.scheduling.plugins
    ]
