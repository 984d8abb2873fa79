"""What each stage of a request may cost: nginx's CPU times the bar, less Granian's own share, and what ours take of the rest."""

from __future__ import annotations

from dataclasses import dataclass

from bench.load.findings import OURS, Findings, table

SERVER = "granian"
YARDSTICK = "nginx"
PEERS = (YARDSTICK, SERVER, OURS)
"""Whom ``--budget`` measures."""
BARS = {"unary-1k": 1.8, "unary-200k": 1.3, "stream": 1.3}
"""Times nginx's CPU that a request or a chunk may cost."""
_TITLES = {"unary-1k": "a 1.2 KB request", "unary-200k": "a 200 KB request", "stream": "a streamed chunk"}
LEGEND = (
    "Granian's share is that of Granian alone with our worker's settings and scheduler (`bench/load/granian_alone.py`): connections, "
    "heads, bodies made into `bytes`, a fixed answer; of a chunk the engine's read, which says when it is due, and the way out. Ours is "
    "everything else: the request path from `App.begin` to `_finish`, and a request's way to the engine and back with what the kernel "
    "does for it. Where Granian's share is more than what is allowed, less than nothing remains."
)


@dataclass(frozen=True, slots=True)
class Budget:
    """Of one kind of request or chunk, in microseconds of CPU. What was not measured is None."""

    bar: float
    yardstick: float | None
    server: float | None
    whole: float | None

    @property
    def allowed(self) -> float | None:
        """What the gateway may cost."""
        return None if self.yardstick is None else self.bar * self.yardstick

    @property
    def left(self) -> float | None:
        """What remains for our stages."""
        return less(self.allowed, self.server)

    @property
    def ours(self) -> float | None:
        """What our stages cost."""
        return less(self.whole, self.server)

    @property
    def over(self) -> float | None:
        """How much of that is too much; below nothing where there is room."""
        return less(self.ours, self.left)


def less(whole: float | None, part: float | None) -> float | None:
    """The difference, None when either is unknown."""
    return None if whole is None or part is None else whole - part


def budgets(findings: Findings) -> dict[str, Budget]:
    """By measure, those of which both nginx's and Granian's cost is known."""
    found = {
        measure: Budget(bar, *(findings.median(peer, measure, "cpu_us") for peer in (YARDSTICK, SERVER, OURS)))
        for measure, bar in BARS.items()
    }
    return {measure: one for measure, one in found.items() if one.left is not None}


def markdown(findings: Findings) -> str:
    """The table with its legend; empty when there is nothing to tell."""
    found = budgets(findings)
    if not found:
        return ""
    every = found.values()
    rows = [
        ["nginx", *(_shown(one.yardstick) for one in every)],
        ["Penstock may take, times nginx", *(f"{one.bar:.1f}x" for one in every)],
        ["Penstock may take", *(_shown(one.allowed) for one in every)],
        ["of it Granian's own share", *(_shown_of(one.server, one.allowed) for one in every)],
        ["**remains for our stages**", *(f"**{_shown(one.left)}**" for one in every)],
        ["our stages take", *(_shown(one.ours) for one in every)],
        ["too much", *(_shown(one.over) for one in every)],
    ]
    return f"{table(['µs CPU', *(_TITLES[measure] for measure in found)], rows)}\n\n{LEGEND}"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _shown_of(part: float | None, whole: float | None) -> str:
    return _shown(part) if part is None or not whole else f"{part:,.1f} ({part / whole:.0%})"
