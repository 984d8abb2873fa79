"""What every test needs: compiled modules that are those of the sources."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def stale_modules(root=ROOT):
    """Compiled modules that are older than what they were made of."""
    found = []
    for built in [*root.glob("_fastpath/*.so"), *root.glob("gateway/**/*.so")]:
        name = built.name.partition(".")[0]
        sources = [built.with_name(f"{name}{suffix}") for suffix in (".py", ".pyx", ".pxd")]
        if any(source.exists() and source.stat().st_mtime > built.stat().st_mtime for source in sources):
            found.append(str(built.relative_to(root)))
    return sorted(found)


def pytest_sessionstart():
    """A test of an old build would say nothing of the sources."""
    stale = stale_modules()
    if stale:
        pytest.exit(f"older than their sources, run `make build`: {', '.join(stale)}", returncode=2)
