"""Latency against load, from the JSON of a run: ``python plot.py RUN.json PLOT.png``.

Runs in an environment of its own that has matplotlib, so it imports nothing of ours.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_LONGEST_MILLISECONDS = 50
"""Past its capacity a gateway's latency has no bound; the plot has."""


def curves(samples: list[dict[str, Any]], value: str) -> dict[str, list[tuple[float, float]]]:
    """By gateway, pairs of requests a second and median milliseconds over the rounds."""
    found: dict[str, dict[float, list[float]]] = {}
    for one in samples:
        if one["measure"] == "latency" and value in one["values"]:
            by_rate = found.setdefault(one["peer"], {})
            by_rate.setdefault(one["values"]["rate"], []).append(one["values"][value] / 1e3)
    return {
        peer: sorted((rate, statistics.median(times)) for rate, times in by_rate.items())
        for peer, by_rate in found.items()
    }


def draw(document: dict[str, Any], target: Path) -> None:
    """One panel a percentile, both axes logarithmic."""
    figure, panels = plt.subplots(1, 2, figsize=(12, 5), sharex=True)
    for panel, value in zip(panels, ("p50_us", "p99_us"), strict=True):
        for peer, points in curves(document["samples"], value).items():
            inside = [(rate, time) for rate, time in points if time <= _LONGEST_MILLISECONDS]
            style = {"color": "0.6", "linestyle": "--"} if peer == "direct" else {"marker": "o", "markersize": 3}
            label = "engine by itself" if peer == "direct" else peer
            panel.plot([rate for rate, _ in inside], [time for _, time in inside], label=label, **style)
        panel.set(xscale="log", yscale="log", xlabel="requests a second (1.2 KB, open loop)", title=value[:3])
        panel.grid(which="both", alpha=0.2)
    panels[0].set_ylabel("milliseconds from the scheduled moment")
    panels[0].legend()
    figure.suptitle(f"Latency against load: one worker on one core, {document['facts']['date']}")
    figure.tight_layout()
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
