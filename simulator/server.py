"""The engine behind HTTP: OpenAI's endpoints, driven in real time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiohttp import web

from simulator import bodies
from simulator.answers import Answer, Choices, Response
from simulator.bodies import Refusal, Work
from simulator.engine import Engine, Profile, Request
from simulator.faults import Fault, FaultError, Faults
from simulator.kv_cache import block_hashes
from simulator.kv_events import KVEventPublisher
from simulator.metrics import EngineMetrics
from simulator.text import detokenize

_INSTEAD_OF_AN_ANSWER = ("status", "raw", "die_before_headers", "hang")


@dataclass(frozen=True, slots=True)
class Options:
    """What one simulated engine is."""

    model: str = "demo"
    adapters: tuple[str, ...] = ()
    adapters_at_once: int = 1
    """Adapters that requests can run with at once, as its metrics say; loading one takes no time here."""
    host: str = "127.0.0.1"
    port: int = 8000
    profile: Profile = field(default_factory=Profile)
    maximum_length: int = 131_072
    events_endpoint: str | None = None
    replay_endpoint: str | None = None
    words: bodies.Tokenizer = bodies.WORDS
    """What makes token ids."""
    speed: float = 1.0
    """How many simulated seconds pass in one real second."""


@dataclass(slots=True)
class Generation:
    """One choice of an answer, and where word of its tokens goes."""

    choice: int
    request: Request
    tokens: asyncio.Queue[int]
    last: float = 0.0


class SimulatedEngine:
    """One engine on one port."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.engine = Engine(options.profile, record_events=options.events_endpoint is not None)
        self.faults = Faults()
        self.metrics = EngineMetrics()
        self._generations: dict[int, Generation] = {}
        self._arrived = asyncio.Event()
        self._events: KVEventPublisher | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None
        self.port = options.port
        """Where it listens once it has started."""

    async def start(self) -> int:
        """Listen; the port."""
        application = web.Application(client_max_size=64 << 20, middlewares=[_refusals])
        application.add_routes(
            [
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/completions", self._completions),
                web.post("/v1/responses", self._responses),
                web.post("/v1/embeddings", self._embeddings),
                web.post("/tokenize", self._tokenize),
                web.post("/detokenize", self._detokenize),
                web.get("/v1/models", self._models),
                web.get("/health", self._health),
                web.get("/metrics", self._metrics),
                web.post("/sim/faults", self._add_fault),
                web.delete("/sim/faults", self._clear_faults),
            ]
        )
        if self.options.events_endpoint is not None:
            self._events = KVEventPublisher(self.options.events_endpoint, self.options.replay_endpoint)
            self._tasks.append(asyncio.create_task(self._events.answer_replays()))
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.options.host, self.options.port).start()
        self._tasks.append(asyncio.create_task(self._turn()))
        self.port = self._runner.addresses[0][1]
        return self.port

    async def stop(self) -> None:
        """Close everything."""
        if self._runner is not None:
            await self._runner.cleanup()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._events is not None:
            self._events.close()

    async def _turn(self) -> None:
        """Step after step, in real time."""
        speed = self.options.speed
        while True:
            now = time.monotonic()
            seconds = self.engine.plan(now)
            if seconds == 0:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            await asyncio.sleep(seconds / speed)
            now = time.monotonic()
            for request in self.engine.complete(now):
                generation = self._generations.get(id(request))
                if generation is not None:
                    self._observe(generation, now)
                    generation.tokens.put_nowait(generation.choice)
            if self._events is not None and self.engine.cache.events:
                events, self.engine.cache.events = self.engine.cache.events, []
                await self._events.publish(events, self.options.profile.block_size, time.time())

    def _observe(self, generation: Generation, now: float) -> None:
        request = generation.request
        if request.generated == 1:
            self.metrics.first_token.observe(now - request.arrived)
        else:
            self.metrics.inter_token.observe(now - generation.last)
        if request.finished:
            self.metrics.end_to_end.observe(now - request.arrived)
        generation.last = now

    def _requests(self, work: Work, adapter: str = "") -> list[Request]:
        """The engine's requests for an answer, one a choice."""
        return [
            Request(
                prompt_length=len(prompt),
                output_length=work.length,
                hashes=block_hashes(prompt, self.options.profile.block_size, work.salt),
                salt=work.salt,
                tokens=prompt,
                remote_prefill=bool(work.transfer.get("do_remote_prefill")),
                adapter=adapter,
            )
            for prompt in work.prompts
            for _ in range(work.choices)
        ]

    async def _generate(self, requests: list[Request]) -> AsyncGenerator[int, None]:
        """Yields once a token: the choice that got it."""
        tokens: asyncio.Queue[int] = asyncio.Queue()
        for choice, request in enumerate(requests):
            self._generations[id(request)] = Generation(choice, request, tokens)
            self.engine.submit(request, time.monotonic())
        self._arrived.set()
        try:
            for _ in range(sum(request.output_length for request in requests)):
                yield await tokens.get()
        finally:
            for request in requests:
                del self._generations[id(request)]
                if not request.finished:
                    self.engine.abort(request)

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        limits = ("max_completion_tokens", "max_tokens")
        return await self._answer(http, bodies.chat_prompt, limits, partial(Choices, is_chat=True))

    async def _completions(self, http: web.Request) -> web.StreamResponse:
        make = partial(Choices, is_chat=False)
        return await self._answer(http, bodies.completion_prompts, ("max_tokens",), make)

    async def _responses(self, http: web.Request) -> web.StreamResponse:
        return await self._answer(http, bodies.response_prompt, ("max_output_tokens",), Response)

    async def _answer(
        self,
        http: web.Request,
        prompts: Callable[[dict[str, Any], bodies.Tokenizer], tuple[tuple[int, ...], ...]],
        limits: tuple[str, ...],
        make: Callable[[dict[str, Any], Work], Answer],
    ) -> web.StreamResponse:
        fault = self.faults.take()
        if fault is not None and fault.kind in _INSTEAD_OF_AN_ANSWER:
            return await self._misbehave(http, fault)
        body = await self._body(http)
        # a request larger than the whole cache would wait for ever, and everything behind it
        longest = min(self.options.maximum_length, self.options.profile.kv_tokens)
        work = bodies.work_of(body, prompts(body, self.options.words), limits, longest)
        adapter = body["model"] if body["model"] in self.options.adapters else ""
        answer, requests = make(body, work), self._requests(work, adapter)
        if work.is_streamed:
            return await self._stream(http, answer, requests, fault)
        async with contextlib.aclosing(self._generate(requests)) as steps:
            async for choice in steps:
                answer.take(choice, requests[choice])
        content = answer.whole(requests)
        if work.transfer.get("do_remote_decode"):
            content["kv_transfer_params"] = self._handed_over(requests[0])
        return web.json_response(content)

    def _handed_over(self, request: Request) -> dict[str, Any]:
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_engine_id": f"{self.options.host}:{self.options.port}",
            "remote_block_ids": list(range(len(request.hashes))),
            "remote_host": self.options.host,
            "remote_port": self.port,
        }

    async def _stream(
        self, http: web.Request, answer: Answer, requests: list[Request], fault: Fault | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(http)
        for event in answer.begin():
            await response.write(event)
        tokens = 0
        async with contextlib.aclosing(self._generate(requests)) as steps:
            async for choice in steps:
                if fault is not None and tokens >= fault.after:
                    if fault.kind == "die_after":
                        assert http.transport is not None
                        http.transport.abort()
                        return response
                    if fault.kind == "stall_after":
                        await asyncio.sleep(fault.seconds or 3600)
                await response.write(answer.event(choice, requests[choice]))
                tokens += 1
        for event in answer.end(requests):
            await response.write(event)
        await response.write_eof()
        return response

    async def _misbehave(self, http: web.Request, fault: Fault) -> web.StreamResponse:
        assert http.transport is not None
        if fault.kind == "status":
            return web.Response(
                status=fault.status,
                text=fault.body or json.dumps({"error": {"message": "as told", "code": fault.status}}),
                content_type="application/json",
                headers=fault.headers,
            )
        if fault.kind == "raw":
            http.transport.write(fault.body.encode("latin-1"))
            await asyncio.sleep(0.05)
        if fault.kind == "hang":
            await asyncio.sleep(fault.seconds or 3600)
        http.transport.abort()
        return web.Response()

    async def _body(self, http: web.Request) -> dict[str, Any]:
        try:
            body = await http.json()
        except (ValueError, RecursionError) as error:
            raise Refusal(400, f"invalid JSON: {error}") from error
        if not isinstance(body, dict):
            raise Refusal(400, "the body must be an object")
        if body.get("model") not in (self.options.model, *self.options.adapters):
            raise Refusal(404, f"The model `{body.get('model')}` does not exist.", "model")
        return body

    async def _embeddings(self, http: web.Request) -> web.StreamResponse:
        body = await self._body(http)
        tokens = bodies.embedding_inputs(body, self.options.words)
        data = [
            {
                "object": "embedding",
                "index": i,
                "embedding": [float((sum(one) >> shift) % 97) / 97 for shift in range(8)],
            }
            for i, one in enumerate(tokens)
        ]
        total = sum(map(len, tokens))
        usage = {"prompt_tokens": total, "total_tokens": total}
        return web.json_response({"object": "list", "model": body["model"], "data": data, "usage": usage})

    async def _tokenize(self, http: web.Request) -> web.StreamResponse:
        fault = self.faults.take(tokenize=True)
        if fault is not None:
            await asyncio.sleep(fault.seconds)
            raise Refusal(fault.status, "as told")
        body = await self._body(http)
        make = bodies.chat_prompt if "messages" in body else bodies.completion_prompts
        prompts = make(body, self.options.words)
        if len(prompts) > 1:
            raise Refusal(400, "prompt must be one text", "prompt")
        tokens = prompts[0]
        return web.json_response(
            {"tokens": list(tokens), "count": len(tokens), "max_model_len": self.options.maximum_length}
        )

    async def _detokenize(self, http: web.Request) -> web.StreamResponse:
        body = await self._body(http)
        return web.json_response({"prompt": detokenize(bodies.token_ids(body))})

    async def _models(self, _: web.Request) -> web.StreamResponse:
        names = (self.options.model, *self.options.adapters)
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "simulator"} for name in names]
        return web.json_response({"object": "list", "data": data})

    async def _health(self, _: web.Request) -> web.StreamResponse:
        return web.Response()

    async def _metrics(self, _: web.Request) -> web.StreamResponse:
        fault = self.faults.take(metrics=True)
        if fault is not None:
            await asyncio.sleep(fault.seconds)
        at_once = self.options.adapters_at_once if self.options.adapters else 0
        return web.Response(text=self.metrics.render(self.engine, self.options.model, at_once))

    async def _add_fault(self, http: web.Request) -> web.StreamResponse:
        try:
            self.faults.add(await http.read())
        except FaultError as error:
            raise Refusal(400, str(error), error.field or None) from error
        return web.Response(status=204)

    async def _clear_faults(self, _: web.Request) -> web.StreamResponse:
        self.faults.clear()
        return web.Response(status=204)


@web.middleware
async def _refusals(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as refusal:
        return web.json_response(refusal.content, status=refusal.status)
