"""What a fleet can take: the highest rate at which least-requests keeps the first token's 99th percentile within 10 s of an idle fleet's.

10 s by themselves would be no bound: in the conversation trace a prompt in a hundred takes 12 s on an engine of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import simulator
from bench.fleet.measures import percentile
from bench.fleet.policies import POLICIES, YARDSTICK
from bench.fleet.policies.base import Setting
from bench.fleet.simulation import Fleet, Simulation
from bench.fleet.trace import Trace
from simulator.engine import Profile

QUEUED_SECONDS = 10.0
PRECISION = 0.01
"""Share of the rate at which the bisection stops."""
_DOUBLINGS = 10


class NoCapacity(Exception):
    """No rate keeps the bound, or none breaks it, as in a trace of few requests."""


def bisect(passes: Callable[[float], bool], start: float) -> float:
    """The highest rate that passes, to 1 %, looked for from ``start``. Raises NoCapacity."""
    low, high = (start, start * 2) if passes(start) else (start / 2, start)
    for _ in range(_DOUBLINGS):
        if low < start and not passes(low):
            low, high = low / 2, low
        elif low >= start and passes(high):
            low, high = high, high * 2
        else:
            break
    else:
        raise NoCapacity(
            f"{'none' if low < start else 'all'} of the rates from {min(low, start):.3g} to {max(high, start):.3g} a second pass"
        )
    while high - low > PRECISION * low:
        middle = (low + high) / 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low


def idle_first_token(profile: Profile, trace: Trace) -> float:
    """The 99th percentile of seconds to the first token when each prompt has an engine to itself, without a cache."""
    return percentile(
        [
            one.prompt_tokens / profile.prefill_tokens_per_second
            + -(-one.prompt_tokens // profile.step_tokens) * profile.step_seconds
            for one in trace.requests
        ],
        0.99,
    )


def measure(fleet: Fleet, trace: Trace, seed: int, say: Callable[[str], None]) -> float:
    """The fleet's capacity on this trace, requests a second, of one gateway. Raises NoCapacity."""
    bound = idle_first_token(fleet.profile, trace) + QUEUED_SECONDS
    setting = Setting(fleet.engines, fleet.profile.block_size, fleet.profile.kv_tokens, seed)

    def passes(rate: float) -> bool:
        outcome = Simulation(fleet, trace, rate, [POLICIES[YARDSTICK](setting)]).run()
        found = percentile(outcome.first_tokens, 0.99)
        say(f"capacity: {rate:.3f} requests/s, first token p99 {found:.2f} s, bound {bound:.2f} s")
        return found < bound

    mean = sum(one.prompt_tokens for one in trace.requests) / len(trace.requests)
    try:
        return bisect(passes, fleet.engines * fleet.profile.prefill_tokens_per_second / mean)
    except NoCapacity as error:
        raise NoCapacity(
            f"too few requests to find the capacity of {YARDSTICK} ({error}); take more, or give --capacity"
        ) from error


class Remembered:
    """Capacities in a file, by all that they depend on: trace, fleet, seed, and the code of engine and simulation."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "fleet-capacity.json"

    def capacity(self, fleet: Fleet, trace: Trace, seed: int, say: Callable[[str], None]) -> float:
        """As :func:`measure`, once."""
        key = _key(fleet, trace, seed)
        known = self._read()
        if key not in known:
            known[key] = measure(fleet, trace, seed, say)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            draft = self._file.with_suffix(f".{os.getpid()}")
            draft.write_text(json.dumps(self._read() | known, indent=1))
            draft.replace(self._file)
        return known[key]

    def _read(self) -> dict[str, float]:
        try:
            found = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _key(fleet: Fleet, trace: Trace, seed: int) -> str:
    here = Path(__file__).parent
    sources = [*sorted(here.glob("*.py")), here / "policies/base.py", here / "policies/plain.py"]
    sources += [path for folder in simulator.__path__ for path in sorted(Path(folder).glob("[ek]*.py"))]
    inputs = [
        trace.digest,
        trace.block_size,
        fleet.engines,
        asdict(fleet.profile),
        seed,
        QUEUED_SECONDS,
        PRECISION,
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in sources],
    ]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
