"""One measurement of one gateway: a load for some seconds, and what the gateway's processes used meanwhile."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.load import bodies
from bench.load.build import HERE, Cache, debian
from bench.load.processes import Meter, Missing, Reading

CONNECTIONS = 32
STREAMS = 200
CHUNKS = 64
"""Events of content in one stream."""
CHUNK_MILLISECONDS = 20
OPEN_LOOP_CONNECTIONS = 64
"""Twice those of the closed loop, by which capacity is known: after a pause of the machine the rest waits at the client (its time
runs), and no gateway is pushed into the hundreds of connections that it would not recover from within the measurement."""
_STREAM_WARM_SECONDS = 2.5
"""All streams have begun after one second, and the first of them are over after 1.3."""
_SPARE_SECONDS = 30
_CROWDED = 0.05
_SATURATED = 0.97
_LATE_MICROSECONDS = 500.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What one measurement found. ``values`` by name, each name says its unit."""

    peer: str
    measure: str
    round: int
    values: dict[str, float]
    failed: int = 0
    notes: list[str] = field(default_factory=list)
    """What makes it doubtful."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The programs that make load, and the requests that they send."""

    wrk: str
    engine: str
    streams: str
    open_loop: str
    requests: dict[str, Path]


def prepare(cache: Cache, folder: Path) -> Tools:
    """Build what is missing and write the requests into ``folder``. Raises Missing."""
    return Tools(
        wrk=debian("wrk", "wrk"),
        engine=str(cache.compiled("engine")),
        streams=str(cache.compiled("streams")),
        open_loop=str(cache.compiled("open_loop")),
        requests={
            "unary-1k": bodies.write(folder / "requests-1k", 1200, 64),
            "unary-200k": bodies.write(folder / "requests-200k", 200_000, 16),
            "stream": bodies.write(folder / "requests-stream", 1200, 64, stream=True),
        },
    )


@dataclass(frozen=True, slots=True)
class Load:
    """Puts load on one port from the load core, and reads ``meter`` around it."""

    tools: Tools
    port: int
    meter: Meter
    workers: int = 1
    """Of the gateway, each of which has as many connections."""

    def closed(self, measure: str, seconds: float) -> dict[str, Any]:
        """wrk with keep-alive for whole seconds: requests a second, and the CPU of one."""
        url = f"http://127.0.0.1:{self.port}"
        script = ["-s", str(HERE / "closed_loop.lua"), url, "--", str(self.tools.requests[measure])]
        size = [
            "-t",
            "1",
            "-c",
            str(CONNECTIONS * self.workers),
            "-d",
            f"{max(1, round(seconds))}s",
            "--timeout",
            "10s",
        ]
        before = self.meter.read()
        output = self._finish([self.tools.wrk, *size, *script], seconds)
        after = self.meter.read()
        found = json.loads(output.strip().splitlines()[-1])
        count = max(0, found["requests"] - found["failed"])  # an error is quickly given, and is no throughput
        found |= {"requests_per_second": count / found["seconds"]} | per_piece(before, after, count)
        return found

    def streams(self, seconds: float) -> dict[str, Any]:
        """Streams without end: chunks a second, the CPU of one, and microseconds between two of a stream."""
        words = [self.tools.streams, self.port, self.tools.requests["stream"], STREAMS, _STREAM_WARM_SECONDS, seconds]
        marks, before, after = self._between_marks([*words, CHUNKS], seconds + _STREAM_WARM_SECONDS)
        begin, end = marks
        count = end["chunks"] - begin["chunks"]
        # failures in the warm-up count too: a gateway that fails there is not sound
        found = {"chunks_per_second": count / (end["seconds"] - begin["seconds"]), "failed": end["failed"]}
        found |= {name: end[name] for name in ("gap_p50_us", "gap_p99_us")}
        return found | per_piece(before, after, count)

    def open(self, rate: float, seconds: float) -> dict[str, Any]:
        """Requests at a constant rate: how long they took, in microseconds from their scheduled moment; CPU by what was scheduled."""
        warm = min(1.0, seconds / 4)
        words = [self.tools.open_loop, self.port, self.tools.requests["unary-1k"], rate, OPEN_LOOP_CONNECTIONS]
        marks, before, after = self._between_marks([*words, warm, seconds], seconds + warm)
        found = {name: value for name, value in marks[-1].items() if name != "mark"} | {"rate": rate}
        return found | per_piece(before, after, rate * seconds)

    def _finish(self, command: Sequence[str], seconds: float) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + _SPARE_SECONDS)
        if done.returncode != 0:
            raise Missing(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout).strip()[-300:]}")
        return done.stdout

    def _between_marks(self, words: Sequence[object], seconds: float) -> tuple[list[dict[str, Any]], Reading, Reading]:
        """Run a client of ours, and read the meter at its two marks."""
        readings = []
        marks = []
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                ["timeout", str(seconds + _SPARE_SECONDS), *map(str, words)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    marks.append(json.loads(line))
                    if len(readings) < 2:
                        readings.append(self.meter.read())
                status = process.wait()
            finally:
                process.terminate()
                process.wait()
            errors.seek(0)
            if status != 0 or len(readings) < 2:
                raise Missing(f"{Path(str(words[0])).name} failed with status {status}: {errors.read().strip()[-300:]}")
        return marks, readings[0], readings[1]


def per_piece(before: Reading, after: Reading, count: float) -> dict[str, float]:
    """CPU microseconds of one request or chunk, and how the two cores were used meanwhile (1 = all of it)."""
    seconds = after.at - before.at
    every = after.every - before.every
    return {
        "cpu_us": 1e6 * (after.main - before.main) / max(count, 1),
        "cpu_every_us": 1e6 * every / max(count, 1),
        "gateway_core_gateway": every / seconds,
        "gateway_core_others": max(0.0, (after.gateway_core - before.gateway_core - every) / seconds),
        "load_core_busy": (after.load_core - before.load_core) / seconds,
    }


def sampled(peer: str, measure: str, number: int, take: Callable[[], dict[str, Any]]) -> Sample:
    """Take a measurement; a gateway that breaks under it leaves a sample that says so."""
    try:
        found = take()
    except FileNotFoundError:
        return Sample(peer, measure, number, {}, 1, ["a process of the gateway ended"])
    except (Missing, OSError, subprocess.TimeoutExpired, ValueError) as error:
        return Sample(peer, measure, number, {}, 1, [str(error)])
    failed = int(found.pop("failed", 0))
    errors = found.pop("errors", "")
    values = {name: float(value) for name, value in found.items()}
    return Sample(peer, measure, number, values, failed, doubts(values, failed, errors))


def doubts(values: dict[str, float], failed: int, errors: str = "") -> list[str]:
    """What to tell the reader of a measurement. The engine by itself has no gateway's core, and is meant to fill its own."""
    found = [f"{failed} failed" + (f" ({errors})" if errors else "")] if failed else []
    through_gateway = values.get("gateway_core_gateway", 0) > 0
    if through_gateway and values.get("gateway_core_others", 0) > _CROWDED:
        found.append(f"others used {values['gateway_core_others']:.0%} of the gateway's core")
    if through_gateway and values.get("load_core_busy", 0) > _SATURATED:
        found.append("the core of load and engine was full")
    if values.get("late_p99_us", 0) > _LATE_MICROSECONDS:
        late = values["late_p99_us"]
        found.append(f"1 % was sent {late:,.0f} us late or more: past its capacity, or the load core was disturbed")
    if values.get("unfinished", 0) > 0:
        found.append(f"{values['unfinished']:.0f} requests unanswered two seconds after the end")
    return found
