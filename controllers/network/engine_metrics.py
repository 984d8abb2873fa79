"""Scrapes engines and writes what they say, each stamped with its time, into the shared memory.

Every endpoint has a task of its own: one that hangs delays nobody. An endpoint that cannot be scraped is not written, so that its last
word grows old and stops counting.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from _fastpath.adapters import Adapters
from _fastpath.load import Load
from _fastpath.prefix_index import PrefixIndex
from _fastpath.shared_memory import LayoutError, SharedMemory
from _fastpath.slots import Slots, SlotsFull, endpoint_identity
from controllers.network.engine_adapters import AdapterReading, LoadedAdapters, read_adapters
from gateway.datastore.model import Endpoint

SCRAPE_SECONDS = 1.0
TIMEOUT_SECONDS = 2.0
LARGEST_PAGE = 8 << 20
SHARED_MEMORY_FILE = "shared-memory"

logger = logging.getLogger(__name__)

STARTED = "process_start_time_seconds"
_LABELS = r'\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\}'
_LINE = re.compile(
    rf"^((?:vllm|sglang):[a-z_]+|{STARTED})(?:{_LABELS})? ([-+0-9.eE]+|NaN|[+-]Inf)\s*(?:\d+)?$", re.MULTILINE
)
_RANK = re.compile(r'^[a-z:_]+\{(?:.*?,)?engine="(\d+)"')
_CACHE = re.compile(rf"^(?:vllm|sglang):cache_config_info({_LABELS}) ", re.MULTILINE)
_CACHE_SIZE = re.compile(r'\b(block_size|page_size|num_gpu_blocks|num_pages)="(\d{1,12})"')
RUNNING = ("vllm:num_requests_running", "sglang:num_running_reqs")
WAITING = ("vllm:num_requests_waiting", "sglang:num_queue_reqs")
KV_USAGE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage")
FIRST_TOKEN = ("vllm:time_to_first_token_seconds", "sglang:time_to_first_token_seconds")
INTER_TOKEN = (
    "vllm:inter_token_latency_seconds",
    "vllm:time_per_output_token_seconds",
    "sglang:inter_token_latency_seconds",
    "sglang:time_per_output_token_seconds",
)
PREFIX_HITS = ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total", "sglang:cached_tokens_total")
PROMPT_TOKENS = ("vllm:prompt_tokens_total", "sglang:prompt_tokens_total")
CACHED_TOKENS = ("vllm:prompt_tokens_cached_total", *PREFIX_HITS)
GENERATED_TOKENS = ("vllm:generation_tokens_total", "sglang:generation_tokens_total")
PREFIX_QUERIES = (
    "vllm:prefix_cache_queries_total",
    "vllm:gpu_prefix_cache_queries_total",
    "sglang:prompt_tokens_total",
)


@dataclass(frozen=True, slots=True)
class Reading:
    """One page: of one data-parallel rank, or of all of them added up (shares: averaged)."""

    running: float
    waiting: float
    kv_usage: float
    first_token: tuple[float, float]
    inter_token: tuple[float, float]
    prefix: tuple[float, float]
    """Sum and count so far; hits and queries so far."""
    started: float = 0.0
    """When its process began, as its clock says; 0 when it does not say."""
    adapters: AdapterReading = field(default_factory=AdapterReading)
    kv_tokens: float = 0.0
    """Tokens that its KV cache holds; 0 when it does not say."""
    computed: float = 0.0
    """Tokens of prompts that were not cached, and of answers, so far; 0 when it does not say."""

    def follows(self, earlier: Reading) -> bool:
        """Whether the same process wrote both: an engine that was started anew counts from zero, and its cache is empty."""
        is_older = earlier.started > 0 and self.started > 0 and self.started != earlier.started
        fell = self.first_token[1] < earlier.first_token[1] or self.prefix[1] < earlier.prefix[1]
        return not is_older and not fell

    def computed_since(self, earlier: Reading | None) -> float:
        """Tokens that were computed between both; 0 without an earlier one of the same process."""
        return max(0.0, self.computed - earlier.computed) if earlier is not None and self.follows(earlier) else 0.0


def read_page(text: str, rank: int = -1) -> Reading | None:
    """What a metrics page says, by old names and new, of one data-parallel ``rank`` or of all (-1); None when it is no engine's."""
    if rank >= 0:
        text = _of_rank(text, str(rank))
    values: dict[str, list[float]] = {}
    for found in _LINE.finditer(text):
        try:
            value = float(found[2])
        except ValueError:
            continue
        if math.isfinite(value):
            values.setdefault(found[1], []).append(value)
    if not any(name in values for name in (*RUNNING, *WAITING)):
        return None
    shares = _first(values, KV_USAGE)
    return Reading(
        running=sum(_first(values, RUNNING)),
        waiting=sum(_first(values, WAITING)),
        kv_usage=sum(shares) / len(shares) if shares else 0.0,
        first_token=_histogram(values, FIRST_TOKEN),
        inter_token=_histogram(values, INTER_TOKEN),
        prefix=(sum(_first(values, PREFIX_HITS)), sum(_first(values, PREFIX_QUERIES))),
        started=max(_first(values, (STARTED,)), default=0.0),
        adapters=read_adapters(text),
        kv_tokens=_kv_tokens(text),
        computed=_computed(values),
    )


