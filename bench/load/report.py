"""From samples to medians, ratios and tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.load import budget
from bench.load.findings import OURS, Findings, Spread, ratio, table
from bench.load.measure import CHUNK_MILLISECONDS, Sample
from bench.load.peers import PEERS
from bench.load.rounds import DIRECT, Result

MEASURED: tuple[tuple[str, str, str, int], ...] = (
    ("1.2 KB: requests/s", "unary-1k", "requests_per_second", 0),
    ("CPU µs", "unary-1k", "cpu_us", 1),
    ("200 KB: requests/s", "unary-200k", "requests_per_second", 0),
    ("CPU µs", "unary-200k", "cpu_us", 0),
    ("CPU µs a streamed chunk", "stream", "cpu_us", 1),
)
"""Column, measure, value and digits."""
_EVERY = (("unary-1k", 0), ("unary-200k", 0), ("stream", 1))


def markdown(result: Result, facts: Mapping[str, Any]) -> str:
    """The whole report."""
    findings = Findings(result.samples)
    peers = [name for name in PEERS if findings.spread(name, "memory", "idle_mb") or name in result.missing]
    parts = [_heading(facts), _main_table(findings, result, peers)]
    if OURS in peers:
        parts += [_ratios(findings, [one for one in peers if one != OURS]), _asked(findings)]
    parts.append(budget.markdown(findings))
    parts += [
        _latency_table(findings, [DIRECT, *peers]),
        _gap_table(findings, peers),
        _doubts(result.samples),
        _legend(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def budget_page(result: Result, facts: Mapping[str, Any]) -> str:
    """docs/budget.md: the table of ``--budget`` with what it was made from."""
    findings = Findings(result.samples)
    parts = [
        "# What each stage may cost",
        "Made by `python -m bench.load --budget --markdown docs/budget.md`.",
        _heading(facts),
        budget.markdown(findings) or "Nothing was measured.",
        _doubts(result.samples),
        "Missing: " + "; ".join(f"{name}: {why}" for name, why in result.missing.items()) if result.missing else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _heading(facts: Mapping[str, Any]) -> str:
    return (
        f"{facts['date']}, {facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}; commit {facts['commit']}. "
        f"Medians and ranges of {facts['rounds']} rounds of {facts['seconds']:g} s, interleaved; each gateway alone on core "
        f"{facts['gateway_core']} with one worker, engine and load on core {facts['load_core']}."
    )


def _main_table(findings: Findings, result: Result, peers: Sequence[str]) -> str:
    head = ["gateway", *(column for column, *_ in MEASURED), "CPU µs, all its processes"]
    head += ["added µs at half its capacity, p50 / p99", "RSS MB idle → after 200 KB", "failed"]
    rows = [_row(findings, result, name) for name in peers]
    if findings.spread(DIRECT, "unary-1k", "requests_per_second"):
        rows.append(_direct_row(findings))
    return table(head, rows)


def _row(findings: Findings, result: Result, name: str) -> list[str]:
    title = f"{PEERS[name].title} {result.versions.get(name, '')}".strip()
    title = f"**{title}**" if name == OURS else title
    if name in result.missing:
        why = result.missing[name].replace("|", "\\|")
        title += f" (missing: {why})"
    cells = [_shown(findings.spread(name, measure, value), digits) or "-" for _, measure, value, digits in MEASURED]
    cells.append(
        " / ".join(_shown_median(findings, name, measure, "cpu_every_us", digits) for measure, digits in _EVERY)
    )
    return [title, *cells, _half(findings, name), _memory(findings, name), str(findings.failed(name))]


def _direct_row(findings: Findings) -> list[str]:
    unary = [
        _shown(findings.spread(DIRECT, one, "requests_per_second"), 0) or "-" for one in ("unary-1k", "unary-200k")
    ]
    return ["the engine by itself", unary[0], "-", unary[1], *["-"] * 5, str(findings.failed(DIRECT))]


def _shown(spread: Spread | None, digits: int) -> str:
    return spread.show(digits) if spread else ""


def _shown_median(findings: Findings, name: str, measure: str, value: str, digits: int) -> str:
    found = findings.median(name, measure, value)
    return "-" if found is None else f"{found:,.{digits}f}"


def _half(findings: Findings, name: str) -> str:
    rate = findings.half_rate(name)
    if rate is None:
        return "-"
    return f"{_added(findings, name, rate)} at {rate:,.0f}/s"


def _added(findings: Findings, name: str, rate: float) -> str:
    both = [findings.added(name, rate, value) for value in ("p50_us", "p99_us")]
    return " / ".join(f"{one.median:,.0f}" if one else "-" for one in both)


def _memory(findings: Findings, name: str) -> str:
    def pair(suffix: str) -> str:
        found = [findings.median(name, "memory", f"{moment}{suffix}") for moment in ("idle", "after")]
        return " → ".join("-" if one is None else f"{one:,.0f}" for one in found)

    main, every = pair("_mb"), pair("_every_mb")
    return main if main == every else f"{main} (all: {every})"


def _ratios(findings: Findings, others: Sequence[str]) -> str:
    rows = []
    for name in others:
        cells = [
            ratio(findings.median(OURS, measure, value), findings.median(name, measure, value))
            for _, measure, value, _ in MEASURED
        ]
        if any(cells):
            rows.append([PEERS[name].title, *("-" if one is None else f"{one:.2f}" for one in cells)])
    head = ["Penstock, times the other", *(column for column, *_ in MEASURED)]
    return table(head, rows) if rows else ""


@dataclass(frozen=True, slots=True)
class _Asked:
    text: str
    bound: float
    at_least: bool
    found: Callable[[Findings], float | None]


def _compared(measure: str, value: str, other: str) -> Callable[[Findings], float | None]:
    return lambda findings: ratio(findings.median(OURS, measure, value), findings.median(other, measure, value))


def _compared_latency(value: str, whose_half: str) -> Callable[[Findings], float | None]:
    def found(findings: Findings) -> float | None:
        rate = findings.half_rate(whose_half)
        if rate is None:
            return None
        both = [findings.added(name, rate, value) for name in (OURS, "sglang-router")]
        return ratio(*(one.median if one else None for one in both))

    return found


def _two_workers(findings: Findings) -> float | None:
    one = ratio(findings.median(OURS, "unary-1k", "cpu_us"), findings.median("penstock-2", "unary-1k", "cpu_us"))
    return None if one is None else 2 * one


_ASKED = (
    _Asked(
        "1.2 KB: requests/s of sglang-router", 3.0, True, _compared("unary-1k", "requests_per_second", "sglang-router")
    ),
    _Asked("1.2 KB: requests/s of Envoy", 1.5, True, _compared("unary-1k", "requests_per_second", "envoy")),
    _Asked("1.2 KB: CPU of nginx", budget.BARS["unary-1k"], False, _compared("unary-1k", "cpu_us", "nginx")),
    _Asked(
        "200 KB: requests/s of sglang-router",
        2.6,
        True,
        _compared("unary-200k", "requests_per_second", "sglang-router"),
    ),
    _Asked("200 KB: CPU of nginx", budget.BARS["unary-200k"], False, _compared("unary-200k", "cpu_us", "nginx")),
    _Asked("streamed chunk: CPU of sglang-router", 0.9, False, _compared("stream", "cpu_us", "sglang-router")),
    _Asked("streamed chunk: CPU of nginx", budget.BARS["stream"], False, _compared("stream", "cpu_us", "nginx")),
    _Asked(
        "two workers on two cores against one, by CPU a request of two that share one core", 1.8, True, _two_workers
    ),
    _Asked("added p50 of sglang-router, at half of Penstock's capacity", 0.5, False, _compared_latency("p50_us", OURS)),
    _Asked("added p99 of sglang-router, at half of Penstock's capacity", 0.7, False, _compared_latency("p99_us", OURS)),
    _Asked(
        "added p50 of sglang-router, at half of its own capacity",
        0.5,
        False,
        _compared_latency("p50_us", "sglang-router"),
    ),
    _Asked(
        "added p99 of sglang-router, at half of its own capacity",
        0.7,
        False,
        _compared_latency("p99_us", "sglang-router"),
    ),
)


def _asked(findings: Findings) -> str:
    rows = []
    for one in _ASKED:
        found = one.found(findings)
        if found is not None:
            met = found >= one.bound if one.at_least else found <= one.bound
            sign = "at least" if one.at_least else "at most"
            rows.append([one.text, f"{sign} {one.bound:.1f}x", f"{found:.2f}x", "yes" if met else "**no**"])
    return table(["Penstock against", "asked", "found", "met"], rows) if rows else ""


def _gap_table(findings: Findings, peers: Sequence[str]) -> str:
    rows = []
    for name in peers:
        gaps = [findings.spread(name, "stream", value) for value in ("gap_p50_us", "gap_p99_us")]
        if all(gaps):
            rows.append([PEERS[name].title, *(_shown(one, 0) for one in gaps)])
    due = f"µs between two chunks of a stream ({CHUNK_MILLISECONDS * 1000:,} are due)"
    return table([due, "p50", "p99"], rows) if rows else ""


def _latency_table(findings: Findings, peers: Sequence[str]) -> str:
    halves = [findings.half_rate(name) for name in (OURS, "sglang-router")]
    rates = sorted({rate for rate in halves if rate is not None})
    rows = []
    for name in peers:
        own = findings.rates(name)
        title = "the engine by itself (whole)" if name == DIRECT else PEERS[name].title
        shown = _whole if name == DIRECT else _added
        if own:
            rows.append([title, *(shown(findings, name, rate) if rate in own else "" for rate in rates)])
    return table(["added µs, p50 / p99", *(f"at {rate:,.0f}/s" for rate in rates)], rows) if rows and rates else ""


def _whole(findings: Findings, name: str, rate: float) -> str:
    both = (findings.latencies(name, rate, value).values() for value in ("p50_us", "p99_us"))
    return " / ".join(f"{statistics.median(one):,.0f}" for one in both)


def _doubts(samples: Sequence[Sample]) -> str:
    lines = []
    for one in samples:
        if one.notes:
            rate = f" at {one.values['rate']:,.0f}/s" if "rate" in one.values else ""
            lines.append(f"- {one.peer}, {one.measure}{rate}, round {one.round}: {'; '.join(one.notes)}")
    return "Doubtful measurements:\n\n" + "\n".join(lines) if lines else ""


def _legend(facts: Mapping[str, Any]) -> str:
    programs = ", ".join(f"{name} {version}" for name, version in facts["programs"].items())
    return (
        "CPU is user and system time of the gateway's processes over what they served; for Penstock its worker's, and in the "
        "further column (1.2 KB / 200 KB / chunk) that of its supervisor and controllers too. Added latency is the percentile "
        "less the engine's own at the same rate in the same round, open loop, from the scheduled moment. RSS: pages shared by "
        f"processes count in each. Programs: {programs}."
    )


def document(result: Result, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, for JSON."""
    samples = [
        {
            "peer": one.peer,
            "measure": one.measure,
            "round": one.round,
            "failed": one.failed,
            "notes": one.notes,
            "values": one.values,
        }
        for one in result.samples
    ]
    return {"facts": dict(facts), "versions": result.versions, "missing": result.missing, "samples": samples}
