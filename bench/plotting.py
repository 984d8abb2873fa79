"""Pictures of results, by programs that need matplotlib: it has an environment of its own, since nothing else here wants its 200 MB."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.load.build import Cache, say
from bench.load.processes import Missing

_PLOTTING = "matplotlib==3.11.2"


def plot(cache: Cache, program: Path, results: Sequence[Path], target: Path) -> bool:
    """Whether ``program`` drew ``target`` from these JSONs. Says why not; raises nothing, since the figures are there without it."""
    try:
        python = cache.environment(_PLOTTING) / "python"
    except Missing as error:
        say(f"no plot: {error}")
        return False
    done = subprocess.run([str(python), str(program), *map(str, results), str(target)], capture_output=True, text=True)
    say(f"no plot: {done.stderr.strip().splitlines()[-1]}" if done.returncode else f"plot in {target}")
    return done.returncode == 0
