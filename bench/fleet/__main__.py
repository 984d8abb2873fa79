"""``python -m bench.fleet``: replay a trace against simulated engines in virtual time, once for each policy and load.

Progress goes to standard error; to standard output one JSON object for each run, and a table.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from bench.fleet.capacity import NoCapacity, Remembered
from bench.fleet.measures import figures
from bench.fleet.policies import POLICIES
from bench.fleet.policies.base import Setting
from bench.fleet.simulation import Fleet, Simulation, default_profile
from bench.fleet.trace import BadTrace, Trace, read
from bench.load.build import default_cache

_COLUMNS = (
    ("hit_rate", "hit rate", ".1%"),
    ("oracle_hit_rate", "oracle", ".1%"),
    ("ttft_p50", "TTFT p50 s", ".2f"),
    ("ttft_p99", "TTFT p99 s", ".2f"),
    ("e2e_p50", "e2e p50 s", ".2f"),
    ("e2e_p99", "e2e p99 s", ".2f"),
    ("imbalance", "imbalance", ".3f"),
    ("wall_seconds", "wall s", ".1f"),
)


def main(words: Sequence[str] | None = None) -> int:
    """0 when all was simulated; bad arguments end the program with 2."""
    parser = _parser()
    arguments = parser.parse_args(words)

    def refuse(argument: str, why: object) -> NoReturn:
        parser.error(f"argument {argument}: {why}")

    trace = _trace(arguments, refuse)
    fleet = Fleet(arguments.engines, default_profile(trace.block_size))
    try:
        capacity = arguments.capacity or Remembered(arguments.cache).capacity(fleet, trace, arguments.seed, _say)
        runs = [
            _run(fleet, trace, capacity, load, name, arguments) for load in arguments.load for name in arguments.policy
        ]
    except (NoCapacity, ValueError) as error:
        refuse("--trace", error)
    if arguments.json:
        facts = _facts(fleet, trace, capacity, arguments)
        arguments.json.write_text(json.dumps({"facts": facts, "runs": runs}, indent=1) + "\n")
    print(table(runs), end="")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description="Compare policies in virtual time.")
    parser.add_argument(
        "--trace", type=Path, required=True, metavar="FILE", help="JSON lines, see bench/fleet/trace.py"
    )
    parser.add_argument("--engines", type=_whole, required=True, metavar="N")
    parser.add_argument("--load", type=_positive, nargs="+", required=True, metavar="X", help="share of the capacity")
    parser.add_argument("--policy", choices=POLICIES, nargs="+", default=list(POLICIES), metavar="P", help=_names())
    parser.add_argument("--limit", type=_whole, metavar="REQUESTS", help="the first so many of the trace")
    parser.add_argument("--gateways", type=_whole, default=1, metavar="G", help="that know nothing of each other")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--block-size", type=_whole, default=512, metavar="TOKENS", help="that a hash id stands for")
    parser.add_argument("--capacity", type=_positive, metavar="RATE", help="requests/s that are load 1; else measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="facts and runs, for bench/fleet/plot.py")
    parser.add_argument("--cache", type=Path, default=default_cache(os.environ), metavar="DIRECTORY")
    return parser


def _names() -> str:
    return "any of " + ", ".join(POLICIES)


def _whole(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more, not {text!r}")
    return value


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def _trace(arguments: argparse.Namespace, refuse: Callable[[str, object], NoReturn]) -> Trace:
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        refuse("--json", f"no such folder: {arguments.json.parent}")
    try:
        return read(arguments.trace, arguments.block_size, arguments.limit)
    except (OSError, BadTrace) as error:
        refuse("--trace", error)


def _run(
    fleet: Fleet, trace: Trace, capacity: float, load: float, name: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    gateways = [
        POLICIES[name](
            Setting(fleet.engines, trace.block_size, fleet.profile.kv_tokens, arguments.seed * 1000 + number)
        )
        for number in range(arguments.gateways)
    ]

    def progress(done: int, of: int) -> None:
        _say(f"{name} at load {load:g}: {done} of {of} requests sent")

    try:
        outcome = Simulation(fleet, trace, load * capacity, gateways, progress).run()
    finally:
        for one in gateways:
            one.close()
    found = {"policy": name, "load": load, **figures(outcome)}
    print(json.dumps(found), flush=True)
    return found


def _facts(fleet: Fleet, trace: Trace, capacity: float, arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "trace": trace.name,
        "requests": len(trace.requests),
        "engines": fleet.engines,
        "gateways": arguments.gateways,
        "seed": arguments.seed,
        "capacity": capacity,
        "profile": asdict(fleet.profile),
    }


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Markdown, a row a run."""
    rows = [["load", "policy", *(title for _, title, _ in _COLUMNS)]]
    rows.append(["---"] * len(rows[0]))
    rows += [
        [f"{one['load']:g}", one["policy"], *(format(one[name], shown) for name, _, shown in _COLUMNS)] for one in runs
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _say(text: str) -> None:
    print(f"fleet: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
