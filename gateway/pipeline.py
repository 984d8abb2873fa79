"""The request path, as a list: :meth:`Pipeline.serve`."""

from __future__ import annotations

import asyncio
import difflib
import logging
import random as randomness
import time
from collections.abc import Callable

from _fastpath.clock import seconds
from gateway.admission.limits import RateLimiter
from gateway.admission.output_estimates import OutputEstimates
from gateway.deadlines import Deadlines
from gateway.dispatch import Dispatcher
from gateway.downstream.client_socket import ClientSockets
from gateway.downstream.coalescer import Coalescer
from gateway.errors import (
    ClientGone,
    Draining,
    ModelNotAllowed,
    ModelNotFound,
    NoEndpoint,
    PenstockError,
    RateLimited,
    Unauthorized,
)
from gateway.exchange import Exchange
from gateway.identity.gate import Caller, Gate
from gateway.intake import BodyLedger, BodyRules, check_headers, choices_of, read_body, scan_body
from gateway.observability.access_log import AccessLog
from gateway.observability.metrics import RequestMetrics
from gateway.reply import Replier, estimated_output, note
from gateway.routing.match import match
from gateway.routing.split import split
from gateway.scheduling.place import Placer
from gateway.scheduling.pool import ServerPool
from gateway.scheduling.waiting_room import WaitingRoom
from gateway.settings import Settings
from gateway.tokens.engine_tokens import EngineTokens
from gateway.tokens.service import PromptTokens
from gateway.upstream.client import UpstreamClient
from gateway.waiting import Run
from gateway.watch import Watches, leave
from gateway.world import GatewayWorld

_TURN_SECONDS = 0.001
_MOST_TURNS = 300
"""A request that lacks a lease looks for it so often, and is refused then."""
_ASK_EVERY = 10
"""Turns after which it asks once more: others may have taken what came."""

logger = logging.getLogger(__name__)


