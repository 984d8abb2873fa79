"""Places a request on an endpoint: chooses, charges and learns in one compiled call, and releases once."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from _fastpath.hashing import BlockHashes, Hasher
from _fastpath.scanner import Scan
from _fastpath.scoring import Scheduler
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import endpoint_identity
from gateway.counting import Count, Usage
from gateway.datastore.model import PrefixCache
from gateway.datastore.token_seed import salted_seed, token_seed
from gateway.deadlines import Deadlines
from gateway.errors import NoEndpoint, PenstockError, QueueFull
from gateway.scheduling.corrections import MISSED_SHARE, MISSED_TOKENS, Corrections
from gateway.scheduling.decision import describe
from gateway.scheduling.pool import SERVES, PlacedEndpoint, ServerPool

if TYPE_CHECKING:
    from _fastpath.health import Health, Reading
    from _fastpath.scoring import Explanation

MEASURED_TOKENS = 512
"""A prefill of fewer tokens says more of everything else than of the engine's speed."""
_MOST_SEEDS = 10_000
TEXT_BLOCK = 64
"""Bytes of a block when a prompt that was to be matched by token is matched by text."""


class Placement:
    """The endpoint that was chosen, and what was charged for it."""

    def __init__(
        self,
        pool: ServerPool,
        position: int,
        blocks: int,
        matched_blocks: int,
        prefill_tokens: int,
        output_tokens: int,
        queued_tokens: int = 0,
        probe: int = 0,
        matched_at: int = 0,
        prefill_seconds: float = 0.0,
    ) -> None:
        self.pool = pool
        self.position = position
        self.blocks = blocks
        self.matched_blocks = matched_blocks
        self.prefill_tokens = prefill_tokens
        self.output_tokens = output_tokens
        self.queued_tokens = queued_tokens
        self.probe = probe
        """Token of the claim when the request probes an ejected endpoint, else 0."""
        self.matched_at = matched_at
        """Second in which the last block that was matched had been learned before, 0 for none."""
        self.prefill_seconds = prefill_seconds
        """That its prompt and what was queued before it were expected to take."""
        self.has_first_token = False
        self.placed: PlacedEndpoint = pool.endpoints[position]
        """The endpoint itself."""

    @property
    def match_ratio(self) -> float | None:
        """Share of the prompt's blocks that the endpoint was expected to hold; None for a prompt without a whole block."""
        return self.matched_blocks / self.blocks if self.blocks else None


def is_serving(health: Health, server: ServerPool, placed: PlacedEndpoint, now: float) -> bool:
    """Whether an endpoint of a server is not left alone at ``now`` for what it did lately."""
    outlier = server.pool.outlier
    assert outlier is not None
    return health.read(placed.slot_index, placed.slot_generation, outlier, now)["state"] in ("serving", "warming")


class UntoldPrefill:
    """Of an answer in one piece, whose first byte comes with its last token: its prompt is taken to be computed when that was expected.

    An entry of the worker's :class:`gateway.deadlines.Deadlines`.
    """

    def __init__(self, placer: Placer, placement: Placement, deadlines: Deadlines, sent: float) -> None:
        self._placer = placer
        self._placement = placement
        self._deadlines = deadlines
        self._due = sent + placement.prefill_seconds

    def begin(self) -> None:
        """Look when it is due."""
        self._deadlines.add(self, self._due)

    def check(self, now: float) -> None:
        """Nothing to do for a request that is over; what is far off is looked at before it is due."""
        if self._placement.has_first_token:
            return
        if now < self._due:
            self.begin()
        else:
            self._placer.first_token(self._placement, 0.0)


