"""The replica: frames in, worlds out, no I/O.

``feed`` is a generator that yields whenever it has worked for a moment, so that whoever drives it can let the event loop turn. It
ends with what the driver must do next. A world is immutable; what a change does not touch is shared with the world before.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from typing import Generic, Protocol, TypeVar

from gateway.datastore.model import Endpoint, Route, Server
from gateway.datastore.wire import Change, Counts, Frame, Kind

E_ = TypeVar("E_")
S_ = TypeVar("S_")
R_ = TypeVar("R_")

_ECompiled = TypeVar("_ECompiled")
_SCompiled = TypeVar("_SCompiled", covariant=True)
_RCompiled = TypeVar("_RCompiled", covariant=True)

PIECE = 50
"""Objects compiled between two yields: about half a millisecond of work when all are new."""
_LIGHT_PIECE = 1000
"""Objects that are only looked up or listed between two yields: less than that."""
LONGEST_BACKLOG = 10_000
"""Deltas kept while a whole is on its way; beyond it, ask again."""

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class Unusable(Exception):
    """What was decided cannot be served by this process: the message says why, and what to set."""


class Compiler(Protocol[_ECompiled, _SCompiled, _RCompiled]):
    """Makes of decided objects what the request path reads. Called once an object and change, never on the request path.

    Raises Unusable for an object that cannot be served; the world before then stays.
    """

    def endpoint(self, endpoint: Endpoint) -> _ECompiled: ...
    def retire(self, endpoint: _ECompiled) -> None: ...
    def server(self, server: Server, endpoints: tuple[_ECompiled, ...]) -> _SCompiled: ...
    def route(self, route: Route) -> _RCompiled: ...


@dataclass(frozen=True, slots=True)
class World(Generic[E_, S_, R_]):
    """One state of all routes, servers and endpoints, as the request path reads it."""

    epoch: int = 0
    sequence: int = 0
    routes: dict[str, R_] = field(default_factory=dict)
    servers: dict[str, S_] = field(default_factory=dict)
    endpoints: dict[str, E_] = field(default_factory=dict)
    by_model: dict[str, tuple[R_, ...]] = field(default_factory=dict)
    by_adapter: dict[str, tuple[R_, ...]] = field(default_factory=dict)


class Next(Enum):
    """What the driver does after a frame."""

    NOTHING = "nothing"
    ASK = "ask for a whole snapshot"
    APPLIED = "a new world stands"


@dataclass(slots=True)
class _Decided:
    """The decided objects behind a world. Not changed once the world stands: it may be on its way to the disk."""

    routes: dict[str, Route] = field(default_factory=dict)
    servers: dict[str, Server] = field(default_factory=dict)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)


@dataclass(slots=True)
class _Staging:
    """A whole snapshot on its way."""

    epoch: int
    sequence: int
    parts: set[int] = field(default_factory=set)
    decided: _Decided = field(default_factory=_Decided)


RouteListener = Callable[[Route | None, Route | None], None]


class Replica(Generic[E_, S_, R_]):
    """Holds the present world and moves it on, frame by frame."""

    def __init__(self, compiler: Compiler[E_, S_, R_]) -> None:
        self._compiler = compiler
        self._decided = _Decided()
        self._members: dict[str, tuple[E_, ...]] = {}
        self._staging: _Staging | None = None
        self._backlog: list[Frame] = []
        self._retired_epochs: list[int] = []
        self._route_listeners: list[RouteListener] = []
        self.world: World[E_, S_, R_] = World()
        self.waiting = True
        """Whether deltas are kept back until a whole snapshot has come."""

    def on_route(self, listener: RouteListener) -> None:
        """Call ``listener(before, after)`` for each route that is new, changed or gone, soon after the swap."""
        self._route_listeners.append(listener)

    def feed(self, frame: Frame) -> Generator[None, None, Next]:
        """Take one frame. Yields between pieces of work; ends with what to do next."""
        if frame.epoch in self._retired_epochs:
            return Next.NOTHING
        match frame.kind:
            case Kind.HEARTBEAT:
                return self._heartbeat(frame)
            case Kind.DELTA:
                return (yield from self._delta(frame))
            case Kind.PART:
                return self._part(frame)
            case Kind.END:
                return (yield from self._end(frame))

    def whole(self) -> tuple[Iterable[Route], Iterable[Server], Iterable[Endpoint]]:
        """The decided objects of the present world: what is kept on disk."""
        return self._decided.routes.values(), self._decided.servers.values(), self._decided.endpoints.values()

    def _heartbeat(self, frame: Frame) -> Next:
        if frame.epoch == self.world.epoch and frame.sequence == self.world.sequence:
            self.waiting = False
            return Next.NOTHING
        if frame.epoch == self.world.epoch and frame.sequence < self.world.sequence:
            return Next.NOTHING
        self.waiting = True
        return Next.ASK

    def _delta(self, frame: Frame) -> Generator[None, None, Next]:
        if frame.epoch == self.world.epoch and frame.sequence <= self.world.sequence:
            return Next.NOTHING
        follows = frame.epoch == self.world.epoch and frame.sequence == self.world.sequence + 1
        if not follows:
            self.waiting = True
            if len(self._backlog) < LONGEST_BACKLOG:
                self._backlog.append(frame)
            return Next.ASK
        assert frame.change is not None
        decided = _changed(self._decided, frame.change)
        yield from self._swap(frame.epoch, frame.sequence, decided, _touched(self._decided, frame.change))
        return Next.APPLIED

    def _part(self, frame: Frame) -> Next:
        if self._staging is None or (self._staging.epoch, self._staging.sequence) != (frame.epoch, frame.sequence):
            if frame.number != 0:
                return Next.ASK
            self._staging = _Staging(frame.epoch, frame.sequence)
        assert frame.change is not None
        staging = self._staging
        staging.parts.add(frame.number)
        staging.decided.routes.update((route.name, route) for route in frame.change.routes)
        staging.decided.servers.update((server.name, server) for server in frame.change.servers)
        staging.decided.endpoints.update((endpoint.key, endpoint) for endpoint in frame.change.endpoints)
        return Next.NOTHING

    def _end(self, frame: Frame) -> Generator[None, None, Next]:
        assert frame.counts is not None
        staging, self._staging = self._staging, None
        if frame.counts.parts == 0:
            staging = _Staging(frame.epoch, frame.sequence)
        if staging is None or not _is_complete(staging, frame, frame.counts):
            return Next.ASK
        if frame.epoch == self.world.epoch and frame.sequence < self.world.sequence:
            return Next.NOTHING
        epoch_before = self.world.epoch
        yield from self._swap(frame.epoch, frame.sequence, staging.decided, None)
        if epoch_before not in (0, frame.epoch):
            self._retired_epochs = [*self._retired_epochs[-15:], epoch_before]
        self.waiting = False
        backlog, self._backlog = self._backlog, []
        for late in sorted(backlog, key=lambda one: one.sequence):
            if late.epoch == self.world.epoch and (yield from self._delta(late)) is Next.ASK:
                return Next.ASK
        return Next.APPLIED

    def _swap(
        self, epoch: int, sequence: int, decided: _Decided, touched: set[str] | None
    ) -> Generator[None, None, None]:
        """Compile what changed, make a new world and put it in place. ``touched``: servers to look at, None for all."""
        before, world = self._decided, self.world
        fresh: dict[str, E_] = {}
        try:
            endpoints = yield from self._compile_endpoints(decided, fresh)
            servers, members = yield from self._compile_servers(decided, endpoints, touched)
            routes, changed = yield from self._compile_routes(decided)
            by_model, by_adapter = world.by_model, world.by_adapter
            if changed:
                by_model, by_adapter = yield from _index(decided.routes, routes)
        except BaseException:
            # the world before stands: what was prepared for the next is given back
            for compiled in fresh.values():
                self._compiler.retire(compiled)
            raise
        leftovers: list[object] = [*before.endpoints.values(), *before.routes.values(), *world.routes.values()]
        former_members = self._members
        self.world = World(epoch, sequence, routes, servers, endpoints, by_model, by_adapter)
        self._decided, self._members = decided, members
        del before
        yield from self._tell(changed)
        yield from self._retire(world, decided, fresh)
        # to free ten thousand objects at once would hold the loop too; what refers to others goes before them, from the list's end
        leftovers += [*world.endpoints.values(), *world.servers.values(), *former_members.values()]
        del world, changed, former_members
        while leftovers:
            yield
            del leftovers[-PIECE:]

    def _compile_endpoints(self, decided: _Decided, fresh: dict[str, E_]) -> Generator[None, None, dict[str, E_]]:
        """All endpoints of a world; those that had to be compiled are put into ``fresh`` too."""
        before, compiled = self._decided.endpoints, self.world.endpoints
        endpoints: dict[str, E_] = {}
        work = 0
        for key, endpoint in decided.endpoints.items():
            stood = before.get(key)
            if stood is endpoint:
                endpoints[key] = compiled[key]
                work += 1
            elif stood == endpoint:
                endpoints[key] = compiled[key]
                work += 5
            else:
                endpoints[key] = fresh[key] = self._compiler.endpoint(endpoint)
                work += _LIGHT_PIECE // PIECE
            if work >= _LIGHT_PIECE:
                work = 0
                yield
        yield
        return endpoints

    def _compile_servers(
        self, decided: _Decided, endpoints: dict[str, E_], touched: set[str] | None
    ) -> Generator[None, None, tuple[dict[str, S_], dict[str, tuple[E_, ...]]]]:
        listed: dict[str, list[E_]] = {}
        for piece in _pieces(decided.endpoints.items(), _LIGHT_PIECE):
            for key, endpoint in piece:
                if touched is None or endpoint.server in touched:
                    listed.setdefault(endpoint.server, []).append(endpoints[key])
            yield
        servers: dict[str, S_] = {}
        members: dict[str, tuple[E_, ...]] = {}
        for count, (name, server) in enumerate(decided.servers.items(), 1):
            is_known = name in self.world.servers and self._decided.servers[name] == server
            if touched is None or name in touched:
                members[name] = tuple(listed.pop(name, ()))
                is_known = is_known and _same(members[name], self._members[name])
                if len(members[name]) > PIECE:
                    yield
            else:
                members[name] = self._members.get(name, ())
            if is_known:
                servers[name] = self.world.servers[name]
            else:
                servers[name] = self._compiler.server(server, members[name])
                yield
            if count % PIECE == 0:
                yield
        return servers, members

    def _compile_routes(
        self, decided: _Decided
    ) -> Generator[None, None, tuple[dict[str, R_], list[tuple[Route | None, Route | None]]]]:
        """All routes of a world, and before and after of those that are new, changed or gone."""
        before, compiled = self._decided.routes, self.world.routes
        routes: dict[str, R_] = {}
        changed: list[tuple[Route | None, Route | None]] = []
        work = 0
        for name, route in decided.routes.items():
            stood = before.get(name)
            if stood is route or stood == route:
                routes[name] = compiled[name]
                work += 5
            else:
                routes[name] = self._compiler.route(route)
                changed.append((stood, route))
                work += 2 * _LIGHT_PIECE // PIECE * (1 + len(route.rules))  # each with patterns to compile
            if work >= _LIGHT_PIECE:
                work = 0
                yield
        changed += [(route, None) for name, route in before.items() if name not in decided.routes]
        yield
        return routes, changed

    def _tell(self, changed: list[tuple[Route | None, Route | None]]) -> Generator[None, None, None]:
        for piece in _pieces(changed, PIECE):
            for old, new in piece:
                for listener in self._route_listeners:
                    try:
                        listener(old, new)
                    except Exception:
                        # the world stands already, and the next listener must hear of it
                        logger.exception("route %s: a listener failed", (new or old).name)  # type: ignore[union-attr]
            yield

    def _retire(self, world: World[E_, S_, R_], decided: _Decided, fresh: dict[str, E_]) -> Generator[None, None, None]:
        """Give back what the world before had, and this one has not or has anew."""
        work = 0
        for key, compiled in world.endpoints.items():
            if key in fresh or key not in decided.endpoints:
                self._compiler.retire(compiled)
                work += _LIGHT_PIECE // PIECE
            else:
                work += 1
            if work >= _LIGHT_PIECE:
                work = 0
                yield


def load(replica: Replica[E_, S_, R_], frames: Iterator[Frame]) -> None:
    """Feed a replica without letting anything else run: for a process that does not serve yet."""
    for frame in frames:
        for _ in replica.feed(frame):
            pass


def _is_complete(staging: _Staging, end: Frame, counts: Counts) -> bool:
    decided = staging.decided
    return (
        (staging.epoch, staging.sequence) == (end.epoch, end.sequence)
        and staging.parts == set(range(counts.parts))
        and (len(decided.routes), len(decided.servers), len(decided.endpoints))
        == (counts.routes, counts.servers, counts.endpoints)
    )


def _changed(decided: _Decided, change: Change) -> _Decided:
    routes, servers, endpoints = dict(decided.routes), dict(decided.servers), dict(decided.endpoints)
    for name in change.gone_routes:
        routes.pop(name, None)
    for name in change.gone_servers:
        servers.pop(name, None)
    for key in change.gone_endpoints:
        endpoints.pop(key, None)
    routes.update((route.name, route) for route in change.routes)
    servers.update((server.name, server) for server in change.servers)
    endpoints.update((endpoint.key, endpoint) for endpoint in change.endpoints)
    return _Decided(routes, servers, endpoints)


def _same(ones: tuple[E_, ...], others: tuple[E_, ...]) -> bool:
    return len(ones) == len(others) and all(map(operator.is_, ones, others))


def _pieces(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Lists of ``size`` items, and of what is left."""
    left = iter(items)
    while piece := list(islice(left, size)):
        yield piece


