"""The order of things: every gateway in turn, round after round, so that what changes on the machine touches all alike."""

from __future__ import annotations

import contextlib
import statistics
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.load import bodies, measure
from bench.load.build import Cache, say
from bench.load.measure import Load, Sample, Tools, sampled
from bench.load.peers import PEERS, Peer, Site
from bench.load.processes import Meter, Missing, Program, total_resident

DIRECT = "direct"
"""Name of the engine by itself in samples."""
CLOSED = ("unary-1k", "unary-200k", "stream")
MEASURES = (*CLOSED, "latency")
LADDER = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9)
"""Parts of a gateway's own capacity at which the plot shows its latency; measured in the first round alone."""
_READY_SECONDS = 40
_SETTLE_SECONDS = 1.0
_READY_ANSWERS = 20
_MEGABYTE = 1e6


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked of one run."""

    peers: tuple[str, ...]
    measures: tuple[str, ...]
    rounds: int
    seconds: float
    ladder: bool
    """Whether latency is measured at the steps of LADDER too."""
    gateway_core: int
    load_core: int
    base_port: int


@dataclass(slots=True)
class Result:
    """All that one run found."""

    samples: list[Sample] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """Why a gateway could not be measured, by name."""
    versions: dict[str, str] = field(default_factory=dict)

    def capacity(self, peer: str) -> float | None:
        """Median of its small requests a second."""
        found = [
            one.values["requests_per_second"]
            for one in self.samples
            if one.peer == peer and one.measure == "unary-1k" and one.values
        ]
        return statistics.median(found) if found else None


class Bench:
    """One run on one machine."""

    def __init__(self, options: Options, cache: Cache, folder: Path, tools: Tools) -> None:
        self._options = options
        self._folder = folder
        self._tools = tools
        self._engines = (options.base_port + 1, options.base_port + 2)
        self._programs: dict[str, str] = {}
        self.result = Result()
        for name in options.peers:
            self._find(PEERS[name], cache)

    def run(self) -> Result:
        """All rounds: throughput and CPU first, since they say at which rates latency is to be measured."""
        with self.engine():
            for number in range(1, self._options.rounds + 1):
                self._closed_round(number)
            if "latency" in self._options.measures:
                for number in range(1, self._options.rounds + 1):
                    self._latency_round(number)
        return self.result

    @contextlib.contextmanager
    def engine(self) -> Iterator[None]:
        """The engine behind all gateways."""
        chunks = [str(measure.CHUNKS), str(measure.CHUNK_MILLISECONDS)]
        command = [self._tools.engine, *chunks, *map(str, self._engines)]
        with Program(command, self._options.load_core, self._folder / "engine.log") as engine:
            time.sleep(0.2)
            engine.check()
            yield

    def _find(self, peer: Peer, cache: Cache) -> None:
        try:
            self._programs[peer.name] = peer.find(cache)
            self.result.versions[peer.name] = peer.version(self._programs[peer.name])
        except (Missing, OSError) as error:
            self._is_missing(peer.name, str(error))

    def _is_missing(self, name: str, why: str) -> None:
        say(f"{name}: missing: {why}")
        self.result.missing[name] = why
        self._programs.pop(name, None)

    def _closed_round(self, number: int) -> None:
        measures = self._closed_measures()
        say(f"round {number} of {self._options.rounds}: {', '.join(measures)}")
        for name in measures:
            if name != "stream":
                self._take(DIRECT, name, number, self._direct())
        for peer in [*self._programs]:
            with self.running(peer) as started:
                if started is not None:
                    self._closed_peer(peer, number, *started)

    def _closed_measures(self) -> list[str]:
        wanted = [one for one in ("unary-1k", "stream", "unary-200k") if one in self._options.measures]
        if "latency" in self._options.measures and "unary-1k" not in wanted:
            wanted.insert(0, "unary-1k")  # it says at which rates
        return wanted

    def _closed_peer(self, peer: str, number: int, program: Program, load: Load) -> None:
        memory = {"idle_mb": _megabytes(load.meter.main), "idle_every_mb": _megabytes(load.meter.every)}
        for name in self._closed_measures():
            if name != "stream":  # streams have a warm-up of their own
                with contextlib.suppress(Missing, OSError, ValueError):
                    load.closed(name, 1)
            self._take(peer, name, number, load)
        with contextlib.suppress(OSError):
            memory |= {"after_mb": _megabytes(load.meter.main), "after_every_mb": _megabytes(load.meter.every)}
        self.result.samples.append(Sample(peer, "memory", number, memory))

    def _take(self, peer: str, name: str, number: int, load: Load) -> None:
        seconds = self._options.seconds
        sample = sampled(
            peer, name, number, lambda: load.streams(seconds) if name == "stream" else load.closed(name, seconds)
        )
        self._keep(sample)

    def _latency_round(self, number: int) -> None:
        rates = self._rates(LADDER if self._options.ladder and number == 1 else (0.5,))
        say(f"round {number} of {self._options.rounds}: latency")
        for rate in sorted({rate for some in rates.values() for rate in some}):
            self._take_latency(DIRECT, rate, number, self._direct())
        for peer in [*self._programs]:
            with self.running(peer) as started:
                if started is not None:
                    for rate in rates.get(peer, ()):
                        self._take_latency(peer, rate, number, started[1])

    def _take_latency(self, peer: str, rate: float, number: int, load: Load) -> None:
        self._keep(sampled(peer, "latency", number, lambda: load.open(rate, self._options.seconds)))

    def _rates(self, parts: Sequence[float]) -> dict[str, list[float]]:
        capacities = {peer: self.result.capacity(peer) for peer in self._programs}
        known = {peer: capacity for peer, capacity in capacities.items() if capacity}
        return latency_rates(known, parts)

    def _keep(self, sample: Sample) -> None:
        self.result.samples.append(sample)
        v = sample.values
        told = [
            f"{v[name]:,.1f} {unit}"
            for name, unit in (
                ("rate", "requests/s offered"),
                ("requests_per_second", "requests/s"),
                ("chunks_per_second", "chunks/s"),
                ("cpu_us", "us CPU"),
                ("p50_us", "us p50"),
                ("p99_us", "us p99"),
            )
            if name in v
        ]
        say(f"  {sample.peer:14} {sample.measure:10} {', '.join([*told, *sample.notes])}")

    def _direct(self) -> Load:
        meter = Meter((), (), self._options.gateway_core, self._options.load_core)
        return Load(self._tools, self._engines[0], meter)

    @contextlib.contextmanager
    def running(self, name: str) -> Iterator[tuple[Program, Load] | None]:
        """The gateway, started and settled; None, and the reason noted, when it does not start."""
        peer, base = PEERS[name], self._options.base_port
        site = Site(self._folder / name, base + 10, base + 11, base + 12, self._engines)
        site.folder.mkdir(exist_ok=True)
        command = peer.command(self._programs[name], site)
        with Program(command, self._options.gateway_core, site.folder / "output.log") as program:
            try:
                wait_ready(program, site.port)
            except Missing as error:
                self._is_missing(name, str(error))
                yield None
                return
            time.sleep(_SETTLE_SECONDS)
            every = tuple(program.processes())
            main = tuple(program.processes(peer.counted))
            meter = Meter(main, every, self._options.gateway_core, self._options.load_core)
            yield program, Load(self._tools, site.port, meter, peer.workers)


def latency_rates(capacities: Mapping[str, float], parts: Sequence[float]) -> dict[str, list[float]]:
    """Rates for each gateway: parts of its own capacity; and half of ours and half of sglang-router's, for both of them at the least.

    Others take those two only up to nine tenths of what they can. Each is a multiple of 100, so that one direct measurement serves many.
    """
    shared = {_round(capacities[name] / 2) for name in ("penstock", "sglang-router") if name in capacities}
    rates = {}
    for peer, capacity in capacities.items():
        own = {_round(capacity * part) for part in parts}
        bold = peer in ("penstock", "sglang-router")
        rates[peer] = sorted(own | {rate for rate in shared if bold or rate <= 0.9 * capacity})
    return rates


def _round(rate: float) -> float:
    return max(100.0, round(rate / 100) * 100.0)


def _megabytes(processes: Sequence[int]) -> float:
    return total_resident(processes) / _MEGABYTE


def wait_ready(program: Program, port: int) -> None:
    """Wait until chat completions are answered. Raises Missing."""
    deadline = time.monotonic() + _READY_SECONDS
    good, last = 0, "no answer"
    body = bodies.chat(1200, 0).encode()
    while good < _READY_ANSWERS:
        program.check()
        if time.monotonic() > deadline:
            raise Missing(f"not ready after {_READY_SECONDS} s: {last}; {program.last_words()}")
        status = _status(port, body)
        if status == 200:
            good += 1
        else:
            good, last = 0, f"status {status}" if status else "no answer"
            time.sleep(0.1)


def _status(port: int, body: bytes) -> int:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", body, {"content-type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
