"""Prometheus text (version 0.0.4) of what every worker counted, added up over workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from _fastpath.counters import Counters
from _fastpath.shared_memory import SharedMemory
from gateway.observability.metrics import FAMILIES, HELP

Gauge = tuple[str, str, list[tuple[dict[str, str], float]]]
"""Name, help, and values by labels."""
_Series = dict[tuple[str, ...], tuple[list[int], float]]


def render(memory: SharedMemory, workers: int, gauges: Iterable[Gauge]) -> str:
    """The whole metrics page."""
    families: list[_Series] = [{} for _ in FAMILIES]
    dropped = 0
    for worker in range(workers):
        counters = Counters(memory, worker, FAMILIES)
        dropped += counters.dropped
        for family, labels, counts, total in counters.read():
            _add(families[family], labels, counts, total)
    lines: list[str] = []
    for (name, label_names, boundaries), series in zip(FAMILIES, families, strict=True):
        lines += _head(name, HELP[name], "histogram" if boundaries else "counter")
        for labels, (sums, total) in sorted(series.items()):
            text = _labels(zip(label_names, labels, strict=False))
            if boundaries:
                lines += _histogram(name, text, boundaries, sums, total)
            else:
                lines.append(f"{name}{_braces(text)} {_number(total)}")
    lines += _head("penstock_metrics_series_dropped_total", "Series that did not fit any more.", "counter")
    lines.append(f"penstock_metrics_series_dropped_total {dropped}")
    for name, text, values in gauges:
        lines += _head(name, text, "counter" if name.endswith("_total") else "gauge")
        lines += [f"{name}{_braces(_labels(labels.items()))} {_number(value)}" for labels, value in values]
    return "\n".join(lines) + "\n"


def _add(series: _Series, labels: tuple[str, ...], counts: tuple[int, ...], total: float) -> None:
    if labels not in series:
        series[labels] = (list(counts), total)
        return
    known, known_total = series[labels]
    series[labels] = ([one + other for one, other in zip(known, counts, strict=True)], known_total + total)


def _histogram(name: str, labels: str, boundaries: tuple[float, ...], counts: list[int], total: float) -> Iterator[str]:
    running = 0
    separator = "," if labels else ""
    for boundary, count in zip((*boundaries, float("inf")), counts, strict=True):
        running += count
        edge = "+Inf" if boundary == float("inf") else _number(boundary)
        yield f'{name}_bucket{{{labels}{separator}le="{edge}"}} {running}'
    yield f"{name}_sum{_braces(labels)} {_number(total)}"
    yield f"{name}_count{_braces(labels)} {running}"


def _head(name: str, text: str, kind: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _labels(pairs: Iterable[tuple[str, str]]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs)


def _braces(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
