"""What programs say of themselves."""

from pathlib import Path

import pytest

from penstock.process import typed

FOLDER = Path("/home/someone/penstock")


@pytest.fixture
def is_on_path(monkeypatch, tmp_path):
    """The shell finds `penstock` when the file is made."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "penstock"


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (f"{FOLDER}/.venv/bin/penstock", ".venv/bin/penstock"),
        ("/opt/penstock/bin/penstock", "/opt/penstock/bin/penstock"),
        (".venv/bin/penstock", ".venv/bin/penstock"),
        ("/usr/lib/python3/penstock/__main__.py", "penstock"),
    ],
)
def test_a_program_that_the_shell_does_not_find_is_named_by_its_path(is_on_path, program, name):
    assert typed(program, FOLDER) == name


def test_one_that_it_finds_by_its_name(is_on_path):
    is_on_path.write_text("#!/bin/sh\n")
    is_on_path.chmod(0o755)
    assert typed(f"{FOLDER}/.venv/bin/penstock", FOLDER) == "penstock"
