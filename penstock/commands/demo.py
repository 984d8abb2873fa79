"""``penstock demo``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from gateway.settings import Settings
from penstock import __version__
from penstock.addresses import url
from penstock.admin_client import DEFAULT_SERVER
from penstock.options import directory_of, gateway_options, read_settings
from penstock.process import STOP_SIGNALS, typed

if TYPE_CHECKING:
    from gateway.datastore.model import Endpoint
    from penstock.programs import Running

MODEL = "demo-8b"
ADAPTER = "demo-8b-sql"
ENGINES = 4

_SERVER = """\
apiVersion: serving.penstock.dev/v1alpha1
kind: ModelServer
metadata:
  name: {model}
spec:
  inferenceEngine: vLLM
  endpoints:
{endpoints}
"""
_ROUTE = """\
apiVersion: serving.penstock.dev/v1alpha1
kind: ModelRoute
metadata:
  name: {model}
spec:
  modelName: {model}
  loraAdapters: [{adapter}]
  rules:
  - targetModels:
    - modelServerName: {model}
"""


@click.command()
@gateway_options
def command(config_file: Path | None, **options: Any) -> None:
    """Start the gateway and four simulated engines on this machine, to try it.

    \b
    penstock demo
    penstock demo --port 9000
    """
    started = time.monotonic()
    with _ending_orderly(), _run_directory(read_settings(options, config_file)) as settings:
        directory = directory_of(settings)
        folder = directory / "demo-config"
        folder.mkdir(exist_ok=True)
        ports = _free_ports(ENGINES)
        _write_config(folder, ports)
        asyncio.run(_run(settings, directory, folder, ports, started))
    with contextlib.suppress(OSError):  # the terminal may be closed
        click.echo("stopped", err=True)


async def _run(settings: Settings, directory: Path, folder: Path, ports: list[int], started: float) -> None:
    from penstock.programs import Child, serve

    simulator = Child(
        "simulator",
        (
            *("sim", "--quiet", "--model", MODEL, "--adapter", ADAPTER),
            *(word for port in ports for word in ("--port", str(port))),
        ),
    )
    controllers = Child("controllers", ("controllers", "-f", str(folder), "--run-directory", str(directory)))
    reading, writing = os.pipe()
    following = asyncio.create_task(_follow(reading))

    async def ready(running: Running) -> None:
        await _engines_seen(running)
        click.echo(_welcome(running, folder, time.monotonic() - started))

    try:
        await serve(settings, directory, (simulator, controllers), ready, writing)
    finally:
        os.close(writing)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


@contextlib.contextmanager
def _ending_orderly() -> Iterator[None]:
    """While nothing else handles them, SIGTERM and SIGHUP end it as Ctrl-C does: what it made in /tmp is cleared away."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, interrupt)
    yield


@contextlib.contextmanager
def _run_directory(settings: Settings) -> Iterator[Settings]:
    """The settings with a run directory: the one they name, else one that is gone afterwards."""
    if settings.run_directory:
        yield settings
        return
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as directory:
        try:
            yield msgspec.structs.replace(settings, run_directory=directory)
        finally:
            for number in STOP_SIGNALS:  # a further signal must not leave half of it
                signal.signal(number, signal.SIG_IGN)


def _free_ports(count: int) -> list[int]:
    held = []
    for _ in range(count):
        one = socket.socket()
        one.bind(("127.0.0.1", 0))
        held.append(one)
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def _write_config(folder: Path, ports: list[int]) -> None:
    endpoints = "\n".join(
        f"  - {{name: engine-{number}, address: 127.0.0.1, port: {port}}}" for number, port in enumerate(ports, 1)
    )
    (folder / "model-server.yaml").write_text(_SERVER.format(model=MODEL, endpoints=endpoints))
    (folder / "model-route.yaml").write_text(_ROUTE.format(model=MODEL, adapter=ADAPTER))


async def _engines_seen(running: Running) -> None:
    """Wait, for a while, until workers serve the folder: the first curl must not meet an empty gateway."""
    memory, workers = running.supervisor.memory, running.supervisor.workers
    for _ in range(500):
        world = running.supervisor.replica.world
        served = all(memory.read_row(one.index)["sequence"] for one in workers)
        if served and world.endpoints and await _answer(placed.endpoint for placed in world.endpoints.values()):
            return
        await asyncio.sleep(0.01)


async def _answer(endpoints: Iterable[Endpoint]) -> bool:
    for endpoint in endpoints:
        try:
            _, writer = await asyncio.open_connection(endpoint.address, endpoint.port)
        except OSError:
            return False
        writer.close()
    return True


def _welcome(running: Running, folder: Path, seconds: float) -> str:
    base = url(running.settings.host, running.port)
    admin = url(running.settings.admin_host, running.admin_port)
    server = "" if admin == DEFAULT_SERVER else f" --server {admin}"
    penstock = typed(sys.argv[0], Path.cwd())
    body = json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "hello"}]})
    return f"""\
penstock {__version__}: ready in {seconds:.1f} s

  API        {base}/v1     models: {MODEL}, {ADAPTER} (adapter)
  Web page   {admin}/
  Metrics    {admin}/metrics
  Config     {folder}     edit a file: it is applied at once

Try
  curl -N {base}/v1/chat/completions -d '{body}'
  {penstock} explain {MODEL} "hello"{server}
  {penstock} get endpoints{server}

The {ENGINES} engines are simulated: the text is canned, the timing is that of an 8B model on one H100. Ctrl-C stops everything.
"""


async def _follow(descriptor: int) -> None:
    """Show which engine took what, from the workers' access log."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb")
    )
    try:
        while line := await reader.readline():
            try:
                click.echo(_line(json.loads(line)))
            except ValueError:
                click.echo(line.decode(errors="replace").rstrip())
    finally:
        transport.close()


def _line(entry: dict[str, Any]) -> str:
    pod = (entry.get("selected_pod") or "nobody").rpartition("/")[2]
    parts = [f"{entry['timestamp'][11:19]}  {entry['model_name'] or '-':12} -> {pod:9}  {entry['status_code']}"]
    if entry.get("ttft_ms") is not None:
        parts.append(f"first token {entry['ttft_ms']:.0f} ms")
    if entry.get("input_tokens") is not None:
        parts.append(f"{entry['input_tokens']} + {entry['output_tokens']} tokens")
    if entry.get("prefix_match_ratio"):
        parts.append(f"{entry['prefix_match_ratio']:.0%} of the prompt known there")
    if entry.get("error.code"):
        parts.append(str(entry["error.code"]))
    parts.append(f"{entry['duration_ms']:.0f} ms")
    return "  ".join(parts)
