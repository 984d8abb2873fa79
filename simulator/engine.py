"""The engine's timing: continuous batching with a token budget a step, chunked prefill, a paged KV cache. Time is an argument.

A step takes ``step_seconds + decode_seconds x decoding requests + prefill tokens / prefill_tokens_per_second``. Decodes come first, then
prefill chunks in order of arrival. A request that finds no blocks waits; a running one that finds none is preempted and computed
again. All of this is what vLLM's scheduler does, without a model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from simulator.kv_cache import KVCache, block_hashes


@dataclass(frozen=True, slots=True)
class Profile:
    """How fast the engine is and how much it holds. The defaults are about an 8B model on one H100."""

    prefill_tokens_per_second: float = 8000.0
    step_seconds: float = 0.006
    decode_seconds: float = 0.00035
    step_tokens: int = 2048
    running_requests: int = 256
    kv_tokens: int = 524_288
    block_size: int = 16
    transfer_tokens_per_second: float = 300_000.0
    """Speed at which blocks come from a prefill engine."""


@dataclass(slots=True, eq=False)
class Request:
    """One request inside the engine. ``tokens`` may be empty when ``hashes`` and ``prompt_length`` are given (virtual time)."""

    prompt_length: int
    output_length: int
    hashes: tuple[int, ...]
    tokens: tuple[int, ...] = ()
    remote_prefill: bool = False
    adapter: str = ""
    """LoRA adapter that it runs with, empty for none."""
    salt: str = ""
    """Its blocks are shared with those of the same salt alone."""
    arrived: float = 0.0
    is_started: bool = False
    started: float = 0.0
    first_token: float = 0.0
    finished: float = 0.0
    target: int = 0
    """Tokens that are computed before the next one is sampled: the prompt, after a preemption what was generated as well."""
    computed: int = 0
    generated: int = 0
    cached: int = 0
    held: list[int] = field(default_factory=list)
    private: int = 0
    output: list[int] = field(default_factory=list)
    aborted: bool = False
    chunk: int = 0

    @property
    def is_prefilling(self) -> bool:
        """Whether part of its prompt (or of what it had generated before a preemption) is still to be computed."""
        return self.computed < self.target


@dataclass(slots=True)
class Totals:
    """Counters since the start."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    finished: int = 0


