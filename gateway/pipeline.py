"""The request path, as a list: :meth:`Pipeline.serve`."""

from __future__ import annotations

import asyncio
import difflib
import logging
import random as randomness
import time
from collections.abc import Callable

from _fastpath.hashing import BlockHashes
from _fastpath.scanner import Forbidden
from gateway.admission.limits import RateLimiter
from gateway.connectors import direct
from gateway.deadlines import Deadlines
from gateway.downstream.client_socket import ClientSockets
from gateway.errors import (
    ClientGone,
    Draining,
    ModelNotFound,
    NoEndpoint,
    PenstockError,
    RateLimited,
    UpstreamError,
)
from gateway.exchange import Exchange
from gateway.intake import BodyLedger, check_headers, read_body, scan_body
from gateway.observability.access_log import AccessLog
from gateway.observability.metrics import RequestMetrics
from gateway.reply import Replier, estimated_output, note
from gateway.routing.match import match
from gateway.routing.split import split
from gateway.scheduling.place import Placer
from gateway.settings import Settings
from gateway.tokens.service import PromptTokens
from gateway.upstream.client import Answer, UpstreamClient
from gateway.upstream.retry import RetryBudget
from gateway.waiting import Run
from gateway.watch import Watch, leave
from gateway.world import GatewayWorld

logger = logging.getLogger(__name__)