def _of_rank(text: str, rank: str) -> str:
    """The lines of a page without those of other ranks."""
    return "\n".join(line for line in text.splitlines() if (found := _RANK.match(line)) is None or found[1] == rank)


def _kv_tokens(text: str) -> float:
    """Blocks times their tokens, of all ranks that the page is of."""
    total = 0.0
    for labels in _CACHE.findall(text):
        sizes = {name: float(number) for name, number in _CACHE_SIZE.findall(labels)}
        blocks = sizes.get("num_gpu_blocks", sizes.get("num_pages", 0.0))
        total += blocks * sizes.get("block_size", sizes.get("page_size", 0.0))
    return total


def _computed(values: dict[str, list[float]]) -> float:
    prompts = sum(_first(values, PROMPT_TOKENS))
    return max(0.0, prompts - sum(_first(values, CACHED_TOKENS))) + sum(_first(values, GENERATED_TOKENS))


def _first(values: dict[str, list[float]], names: Iterable[str]) -> list[float]:
    return next((values[name] for name in names if name in values), [])


def _histogram(values: dict[str, list[float]], names: Iterable[str]) -> tuple[float, float]:
    for name in names:
        if f"{name}_count" in values:
            return sum(values.get(f"{name}_sum", [])), sum(values[f"{name}_count"])
    return 0.0, 0.0


@dataclass(slots=True)
class _Means:
    """Means over the last interval that had anything to count; kept while nothing happens, begun anew when a counter fell."""

    before: dict[str, tuple[float, float]] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)

    def of(self, name: str, now: tuple[float, float]) -> float:
        total, count = self.before.get(name, (0.0, 0.0))
        if name in self.before and now[1] > count and now[0] >= total:
            self.last[name] = (now[0] - total) / (now[1] - count)
        self.before[name] = now
        return self.last.get(name, 0.0)


