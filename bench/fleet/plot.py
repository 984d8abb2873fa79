"""Figures over load, from the JSON of one or more runs of the same fleet: ``python plot.py RUN.json [RUN.json ...] PLOT.png``.

Needs matplotlib, and imports nothing of ours.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PANELS = (
    ("hit_rate", "prompt tokens found cached", "linear"),
    ("ttft_p50", "first token p50, s", "log"),
    ("ttft_p99", "first token p99, s", "log"),
    ("e2e_p50", "end to end p50, s", "log"),
    ("e2e_p99", "end to end p99, s", "log"),
    ("imbalance", "busiest engine over mean, 60 s windows", "linear"),
)


def curves(documents: Sequence[dict[str, Any]], value: str) -> dict[str, list[tuple[float, float]]]:
    """By policy, pairs of load and value; a load that stands in several documents counts with the mean."""
    found: dict[str, dict[float, list[float]]] = {}
    for document in documents:
        for one in document["runs"]:
            found.setdefault(one["policy"], {}).setdefault(one["load"], []).append(one[value])
    return {
        policy: sorted((load, sum(values) / len(values)) for load, values in by_load.items())
        for policy, by_load in found.items()
    }


def oracle(documents: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    """Pairs of load and the best hit rate that the oracle had under any policy."""
    best: dict[float, float] = {}
    for document in documents:
        for one in document["runs"]:
            best[one["load"]] = max(best.get(one["load"], 0.0), one["oracle_hit_rate"])
    return sorted(best.items())


def draw(documents: Sequence[dict[str, Any]], target: Path) -> None:
    """One panel a figure."""
    import matplotlib  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415 - the tests do without it

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415

    figure, panels = plt.subplots(2, 3, figsize=(16, 9), sharex=True)
    colours = matplotlib.colormaps["tab20"].colors
    for panel, (value, title, scale) in zip(panels.flat, PANELS, strict=True):
        for number, (policy, points) in enumerate(curves(documents, value).items()):
            style = {"color": "black", "linewidth": 2.5} if policy == "ours" else {"color": colours[number % 20]}
            panel.plot(*zip(*points, strict=True), marker="o", markersize=3, label=policy, **style)
        if value == "hit_rate":
            panel.plot(*zip(*oracle(documents), strict=True), color="0.6", linestyle="--", label="oracle")
        panel.set(yscale=scale, title=title, xlabel="offered load, share of capacity")
        panel.grid(which="both", alpha=0.2)
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="lower center", ncols=7)
    facts = documents[0]["facts"]
    figure.suptitle(
        f"{facts['requests']} requests of {facts['trace']}, {facts['engines']} engines, gateways: {facts['gateways']}"
    )
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    draw([json.loads(Path(one).read_text()) for one in sys.argv[1:-1]], Path(sys.argv[-1]))