class Engine:
    """Requests in, steps, tokens out. The driver asks for a step, waits as long as it takes, and completes it."""

    def __init__(self, profile: Profile, record_events: bool = False) -> None:
        self.profile = profile
        self.cache = KVCache(
            profile.kv_tokens // profile.block_size, profile.block_size, events=[] if record_events else None
        )
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.totals = Totals()
        self._step: list[Request] = []

    @property
    def is_idle(self) -> bool:
        """Nothing to do."""
        return not self.waiting and not self.running

    def submit(self, request: Request, now: float) -> None:
        """A request arrives."""
        request.arrived = now
        self.waiting.append(request)

    def abort(self, request: Request) -> None:
        """Its client is gone: no further token is computed."""
        request.aborted = True
        if request in self.waiting:
            self.waiting.remove(request)
        elif request in self.running:
            self.running.remove(request)
            self._let_go(request)

    def plan(self, now: float) -> float:
        """Decide the next step; the seconds that it takes. 0 when there is nothing to do."""
        budget = self.profile.step_tokens
        self._step = []
        prefill = 0
        transfer = 0.0
        decodes = 0
        for request in list(self.running):
            if request.is_prefilling or request not in self.running:
                continue
            if not self._grow(request, request.prompt_length + request.generated):
                continue
            request.chunk = 1
            self._step.append(request)
            budget -= 1
            decodes += 1
        for request in self.running:
            if budget > 0 and request.is_prefilling:
                prefill += self._plan_chunk(request, budget)
                budget -= request.chunk
        while budget > 0 and self.waiting and len(self.running) < self.profile.running_requests:
            request = self.waiting[0]
            if not self._admit(request, now):
                break
            self.waiting.popleft()
            self.running.append(request)
            if request.remote_prefill:
                transfer += (request.prompt_length - request.computed) / self.profile.transfer_tokens_per_second
                request.computed = request.prompt_length - 1
            prefill += self._plan_chunk(request, budget)
            budget -= request.chunk
        if not self._step:
            return 0.0
        profile = self.profile
        return (
            profile.step_seconds
            + profile.decode_seconds * decodes
            + prefill / profile.prefill_tokens_per_second
            + transfer
        )

    def complete(self, now: float) -> list[Request]:
        """The step is over: the requests that got a token by it. Those that are finished have left the engine."""
        produced = []
        for request in self._step:
            if request.aborted or request not in self.running:
                continue
            if request.is_prefilling:
                request.computed += request.chunk
                self.totals.prompt_tokens += request.chunk
                if request.is_prefilling:
                    self._publish(request)
                    continue
            else:
                request.computed += 1
            self._publish(request)
            request.generated += 1
            self.totals.generated_tokens += 1
            if not request.first_token:
                request.first_token = now
            produced.append(request)
            if request.generated >= request.output_length:
                request.finished = now
                self.totals.finished += 1
                self.running.remove(request)
                self._let_go(request)
        self._step = []
        return produced

    def _plan_chunk(self, request: Request, budget: int) -> int:
        request.chunk = min(budget, request.target - request.computed)
        self._step.append(request)
        return request.chunk

    def _admit(self, request: Request, now: float) -> bool:
        size = self.profile.block_size
        usable = (request.prompt_length - 1) // size  # at least one token is computed, as in vLLM
        matched = self.cache.match(request.hashes[:usable])
        self.cache.hold(request.hashes[:matched])
        needed = -(-(request.prompt_length + request.generated) // size) - matched
        if not self.cache.take(needed):
            self.cache.release(request.hashes[:matched], 0)
            return False
        request.target = request.prompt_length + request.generated
        request.held = list(request.hashes[:matched])
        request.private = needed
        request.computed = matched * size
        if not request.is_started:
            request.is_started = True
            request.started = now
            request.cached = matched * size
            self.totals.prefix_queries += request.prompt_length
            self.totals.prefix_hits += request.cached
        return True

    def _grow(self, request: Request, length: int) -> bool:
        size = self.profile.block_size
        have = len(request.held) + request.private
        if -(-length // size) <= have:
            return True
        while not self.cache.take(1):
            victim = self.running[-1]
            self._preempt(victim)
            if victim is request:
                return False
        request.private += 1
        return True

    def _preempt(self, request: Request) -> None:
        self.totals.preemptions += 1
        self.running.remove(request)
        if request in self._step:
            self._step.remove(request)
        self._let_go(request)
        request.computed = 0
        self.waiting.appendleft(request)

    def _publish(self, request: Request) -> None:
        """Full blocks that are computed become reusable; also those of generated tokens, when the tokens are known."""
        size = self.profile.block_size
        full = min(request.computed // size, len(self._hashes(request)))
        held = len(request.held)
        if full <= held:
            return
        fresh = self._hashes(request)[held:full]
        known = (*request.tokens, *request.output)
        parent = request.held[-1] if request.held else None
        self.cache.fill(fresh, parent, known[held * size : full * size])
        request.held += fresh
        request.private -= len(fresh)

    def _hashes(self, request: Request) -> Sequence[int]:
        size = self.profile.block_size
        wanted = request.computed // size
        if (
            request.tokens
            and wanted > len(request.hashes)
            and len(request.tokens) + len(request.output) >= wanted * size
        ):
            request.hashes = block_hashes((*request.tokens, *request.output), size, request.salt)
        return request.hashes

    def _let_go(self, request: Request) -> None:
        self.cache.release(request.held, request.private)
        request.held, request.private = [], 0
