"""What property tests share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def memory_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each example makes the shared memory anew."""
    return tmp_path_factory.mktemp("fleet") / "memory"
