"""The `.pyi` of every compiled module says what the module has."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(f"_fastpath.{path.stem}" for path in (ROOT / "_fastpath").glob("*.pyx"))


@pytest.mark.timeout(240)
def test_stubs_agree_with_the_compiled_modules():
    allowed = ROOT / "tests" / "typing" / "allowed.txt"
    command = [
        sys.executable,
        "-m",
        "mypy.stubtest",
        "--concise",
        "--allowlist",
        allowed,
        *MODULES,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
