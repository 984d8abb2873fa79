"""Places a request on an endpoint: chooses, charges and learns in one compiled call, and releases once."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from _fastpath.clock import seconds as seconds_of
from _fastpath.hashing import BlockHashes, Hasher
from _fastpath.scanner import Scan
from _fastpath.scheduler import Scheduler
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import endpoint_identity
from gateway.counting import Count, Usage
from gateway.datastore.model import PrefixCache
from gateway.datastore.token_seed import salted_seed, token_seed
from gateway.deadlines import Deadlines
from gateway.errors import NoEndpoint, PenstockError, QueueFull
from gateway.scheduling.corrections import MISSED_SHARE, MISSED_TOKENS, Corrections
from gateway.scheduling.decision import describe
from gateway.scheduling.pool import SERVES, TEXT_BLOCK, PlacedEndpoint, ServerPool, block_bytes_of

if TYPE_CHECKING:
    from _fastpath.health import Health, Reading
    from _fastpath.pool import Explanation, Pool

MEASURED_TOKENS = 512
"""A prefill of fewer tokens says more of everything else than of the engine's speed."""
_MOST_SEEDS = 10_000


class Placement:
    """The endpoint that was chosen, and what was charged for it.

    An entry of the worker's :class:`gateway.deadlines.Deadlines` too, after :meth:`expect_prefill`.
    """

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
        self.among: Pool = pool.pool
        """What it was chosen from: with or without the places that are kept for others."""
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
        self._placer: Placer | None = None
        self._deadlines: Deadlines | None = None
        self._due = 0.0

    @property
    def match_ratio(self) -> float | None:
        """Share of the prompt's blocks that the endpoint was expected to hold; None for a prompt without a whole block."""
        return self.matched_blocks / self.blocks if self.blocks else None

    def expect_prefill(self, placer: Placer, deadlines: Deadlines, sent: float) -> None:
        """Its answer comes in one piece, whose first byte comes with its last token: its prompt is taken to be computed when that was
        expected, of a request that was sent at ``sent``.
        """
        self._placer = placer
        self._deadlines = deadlines
        self._due = sent + self.prefill_seconds
        deadlines.add(self, self._due)

    def check(self, now: float) -> None:
        """Nothing to do for a request that is over; what is far off is looked at before it is due."""
        if self.has_first_token or self._placer is None or self._deadlines is None:
            return
        if now < self._due:
            self._deadlines.add(self, self._due)
        else:
            self._placer.first_token(self, 0.0, now)


def is_serving(health: Health, server: ServerPool, placed: PlacedEndpoint, now: float) -> bool:
    """Whether an endpoint of a server is not left alone at ``now`` for what it did lately."""
    outlier = server.pool.outlier
    assert outlier is not None
    return health.read(placed.slot_index, placed.slot_generation, outlier, now)["state"] in ("serving", "warming")


