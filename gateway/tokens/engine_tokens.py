"""Token ids from an engine's ``/tokenize``, where the model's tokenizer is on no disk of ours.

An engine is asked by a task beside the request, which waits for it no longer than its budget; what comes later is kept for the next turn.
"""

from __future__ import annotations

import asyncio
import logging
import random as randomness
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from gateway.datastore.model import Endpoint, Traffic
from gateway.errors import UpstreamError, UpstreamTimeout
from gateway.scheduling.pool import ROLE_BITS, SERVES, PlacedEndpoint, ServerPool
from gateway.settings import Tokens
from gateway.tokens.conversation import Unsupported
from gateway.tokens.question import Question, question_of, read_answer
from gateway.tokens.service import NO_TOKENIZER, Tokenised, settle

ENGINE_SECONDS = 5.0
"""Longest that an engine is waited for, long after the request has gone on."""
AVOIDED_SECONDS = 30.0
"""For so long an endpoint that could not tokenise is not asked again."""
MOST_LOOKED_AT = 16
PATH = "/tokenize"
_HEADERS = "content-type: application/json\r\naccept-encoding: identity\r\naccept: */*\r\n"
_MISSING = (404, 405, 501)
_UNTOLD = (401, 403)
_LEAST_ANSWER, _ANSWER_TIMES = 1 << 20, 16
"""An answer may have so many bytes, or so many times those of its question."""

logger = logging.getLogger(__name__)


class Client(Protocol):
    """What sends to engines."""

    def send(
        self, endpoint: Endpoint, path: str, headers: str, body: bytes, traffic: Traffic
    ) -> Coroutine[Any, Any, Any]: ...


class KnownIds:
    """Ids by the hash of what was asked, the last used ones, bounded by the characters of what was asked."""

    def __init__(self, characters: int) -> None:
        self._most = characters
        self._held = 0
        self._found: OrderedDict[bytes, tuple[array[int], int]] = OrderedDict()

    def get(self, key: bytes) -> array[int] | None:
        """The ids, if they are there."""
        found = self._found.get(key)
        if found is None:
            return None
        self._found.move_to_end(key)
        return found[0]

    def put(self, question: Question, ids: array[int]) -> None:
        """Remember them; the least lately used make room."""
        size = len(question.body)
        if question.key in self._found or size > self._most:
            return
        self._found[question.key] = ids, size
        self._held += size
        while self._held > self._most:
            self._held -= self._found.popitem(last=False)[1][1]


