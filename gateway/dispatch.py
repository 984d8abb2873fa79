"""From a server to an answer's head: a place, the engine there, and once more elsewhere while that helps.

Whoever finds every endpoint full waits in turn (:mod:`gateway.scheduling.waiting_room`). What is charged at a choice is released here,
once.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial

import orjson

from _fastpath.clock import seconds
from _fastpath.hashing import BlockHashes
from gateway.connectors.direct import head_of, send_at_once
from gateway.counting import Count
from gateway.datastore.model import SESSION_HEADERS
from gateway.deadlines import Deadlines
from gateway.errors import PenstockError, QueueFull, UpstreamError
from gateway.exchange import Exchange
from gateway.observability.metrics import RequestMetrics
from gateway.scheduling.fair_queue import LOWEST_PRIORITY, Waiter, weighted_tokens
from gateway.scheduling.health import HealthNotes
from gateway.scheduling.place import Placer, adapter_of, session_named, session_of
from gateway.scheduling.plugins import Asked, adjustments_of
from gateway.scheduling.pool import ServerPool
from gateway.scheduling.waiting_room import WaitingRoom
from gateway.tokens.engine_tokens import EngineTokens
from gateway.tokens.service import NO_TOKENIZER, PromptTokens, Tokenised
from gateway.upstream.client import UpstreamClient
from gateway.upstream.connection import Answer
from gateway.upstream.retry import RetryBudget

TIMEOUT_HEADERS = (
    ("x-stainless-read-timeout", 1.0),  # OpenAI's and Anthropic's SDKs for Python
    ("x-stainless-timeout", 1.0),  # those for other languages, and Anthropic's
    ("x-envoy-expected-rq-timeout-ms", 0.001),  # an Envoy before this gateway
)
"""Headers in which clients say how long they wait for an answer, and the seconds that their number counts."""


class Dispatcher:
    """Sends the requests of one worker. ``in_flight``: how many the worker has; ``shown``: share of choices that the log shows."""

    def __init__(
        self,
        placer: Placer,
        client: UpstreamClient,
        metrics: RequestMetrics,
        room: WaitingRoom,
        deadlines: Deadlines,
        tokens: PromptTokens,
        engine_tokens: EngineTokens,
        forwards_authorization: bool,
        in_flight: Callable[[], int],
        clock: Callable[[], float],
        random: Callable[[], float],
        shown: float = 0.0,
    ) -> None:
        self._placer = placer
        self._client = client
        self._metrics = metrics
        self._room = room
        self._deadlines = deadlines
        self._tokens = tokens
        self._engine_tokens = engine_tokens
        self._forwards_authorization = forwards_authorization
        self._in_flight = in_flight
        self._clock = clock
        self._random = random
        self._shown = shown
        self._budget = RetryBudget()
        self._health = HealthNotes(placer, metrics)

    def try_start(self, exchange: Exchange) -> Answer | None:
        """Place a request and send it, without waiting for anything. Raises PenstockError when it can have no endpoint.

        Its answer's head is not there yet: whoever has seen it come needs nothing else, and :meth:`connect` with the answer does the
        rest. None when something has to be waited for before it can be sent: then :meth:`connect` goes on.
        """
        assert exchange.server is not None
        if exchange.server.matches_tokens:
            return None
        return self._begin(exchange)

    async def connect(self, exchange: Exchange, answer: Answer | None = None) -> Answer:
        """The answer of an engine once its head is there; ``answer``: of :meth:`try_start`. Raises PenstockError when there is none."""
        assert exchange.server is not None
        if answer is None and exchange.is_released:
            if exchange.server.matches_tokens and exchange.hashes is None:
                exchange.hashes = await self._hash_tokens(exchange)
                # an engine that tells of its blocks tells of this one too
                exchange.is_learned = exchange.hashes is None
            if not exchange.awaits_room:
                answer = self._begin(exchange)
            if exchange.awaits_room:
                await self._wait(exchange)
                answer = self._send(exchange, seconds(self._clock))
        sent_before = 0.0
        failed: UpstreamError | None = None
        for attempt in range(exchange.server.attempts):
            if failed is not None:
                if not await self._further_place(exchange, failed, attempt):
                    break
                sent_before = exchange.sent
                answer = self._send(exchange, seconds(self._clock))
            self._budget.under_way += attempt > 0
            try:
                return await head_of(exchange, self._client, answer, self._forwards_authorization)
            except UpstreamError as error:
                self.release(exchange, error)
                if not error.is_sent:
                    exchange.sent = sent_before
                if not error.retryable:
                    raise
                failed = error
            finally:
                self._budget.under_way -= attempt > 0
        assert failed is not None
        raise failed

    def _begin(self, exchange: Exchange) -> Answer | None:
        """Place and send it; None when it has to wait: for room, or else for a connection."""
        server, scan, caller = exchange.server, exchange.scan, exchange.caller
        assert server is not None
        assert scan is not None
        if exchange.hashes is None:
            exchange.hashes = self._placer.hash_prompt(server, exchange.body, scan, cache_of(exchange))
        if server.keeps_sessions:
            exchange.session = session_of(server, exchange.header, scan.prompt_cache_key)
        begun = seconds(self._clock)
        tenant = caller.tenant if caller is not None else ""
        exchange.awaits_room = self._room.comes(server.name, tenant, begun) or not self._has_room(exchange, begun)
        return None if exchange.awaits_room else self._send(exchange, begun + exchange.scheduling)

    def _send(self, exchange: Exchange, now: float) -> Answer | None:
        """Send it to its endpoint on a kept connection; None where there is none."""
        placement, scan = exchange.placement, exchange.scan
        exchange.sent = now
        if placement is not None and scan is not None and not scan.stream:
            placement.expect_prefill(self._placer, self._deadlines, now)
        return send_at_once(exchange, self._client, self._forwards_authorization)

    def first_token(self, exchange: Exchange) -> None:
        """The first byte of an answer is there."""
        placement, scan = exchange.placement, exchange.scan
        if placement is not None:
            # of an answer in one piece the first byte is the last token
            took = exchange.first_byte - exchange.sent if scan is not None and scan.stream else 0.0
            self._placer.first_token(placement, took, exchange.first_byte)
            self._health.answers(exchange)

    def release(self, exchange: Exchange, error: UpstreamError | None = None) -> None:
        """Take the load off the endpoint, note how it did, and let in who waits for it, once. The placement stays for log and headers."""
        placement = exchange.placement
        if placement is not None and not exchange.is_released:
            exchange.is_released = True
            self._placer.release(placement)
            self._health.over(exchange, placement, error)
            if exchange.is_learned and exchange.hashes is not None and exchange.first_byte and error is None:
                self._placer.refresh(placement, exchange.hashes, exchange.sent)
            if exchange.usage is not None and exchange.is_learned:
                correction = self._placer.correct(placement, exchange.hashes, exchange.usage, exchange.sent)
                if correction:
                    self._metrics.corrected(placement.pool.name, correction)
            if self._room.session_seconds > 0:
                self._note_session(exchange)
            self._room.move(placement.pool.name)

    async def _hash_tokens(self, exchange: Exchange) -> BlockHashes | None:
        """Hashes by token, None for a prompt whose ids cannot be had in time: it is matched, and learned, by its text."""
        server = exchange.server
        assert server is not None
        assert exchange.matched is not None
        folder, own = server.server.prefix_cache.tokenizer, cache_of(exchange)
        found: Tokenised = await self._tokens.of(folder, exchange.path, exchange.body, own)
        if found.outcome == NO_TOKENIZER:
            is_adapter = exchange.matched.is_adapter
            found = await self._engine_tokens.of(server, exchange.path, exchange.body, is_adapter, None, own)
        self._metrics.tokenised(server.server.name, found.outcome)
        if found.ids is None:
            return None
        exchange.prompt_tokens = max(1, len(found.ids))
        adapter = exchange.model if exchange.matched.is_adapter else ""
        return self._placer.hash_tokens(server, found.ids, adapter, orjson.loads(own) if own else found.salt)

    async def _further_place(self, exchange: Exchange, failed: UpstreamError, attempt: int) -> bool:
        """Whether there is another endpoint for a request that has failed at those before, and it may be tried."""
        assert exchange.server is not None
        server = exchange.server.server
        if not self._budget.allows(server.traffic.retry_budget_percent, self._in_flight()):
            return False
        await self._pause(attempt, server.traffic.retry_interval)
        try:
            self._place(exchange, True)
        except PenstockError:
            return False
        self._metrics.retried(server.name, failed.code)
        return True

    def _has_room(self, exchange: Exchange, begun: float) -> bool:
        """Whether there is an endpoint for it now, which then is its own. Raises PenstockError when waiting would not help."""
        server = exchange.server
        assert server is not None
        narrow = self._leaves_kept_places(server, begun)
        if self._choose(exchange, narrow, begun):
            return True
        refused = self._placer.refusal(server, narrow)
        if isinstance(refused, QueueFull) and self._room.seconds > 0:
            return False
        self._metrics.unplaced(exchange, refused.code)
        raise refused

    def _place(self, exchange: Exchange, is_owed: bool) -> None:
        """Choose an endpoint and charge it; of those places that are kept only when it is owed one. Raises NoEndpoint or QueueFull."""
        server = exchange.server
        assert server is not None
        begun = seconds(self._clock)
        narrow = not is_owed and self._leaves_kept_places(server, begun)
        if not self._choose(exchange, narrow, begun):
            raise self._placer.refusal(server, narrow)

    def _leaves_kept_places(self, server: ServerPool, now: float) -> bool:
        """Whether others ask for the server too, for whom some places are kept."""
        return server.keeps_places and self._room.seconds > 0 and self._room.is_contested(server.name, now)

    def _choose(self, exchange: Exchange, narrow: bool, begun: float) -> bool:
        """Choose an endpoint and charge it; False when none can take it."""
        server, matched = exchange.server, exchange.matched
        assert server is not None
        assert matched is not None
        adapter = adapter_of(exchange.model) if matched.is_adapter else 0
        placement = self._placer.try_place(
            server,
            exchange.hashes,
            exchange.prompt_tokens,
            exchange.output_tokens,
            exchange.tried,
            exchange.session,
            exchange.is_learned,
            adapter,
            self._ask_plugins(exchange, adapter, narrow) if server.plugins else None,
            narrow,
            begun,
        )
        if placement is None:
            return False
        exchange.placement, exchange.is_released = placement, False
        exchange.tried = (*exchange.tried, placement.position) if exchange.tried else server.alone[placement.position]
        exchange.scheduling = seconds(self._clock) - begun
        if self._shown > 0 and self._random() < self._shown:
            exchange.decision = self._placer.describe(placement, narrow)
        return True

    def _ask_plugins(self, exchange: Exchange, adapter: int, narrow: bool) -> list[float]:
        server = exchange.server
        assert server is not None
        seen = self._placer.survey(
            server,
            exchange.hashes,
            exchange.prompt_tokens,
            exchange.output_tokens,
            exchange.tried,
            exchange.session,
            exchange.is_learned,
            adapter,
            narrow,
        )
        blocks = len(exchange.hashes) if exchange.hashes is not None else 0
        asked = asked_of(exchange, exchange.prompt_tokens, blocks)
        names = [(one.endpoint.name, one.endpoint.address) for one in server.endpoints]
        return adjustments_of(server.plugins, asked, names, seen)

    def _place_in_turn(self, exchange: Exchange, is_owed: bool) -> None:
        self._place(exchange, is_owed)  # which is a C function, that nobody else can be given with its object

    async def _wait(self, exchange: Exchange) -> None:
        """In turn, until an endpoint has room. Raises QueueFull."""
        assert exchange.server is not None
        name = exchange.server.name
        waiter = waiter_of(exchange, partial(self._place_in_turn, exchange))
        session = self._waiting_session(exchange)
        waiter.answered = self._room.last_answer(name, session) if session else 0.0
        try:
            await self._room.wait(name, waiter)
        except PenstockError as error:
            self._metrics.unplaced(exchange, error.code)
            raise
        finally:
            exchange.waited = seconds(self._clock) - waiter.joined
            self._metrics.waited(name, exchange.waited, waiter)

    def _waiting_session(self, exchange: Exchange) -> Count:
        """What stands for its conversation where that counts in the queue, else 0."""
        if self._room.session_seconds <= 0 or exchange.server is None or exchange.scan is None:
            return 0
        names = exchange.server.server.scheduling.session_headers or SESSION_HEADERS
        return session_named(names, exchange.header, exchange.scan.prompt_cache_key)

    def _note_session(self, exchange: Exchange) -> None:
        """A conversation had its answer: its next request may go before others of its tenant."""
        session = self._waiting_session(exchange) if exchange.first_byte and exchange.status < 400 else 0
        if session and exchange.server is not None:
            self._room.answered(exchange.server.name, session)

    async def _pause(self, attempt: int, interval: float) -> None:
        """The first retry goes to another endpoint at once; further ones wait, longer each time, with jitter."""
        if attempt > 1 and interval > 0:
            await asyncio.sleep(interval * 2 ** (attempt - 2) * (0.5 + self._random() / 2))


def asked_of(exchange: Exchange, prompt_tokens: int, blocks: int) -> Asked:
    """A request as plugins see it."""
    return Asked(
        exchange.model,
        exchange.path,
        exchange.tenant,
        prompt_tokens,
        exchange.output_tokens,
        blocks,
        exchange.header,
    )


def waiter_of(exchange: Exchange, place: Callable[[bool], None]) -> Waiter:
    """A request's place in the queue: its tenant's, with the priority it asks for and may have, until its client will have given up."""
    caller = exchange.caller
    weight, priority = (caller.weight, caller.priority) if caller is not None else (1.0, 0)
    asked = _number(exchange.header("x-penstock-priority"))
    if asked is not None:
        priority = min(priority, int(max(asked, float(LOWEST_PRIORITY))))
    tokens = weighted_tokens(exchange.prompt_tokens, exchange.output_tokens, weight)
    return Waiter(exchange.tenant, priority, tokens, _deadline(exchange), place)


def _deadline(exchange: Exchange) -> float:
    """When its client will have given up, by the shortest of the timeouts that it names; the client counts from the request's start."""
    named = [(_number(exchange.header(name)) or 0.0) * unit for name, unit in TIMEOUT_HEADERS]
    return exchange.started + min((one for one in named if one > 0), default=math.inf)


def _number(text: str | None) -> float | None:
    """A header's number; None for none, and for what is not one."""
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def cache_of(exchange: Exchange) -> bytes:
    """Whose cache a prompt is found in, where engines keep tenants apart: empty where all share one."""
    caller = exchange.caller
    return caller.cache_salt if caller is not None and exchange.operation.takes_cache_salt else b""
