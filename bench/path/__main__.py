"""Count the instructions of a request, as callgrind sees them: two runs, of which the shorter one is start and warming up.

python -m bench.path [KIND ...]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.path.drive import SIZES

_WARM = 64
_COUNTED = {"unary-1k": 300, "unary-200k": 60, "stream": 500}
_SUMMARY = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)


def instructions(kind: str, count: int) -> int:
    """All instructions of a process that drives ``count`` requests or chunks. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        driven = [sys.executable, "-m", "bench.path.drive", kind, str(count)]
        subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "-q", *driven],
            check=True,
            env=os.environ | {"PYTHONHASHSEED": "0"},
            timeout=600,
        )
        found = _SUMMARY.search(out.read_text())
    if found is None:
        raise RuntimeError("callgrind wrote no summary")
    return int(found[1])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.path", description="Instructions of a request, or of a streamed chunk."
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(SIZES))
    for kind in parser.parse_args().kinds or SIZES:
        counted = _COUNTED[kind]
        each = (instructions(kind, _WARM + counted) - instructions(kind, _WARM)) / counted
        sys.stdout.write(f"{kind}: {each:,.0f} instructions\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
