"""What the rig needs, made once in a cache outside of the tree: peers in environments of their own, programs in C, Debian packages."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.load.processes import Missing

HERE = Path(__file__).parent
_INSTALL_SECONDS = 600


def default_cache(environment: Mapping[str, str]) -> Path:
    """``$XDG_CACHE_HOME`` or ``~/.cache``, and there ``penstock-bench``."""
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "penstock-bench"


class Cache:
    """A folder with one environment a package and one program a source."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def environment(self, package: str) -> Path:
        """The ``bin`` folder of a virtual environment with just this package (``name==version``). Raises Missing."""
        folder = self.folder / package.replace("==", "-")
        stamp = folder / ".installed"
        if not stamp.exists():
            say(f"installing {package} into {folder}")
            _run([sys.executable, "-m", "venv", "--clear", str(folder)])
            _run([str(folder / "bin/pip"), "install", "-q", "--disable-pip-version-check", package])
            stamp.touch()
        return folder / "bin"

    def compiled(self, name: str) -> Path:
        """The program made of ``name.c``. Raises Missing."""
        text = b"".join((HERE / one).read_bytes() for one in (f"{name}.c", "http.h", "client.h"))
        program = self.folder / f"{name}-{hashlib.sha256(text).hexdigest()[:12]}"
        if not program.exists():
            say(f"compiling {name}.c")
            draft = program.with_suffix(f".{os.getpid()}")
            _run(["cc", "-O2", "-Wall", "-Wextra", "-o", str(draft), str(HERE / f"{name}.c")])
            draft.replace(program)
        return program


def debian(program: str, package: str) -> str:
    """The path of a program, from its Debian package when it is not there yet. Raises Missing."""
    # nginx is in /usr/sbin, which is not on everybody's path
    places = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
    found = shutil.which(program, path=places)
    if found is None:
        if os.getuid() != 0 or shutil.which("apt-get") is None:
            raise Missing(f"no {program} on this machine: apt-get install {package}")
        say(f"installing the Debian package {package}")
        _run(["apt-get", "update", "-qq"])
        _run(["apt-get", "install", "-y", "-qq", package])
        found = shutil.which(program, path=places)
    if found is None:
        raise Missing(f"the Debian package {package} brought no {program}")
    return found


def say(text: str) -> None:
    """A line of progress."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{Path(command[0]).name}: {error}") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Missing(f"`{' '.join(command[:4])} …` failed: {lines[-1] if lines else done.returncode}")
