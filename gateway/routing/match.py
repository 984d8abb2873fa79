"""Which rule of which route a request matches.

Routes of the model name come first, the oldest first; routes that name it as an adapter only when there is none. In a route the first
matching rule wins; a route without one leaves the request to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import re2

from gateway.datastore.model import Match, Route, Rule, StringMatch
from gateway.routing.kinds import Kinds

TextTest = Callable[[str], bool]
Headers = Callable[[str], str | None]
"""Value of a header by its lower-case name."""


class CompiledRule:
    """A rule whose patterns are compiled."""

    def __init__(
        self, rule: Rule, model: str | None, path: TextTest | None, headers: tuple[tuple[str, TextTest], ...]
    ) -> None:
        self.rule = rule
        self.model = model
        self.path = path
        self.headers = headers
        self.is_plain = model is None and path is None and not headers
        """Whether it takes every request."""
        target = rule.targets[0] if len(rule.targets) == 1 else None
        self.only = target.server if target is not None and target.weight > 0 else None
        """The server that all of its requests go to, None where that is to be chosen."""

    def matches(self, model: str, path: str, headers: Headers) -> bool:
        """Whether every part that is present matches."""
        if self.model is not None and self.model != model:
            return False
        if self.path is not None and not self.path(path):
            return False
        for name, test in self.headers:  # noqa: SIM110 - a generator costs more than most rules do
            if not test(headers(name) or ""):
                return False
        return True


class CompiledRoute:
    """A route as the request path reads it."""

    def __init__(self, route: Route, rules: tuple[CompiledRule, ...]) -> None:
        self.route = route
        self.rules = rules
        self.name = route.name
        """``namespace/name``."""
        self.limits = route.limits
        self.kinds = Kinds(route.name)


class Routes(Protocol):
    """The part of a world that matching reads."""

    @property
    def by_model(self) -> dict[str, tuple[CompiledRoute, ...]]: ...
    @property
    def by_adapter(self) -> dict[str, tuple[CompiledRoute, ...]]: ...


class Matched:
    """A route, its rule, whether the model's name is an adapter of it, and the server that all such requests go to if there is one."""

    def __init__(self, route: CompiledRoute, rule: Rule, is_adapter: bool, only: str | None) -> None:
        self.route = route
        self.rule = rule
        self.is_adapter = is_adapter
        self.only = only


def compile_route(route: Route) -> CompiledRoute:
    """Compile a route's patterns, in linear-time regular expressions. Raises re2.error for an invalid one."""
    return CompiledRoute(route, tuple(_compile_rule(rule) for rule in route.rules))


def match(routes: Routes, model: str, path: str, headers: Headers) -> Matched | None:
    """The first rule that matches, None when there is none."""
    is_adapter = False
    by_model: dict[str, tuple[CompiledRoute, ...]] = routes.by_model
    candidates = by_model.get(model)
    if candidates is None:
        is_adapter = True
        candidates = routes.by_adapter.get(model, ())
    route: CompiledRoute
    compiled: CompiledRule
    for route in candidates:
        for compiled in route.rules:
            if compiled.is_plain or compiled.matches(model, path, headers):
                return Matched(route, compiled.rule, is_adapter, compiled.only)
    return None


def _compile_rule(rule: Rule) -> CompiledRule:
    wanted = rule.match or Match()
    return CompiledRule(
        rule=rule,
        model=wanted.model,
        path=None if wanted.path is None else compile_text(wanted.path),
        headers=tuple((name.lower(), compile_text(test)) for name, test in wanted.headers.items()),
    )


def compile_text(wanted: StringMatch) -> TextTest:
    """A test of one text; exact comes before prefix before regex, and with none of them anything matches."""
    if wanted.exact is not None:
        return wanted.exact.__eq__
    if wanted.prefix is not None:
        prefix = wanted.prefix
        return lambda text: text.startswith(prefix)
    if wanted.regex is not None:
        pattern = re2.compile(wanted.regex)
        return lambda text: pattern.search(text) is not None
    return lambda _: True