class EngineScraper:
    """Keeps one task for each endpoint of the desired state."""

    def __init__(
        self,
        endpoints: Callable[[], Iterable[Endpoint]],
        run_directory: Path,
        clock: Callable[[], float] = time.monotonic,
        authorities: str = "",
    ) -> None:
        """``authorities``: a file of PEM certificates that engines are verified by, instead of the system's."""
        self._endpoints = endpoints
        self._authorities = authorities
        self._path = str(run_directory / SHARED_MEMORY_FILE)
        self._clock = clock
        self._memory: SharedMemory | None = None
        self._load: Load | None = None
        self._slots: Slots | None = None
        self._prefixes: PrefixIndex | None = None
        self._adapters: Adapters | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def attached(self) -> tuple[SharedMemory, Slots] | None:
        """The shared memory that it writes to at present, with its slots in the sidecar's row."""
        return (self._memory, self._slots) if self._memory is not None and self._slots is not None else None

    async def run(self) -> None:
        """Follow endpoints as they come and go, until cancelled."""
        verified = ssl.create_default_context(cafile=self._authorities or None)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30, ssl=verified)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS, sock_connect=0.5)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            try:
                while True:
                    self._attach()
                    self._follow(session)
                    await asyncio.sleep(0.2 if self._memory is None else SCRAPE_SECONDS)
            finally:
                for task in self._tasks.values():
                    task.cancel()
                await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _attach(self) -> None:
        if self._memory is not None and self._memory.is_current():
            return
        try:
            memory = SharedMemory.attach(self._path)
        except (OSError, LayoutError) as error:
            if not isinstance(error, FileNotFoundError):
                logger.warning("shared memory cannot be used: %s", error)
            self._memory = self._load = self._slots = None
            return
        self._memory, self._load, self._slots = memory, Load(memory), Slots(memory)
        self._prefixes = PrefixIndex(memory)
        self._adapters = Adapters(memory)
        self._slots.drop_row(memory.workers)

    def _follow(self, session: aiohttp.ClientSession) -> None:
        wanted = {f"{endpoint.scheme} {endpoint.identity}": endpoint for endpoint in self._endpoints()}
        for identity in [identity for identity in self._tasks if identity not in wanted]:
            self._tasks.pop(identity).cancel()
            self._drop(identity.partition(" ")[2])
        for position, (identity, endpoint) in enumerate(wanted.items()):
            task = self._tasks.get(identity)
            if task is None or task.done():
                pause = SCRAPE_SECONDS * (position % 20) / 20 if position >= 20 else 0.0
                self._tasks[identity] = asyncio.create_task(self._scrape(session, endpoint, pause))

    def _drop(self, identity: str) -> None:
        if self._slots is not None and self._memory is not None:
            found = self._slots.find(endpoint_identity(identity))
            if found is not None:
                self._slots.drop(self._memory.workers, found[0])

    async def _scrape(self, session: aiohttp.ClientSession, endpoint: Endpoint, pause: float) -> None:
        await asyncio.sleep(pause)
        means, loaded = _Means(), LoadedAdapters()
        before: Reading | None = None
        while True:
            started, in_flight = self._clock(), self._in_flight(endpoint)
            try:
                async with session.get(f"{endpoint.url}/metrics") as response:
                    page = b""
                    while response.status == 200 and not response.content.at_eof() and len(page) < LARGEST_PAGE:
                        page += await response.content.read(LARGEST_PAGE - len(page))
            except (aiohttp.ClientError, TimeoutError, OSError):
                page = b""
            reading = read_page(page.decode(errors="replace"), endpoint.rank) if page else None
            if reading is not None:
                is_new = before is not None and not reading.follows(before)
                if is_new:
                    loaded.forget()
                computed = reading.computed_since(before)
                slot = self._write(endpoint, reading, means, loaded.of(reading.adapters), in_flight, computed)
                if is_new and slot is not None:
                    await self._forget(endpoint, slot)
                before = reading
            await asyncio.sleep(max(0.05, SCRAPE_SECONDS - (self._clock() - started)))

    async def _forget(self, endpoint: Endpoint, slot: int) -> None:
        """The engine was started anew: no prompt is cached there. One that tells of its blocks has a follower that sees it itself."""
        if endpoint.events_port:
            return
        assert self._prefixes is not None
        logger.info("%s was started anew: what it had cached is forgotten", endpoint.name)
        await asyncio.to_thread(self._prefixes.forget, slot)

    def _in_flight(self, endpoint: Endpoint) -> int:
        """Requests that this gateway's workers have there now."""
        if self._load is None or self._slots is None:
            return 0
        found = self._slots.find(endpoint_identity(endpoint.identity))
        return self._load.read(*found)[0] if found is not None else 0

    def _write(
        self,
        endpoint: Endpoint,
        reading: Reading,
        means: _Means,
        loaded: list[str],
        in_flight: int,
        computed: float,
    ) -> int | None:
        """Write what it said into its slot, and which one that is; None when there is none."""
        if self._load is None or self._slots is None or self._memory is None:
            return None
        try:
            slot, generation = self._slots.acquire(self._memory.workers, endpoint_identity(endpoint.identity))
        except SlotsFull as error:
            logger.warning("%s", error)
            return None
        assert self._adapters is not None
        self._adapters.write(
            slot,
            generation,
            reading.adapters.capacity,
            reading.adapters.busy,
            [endpoint_identity(name) for name in loaded],
            [endpoint_identity(name) for name in sorted(reading.adapters.waiting)],
        )
        self._load.write_metrics(
            slot,
            generation,
            reading.running,
            reading.waiting,
            reading.kv_usage,
            means.of("first", reading.first_token),
            means.of("inter", reading.inter_token),
            means.of("prefix", reading.prefix),
            self._clock(),
            in_flight,
            reading.kv_tokens,
            computed,
        )
        return int(slot)