class Placer:
    """One worker's scheduler."""

    def __init__(self, memory: SharedMemory, worker: int, clock: Callable[[], float]) -> None:
        self._scheduler = Scheduler(memory, worker)
        self._hashers = Hashers(memory)
        self._clock = clock
        self._corrections = Corrections(self._scheduler.prefixes)

    def hash_prompt(self, server: ServerPool, body: bytes, found: Scan, salt: bytes = b"") -> BlockHashes | None:
        """The hashes that a server matches prompts by; computed once a request, however often it is placed."""
        return self._hashers.prompt(body, found, server.server.prefix_cache, salt)

    def hash_tokens(self, server: ServerPool, ids: array[int], adapter: str, salt: str) -> BlockHashes:
        """The same for a server that matches by token."""
        return self._hashers.tokens(ids, adapter, salt, server.server.prefix_cache.block_size)

    def place(
        self,
        server: ServerPool,
        hashes: BlockHashes | None,
        prompt_tokens: Count,
        output_tokens: Count,
        tried: Sequence[int],
        session: Count = 0,
        learn: bool = True,
        adapter: Count = 0,
        adjustments: Sequence[float] | None = None,
        narrow: bool = False,
    ) -> Placement:
        """Choose an endpoint that was not tried yet, and charge it. Raises NoEndpoint or QueueFull.

        ``session``: what :func:`session_of` says, 0 for none. Without ``learn`` the endpoint is not taken to hold the prompt from now on:
        it says so itself. ``adapter``: what :func:`adapter_of` says of the model's name when it is one's, else 0.
        ``adjustments``: what plugins add to the score of each endpoint, NaN for one that is left out.
        ``narrow``: leave the places that are kept for tenants which had less than their share.
        """
        pool = server.narrow if narrow else server.pool
        decision = self._scheduler.decide(
            pool,
            server.policy,
            hashes,
            prompt_tokens,
            output_tokens,
            self._clock(),
            SERVES,
            tried,
            False,
            session,
            learn,
            adapter,
            adjustments,
        )
        if decision is None:
            raise refusal(server, self._scheduler.filtered(pool))
        position, matched_blocks, prefill_tokens = decision
        blocks = len(hashes) if hashes is not None else 0
        scheduler = self._scheduler
        return Placement(
            server,
            position,
            blocks,
            matched_blocks,
            prefill_tokens,
            output_tokens,
            scheduler.queued_tokens,
            scheduler.probe,
            scheduler.matched_at,
            scheduler.prefill_seconds,
        )

    def survey(
        self,
        server: ServerPool,
        hashes: BlockHashes | None,
        prompt_tokens: int,
        output_tokens: int,
        tried: Sequence[int],
        session: int,
        learn: bool,
        adapter: int,
        narrow: bool = False,
    ) -> list[Explanation]:
        """What :meth:`place` would see of each endpoint now."""
        pool = server.narrow if narrow else server.pool
        self._scheduler.decide(
            pool,
            server.policy,
            hashes,
            prompt_tokens,
            output_tokens,
            self._clock(),
            SERVES,
            tried,
            True,
            session,
            learn,
            adapter,
        )
        return self._scheduler.explain(pool)

    def describe(self, placement: Placement, narrow: bool = False) -> bytes:
        """The choice that was just made, as JSON. ``narrow``: as it was placed."""
        server = placement.pool
        seen = self._scheduler.explain(server.narrow if narrow else server.pool)
        return describe(server, seen, placement.position, placement.blocks)

    def first_token(self, placement: Placement, seconds: float) -> None:
        """The prompt is computed, ``seconds`` after it was sent (0: not known): it weighs on the endpoint no more."""
        if not placement.has_first_token:
            placement.has_first_token = True
            pool, charged = placement.pool.pool, placement.prefill_tokens
            self._scheduler.first_token(pool, placement.position, charged, self._clock())
        tokens = placement.queued_tokens + placement.prefill_tokens
        if seconds > 0 and tokens >= MEASURED_TOKENS:
            self._scheduler.prefilled(placement.pool.pool, placement.position, tokens, seconds)

    def release(self, placement: Placement) -> None:
        """The endpoint is done with the request."""
        prefill = 0 if placement.has_first_token else placement.prefill_tokens
        placement.has_first_token = True
        self._scheduler.release(placement.pool.pool, placement.position, prefill, placement.output_tokens)

    def correct(self, placement: Placement, hashes: BlockHashes | None, usage: Usage, sent: float) -> str:
        """Compare what the engine found cached with what was expected of it: ``usage`` of a prompt that was sent there at ``sent``.

        Returns what follows for the index: ``evicted``, ``uncached``, or nothing.
        """
        prompt, cached = usage[0], usage[2]
        if cached < 0 or hashes is None:
            return ""
        corrections = self._corrections
        expected = prompt * placement.matched_blocks / placement.blocks if placement.blocks else 0.0
        placed = placement.placed
        if expected - cached > MISSED_TOKENS and expected - cached > expected * MISSED_SHARE:
            return corrections.missed(
                (placed.slot_index, placed.slot_generation), hashes, cached, placement.matched_at, sent
            )
        if corrections.is_watching:
            return corrections.answered((placed.slot_index, placed.slot_generation), hashes, cached)
        return ""

    def note(self, placement: Placement, outcome: Count, sent: float) -> int:
        """Note what became of a request that went out at ``sent``: places in ``OUTCOMES`` and ``EVENTS`` of ``_fastpath.health``."""
        placed, pool = placement.placed, placement.pool.pool
        assert pool.outlier is not None
        return self._scheduler.health.note(
            placed.slot_index, placed.slot_generation, pool.outlier, outcome, sent, self._clock(), placement.probe
        )

    def is_serving(self, server: ServerPool, placed: PlacedEndpoint) -> bool:
        """Whether an endpoint of a server is not left alone just now for what it did lately."""
        return is_serving(self._scheduler.health, server, placed, self._clock())

    def reading(self, placement: Placement) -> Reading:
        """How the endpoint of a placement stands now."""
        slot, pool = placement.placed.slot, placement.pool.pool
        assert pool.outlier is not None
        return self._scheduler.health.read(slot.index, slot.generation, pool.outlier, self._clock())


