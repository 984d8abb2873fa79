"""The RSGI application of the inference port: an exact list of paths, nothing else reaches an engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson

from _fastpath.clock import seconds
from gateway import errors
from gateway.errors import MethodNotAllowed, ModelNotFound, NotFound, PenstockError
from gateway.exchange import OPERATIONS, Exchange, RequestIds
from gateway.identity.gate import Caller, Gate
from gateway.pipeline import Pipeline
from gateway.world import GatewayWorld

_MODELS = "/v1/models"


class App:
    """What Granian calls for each request."""

    def __init__(
        self,
        pipeline: Pipeline,
        world: Callable[[], GatewayWorld],
        is_ready: Callable[[], tuple[bool, str]],
        clock: Callable[[], float] = time.monotonic,
        gate: Gate | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._world = world
        self._is_ready = is_ready
        self._clock = clock
        self._gate = gate
        self._operations = OPERATIONS
        self._ids = RequestIds()
        self._started = int(time.time())

    def begin(self, watcher: Any) -> None:
        """Serve a request that goes on in callbacks; ``watcher`` is Granian's: the request, and ``done`` for its end. Never raises."""
        scope, protocol = watcher.scope, watcher.proto
        exchange = self._exchange(scope, protocol)
        if exchange is None:
            watcher.done()
            return
        exchange.done = watcher.done
        self._pipeline.start(exchange)

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """The same for a server that makes a task of each request."""
        exchange = self._exchange(scope, protocol)
        if exchange is not None:
            await self._pipeline.handle(exchange)

    def _exchange(self, scope: Any, protocol: Any) -> Exchange | None:
        """The exchange that begins, None when the request was answered here."""
        if scope.proto != "http":
            protocol.close(None)
            return None
        path = scope.path
        operation = self._operations.get(path)
        if operation is None or scope.method != "POST":
            self._answer_directly(scope, protocol)
            return None
        header = scope.headers.get
        request_id = self._ids.of(header("x-request-id"))
        return Exchange(scope, protocol, path, operation, request_id, seconds(self._clock), header)

    def _answer_directly(self, scope: Any, protocol: Any) -> None:
        code = "not_ready"
        try:
            status, headers, body = self._look_up(scope.method, scope.path, scope.headers.get)
        except PenstockError as error:
            status, headers, body = error.status, errors.headers(error), errors.body(error)
            code = error.code
        if status >= 400:
            self._pipeline.answered_elsewhere(status, code)
        headers = [*headers, ("x-request-id", self._ids.of(scope.headers.get("x-request-id")))]
        try:
            protocol.response_bytes(status, headers, body)
        except Exception:  # noqa: S110 - the client left: nobody to tell
            pass

    def _look_up(
        self, method: str, path: str, header: Callable[[str], str | None]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        is_read = path in ("/healthz", "/readyz", _MODELS) or path.startswith(_MODELS + "/")
        if path in OPERATIONS or is_read:
            allowed = ("GET", "HEAD") if is_read else ("POST",)
            if method not in allowed:
                raise MethodNotAllowed(
                    f"`{path}` takes {' or '.join(allowed)}, not {method[:16]}.",
                    extra_headers=(("allow", ", ".join(allowed)),),
                )
        if path == "/healthz":
            return 200, [("content-type", "text/plain")], b"ok\n"
        if path == "/readyz":
            ready, reason = self._is_ready()
            return (200 if ready else 503), [("content-type", "text/plain")], reason.encode() + b"\n"
        if is_read:
            names = self._names(self._caller(path, header))
            if path == _MODELS:
                return self._json({"object": "list", "data": [self._model(name) for name in names]})
            name = path.removeprefix(_MODELS + "/")
            if name not in names:
                raise ModelNotFound(f"The model `{name[:100]}` does not exist.", parameter="model")
            return self._json(self._model(name))
        raise NotFound(f"Unknown path `{path[:100]}`: this gateway serves {', '.join(OPERATIONS)} and {_MODELS}.")

    def _caller(self, path: str, header: Callable[[str], str | None]) -> Caller | None:
        """Who asks, None where nobody is asked. Raises Unauthorized and IdentityUnavailable."""
        gate = self._gate
        return None if gate is None or gate.is_public(path) else gate.identify(header)

    def _names(self, caller: Caller | None) -> list[str]:
        """The models that a caller may use."""
        world = self._world()
        names = {*world.by_model, *world.by_adapter}
        return sorted([name for name in names if caller is None or caller.may_use(name)])

    def _model(self, name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "penstock"}

    def _json(self, content: object) -> tuple[int, list[tuple[str, str]], bytes]:
        return 200, [("content-type", "application/json")], orjson.dumps(content)
