"""What a tenant that floods costs another: first tokens of a victim alone, and beside a tenant that asks 50 times as often.

``python -m bench.fairness`` starts simulated engines and a gateway with two workers, and writes ``bench/results/fairness-DATE.md``. Both
tenants have the same weight and send requests of the same shape at random moments (Poisson), whether or not earlier ones are answered.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

import aiohttp
import click

from tests.support import config
from tests.support.engines import free_ports
from tests.support.gateway import Gateway, program
from tests.support.waiting import wait_until

RESULTS = Path(__file__).parent / "results"
KEYS = {"victim": "sk-victim", "flood": "sk-flood"}
BAR = 1.5
_BYTES_PER_TOKEN = 4
_CALM_SECONDS = 3.0
_BEFORE_SECONDS = 4.0
"""How long the flood is under way before the victim's requests count."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is asked, of what. Rates in requests a second."""

    engines: int = 2
    maximum_in_flight: int = 8
    reserved_percent: float = 25.0
    reserved_prefill_seconds: float = 0.02
    workers: int = 2
    prompt_tokens: int = 400
    output_tokens: int = 40
    victim_rate: float = 5.0
    flood_times: float = 50.0
    seconds: float = 40.0
    rounds: int = 3


@dataclass(slots=True)
class Found:
    """One tenant's requests: seconds to the first token of those that were served, and how many had which status."""

    first_tokens: list[float] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)
    """Seconds of these that they waited in the gateway, as it says itself."""
    statuses: Counter[str] = field(default_factory=Counter)

    def percentile(self, share: float, queued: bool = False) -> float:
        """Of the first tokens, or of the time in the queue; infinite when nobody was served."""
        ordered = sorted(self.queued if queued else self.first_tokens)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")


@dataclass(frozen=True, slots=True)
class Round:
    """The victim alone and beside the flood."""

    alone: Found
    beside: Found
    flood: dict[str, int]

    def ratio(self, share: float) -> float:
        """How many times as long the victim waits beside the flood."""
        return self.beside.percentile(share) / self.alone.percentile(share)


async def ask_at_rate(
    found: Found, port: int, tenant: str, shape: Shape, rate: float, seconds: float, seed: int
) -> Found:
    """Requests of one tenant at random moments; what became of them is noted in ``found``."""
    moments = random.Random(seed)
    headers = {"authorization": f"Bearer {KEYS[tenant]}"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector, headers=headers) as session:
        due, end, tasks = time.monotonic(), time.monotonic() + seconds, []
        while (due := due + moments.expovariate(rate)) < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            length = moments.randint(1, 2 * shape.output_tokens - 1)  # of one length they would all end together
            body = _body(shape, secrets.token_hex(8), length)
            tasks.append(asyncio.create_task(_ask(session, body, due, found)))
        await asyncio.gather(*tasks)
    return found


async def _ask(session: aiohttp.ClientSession, body: bytes, due: float, found: Found) -> None:
    """From the moment that it was due: what the client is late by counts too."""
    try:
        async with session.post(
            "/v1/chat/completions", data=body, headers={"content-type": "application/json"}
        ) as reply:
            first = 0.0
            async for _ in reply.content.iter_any():
                first = first or time.monotonic() - due
            found.statuses[str(reply.status)] += 1
            if reply.status == 200:
                found.first_tokens.append(first)
                found.queued.append(_queued(reply.headers.get("server-timing", "")))
    except (aiohttp.ClientError, RuntimeError) as error:  # RuntimeError: the session was closed, at the end of a flood
        found.statuses[type(error).__name__] += 1


def _queued(timing: str) -> float:
    _, _, rest = timing.partition("queue;dur=")
    return float(rest.partition(",")[0]) / 1000 if rest else 0.0