class Placer:
    """One worker's scheduler."""

    def __init__(self, memory: SharedMemory, worker: int, clock: Callable[[], float]) -> None:
        self._scheduler = Scheduler(memory, worker)
        self._hashers = Hashers(memory)
        self._clock = clock
        self._corrections = Corrections(self._scheduler.prefixes)
        self._in_vain = self._corrections.in_vain
        self._missed_tokens, self._missed_share = float(MISSED_TOKENS), MISSED_SHARE  # here they are C numbers

    def hash_prompt(self, server: ServerPool, body: bytes, found: Scan, salt: bytes = b"") -> BlockHashes | None:
        """The hashes that a server matches prompts by; computed once a request, however often it is placed."""
        if server.block_bytes == 0 or found.prompt_end == 0:
            return None
        if found.tools_end > 0:
            return self._hashers.text(body, found, server.block_bytes, salt)
        hasher = server.hasher
        if hasher is None:
            hasher = server.hasher = self._hashers.of_size(server.block_bytes)
        model = found.model or ""
        if server.seed_model != model or server.seed_salt != salt:
            server.seed = self._hashers.seed(hasher, model, salt)
            server.seed_model, server.seed_salt = model, salt
        return hasher.hash_text(body, found.prompt_start, found.prompt_end, server.seed)

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
        now = seconds_of(self._clock)
        placement = self.try_place(
            server, hashes, prompt_tokens, output_tokens, tried, session, learn, adapter, adjustments, narrow, now
        )
        if placement is None:
            raise self.refusal(server, narrow)
        return placement

    def try_place(
        self,
        server: ServerPool,
        hashes: BlockHashes | None,
        prompt_tokens: Count,
        output_tokens: Count,
        tried: Sequence[int],
        session: Count,
        learn: bool,
        adapter: Count,
        adjustments: Sequence[float] | None,
        narrow: bool,
        now: float,
    ) -> Placement | None:
        """The same at ``now``; None when no endpoint can take it, and :meth:`refusal` says why."""
        scheduler, among = self._scheduler, server.narrow if narrow else server.pool
        position = scheduler.choose(
            among,
            server.policy,
            hashes,
            prompt_tokens,
            output_tokens,
            now,
            SERVES,
            tried,
            False,
            session,
            learn,
            adapter,
            adjustments,
        )
        if position < 0:
            return None
        # attribute by attribute: they are C numbers here, and its constructor would take objects
        placement: Placement = Placement.__new__(Placement)
        placement.pool, placement.among = server, among
        placement.position = position
        placement.placed = server.endpoints[position]
        placement.blocks = len(hashes) if hashes is not None else 0
        placement.matched_blocks = scheduler.matched_blocks
        placement.prefill_tokens = scheduler.uncached_tokens
        placement.output_tokens = output_tokens
        placement.queued_tokens = scheduler.queued_tokens
        placement.probe = scheduler.probe
        placement.matched_at = scheduler.matched_at
        placement.prefill_seconds = scheduler.prefill_seconds
        placement.has_first_token = False
        return placement

    def refusal(self, server: ServerPool, narrow: bool) -> PenstockError:
        """Why nobody can take the request that was just tried to be placed."""
        return refusal(server, (server.narrow if narrow else server.pool).filtered())

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
            seconds_of(self._clock),
            SERVES,
            tried,
            True,
            session,
            learn,
            adapter,
        )
        return pool.explain()

    def describe(self, placement: Placement, narrow: bool = False) -> bytes:
        """The choice that was just made, as JSON. ``narrow``: as it was placed."""
        server = placement.pool
        seen = (server.narrow if narrow else server.pool).explain()
        return describe(server, seen, placement.position, placement.blocks)

    def first_token(self, placement: Placement, seconds: float, now: float = 0.0) -> None:
        """The prompt is computed, ``seconds`` after it was sent (0: not known): it weighs on the endpoint no more.

        ``now``: 0 when the caller has not looked at the clock.
        """
        pool = placement.pool.pool
        if not placement.has_first_token:
            placement.has_first_token = True
            self._scheduler.first_token(
                pool, placement.position, placement.prefill_tokens, now or seconds_of(self._clock)
            )
        if seconds > 0:
            tokens = placement.queued_tokens + placement.prefill_tokens
            if tokens >= MEASURED_TOKENS:
                self._scheduler.prefilled(pool, placement.position, tokens, seconds)

    def release(self, placement: Placement) -> None:
        """The endpoint is done with the request."""
        prefill = 0 if placement.has_first_token else placement.prefill_tokens
        placement.has_first_token = True
        self._scheduler.release(placement.pool.pool, placement.position, prefill, placement.output_tokens)

    def refresh(self, placement: Placement, hashes: BlockHashes, sent: float) -> None:
        """The answer to a prompt that was sent at ``sent`` is over: its blocks are the youngest that the engine holds."""
        self._scheduler.refresh(placement.among, placement.position, hashes, sent, seconds_of(self._clock))

    def correct(self, placement: Placement, hashes: BlockHashes | None, usage: Usage, sent: float) -> str:
        """Compare what the engine found cached with what was expected of it: ``usage`` of a prompt that was sent there at ``sent``.

        Returns what follows for the index: ``evicted``, ``uncached``, or nothing.
        """
        if hashes is None or (placement.matched_blocks == 0 and not self._in_vain):
            return ""  # nothing was expected
        prompt, cached = usage[0], usage[2]
        if cached < 0:
            return ""
        expected = prompt * placement.matched_blocks / placement.blocks if placement.blocks else 0.0
        placed = placement.placed
        missed = expected - cached
        if missed > self._missed_tokens and missed > expected * self._missed_share:
            return self._corrections.missed(
                (placed.slot_index, placed.slot_generation),
                hashes,
                cached,
                placement.matched_at,
                sent,
                placement.among.kept_seconds > 0,
            )
        if self._in_vain:
            return self._corrections.answered((placed.slot_index, placed.slot_generation), hashes, cached)
        return ""

    def note(self, placement: Placement, outcome: Count, sent: float, now: float = 0.0) -> Count:
        """Note what became of a request that went out at ``sent``: places in ``OUTCOMES`` and ``EVENTS`` of ``_fastpath.health``.

        ``now``: 0 when the caller has not looked at the clock.
        """
        placed, pool = placement.placed, placement.pool.pool
        assert pool.outlier is not None
        return self._scheduler.health.note(
            placed.slot_index,
            placed.slot_generation,
            pool.outlier,
            outcome,
            sent,
            now or seconds_of(self._clock),
            placement.probe,
        )

    def is_serving(self, server: ServerPool, placed: PlacedEndpoint) -> bool:
        """Whether an endpoint of a server is not left alone just now for what it did lately."""
        return is_serving(self._scheduler.health, server, placed, seconds_of(self._clock))

    def reading(self, placement: Placement) -> Reading:
        """How the endpoint of a placement stands now."""
        slot, pool = placement.placed.slot, placement.pool.pool
        assert pool.outlier is not None
        return self._scheduler.health.read(slot.index, slot.generation, pool.outlier, seconds_of(self._clock))


