"""``penstock sim``."""

from __future__ import annotations

import asyncio
import errno
import signal
from pathlib import Path

import click

from penstock.addresses import url
from penstock.main import UserError

ABOVE_ZERO = click.FloatRange(min=0, min_open=True)


@click.command()
@click.option(
    "--port",
    "ports",
    type=click.IntRange(0, 65535),
    multiple=True,
    help="One engine for each port given. [default: 8000]",
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--model", default="demo", show_default=True, help="Name that it serves.")
@click.option("--adapter", "adapters", multiple=True, help="LoRA adapter that it serves as well.")
@click.option(
    "--adapters-at-once",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="LoRA adapters that requests can run with at once.",
)
@click.option(
    "--prefill-speed",
    type=ABOVE_ZERO,
    default=8000.0,
    show_default=True,
    help="Prompt tokens a second.",
)
@click.option(
    "--step-seconds", type=click.FloatRange(min=0), default=0.006, show_default=True, help="Time of an empty step."
)
@click.option(
    "--decode-seconds",
    type=click.FloatRange(min=0),
    default=0.00035,
    show_default=True,
    help="More for each decoding request.",
)
@click.option(
    "--step-tokens", type=click.IntRange(min=1), default=2048, show_default=True, help="Token budget of a step."
)
@click.option(
    "--running", type=click.IntRange(min=1), default=256, show_default=True, help="Requests that run at once."
)
@click.option(
    "--kv-tokens",
    type=click.IntRange(min=1),
    default=524_288,
    show_default=True,
    help="Tokens that the KV cache holds.",
)
@click.option("--block-size", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--kv-events", is_flag=True, help="Publish KV events on tcp port + 1000, replay on port + 2000.")
@click.option(
    "--tokenizer",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of tokenizer.json and chat template, in place of four bytes a token.",
)
@click.option(
    "--speed",
    type=ABOVE_ZERO,
    default=1.0,
    show_default=True,
    help="Simulated seconds in a real one.",
)
@click.option("--quiet", is_flag=True, help="Print nothing.")
def command(
    ports: tuple[int, ...],
    host: str,
    model: str,
    adapters: tuple[str, ...],
    adapters_at_once: int,
    prefill_speed: float,
    step_seconds: float,
    decode_seconds: float,
    step_tokens: int,
    running: int,
    kv_tokens: int,
    block_size: int,
    kv_events: bool,
    tokenizer: Path | None,
    speed: float,
    quiet: bool,
) -> None:
    """Run simulated engines: OpenAI's API, vLLM's metrics and timing, canned text.

    \b
    penstock sim --port 8000 --port 8001 --model demo-8b
    curl -d '{"kind":"die_after","after":5}' 127.0.0.1:8000/sim/faults
    """
    from simulator.bodies import WORDS, Tokenizer
    from simulator.engine import Profile
    from simulator.server import Options, SimulatedEngine

    words: Tokenizer = WORDS
    if tokenizer is not None:
        from simulator.tokenizer import FolderTokenizer

        words = FolderTokenizer(tokenizer)
    profile = Profile(
        prefill_tokens_per_second=prefill_speed,
        step_seconds=step_seconds,
        decode_seconds=decode_seconds,
        step_tokens=step_tokens,
        running_requests=running,
        kv_tokens=kv_tokens,
        block_size=block_size,
    )

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        engines = []
        for port in ports or (8000,):
            options = Options(
                model=model,
                adapters=adapters,
                adapters_at_once=adapters_at_once,
                host=host,
                port=port,
                profile=profile,
                events_endpoint=url(host, port + 1000, "tcp") if kv_events else None,
                replay_endpoint=url(host, port + 2000, "tcp") if kv_events else None,
                speed=speed,
                words=words,
            )
            engine = SimulatedEngine(options)
            try:
                listening = await engine.start()
            except OSError as error:
                raise _refused(host, port, error) from error
            engines.append(engine)
            if not quiet:
                click.echo(f"simulated engine `{model}` on {url(host, listening)}", err=True)
        await stop.wait()
        await asyncio.gather(*(engine.stop() for engine in engines))

    asyncio.run(run())


def _refused(host: str, port: int, error: OSError) -> UserError:
    from gateway.supervisor.listeners import PortInUse, port_owner

    if error.errno == errno.EADDRINUSE:
        return UserError(str(PortInUse(host, port, port_owner(port))), "give another with --port")
    return UserError(f"port {port} cannot be used: {error.strerror}", "give another with --port, or another --host")