class EngineTokens:
    """Asks engines of one process's pools; made inside its event loop."""

    def __init__(
        self,
        settings: Tokens,
        client: Client,
        is_serving: Callable[[ServerPool, PlacedEndpoint], bool],
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        """``is_serving``: whether an endpoint's health lets it be asked."""
        self._settings = settings
        self._client = client
        self._is_serving = is_serving
        self._clock = clock
        self._random = random
        self._known = KnownIds(settings.cache_characters)
        self._asking: dict[bytes, asyncio.Task[Tokenised]] = {}
        self._pending: set[asyncio.Task[Tokenised]] = set()
        self._avoided: dict[str, float] = {}
        """Until when an endpoint is not asked, by its identity."""

    async def of(
        self,
        server: ServerPool,
        path: str,
        body: bytes,
        is_adapter: bool,
        seconds: float | None = None,
        apart: bytes = b"",
    ) -> Tokenised:
        """What an engine of the server makes of a request's prompt, within ``seconds`` (the budget of the settings). Never raises.

        ``is_adapter``: the body's model is an adapter's name, which the engine is told as it stands. ``apart``: see :func:`question_of`.
        """
        if self._settings.engine_requests <= 0:
            return Tokenised(outcome=NO_TOKENIZER)
        if len(self._pending) >= self._settings.engine_requests:
            return Tokenised(outcome="busy")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Tokenised] = loop.create_future()
        task = loop.create_task(self._find(server, path, body, None if is_adapter else server.server.model, apart))
        self._pending.add(task)
        task.add_done_callback(lambda done: self._done(answer, done))
        budget = self._settings.budget_seconds if seconds is None else seconds
        late = loop.call_later(budget, settle, answer, Tokenised(outcome="engine_late"))
        try:
            return await answer
        finally:
            late.cancel()

    def close(self) -> None:
        """Ask no more."""
        for task in self._pending:
            task.cancel()

    def _done(self, answer: asyncio.Future[Tokenised], task: asyncio.Task[Tokenised]) -> None:
        self._pending.discard(task)
        settle(answer, Tokenised(outcome="failed") if task.cancelled() else task.result())

    async def _find(self, server: ServerPool, path: str, body: bytes, model: str | None, apart: bytes) -> Tokenised:
        try:
            question = await asyncio.to_thread(question_of, path, body, model, apart, server.server.engine)
        except Unsupported:
            return Tokenised(outcome="unsupported")
        except Exception as error:  # whatever a client may send
            logger.debug("a prompt was not tokenised: %r", error)
            return Tokenised(outcome="failed")
        ids = question.ids if question.ids is not None else self._known.get(question.key)
        if ids is not None:
            return Tokenised(ids, question.salt, "engine")
        found = await self._ask_once(server, question)
        return Tokenised(found.ids, question.salt, found.outcome)

    async def _ask_once(self, server: ServerPool, question: Question) -> Tokenised:
        """Requests with the same prompt wait for the same answer."""
        asking = self._asking.get(question.key)
        if asking is None:
            asking = self._asking[question.key] = asyncio.create_task(self._ask(server, question))
            asking.add_done_callback(lambda _: self._asking.pop(question.key, None))
        return await asyncio.shield(asking)

    async def _ask(self, server: ServerPool, question: Question) -> Tokenised:
        endpoint = self._choose(server)
        if endpoint is None:
            return Tokenised(outcome="no_engine")
        given = server.server.traffic
        traffic = Traffic(ENGINE_SECONDS, ENGINE_SECONDS, min(given.connect_timeout, ENGINE_SECONDS))
        try:
            answer = await self._client.send(endpoint, PATH, _HEADERS, question.body, traffic)
            try:
                return await self._read(endpoint, question, answer)
            finally:
                answer.close()
        except UpstreamTimeout as error:
            return self._failed(endpoint, "engine_late", str(error))
        except UpstreamError as error:
            return self._failed(endpoint, "engine_failed", str(error))
        except Exception as error:  # what an engine answers may be anything
            return self._failed(endpoint, "engine_failed", repr(error))

    async def _read(self, endpoint: Endpoint, question: Question, answer: Any) -> Tokenised:
        if answer.status in _MISSING:
            return self._failed(endpoint, "engine_missing", f"it answers {PATH} with {answer.status}")
        if answer.status in _UNTOLD:
            return self._failed(
                endpoint, "engine_refused", f"it wants to know who asks: it answers {PATH} with {answer.status}"
            )
        if 400 <= answer.status < 500:
            return Tokenised(outcome="engine_refused")  # this prompt, which says nothing of the next one
        if answer.status != 200:
            return self._failed(endpoint, "engine_failed", f"it answers {PATH} with {answer.status}")
        most = max(_LEAST_ANSWER, _ANSWER_TIMES * len(question.body))
        content = await answer.whole(most)
        if len(content) > most:
            return self._failed(endpoint, "engine_failed", f"its answer has more than {most} bytes")
        ids = await asyncio.to_thread(read_answer, content)
        self._known.put(question, ids)
        return Tokenised(ids, outcome="engine")

    def _choose(self, server: ServerPool) -> Endpoint | None:
        """One that serves and did not fail lately, from a random place on; None where the first few are none."""
        count, now = len(server.endpoints), self._clock()
        first = int(self._random() * count)
        for turn in range(min(count, MOST_LOOKED_AT)):
            placed = server.endpoints[(first + turn) % count]
            endpoint = placed.endpoint
            if ROLE_BITS[endpoint.role] != SERVES or self._avoided.get(endpoint.identity, 0.0) > now:
                continue
            if self._is_serving(server, placed):
                return endpoint
        return None

    def _failed(self, endpoint: Endpoint, outcome: str, reason: str) -> Tokenised:
        """Leave the endpoint alone for a while, in which nothing more is said of it."""
        now = self._clock()
        self._avoided = {identity: until for identity, until in self._avoided.items() if until > now}
        self._avoided[endpoint.identity] = now + AVOIDED_SECONDS
        logger.warning(
            "endpoint %s cannot tokenise, it is asked again in %g s: %s", endpoint.name, AVOIDED_SECONDS, reason
        )
        return Tokenised(outcome=outcome)
