"""Processes started on a core of their own, and what /proc says of them: CPU seconds, memory, children, how busy a core was."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class Missing(Exception):
    """A peer that cannot be measured, and why; the report says so in its place."""


def fields_of_stat(text: str) -> list[str]:
    """What follows the name in ``/proc/PID/stat`` (the name may hold spaces and brackets); the first is the state."""
    return text.rpartition(")")[2].split()


def cpu_seconds(text: str) -> float:
    """User and system seconds of a process with all its threads, the ended ones too, from ``/proc/PID/stat``."""
    fields = fields_of_stat(text)
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_bytes(text: str) -> int:
    """``VmRSS`` of ``/proc/PID/status``; 0 for a kernel thread or a zombie."""
    for line in text.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def core_seconds(text: str, core: int) -> tuple[float, float]:
    """Busy (stolen included) and idle seconds of a core since the machine started, from ``/proc/stat``."""
    for line in text.splitlines():
        name, *numbers = line.split()
        if name == f"cpu{core}":
            user, nice, system, idle, waiting, hard, soft, stolen = (int(one) / _TICKS for one in numbers[:8])
            return user + nice + system + hard + soft + stolen, idle + waiting
    raise ValueError(f"/proc/stat has no core {core}")


def children(stats: Iterable[tuple[int, str]], root: int) -> list[int]:
    """Every descendant of ``root``, from pairs of process id and ``/proc/PID/stat``."""
    by_parent: dict[int, list[int]] = {}
    for process, text in stats:
        by_parent.setdefault(int(fields_of_stat(text)[1]), []).append(process)
    found: list[int] = []
    waiting = [root]
    while waiting:
        new = by_parent.get(waiting.pop(), [])
        found += new
        waiting += new
    return found


def total_cpu(processes: Iterable[int]) -> float:
    """CPU seconds of these processes together. Raises OSError when one has ended."""
    return sum(cpu_seconds((_PROC / str(one) / "stat").read_text()) for one in processes)


def total_resident(processes: Iterable[int]) -> int:
    """Resident bytes of these processes together; pages that they share count in each."""
    return sum(resident_bytes((_PROC / str(one) / "status").read_text()) for one in processes)


def _stats() -> Iterator[tuple[int, str]]:
    for one in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield int(one.name), (one / "stat").read_text()


@dataclass(frozen=True, slots=True)
class _Known:
    """A process by number and start, so that a number given anew is not taken for it."""

    number: int
    started: str

    def is_alive(self) -> bool:
        try:
            fields = fields_of_stat((_PROC / str(self.number) / "stat").read_text())
        except OSError:
            return False
        return fields[19] == self.started and fields[0] not in "ZX"


class Program:
    """A command on one core, its output in a file, ended with all that it started when the context is left."""

    def __init__(self, command: Sequence[str], core: int, log: Path) -> None:
        self._command = command
        self._core = core
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Program:
        # a proxy of the environment would stand between a router and its engines, and PENSTOCK_ settings would change ours
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("PENSTOCK_") and not name.lower().endswith("_proxy")
        }
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                ["taskset", "-c", str(self._core), *self._command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        known = self._known()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        for one in known:
            if one.is_alive():
                os.kill(one.number, signal.SIGKILL)
        self._process.wait()

    def check(self) -> None:
        """Raises Missing, with the end of its output, when it has ended."""
        assert self._process is not None
        status = self._process.poll()
        if status is not None:
            raise Missing(f"ended with status {status}: {self.last_words()}")

    def last_words(self) -> str:
        """The last line of its output."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][-300:] if lines else "it said nothing"

    def processes(self, naming: str = "") -> list[int]:
        """Its processes; with ``naming`` those with that text in their command line."""
        assert self._process is not None
        every = [self._process.pid, *children(_stats(), self._process.pid)]
        return [one for one in every if not naming or naming in _command_line(one)]

    def _known(self) -> list[_Known]:
        found = []
        for one in self.processes():
            with contextlib.suppress(OSError):
                found.append(_Known(one, fields_of_stat((_PROC / str(one) / "stat").read_text())[19]))
        return found


def _command_line(process: int) -> str:
    try:
        return (_PROC / str(process) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU seconds at one moment: the gateway's main processes, all of its processes, and the two cores."""

    at: float
    main: float
    every: float
    gateway_core: float
    load_core: float


@dataclass(frozen=True, slots=True)
class Meter:
    """Reads what a gateway and the two cores have used so far. Without processes (the engine by itself) its share is 0."""

    main: tuple[int, ...]
    every: tuple[int, ...]
    gateway_core: int
    load_core: int

    def read(self) -> Reading:
        """Raises OSError when a process has ended: what it used is lost, and with it the measurement."""
        cores = (_PROC / "stat").read_text()
        return Reading(
            at=time.monotonic(),
            main=total_cpu(self.main),
            every=total_cpu(self.every),
            gateway_core=core_seconds(cores, self.gateway_core)[0],
            load_core=core_seconds(cores, self.load_core)[0],
        )