class Parts:
    """What a pipeline is made of; the worker wires it."""

    def __init__(
        self,
        *,
        settings: Settings,
        world: Callable[[], GatewayWorld],
        limiter: RateLimiter,
        estimates: OutputEstimates,
        placer: Placer,
        client: UpstreamClient,
        room: WaitingRoom,
        metrics: RequestMetrics,
        access_log: AccessLog,
        deadlines: Deadlines,
        sockets: ClientSockets,
        tokens: PromptTokens,
        coalescer: Coalescer,
        gate: Gate | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        self.settings = settings
        self.world = world
        self.limiter = limiter
        self.estimates = estimates
        self.placer = placer
        self.client = client
        self.room = room
        self.metrics = metrics
        self.access_log = access_log
        self.deadlines = deadlines
        self.sockets = sockets
        self.tokens = tokens
        self.coalescer = coalescer
        self.gate = gate
        """Knows who asks; None where nobody is asked."""
        self.clock = clock
        self.wall = wall
        self.random = random


class Pipeline:
    """Serves requests of one worker."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._requests = parts.settings.requests
        self._estimates = parts.estimates
        self._dispatcher = Dispatcher(
            parts.placer,
            parts.client,
            parts.metrics,
            parts.room,
            parts.deadlines,
            parts.tokens,
            EngineTokens(parts.settings.tokens, parts.client, parts.placer.is_serving, parts.clock),
            parts.settings.identity.forward_authorization,
            lambda: self.in_flight,
            parts.clock,
            lambda: parts.random(),
            parts.settings.access_log_decisions if parts.settings.access_log else 0.0,
        )
        self._replier = Replier(
            parts.settings,
            parts.sockets,
            parts.limiter,
            parts.metrics,
            parts.clock,
            self._dispatcher.first_token,
            parts.coalescer,
        )
        self._bodies = BodyLedger(parts.settings.requests.bodies_in_flight_bytes, parts.clock)
        self._watches = Watches(parts.deadlines, parts.settings.requests)
        self._gate = parts.gate
        self._body_rules = BodyRules(parts.settings)
        self._exchanges: set[Exchange] = set()
        self._most_bytes = parts.settings.requests.body_bytes
        self._body_seconds = parts.settings.requests.body_seconds
        self._world = parts.world
        self._limiter, self._metrics, self._access_log = parts.limiter, parts.metrics, parts.access_log
        self._clock, self._wall = parts.clock, parts.wall
        self.draining = False

    @property
    def in_flight(self) -> int:
        """Requests that are being served."""
        return len(self._exchanges)

    def start(self, exchange: Exchange) -> Run:
        """Serve one request; it goes on by itself. Nothing is raised, and in the end everything held is released."""
        run = exchange.run = Run(self.serve(exchange))
        self._exchanges.add(exchange)
        exchange.deadline = exchange.started + self._body_seconds
        run.start()
        if not run.is_over:
            self._watches.begin(exchange)
        return run

    async def handle(self, exchange: Exchange) -> None:
        """Serve one request, for a caller that waits for its end."""
        run = self.start(exchange)
        try:
            await run.finished
        except BaseException as error:
            run.throw(error)
            raise

    async def serve(self, exchange: Exchange) -> None:
        """The life of a request. Each step notes what it found in the exchange, or raises; nothing is raised in the end."""
        try:
            check_headers(exchange, self._most_bytes)
            if self._gate is not None and not self._admit(exchange):  # before the body: a stranger's is not read
                await self._identify(exchange)
            await read_body(exchange, self._requests, self._bodies)
            self._refuse_when_draining()
            # what the body says; every later step reads it
            scan_body(exchange, self._body_rules)
            self._permit(exchange)  # before routes: a stranger to a model shall not learn whether it exists
            self._match(exchange)  # before limits: most are a route's
            self._expect(exchange)  # what limits reserve and endpoints are charged with until the engine has counted
            if not self._limit(exchange):  # before a server is chosen: a refused request must not disturb the split
                await self._await_lease(exchange)
            self._split(exchange)
            answer = self._dispatcher.try_start(exchange)
            try:
                if answer is not None:
                    await answer.arrived
                if answer is None or answer.head is None:  # something else to wait for, or to try again
                    answer = await self._dispatcher.connect(exchange, answer)  # schedules as often as it tries
                self._let_go_of_body(exchange)  # a long stream shall not hold it
                if not self._replier.answer_at_once(exchange, answer):
                    await self._replier.answer(exchange, answer)
            finally:
                if answer is not None:
                    answer.close()
        except (Exception, asyncio.CancelledError) as error:
            self._give_up(exchange, error)
        finally:
            self._exchanges.discard(exchange)
            self._finish(exchange)

    def answered_elsewhere(self, status: int, code: str) -> None:
        """A request was refused before it became one: unknown path, wrong method."""
        self._metrics.elsewhere("none", status, code)

    def waiting_clients(self, older_than: float) -> set[str]:
        """Addresses of clients whose request began longer ago than so many seconds."""
        before = self._clock() - older_than
        return {exchange.scope.client for exchange in self._exchanges if exchange.started < before}

    def clients_left(self, addresses: set[str]) -> None:
        """Clients of whose leaving the HTTP server did not tell."""
        for exchange in list(self._exchanges):
            if exchange.scope.client in addresses:
                leave(exchange)

    def cut_all(self) -> int:
        """The deadline of the drain has come: end what is left. Returns how many requests that was."""
        cut = list(self._exchanges)
        for exchange in cut:
            assert exchange.run is not None
            exchange.run.throw(asyncio.CancelledError())
        return len(cut)

    def _refuse_when_draining(self) -> None:
        if self.draining:
            raise Draining("This gateway is shutting down.", retry_after=1.0, extra_headers=(("connection", "close"),))

    def _admit(self, exchange: Exchange) -> bool:
        """Whether it is clear who asks, or nobody need be asked. Raises Unauthorized."""
        gate = self._gate
        assert gate is not None
        if gate.is_public(exchange.path):
            return True
        try:
            exchange.caller = gate.known(exchange.header)
        except Unauthorized as refused:
            exchange.refusal = refused.reason
            raise
        return exchange.caller is not None

    async def _identify(self, exchange: Exchange) -> None:
        """A credential that is seen for the first time. Raises Unauthorized and IdentityUnavailable."""
        gate = self._gate
        assert gate is not None
        await gate.wait()
        try:
            exchange.caller = gate.identify(exchange.header)
        except Unauthorized as refused:
            exchange.refusal = refused.reason
            raise

    def _permit(self, exchange: Exchange) -> None:
        caller = exchange.caller
        if caller is not None and not caller.may_use(exchange.model):
            raise ModelNotAllowed(f"You may not use the model `{exchange.model[:100]}`.", parameter="model")

    def _match(self, exchange: Exchange) -> None:
        world = self._world()
        if world.epoch == 0:
            raise NoEndpoint("This gateway has not been told yet what it serves.", retry_after=1.0)
        exchange.world = world
        exchange.matched = match(world, exchange.model, exchange.path, exchange.header)
        if exchange.matched is None:
            raise _unknown_model(exchange.model, world, exchange.caller)

    def _expect(self, exchange: Exchange) -> None:
        found, matched = exchange.scan, exchange.matched
        assert found is not None
        assert matched is not None
        exchange.kind = matched.route.kinds.of(found.model or "", exchange.operation.name)
        exchange.output_tokens = self._estimates.expected(exchange.kind, found.max_tokens, choices_of(found))

    def _limit(self, exchange: Exchange) -> bool:
        """Whether it holds what it needs of every limit; False while a lease is on its way. Raises RateLimited."""
        matched, caller = exchange.matched, exchange.caller
        assert matched is not None
        try:
            exchange.reservation = self._limiter.reserve(
                matched.route,
                exchange.header,
                caller.tenant if caller is not None else "",
                exchange.prompt_tokens,
                exchange.output_tokens,
                exchange.lease_turns != 0 and exchange.lease_turns % _ASK_EVERY != 0,
                caller.limits if caller is not None else None,
            )
        except RateLimited as refused:
            if refused.is_awaited and exchange.lease_turns < _MOST_TURNS:
                return False
            self._metrics.limited(matched.route.name, refused.scope, refused.limit)
            raise
        return True

    async def _await_lease(self, exchange: Exchange) -> None:
        """Look again, a turn a millisecond. Raises RateLimited, and ModelNotFound when its route is gone meanwhile."""
        while True:
            await asyncio.sleep(_TURN_SECONDS)
            exchange.lease_turns += 1
            if (
                self._world() is not exchange.world
            ):  # else limits of a route that was replaced would be opened once more
                self._match(exchange)
                self._expect(exchange)
            if self._limit(exchange):
                return

    def _split(self, exchange: Exchange) -> None:
        assert exchange.matched is not None
        name = exchange.matched.only
        if name is None:
            name = split(exchange.matched.rule, self._parts.random)
        servers: dict[str, ServerPool] = exchange.world.servers
        exchange.world = None  # an old one is let go of piece by piece, not with the last of its requests
        exchange.server = servers.get(name) if name is not None else None
        if exchange.server is None:
            raise NoEndpoint(
                f"Route `{exchange.matched.route.name}` leads to ModelServer `{name}`, which does not exist.",
                retry_after=5.0,
            )

    def _let_go_of_body(self, exchange: Exchange) -> None:
        exchange.bytes_in += len(exchange.body)
        self._bodies.give(len(exchange.body))
        exchange.body = b""

    def _give_up(self, exchange: Exchange, error: BaseException) -> None:
        """Tell the client, if there is one, why it gets no answer, or no more of it."""
        if isinstance(error, PenstockError):
            self._refuse(exchange, error)
        elif isinstance(error, ClientGone):
            exchange.client_gone, exchange.status, exchange.error_code = True, error.status, error.code
        elif isinstance(error, asyncio.CancelledError):
            self._cancelled(exchange)
        else:
            logger.error("request %s failed", exchange.request_id, exc_info=error)
            self._refuse(exchange, PenstockError("The gateway failed on this request; its log says more."))

    def _refuse(self, exchange: Exchange, error: PenstockError) -> None:
        if exchange.responded:
            note(exchange, error)
            return
        try:
            self._replier.refuse(exchange, error)
        except ClientGone:
            exchange.client_gone = True

    def _cancelled(self, exchange: Exchange) -> None:
        if exchange.client_gone:
            exchange.status, exchange.error_code, exchange.error_source = ClientGone.status, ClientGone.code, "client"
        else:
            self._refuse(exchange, Draining("This gateway shuts down.", extra_headers=(("connection", "close"),)))

    def _finish(self, exchange: Exchange) -> None:
        """Every way out of a request ends here: release, settle, count, log."""
        self._let_go_of_body(exchange)
        self._dispatcher.release(exchange)
        if exchange.reservation is not None:
            self._settle(exchange)
        now = seconds(self._clock)
        if exchange.usage is not None and exchange.status == 200 and exchange.kind is not None:
            self._learn(exchange, now)
        self._metrics.finished(exchange, now)
        self._access_log.finished(exchange, now, seconds(self._wall))
        if exchange.done is not None:
            exchange.done()
        # the timer may hold on to the exchange for a second: the connection shall not wait for that
        exchange.protocol = exchange.done = exchange.world = None

    def _settle(self, exchange: Exchange) -> None:
        """Correct what it holds of its limits to what was used, as far as anybody knows."""
        limiter, reservation, usage = self._limiter, exchange.reservation, exchange.usage
        assert reservation is not None
        if not exchange.sent:
            limiter.cancel(reservation)
        elif usage is not None:
            limiter.settle(reservation, usage[0], usage[1])
        elif (
            exchange.status >= 400
            and exchange.error_source != "client"
            and not exchange.chunks
            and not exchange.client_gone
        ):
            limiter.settle(reservation, 0, 0)  # the engine refused it, or failed: it counts as a request alone
        else:
            limiter.settle(reservation, exchange.prompt_tokens, estimated_output(exchange))

    def _learn(self, exchange: Exchange, now: float) -> None:
        """Its answer's length, as the engine counted it, for those to come."""
        kind, found, usage = exchange.kind, exchange.scan, exchange.usage
        assert kind is not None
        assert found is not None
        assert usage is not None
        self._estimates.learn(kind, usage[1], found.max_tokens, choices_of(found), now)


def _unknown_model(model: str, world: GatewayWorld, caller: Caller | None) -> ModelNotFound:
    known = [name for name in (*world.by_model, *world.by_adapter) if caller is None or caller.may_use(name)]
    if model in world.by_model or model in world.by_adapter:
        return ModelNotFound(
            f"No rule of the routes for model `{model[:100]}` matches this request.", parameter="model"
        )
    nearest = difflib.get_close_matches(model, known, n=3)
    hint = f" Did you mean {', '.join(f'`{name}`' for name in nearest)}?" if nearest else ""
    return ModelNotFound(f"The model `{model[:100]}` does not exist.{hint}", parameter="model")