class Parts:
    """What a pipeline is made of; the worker wires it."""

    def __init__(
        self,
        *,
        settings: Settings,
        world: Callable[[], GatewayWorld],
        limiter: RateLimiter,
        placer: Placer,
        client: UpstreamClient,
        metrics: RequestMetrics,
        access_log: AccessLog,
        deadlines: Deadlines,
        sockets: ClientSockets,
        tokens: PromptTokens,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        self.settings = settings
        self.world = world
        self.limiter = limiter
        self.placer = placer
        self.client = client
        self.metrics = metrics
        self.access_log = access_log
        self.deadlines = deadlines
        self.sockets = sockets
        self.tokens = tokens
        self.clock = clock
        self.wall = wall
        self.random = random


class Pipeline:
    """Serves requests of one worker."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._requests = parts.settings.requests
        self._replier = Replier(
            parts.settings, parts.sockets, parts.limiter, parts.metrics, parts.clock, self._first_token
        )
        self._bodies = BodyLedger(parts.settings.requests.bodies_in_flight_bytes, parts.clock)
        self._budget = RetryBudget()
        self._forbidden = Forbidden(parts.settings.requests.stripped_members.split())
        self._exchanges: dict[int, Exchange] = {}
        self.draining = False

    @property
    def in_flight(self) -> int:
        """Requests that are being served."""
        return len(self._exchanges)

    def start(self, exchange: Exchange) -> Run:
        """Serve one request; it goes on by itself. Nothing is raised, and in the end everything held is released."""
        run = exchange.run = Run(self._handle(exchange))
        self._exchanges[id(exchange)] = exchange
        exchange.deadline = exchange.started + self._requests.body_seconds
        watch = Watch(exchange, self._parts.deadlines, self._requests)
        run.start()
        if not run.finished.is_set:
            watch.begin()
        return run

    async def handle(self, exchange: Exchange) -> None:
        """Serve one request, for a caller that waits for its end."""
        run = self.start(exchange)
        try:
            await run.finished
        except BaseException as error:
            run.throw(error)
            raise

    async def _handle(self, exchange: Exchange) -> None:
        try:
            check_headers(exchange, self._requests)
            await read_body(exchange, self._requests, self._bodies)
            await self.serve(exchange)
        except PenstockError as error:
            self._refuse(exchange, error)
        except ClientGone as gone:
            exchange.client_gone, exchange.status, exchange.error_code = True, gone.status, gone.code
        except asyncio.CancelledError:
            self._cancelled(exchange)
        except Exception:
            logger.exception("request %s failed", exchange.request_id)
            self._refuse(exchange, PenstockError("The gateway failed on this request; its log says more."))
        finally:
            del self._exchanges[id(exchange)]
            self._finish(exchange)

    async def serve(self, exchange: Exchange) -> None:
        """The life of a request. Each step notes what it found in the exchange, or raises."""
        self._refuse_when_draining()
        scan_body(exchange, self._parts.settings, self._forbidden)  # what the body says; every later step reads it
        self._match(exchange)  # before limits, which are a route's
        self._limit(exchange)  # before a server is chosen: a refused request must not disturb the split
        self._split(exchange)
        answer = await self._connect(exchange)  # schedules as often as it tries
        self._let_go_of_body(exchange)  # a long stream shall not hold it
        try:
            await self._replier.answer(exchange, answer)
        finally:
            answer.close()

    def answered_elsewhere(self, status: int, code: str) -> None:
        """A request was refused before it became one: unknown path, wrong method."""
        self._parts.metrics.elsewhere("none", status, code)

    def waiting_clients(self, older_than: float) -> set[str]:
        """Addresses of clients whose request began longer ago than so many seconds."""
        before = self._parts.clock() - older_than
        return {exchange.scope.client for exchange in self._exchanges.values() if exchange.started < before}

    def clients_left(self, addresses: set[str]) -> None:
        """Clients of whose leaving the HTTP server did not tell."""
        for exchange in list(self._exchanges.values()):
            if exchange.scope.client in addresses:
                leave(exchange)

    def cut_all(self) -> int:
        """The deadline of the drain has come: end what is left. Returns how many requests that was."""
        cut = list(self._exchanges.values())
        for exchange in cut:
            assert exchange.run is not None
            exchange.run.throw(asyncio.CancelledError())
        return len(cut)

    def _refuse_when_draining(self) -> None:
        if self.draining:
            raise Draining("This gateway is shutting down.", retry_after=1.0, extra_headers=(("connection", "close"),))

    def _match(self, exchange: Exchange) -> None:
        world = self._parts.world()
        if world.epoch == 0:
            raise NoEndpoint("This gateway has not been told yet what it serves.", retry_after=1.0)
        exchange.matched = match(world, exchange.model, exchange.path, exchange.header)
        if exchange.matched is None:
            raise _unknown_model(exchange.model, world)

    def _limit(self, exchange: Exchange) -> None:
        assert exchange.matched is not None
        route = exchange.matched.route.route
        try:
            exchange.reservation = self._parts.limiter.reserve(
                route, exchange.header, "", exchange.prompt_tokens, exchange.output_tokens
            )
        except RateLimited as refused:
            self._parts.metrics.limited(route.name, refused.limit)
            raise

    def _split(self, exchange: Exchange) -> None:
        assert exchange.matched is not None
        name = split(exchange.matched.rule, self._parts.random)
        exchange.server = self._parts.world().servers.get(name) if name is not None else None
        if exchange.server is None:
            raise NoEndpoint(
                f"Route `{exchange.matched.route.name}` leads to ModelServer `{name}`, which does not exist.",
                retry_after=5.0,
            )

    async def _connect(self, exchange: Exchange) -> Answer:
        assert exchange.server is not None
        assert exchange.scan is not None
        traffic = exchange.server.server.traffic
        by_token = await self._hash_tokens(exchange) if exchange.server.server.prefix_cache.mode == "tokens" else None
        hashes = by_token
        if hashes is None:
            hashes = self._parts.placer.hash_prompt(exchange.server, exchange.body, exchange.scan)
        failed: UpstreamError | None = None
        for attempt in range(max(1, traffic.attempts)):
            if failed is not None:
                if not self._budget.allows(traffic.retry_budget_percent, self.in_flight):
                    break
                await self._pause(attempt, traffic.retry_interval)
            begun = self._parts.clock()
            try:
                placement = self._parts.placer.place(
                    exchange.server,
                    hashes,
                    exchange.prompt_tokens,
                    exchange.output_tokens,
                    exchange.tried,
                    by_token is None,
                )
            except PenstockError as error:
                if failed is not None:
                    break
                self._parts.metrics.unplaced(exchange, error.code)
                raise
            exchange.placement, exchange.is_released = placement, False
            exchange.tried = (*exchange.tried, placement.position)
            if failed is not None:
                self._parts.metrics.retried(exchange.server.server.name, failed.code)
            exchange.sent = self._parts.clock()
            exchange.scheduling = exchange.sent - begun
            self._budget.under_way += attempt > 0
            try:
                return await direct.connect(exchange, self._parts.client)
            except UpstreamError as error:
                self._release(exchange)
                if not error.retryable:
                    raise
                failed = error
            finally:
                self._budget.under_way -= attempt > 0
        assert failed is not None
        raise failed

    async def _hash_tokens(self, exchange: Exchange) -> BlockHashes | None:
        """Hashes by token, None for a prompt whose ids cannot be had in time: it is matched, and learned, by its text."""
        server = exchange.server
        assert server is not None and exchange.matched is not None
        found = await self._parts.tokens.of(server.server.prefix_cache.tokenizer, exchange.path, exchange.body)
        self._parts.metrics.tokenised(server.server.name, found.outcome)
        if found.ids is None:
            return None
        exchange.prompt_tokens = max(1, len(found.ids))
        adapter = exchange.model if exchange.matched.is_adapter else ""
        return self._parts.placer.hash_tokens(server, found.ids, adapter, found.salt)

    async def _pause(self, attempt: int, interval: float) -> None:
        """The first retry goes to another endpoint at once; further ones wait, longer each time, with jitter."""
        if attempt > 1 and interval > 0:
            await asyncio.sleep(interval * 2 ** (attempt - 2) * (0.5 + self._parts.random() / 2))

    def _first_token(self, exchange: Exchange) -> None:
        if exchange.placement is not None:
            self._parts.placer.first_token(exchange.placement)

    def _release(self, exchange: Exchange) -> None:
        """Take the load off the endpoint, once. The placement stays for the log and the client's headers."""
        if exchange.placement is not None and not exchange.is_released:
            exchange.is_released = True
            self._parts.placer.release(exchange.placement)

    def _let_go_of_body(self, exchange: Exchange) -> None:
        exchange.bytes_in += len(exchange.body)
        self._bodies.give(len(exchange.body))
        exchange.body = b""

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
        self._release(exchange)
        if exchange.reservation is not None:
            if exchange.sent:
                self._parts.limiter.settle(exchange.reservation, *_used(exchange))
            else:
                self._parts.limiter.cancel(exchange.reservation)
        now = self._parts.clock()
        self._parts.metrics.finished(exchange, now)
        self._parts.access_log.finished(exchange, now, self._parts.wall())
        if exchange.done is not None:
            exchange.done()
        # the timer may hold on to the exchange for a second: the connection shall not wait for that
        exchange.protocol = exchange.done = None


def _used(exchange: Exchange) -> tuple[int, int]:
    """Input and output tokens of a request that was sent to an engine, as far as anybody knows."""
    if exchange.usage is not None:
        return exchange.usage[:2]
    if (
        exchange.status >= 400
        and exchange.error_source != "client"
        and not exchange.chunks
        and not exchange.client_gone
    ):
        return 0, 0  # the engine refused it, or failed: it counts as a request alone
    return exchange.prompt_tokens, estimated_output(exchange)


def _unknown_model(model: str, world: GatewayWorld) -> ModelNotFound:
    known = [*world.by_model, *world.by_adapter]
    if model in world.by_model or model in world.by_adapter:
        return ModelNotFound(
            f"No rule of the routes for model `{model[:100]}` matches this request.", parameter="model"
        )
    nearest = difflib.get_close_matches(model, known, n=3)
    hint = f" Did you mean {', '.join(f'`{name}`' for name in nearest)}?" if nearest else ""
    return ModelNotFound(f"The model `{model[:100]}` does not exist.{hint}", parameter="model")