def _touched(decided: _Decided, change: Change) -> set[str]:
    touched = {server.name for server in change.servers} | {endpoint.server for endpoint in change.endpoints}
    gone = (decided.endpoints.get(key) for key in change.gone_endpoints)
    return touched | {endpoint.server for endpoint in gone if endpoint is not None}


def _index(
    decided: dict[str, Route], routes: dict[str, R_]
) -> Generator[None, None, tuple[dict[str, tuple[R_, ...]], dict[str, tuple[R_, ...]]]]:
    """Routes by model and by adapter, the oldest first."""
    by_model: dict[str, list[Route]] = {}
    by_adapter: dict[str, list[Route]] = {}
    for piece in _pieces(decided.values(), _LIGHT_PIECE):
        for route in piece:
            if route.model_name:
                by_model.setdefault(route.model_name, []).append(route)
            for adapter in route.adapters:
                by_adapter.setdefault(adapter, []).append(route)
        yield
    return (yield from _in_order(by_model, routes)), (yield from _in_order(by_adapter, routes))


def _in_order(found: dict[str, list[Route]], routes: dict[str, R_]) -> Generator[None, None, dict[str, tuple[R_, ...]]]:
    ordered: dict[str, tuple[R_, ...]] = {}
    for piece in _pieces(found.items(), _LIGHT_PIECE // 4):
        for name, some in piece:
            some.sort(key=lambda one: (one.created, one.name))
            ordered[name] = tuple([routes[route.name] for route in some])
        yield
    return ordered
