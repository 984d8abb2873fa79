"""``python -m bench.fleet.matrix --trace FILE``: all policies at all loads with 8, 16 and 64 engines, and ours from four gateways.

Writes JSON, plots and a page into a folder; ``--plot-only`` draws the plots again, of the newest JSON there.
The page begins with what was asked: hits of the oracle's, the lowest times to the first token,
imbalance, and four gateways beside one. Half an hour on one core.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from bench.fleet.__main__ import main as run
from bench.fleet.__main__ import table
from bench.load.build import Cache, default_cache
from bench.plotting import plot

ENGINES = (8, 16, 64)
LOADS = ("0.5", "0.8", "0.95", "1.1")
OURS = ("ours", "ours-events")
YARDSTICKS = (*OURS, "least-computed")
"""Whom no peer's figure is compared with: ours, and what is nobody's policy."""
RESULTS = Path(__file__).parents[1] / "results"
HITS, IMBALANCE, GATEWAYS = 0.97, 1.2, 1.1
"""What was asked: share of the oracle's hits; imbalance below saturation; four gateways' imbalance over one's."""

Runs = list[dict[str, Any]]


def page(alone: Sequence[dict[str, Any]], several: Sequence[dict[str, Any]], day: date) -> str:
    """Of documents as ``bench.fleet --json`` writes them: of one gateway, and of several, for the same numbers of engines."""
    lines = [f"# Policies on a trace, {day}", ""]
    for one, four in zip(alone, several, strict=True):
        facts, runs = one["facts"], one["runs"]
        lines += [
            f"## {facts['engines']} engines",
            "",
            f"{facts['requests']} requests of {facts['trace']}, seed {facts['seed']}, virtual time; load 1 is {facts['capacity']:.2f} "
            "requests/s. Bold is what was asked for and not reached. Shareable memory is what running requests leave of the oracle's.",
            "",
            "| load | policy | hits of the oracle's | of those of shareable memory | TTFT p50 s | best other | TTFT p99 s | best other "
            f"| imbalance | evenness alone | {four['facts']['gateways']} gateways: imbalance | of one's |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
            *(_line(runs, four["runs"], load, policy) for load in _loads(runs) for policy in OURS),
            "",
            table(runs),
        ]
        lines += [f"{four['facts']['gateways']} gateways that know nothing of each other:", "", table(four["runs"])]
    return "\n".join(lines)


def _loads(runs: Runs) -> list[float]:
    return sorted({one["load"] for one in runs})


def _of(runs: Runs, load: float, policy: str) -> dict[str, Any]:
    return next(one for one in runs if (one["load"], one["policy"]) == (load, policy))


def _line(runs: Runs, several: Runs, load: float, policy: str) -> str:
    ours, four = _of(runs, load, policy), _of(several, load, policy)
    hits = ours["hit_rate"] / ours["oracle_hit_rate"]
    shared = ours["hit_rate"] / ours["shareable_hit_rate"]
    cells = [f"{load:g}", policy, _marked(f"{hits:.1%}", hits >= HITS), f"{shared:.1%}"]
    for value in ("ttft_p50", "ttft_p99"):
        best = min(
            (one for one in runs if one["load"] == load and one["policy"] not in YARDSTICKS), key=lambda one: one[value]
        )
        cells += [
            _marked(f"{ours[value]:.3f}", ours[value] <= best[value]),
            f"{best[value]:.3f} ({best['policy']})",
        ]
    ratio = four["imbalance"] / ours["imbalance"]
    cells += [
        _marked(f"{ours['imbalance']:.3f}", ours["imbalance"] <= IMBALANCE or load >= 1),
        f"{_of(runs, load, 'least-computed')['imbalance']:.3f}",
        f"{four['imbalance']:.3f}",
        _marked(f"{ratio:.2f}", ratio <= GATEWAYS),
    ]
    return f"| {' | '.join(cells)} |"


def _marked(text: str, is_reached: bool) -> str:
    return text if is_reached else f"**{text}**"


def _run(words: list[str], path: Path) -> dict[str, Any]:
    with contextlib.redirect_stdout(io.StringIO()):
        run([*words, "--json", str(path)])
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def _draw(result: Path, engines: int, folder: Path) -> bool:
    program = Path(__file__).with_name("plot.py")
    return plot(Cache(default_cache(os.environ)), program, [result], folder / f"fleet-{engines}-engines.png")


def _draw_again(folder: Path, plots: Path, engines: Sequence[int]) -> int:
    """0 when the newest results of each number of engines were drawn."""
    drawn = []
    for number in engines:
        results = sorted(folder.glob(f"fleet-{number}-engines-20*.json"))  # a date, and not `4-gateways`
        if not results:
            print(f"error: no fleet-{number}-engines-DATE.json in {folder}: run without --plot-only", file=sys.stderr)
        drawn.append(bool(results) and _draw(results[-1], number, plots))
    return 0 if all(drawn) else 1


def main(words: Sequence[str] | None = None) -> int:
    """0 when all was simulated and written, with ``--plot-only`` when all was drawn."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet.matrix", description=__doc__)
    parser.add_argument("--trace", type=Path, metavar="FILE", help="what to replay; needed without --plot-only")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    parser.add_argument("--plot-only", action="store_true", help="draw what is in the folder; nothing is run")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="where plots go; else into the folder")
    parser.add_argument("--limit", default="", metavar="REQUESTS", help="the first so many of the trace")
    parser.add_argument("--engines", type=int, nargs="+", default=ENGINES)
    arguments = parser.parse_args(words)
    plots = arguments.plots or arguments.folder
    if arguments.plot_only:
        return _draw_again(arguments.folder, plots, arguments.engines)
    if arguments.trace is None:
        parser.error("argument --trace: say which trace to replay, or --plot-only")
    today, alone, several = date.today(), [], []
    limit = ["--limit", arguments.limit] if arguments.limit else []
    for engines in arguments.engines:
        common = ["--trace", str(arguments.trace), "--engines", str(engines), *limit, "--load", *LOADS]
        name = arguments.folder / f"fleet-{engines}-engines"
        alone.append(_run(common, Path(f"{name}-{today}.json")))
        several.append(_run([*common, "--gateways", "4", "--policy", *OURS], Path(f"{name}-4-gateways-{today}.json")))
        _draw(Path(f"{name}-{today}.json"), engines, plots)
    (arguments.folder / f"fleet-{today}.md").write_text(page(alone, several, today))
    return 0


if __name__ == "__main__":
    sys.exit(main())
