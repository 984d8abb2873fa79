"""Which LoRA adapters an engine has loaded, from its metrics page.

vLLM names those that requests run or wait with, and how many can run at once. What ran a moment ago is still loaded: an engine gives an
adapter's place away only when another needs it, the one that was used longest ago first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_SERIES = re.compile(
    r'^vllm:lora_requests_info\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\} ([-+0-9.eE]+)\s*(?:\d+)?$', re.MULTILINE
)
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPED = {r"\\": "\\", r"\"": '"', r"\n": "\n"}
_MOST_NAMES = 256


@dataclass(frozen=True, slots=True)
class AdapterReading:
    """One page, data-parallel ranks taken together.

    ``capacity``: adapters that requests can run with at once in a rank, 0 when it does not say.
    """

    capacity: int = 0
    running: frozenset[str] = frozenset()
    waiting: frozenset[str] = frozenset()

    @property
    def busy(self) -> int:
        """Adapters that requests run or wait with."""
        return len(self.running | self.waiting)


def read_adapters(page: str) -> AdapterReading:
    """What a metrics page says of adapters; of each rank's series the newest counts (its value is the time at which it was written)."""
    newest: dict[str, tuple[float, dict[str, str]]] = {}
    for found in _SERIES.finditer(page):
        labels = {name: _unescaped(value) for name, value in _LABEL.findall(found[1])}
        try:
            written = float(found[2])
        except ValueError:
            continue
        rank = labels.get("engine", "")
        if rank not in newest or written >= newest[rank][0]:
            newest[rank] = written, labels
    ranks = [labels for _, labels in newest.values()]
    return AdapterReading(
        capacity=max((_whole(labels.get("max_lora", "")) for labels in ranks), default=0),
        running=frozenset(name for labels in ranks for name in _names(labels.get("running_lora_adapters", ""))),
        waiting=frozenset(name for labels in ranks for name in _names(labels.get("waiting_lora_adapters", ""))),
    )


def _unescaped(text: str) -> str:
    return re.sub(r'\\[\\"n]', lambda found: _ESCAPED[found[0]], text)


def _whole(text: str) -> int:
    return min(int(text), 2**31) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()][:_MOST_NAMES]


@dataclass(slots=True)
class LoadedAdapters:
    """What one engine has loaded, scrape after scrape: those that run, and before them as many as fit beside."""

    _used: dict[str, None] = field(default_factory=dict)

    def of(self, reading: AdapterReading) -> list[str]:
        """The names that are loaded after this scrape, those that were used last first."""
        for name in sorted(reading.running):
            self._used.pop(name, None)
            self._used[name] = None
        while len(self._used) > max(reading.capacity, len(reading.running)):
            del self._used[next(iter(self._used))]
        return [*reversed(self._used)]

    def forget(self) -> None:
        """The engine was started anew."""
        self._used.clear()
