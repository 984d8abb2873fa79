"""Figures over load, from the JSON of one or more runs of the same fleet: ``python plot.py RUN.json [RUN.json ...] PLOT.png``.

Ours and the closest peers have colours, the others are grey; each curve is named where it ends or begins.
Needs matplotlib, and imports nothing of ours.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PANELS = (
    ("hit_rate", "prompt tokens found cached, %", "linear"),
    ("ttft_p50", "first token p50, s", "log"),
    ("ttft_p99", "first token p99, s", "log"),
    ("e2e_p50", "end to end p50, s", "log"),
    ("e2e_p99", "end to end p99, s", "log"),
    ("imbalance", "busiest engine over mean, 60 s windows", "linear"),
)
COLOURS = {"ours": "#0b5cad", "ours-events": "#3fa0ff", "llm-d-newest": "#c44e00", "dynamo-cost": "#2e8b57"}
"""Ours, and the peers that come closest; more colours than that nobody can tell apart."""
_ORACLE, _OTHER, _OTHER_NAME = "oracle", "0.8", "0.45"
_NAMED_AT_THE_LEFT = ("imbalance",)
"""Curves that meet at the right."""
_POINTS, _LINE_POINTS = 7.5, 9.5
"""Size of a name, and what it takes with the space between two."""


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


def apart(wanted: Sequence[float], space: float, low: float, high: float) -> list[float]:
    """Places for names: in the order of where they want to be, at least ``space`` apart and inside the bounds where they fit."""
    order = sorted(range(len(wanted)), key=lambda one: wanted[one])
    groups: list[tuple[list[int], float]] = []  # names that touch, and the middle of their places
    for one in order:
        members, middle = [one], wanted[one]
        while True:
            half = (len(members) - 1) * space / 2
            middle = min(max(middle, low + half), max(low + half, high - half))
            if not groups or groups[-1][1] + (len(groups[-1][0]) - 1) * space / 2 + space <= middle - half:
                break
            members = groups.pop()[0] + members
            middle = sum(wanted[each] for each in members) / len(members)
        groups.append((members, middle))
    places = [0.0] * len(wanted)
    for members, middle in groups:
        for number, one in enumerate(members):
            places[one] = middle + (number - (len(members) - 1) / 2) * space
    return places


def draw(documents: Sequence[dict[str, Any]], target: Path) -> None:
    """One panel a figure."""
    import matplotlib  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415 - the tests do without it

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415

    figure, panels = plt.subplots(2, 3, figsize=(15, 9), sharex=True)
    facts = documents[0]["facts"]
    what = f"{facts['requests']:,} requests of {facts['trace']}, {facts['engines']} engines, in virtual time"
    figure.suptitle(what, x=0.025, y=0.985, ha="left")
    figure.subplots_adjust(left=0.035, right=0.92, top=0.915, bottom=0.06, wspace=0.46, hspace=0.12)
    for panel, (value, title, scale) in zip(panels.flat, PANELS, strict=True):
        found = curves(documents, value)
        if value == "hit_rate":
            found[_ORACLE] = oracle(documents)
            found = {policy: [(load, 100 * share) for load, share in points] for policy, points in found.items()}
        _panel(panel, found, title, scale)
        _name_curves(panel, found, value in _NAMED_AT_THE_LEFT)
    for panel in panels[-1]:
        panel.set_xlabel("offered load, share of capacity")
    _save(figure, target)
    plt.close(figure)


def _save(figure: Any, target: Path) -> None:
    """With 128 colours, which is a third of the size."""
    from PIL import Image  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415 - comes with matplotlib

    whole = io.BytesIO()
    figure.savefig(whole, dpi=90)
    Image.open(whole).convert("RGB").quantize(128).save(target, optimize=True)


def _panel(panel: Any, found: dict[str, list[tuple[float, float]]], title: str, scale: str) -> None:
    for policy, points in found.items():
        style: dict[str, Any] = {"color": COLOURS.get(policy, _OTHER), "linewidth": 1, "zorder": 2}
        if policy in COLOURS:
            style |= {
                "linewidth": 2.4 if policy.startswith("ours") else 1.6,
                "marker": "o",
                "markersize": 4,
                "zorder": 3,
            }
        if policy == _ORACLE:
            style |= {"color": "black", "linestyle": ":"}
        panel.plot(*zip(*points, strict=True), **style)
    panel.set_yscale(scale)
    panel.set_title(title, loc="left", fontsize=10)
    loads = sorted({load for points in found.values() for load, _ in points})
    panel.set_xticks(loads, [f"{load:g}" for load in loads])
    panel.yaxis.set_major_formatter("{x:g}")
    if scale == "log":
        panel.yaxis.set_minor_formatter(_few_seconds)
    panel.tick_params(which="both", labelsize=8)
    panel.grid(axis="y", which="both", alpha=0.2)
    panel.spines[["top", "right"]].set_visible(False)


def _few_seconds(value: float, _place: int) -> str:
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""


def _name_curves(panel: Any, found: dict[str, list[tuple[float, float]]], is_left: bool) -> None:
    """Beside the panel, moved up or down where names would lie on each other, with a line to what each names."""
    if is_left:
        place = panel.get_position()  # away from the names of the panel at its left
        panel.set_position([place.x0 + 0.045, place.y0, place.width, place.height])
        panel.yaxis.tick_right()
        panel.spines["left"].set_visible(False)
    box, points_a_pixel = panel.get_window_extent(), 72 / panel.figure.dpi
    ends = [points[0 if is_left else -1] for points in found.values()]
    heights = [(panel.transData.transform(end)[1] - box.y0) * points_a_pixel for end in ends]
    places = apart(heights, _LINE_POINTS, 0, box.height * points_a_pixel)
    beside = -12 if is_left else box.width * points_a_pixel + 12
    line = {"arrowstyle": "-", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 2, "relpos": (float(is_left), 0.5)}
    for policy, end, place in zip(found, ends, places, strict=True):
        panel.annotate(
            policy,
            end,
            (beside, place),
            textcoords="axes points",
            fontsize=_POINTS,
            va="center",
            ha="right" if is_left else "left",
            color=COLOURS.get(policy, _OTHER_NAME),
            weight="bold" if policy in COLOURS else "normal",
            arrowprops=line | {"color": COLOURS.get(policy, _OTHER)},
            annotation_clip=False,
        )


if __name__ == "__main__":
    draw([json.loads(Path(one).read_text()) for one in sys.argv[1:-1]], Path(sys.argv[-1]))