def _body(shape: Shape, unlike: str, length: int) -> bytes:
    """A prompt that no engine holds."""
    content = (unlike + " ") * (shape.prompt_tokens * _BYTES_PER_TOKEN // (len(unlike) + 1))
    messages = [{"role": "user", "content": content}]
    return json.dumps({"model": "demo", "messages": messages, "max_tokens": length, "stream": True}).encode()


@contextmanager
def flooding(port: int, shape: Shape) -> Iterator[dict[str, int]]:
    """The flood, from a process of its own; what became of its requests is there in the end."""
    statuses: dict[str, int] = {}
    command = [sys.executable, "-m", "bench.fairness", "--flood", json.dumps({"port": port, **asdict(shape)})]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        time.sleep(_BEFORE_SECONDS)
        yield statuses
    finally:
        output, _ = process.communicate()  # which closes its input: it ends
    statuses |= json.loads(output)


async def _flood(port: int, shape: Shape) -> Found:
    """Until nothing more can come on standard input."""
    found = Found()
    rate = shape.victim_rate * shape.flood_times
    asking = asyncio.create_task(ask_at_rate(found, port, "flood", shape, rate, 3600.0, 0))
    await asyncio.to_thread(sys.stdin.read)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    return found


def measure(port: int, shape: Shape, seed: int) -> Round:
    """One round at a gateway that is there."""

    def victim() -> Found:
        return asyncio.run(ask_at_rate(Found(), port, "victim", shape, shape.victim_rate, shape.seconds, seed))

    alone = victim()
    with flooding(port, shape) as flood:
        beside = victim()
    time.sleep(_CALM_SECONDS)
    return Round(alone, beside, flood)


@contextmanager
def serving(shape: Shape) -> Iterator[int]:
    """Engines and a gateway in front of them: its port."""
    ports = free_ports(shape.engines)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        entries = [{"name": one, "sha256": hashlib.sha256(key.encode()).hexdigest()} for one, key in KEYS.items()]
        keys = folder / "keys.yaml"
        keys.write_text(json.dumps({"keys": entries}))
        text = config.simple("demo", ports, traffic={"maxInFlight": shape.maximum_in_flight})
        engines = program(
            "sim", "--quiet", *(word for port in ports for word in ("--port", port)), stderr=subprocess.DEVNULL
        )
        try:
            wait_until(lambda: all(map(_listens, ports)), message="the engines do not listen")
            settings = {
                "identity.keys_file": keys,
                "queue.seconds": 20,
                "queue.reserved_percent": shape.reserved_percent,
                "queue.reserved_prefill_seconds": shape.reserved_prefill_seconds,
            }
            with Gateway(folder, {"demo.yaml": text}, workers=shape.workers, **settings) as gateway:
                yield gateway.port
        finally:
            engines.terminate()
            engines.wait()


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def run(shape: Shape) -> list[Round]:
    """All rounds."""
    with serving(shape) as port:
        rounds = []
        for number in range(shape.rounds):
            rounds.append(measure(port, shape, number))
            one = rounds[-1]
            print(
                f"round {number + 1}: p99 {one.alone.percentile(0.99):.3f} s alone, {one.beside.percentile(0.99):.3f} s beside;"
                f" {dict(one.beside.statuses)}; flood {one.flood}",
                file=sys.stderr,
            )
        return rounds


def report(shape: Shape, rounds: list[Round]) -> str:
    """The page of results."""
    lines = [
        f"# What a flood costs another tenant, {date.today()}",
        "",
        f"`python -m bench.fairness`: a victim asks {shape.victim_rate:g} times a second, a flood {shape.flood_times:g} times as often,",
        f"with the same weight; {shape.engines} simulated engines, `maxInFlight: {shape.maximum_in_flight}`, {shape.workers} workers,",
        f"`queue.reserved_percent: {shape.reserved_percent:g}`, `queue.reserved_prefill_seconds: {shape.reserved_prefill_seconds:g}`;",
        f"prompts of {shape.prompt_tokens} tokens that nobody holds, {shape.output_tokens} tokens of answer on average, Poisson arrivals, "
        f"{shape.seconds:g} s of each.",
        "Seconds to the first token, at the client, and seconds of them in the gateway's queue.",
        "",
        "| round | alone p50 | p99 | beside p50 | p99 | in the queue p50 | p99 | p99 ratio | victim served | flood served |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for number, one in enumerate(rounds, 1):
        times = " | ".join(
            f"{found.percentile(share):.3f}" for found in (one.alone, one.beside) for share in (0.5, 0.99)
        )
        times += f" | {one.beside.percentile(0.5, queued=True):.3f} | {one.beside.percentile(0.99, queued=True):.3f}"
        served = f"{one.beside.statuses['200']} of {one.beside.statuses.total()}"
        flood = f"{one.flood.get('200', 0)} of {sum(one.flood.values())}"
        lines.append(f"| {number} | {times} | {one.ratio(0.99):.2f} | {served} | {flood} |")
    median = statistics.median(one.ratio(0.99) for one in rounds)
    lines += ["", f"Median of the rounds: **{median:.2f}** times (at most {BAR:g} was asked).", ""]
    return "\n".join(lines)


@click.command()
@click.option("--shape", "given", default="{}", help="JSON of what is to be other than in Shape.")
@click.option("--flood", default=None, hidden=True)
@click.option("--write/--no-write", default=True)
def main(given: str, flood: str | None, write: bool) -> None:
    """Measure, and write the page of results."""
    if flood is not None:
        told = json.loads(flood)
        found = asyncio.run(_flood(told.pop("port"), Shape(**told)))
        print(json.dumps(found.statuses))
        return
    shape = Shape(**json.loads(given))
    page = report(shape, run(shape))
    print(page)
    if write:
        (RESULTS / f"fairness-{date.today()}.md").write_text(page)


if __name__ == "__main__":
    main()
