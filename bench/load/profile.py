"""Where a worker's CPU goes under full load: ``python -m bench.load.profile`` writes a table of µs a request, a body of 200 KB and a chunk.

``perf`` samples one worker with its call chains, 4,000 times a second of its CPU. The kernel's time is told by the system call that it was
spent in, everything else by the library whose code ran. Compiled modules of this repository are told one by one.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.load.build import Cache, default_cache
from bench.load.findings import OURS, table
from bench.load.measure import Load, prepare
from bench.load.processes import Missing
from bench.load.rounds import Bench, Options, say

_FREQUENCY = 4000
_LEAST = 0.15
"""Microseconds below which a place goes into the rest."""
_FRAME = re.compile(r"^\s*[0-9a-f]+ (?P<symbol>.*) \((?P<file>[^()]*)\)$")
_ENTRY = re.compile(
    r"^(?:__(?:x64|se|do)_sys_(\w+)|(?:ksys_|__sys_|do_|vfs_)(read|writev?|sendmsg|recvfrom|epoll_wait|futex))$"
)
_LIBRARIES = (
    ("Granian", re.compile("_granian")),
    ("uvloop", re.compile("uvloop")),
    ("CPython", re.compile(r"libpython|/python3|lib-dynload")),
    ("libc", re.compile(r"/libc|\[vdso\]|ld-linux|libpthread")),
)


def place_of(frames: Sequence[tuple[str, str]]) -> str:
    """Where a sample belongs: its frames, innermost first, each a symbol and the file that it is from."""
    _, file = frames[0]
    if "kernel" in file or file == "[unknown]":
        for one, _ in frames:
            entry = _ENTRY.match(one)
            if entry:
                return f"kernel: {entry[1] or entry[2]}"
        return "kernel: the rest"
    for name, pattern in _LIBRARIES:
        if pattern.search(file):
            return name
    return f"ours: {Path(file).name.partition('.')[0]}" if file.endswith(".so") else "other"


def places(lines: Iterable[str]) -> dict[str, int]:
    """Samples by place, from the output of ``perf script -F ip,sym,dso``: frames of a sample, and an empty line."""
    found: collections.Counter[str] = collections.Counter()
    frames: list[tuple[str, str]] = []
    for line in [*lines, ""]:
        frame = _FRAME.match(line)
        if frame:
            frames.append((frame["symbol"], frame["file"]))
        elif frames:
            found[place_of(frames)] += 1
            frames = []
    return dict(found)


def markdown(costs: Mapping[str, Mapping[str, float]]) -> str:
    """A table of microseconds: by measure, the microseconds of each place."""
    names = {place for one in costs.values() for place, cost in one.items() if cost >= _LEAST}
    order = sorted(names, key=lambda place: -sum(one.get(place, 0.0) for one in costs.values()))
    rows = [[place, *(f"{one.get(place, 0.0):.1f}" for one in costs.values())] for place in order]
    rest = [sum(cost for place, cost in one.items() if place not in names) for one in costs.values()]
    rows.append(["less than that each", *(f"{one:.1f}" for one in rest)])
    rows.append(["**together**", *(f"**{sum(one.values()):.1f}**" for one in costs.values())])
    return table(["µs CPU", *costs], rows)


class Profile:
    """Samples the gateway's worker while it serves."""

    def __init__(self, load: Load, seconds: float, folder: Path) -> None:
        perf = shutil.which("perf")
        if perf is None:
            raise Missing("perf is not installed: apt-get install linux-perf")
        self._perf = perf
        self._load = load
        self._seconds = seconds
        self._file = folder / "perf.data"

    def of(self, take: Callable[[], dict[str, Any]], begins_after: float) -> dict[str, float]:
        """Microseconds of one piece by place, while ``take`` puts load on it."""
        (worker,) = self._load.meter.main
        wait = ["sh", "-c", f'sleep {begins_after} && exec "$@"', "sh"]
        record = [self._perf, "record", "-q", "-g", "-F", str(_FREQUENCY), "-e", "cpu-clock", "-p", str(worker)]
        with subprocess.Popen([*wait, *record, "-o", str(self._file), "--", "sleep", str(self._seconds)]) as recording:
            try:
                found = take()
            finally:
                recording.wait(60)
        script = [self._perf, "script", "-i", str(self._file), "-F", "ip,sym,dso"]
        told = subprocess.run(script, capture_output=True, text=True, timeout=300)
        samples = places(told.stdout.splitlines())
        total = sum(samples.values())
        if not total:
            raise Missing(f"perf saw nothing: {told.stderr.strip()[-300:]}")
        return {place: float(found["cpu_us"]) * count / total for place, count in samples.items()}


def main(words: Sequence[str] | None = None) -> int:
    """0 when all was measured, 2 when something is missing."""
    parser = argparse.ArgumentParser(prog="python -m bench.load.profile", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each profile")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the table, else on standard output")
    parser.add_argument("--cache", type=Path, default=default_cache(os.environ), metavar="DIRECTORY")
    arguments = parser.parse_args(words)
    cache, seconds = Cache(arguments.cache), arguments.seconds
    options = Options((OURS,), ("unary-1k",), 1, seconds, ladder=False, gateway_core=0, load_core=1, base_port=19000)
    with tempfile.TemporaryDirectory(prefix="penstock-profile-") as name:
        try:
            bench = Bench(options, cache, Path(name), prepare(cache, Path(name)))
            os.sched_setaffinity(0, {options.load_core})
            with bench.engine(), bench.running(OURS) as started:
                if started is None:
                    return 2
                costs = _costs(Profile(started[1], seconds, Path(name)), started[1], seconds)
        except Missing as error:
            say(f"cannot measure: {error}")
            return 2
    date = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    text = f"{date}, Linux {platform.release()}; one worker on core 0, {seconds:g} s each, while `perf` looks on.\n\n{markdown(costs)}"
    if arguments.markdown:
        arguments.markdown.write_text(text + "\n")
    else:
        print(text)
    return 0


def _costs(profile: Profile, load: Load, seconds: float) -> dict[str, dict[str, float]]:
    costs = {}
    for title, measure in (("a 1.2 KB request", "unary-1k"), ("a 200 KB request", "unary-200k")):
        load.closed(measure, 2)
        costs[title] = profile.of(lambda measure=measure: load.closed(measure, seconds + 2), 1)  # type: ignore[misc]
        time.sleep(0.5)
    costs["a streamed chunk"] = profile.of(lambda: load.streams(seconds + 2), 3.5)
    return costs


if __name__ == "__main__":
    sys.exit(main())