class Hashers:
    """Prompt hashes, by the block size that a server asks for."""

    def __init__(self, memory: SharedMemory) -> None:
        self._key = memory.hash_key
        self._by_size: dict[int, Hasher] = {}
        self._seeds: dict[tuple[int, str, bytes], int] = {}
        """Of prompts without tools, which are most: by block size, model and salt."""

    def prompt(self, body: bytes, found: Scan, cache: PrefixCache, salt: bytes = b"") -> BlockHashes | None:
        """Hashes of the prompt as it stands in the body; model, tools and salt are part of every hash."""
        if cache.mode == "off" or found.prompt_end == 0:
            return None
        hasher = self._of_size(TEXT_BLOCK if cache.mode == "tokens" else cache.block_size)
        tools = found.span("tools")
        if tools is not None:
            seed = hasher.seed(found.model or "", body[tools[0] : tools[1]], salt)
        else:
            seed = self._seed(hasher, found.model or "", salt)
        return hasher.hash_text(body, found.prompt_start, found.prompt_end, seed)

    def tokens(self, ids: array[int], adapter: str, salt: str, block_tokens: int) -> BlockHashes:
        """Hashes of token blocks, as the sidecar makes them of engines' events.

        The block of the last token is left out: engines compute it in any case, whatever they hold.
        """
        hasher = self._of_size(TEXT_BLOCK)
        seed = salted_seed(hasher, adapter, salt) if salt else token_seed(hasher, adapter)
        return hasher.hash_tokens(ids[: max(0, len(ids) - 1)], block_tokens, seed)

    def _seed(self, hasher: Hasher, model: str, salt: bytes) -> int:
        key = (hasher.block_bytes, model, salt)
        seed: int | None = self._seeds.get(key)
        if seed is None:
            if len(self._seeds) >= _MOST_SEEDS:
                self._seeds.clear()
            seed = self._seeds[key] = hasher.seed(model, b"", salt)
        return seed

    def _of_size(self, size: Count) -> Hasher:
        hasher: Hasher | None = self._by_size.get(size)
        if hasher is None:
            hasher = self._by_size[size] = Hasher(self._key, size)
        return hasher


def session_of(server: ServerPool, header: Callable[[str], str | None], prompt_cache_key: str | None) -> int:
    """64 bits that stand for the conversation: the first of the server's session headers that is there, else the body's
    ``prompt_cache_key``; 0 for none. The same in every gateway.
    """
    if not server.keeps_sessions:
        return 0
    return session_named(server.server.scheduling.session_headers, header, prompt_cache_key)


def session_named(names: tuple[str, ...], header: Callable[[str], str | None], prompt_cache_key: str | None) -> int:
    """The same by headers of these names."""
    for name in names:
        value = header(name)
        if value:
            return endpoint_identity(value)
    return endpoint_identity(prompt_cache_key) if prompt_cache_key else 0


def adapter_of(name: str) -> int:
    """64 bits that stand for a LoRA adapter, as the sidecar makes them of what engines say that they have loaded."""
    return endpoint_identity(name)


def refusal(server: ServerPool, filtered: dict[str, int]) -> PenstockError:
    """Why nobody can take the request."""
    name = server.server.name
    if not server.endpoints:
        return NoEndpoint(f"ModelServer `{name}` has no ready endpoint.", retry_after=5.0)
    busy = filtered.get("full", 0) + filtered.get("waiting", 0)
    if busy:
        return QueueFull(
            f"All {busy} endpoints of ModelServer `{name}` have as many requests as they may.", retry_after=1.0
        )
    return NoEndpoint(f"No endpoint of ModelServer `{name}` can take the request.", retry_after=1.0)
