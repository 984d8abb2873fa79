"""What the controllers left in the run directory, as the admin port reads it."""

import json
from functools import partial

import pytest

from controllers.network import state_file
from gateway.admin import controllers_file
from gateway.admin.controllers_file import Told, read
from gateway.admin.state import State
from tests.unit.gateway.fleet import Fleet
from tests.unit.gateway.test_state_and_explain import Supervisor

OBJECT = {"kind": "ModelRoute", "name": "default/r", "generation": 1, "observedGeneration": 1, "conditions": []}
PROBLEM = {"file": "/a.yaml", "line": 1, "path": "", "message": "not valid YAML"}


def test_both_sides_mean_the_same_file():
    assert (state_file.FILE_NAME, state_file.FORMAT_VERSION) == (
        controllers_file.FILE_NAME,
        controllers_file.FORMAT_VERSION,
    )


def test_objects_and_problems_are_part_of_the_state(tmp_path):
    state = State(Supervisor(Fleet(tmp_path)), "1.2.3", partial(read, tmp_path))
    assert (state.document()["objects"], state.document()["problems"]) == ([], [])
    document = {"version": 1, "objects": [OBJECT], "problems": [PROBLEM]}
    (tmp_path / "controllers.json").write_text(json.dumps(document))
    assert (state.document()["objects"], state.document()["problems"]) == ([OBJECT], [PROBLEM])


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"version": 2, "objects": [{}]}', b'{"version": 1, "objects": [5]}', b"{}"]
)
def test_what_cannot_be_read_is_as_nothing(tmp_path, content):
    (tmp_path / "controllers.json").write_bytes(content)
    assert read(tmp_path) == Told()
