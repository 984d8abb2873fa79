"""``python -m bench.load``: measure Penstock and its peers on two cores of this machine.

Everything listens on loopback, and all that is started is ended. Progress goes to standard error, the report to standard output.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.load import budget, report
from bench.load.build import HERE, Cache, default_cache, say
from bench.load.measure import Tools, prepare
from bench.load.peers import PEERS
from bench.load.processes import Missing
from bench.load.rounds import CLOSED, MEASURES, Bench, Options
from bench.plotting import plot

_LIBRARIES = ("granian", "uvloop", "Cython")


def _list_of(known: Sequence[str]) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {','.join(known)}")
        return names

    return parse


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description="Measure Penstock and its peers.")
    parser.add_argument("--peers", type=_list_of(tuple(PEERS)), default=tuple(PEERS), metavar="LIST")
    parser.add_argument("--only", type=_list_of(MEASURES), default=MEASURES, metavar="LIST", help=",".join(MEASURES))
    parser.add_argument(
        "--budget", action="store_true", help="what each stage may cost, from nginx, Granian and Penstock; nothing else"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="one round of 2 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every sample")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the report, else on standard output")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="latency against load; measures six rates a gateway")
    parser.add_argument("--cache", type=Path, default=default_cache(os.environ), metavar="DIRECTORY")
    parser.add_argument("--gateway-core", type=int, default=0)
    parser.add_argument("--load-core", type=int, default=1)
    parser.add_argument("--base-port", type=int, default=19000)
    return parser.parse_args(words)


def _options(arguments: argparse.Namespace) -> Options:
    return Options(
        peers=budget.PEERS if arguments.budget else arguments.peers,
        measures=CLOSED if arguments.budget else arguments.only,
        rounds=1 if arguments.quick else arguments.rounds,
        seconds=2.0 if arguments.quick else arguments.seconds,
        ladder=arguments.plot is not None and not arguments.budget,
        gateway_core=arguments.gateway_core,
        load_core=arguments.load_core,
        base_port=arguments.base_port,
    )


def _facts(options: Options, tools: Tools) -> dict[str, Any]:
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    programs = {"Python": platform.python_version(), "wrk": PEERS["nginx"].version(tools.wrk)}
    programs |= {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        "cpu": model[0].partition(":")[2].strip() if model else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "commit": _commit(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "gateway_core": options.gateway_core,
        "load_core": options.load_core,
        "programs": programs,
    }


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(HERE), *words], capture_output=True, text=True).stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" and changes" if git("status", "--porcelain") else "")


def _plot(cache: Cache, found: dict[str, Any], target: Path) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(found, file)
        file.flush()
        plot(cache, HERE / "plot.py", [Path(file.name)], target)


def main(words: Sequence[str] | None = None) -> int:
    """0 when all that was asked for was measured without a failed request, else 1; 2 when nothing can be measured."""
    arguments = _arguments(words)
    options = _options(arguments)
    cores = os.sched_getaffinity(0)
    if not {options.gateway_core, options.load_core} <= cores:
        say(f"needs cores {options.gateway_core} and {options.load_core}, and may use {sorted(cores)}")
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    cache = Cache(arguments.cache)
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        try:
            tools = prepare(cache, Path(folder))
            bench = Bench(options, cache, Path(folder), tools)
            facts = _facts(options, tools)
            os.sched_setaffinity(0, {options.load_core})  # this process, and the clients that it starts
            result = bench.run()
        except Missing as error:
            say(f"cannot measure: {error}")
            return 2
        os.sched_setaffinity(0, cores)
    found = report.document(result, facts)
    text = report.budget_page(result, facts) if arguments.budget else report.markdown(result, facts)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(text)
    else:
        print(text, end="")
    if arguments.plot:
        _plot(cache, found, arguments.plot)
    return 1 if result.missing or any(one.failed for one in result.samples) else 0


if __name__ == "__main__":
    sys.exit(main())