class Hashers:
    """Prompt hashes, by the block size that a server asks for."""

    def __init__(self, memory: SharedMemory) -> None:
        self._key = memory.hash_key
        self._by_size: dict[int, Hasher] = {}
        self._seeds: dict[tuple[int, str, bytes], int] = {}
        """Of prompts without tools, which are most: by block size, model and salt."""

    def prompt(self, body: bytes, found: Scan, cache: PrefixCache, salt: bytes = b"") -> BlockHashes | None:
        """Hashes of the prompt as it stands in the body; model, tools and salt are part of every hash."""
        return self.text(body, found, block_bytes_of(cache), salt)

    def text(self, body: bytes, found: Scan, block_bytes: Count, salt: bytes) -> BlockHashes | None:
        """The same for blocks of so many bytes, 0 for none."""
        if block_bytes == 0 or found.prompt_end == 0:
            return None
        hasher = self.of_size(block_bytes)
        if found.tools_end > 0:
            seed: int = hasher.seed(found.model or "", body[found.tools_start : found.tools_end], salt)
        else:
            seed = self.seed(hasher, found.model or "", salt)
        return hasher.hash_text(body, found.prompt_start, found.prompt_end, seed)

    def tokens(self, ids: array[int], adapter: str, salt: str, block_tokens: int) -> BlockHashes:
        """Hashes of token blocks, as the sidecar makes them of engines' events.

        The block of the last token is left out: engines compute it in any case, whatever they hold.
        """
        hasher = self.of_size(TEXT_BLOCK)
        seed = salted_seed(hasher, adapter, salt) if salt else token_seed(hasher, adapter)
        return hasher.hash_tokens(ids[: max(0, len(ids) - 1)], block_tokens, seed)

    def seed(self, hasher: Hasher, model: str, salt: bytes) -> int:
        """Where the chain of a prompt without tools begins."""
        key = (hasher.block_bytes, model, salt)
        seed: int | None = self._seeds.get(key)
        if seed is None:
            if len(self._seeds) >= _MOST_SEEDS:
                self._seeds.clear()
            seed = self._seeds[key] = hasher.seed(model, b"", salt)
        return seed

    def of_size(self, size: Count) -> Hasher:
        """The one for blocks of so many bytes."""
        hasher: Hasher | None = self._by_size.get(size)
        if hasher is None:
            hasher = self._by_size[size] = Hasher(self._key, size)
        return hasher


def session_of(server: ServerPool, header: Callable[[str], str | None], prompt_cache_key: str | None) -> Count:
    """64 bits that stand for the conversation: the first of the server's session headers that is there, else the body's
    ``prompt_cache_key``; 0 for none. The same in every gateway.
    """
    if not server.keeps_sessions:
        return 0
    return session_named(server.server.scheduling.session_headers, header, prompt_cache_key)


def session_named(names: Sequence[str], header: Callable[[str], str | None], prompt_cache_key: str | None) -> Count:
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
