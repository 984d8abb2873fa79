"""What became of every object, in the run directory."""

import json

import pytest

from controllers.network.desired import DesiredState
from controllers.network.model_route import ModelRouteReconciler
from controllers.network.state_file import FILE_NAME, FORMAT_VERSION, StateFile
from controllers.store.folder import FolderStore
from controllers.store.store import Key
from tests.unit.controllers.objects import route

ROUTE = Key("ModelRoute", "default", "r")


class Place:
    def __init__(self, tmp_path):
        self.config = tmp_path / "config"
        self.config.mkdir()
        self.file = tmp_path / FILE_NAME
        self.store = FolderStore(self.config, lambda _: None)
        self.state = StateFile(self.store, ("ModelRoute", "ModelServer"), tmp_path)

    def write(self, name, text):
        (self.config / name).write_text(text)
        self.store.refresh()


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr("controllers.store.folder.SETTLE_SECONDS", 0.0)
    return Place(tmp_path)


async def test_every_object_has_its_generation_and_its_conditions(place):
    place.write("a.yaml", route("parentRefs: [{name: g}]\nrules: [{targetModels: [{modelServerName: s}]}]"))
    await ModelRouteReconciler(place.store, DesiredState())(ROUTE)
    assert place.state.write()
    document = json.loads(place.file.read_text())
    (one,) = document["objects"]
    assert document["version"] == FORMAT_VERSION
    assert (one["kind"], one["name"], one["generation"], one["observedGeneration"]) == ("ModelRoute", "default/r", 1, 1)
    assert [(condition["type"], condition["status"], condition["reason"]) for condition in one["conditions"]] == [
        ("Accepted", "True", "Valid"), ("ResolvedRefs", "False", "ModelServerNotFound"), ("Honoured", "False", "NotBuiltYet"),
    ]  # fmt: skip
    assert one["conditions"][0]["observedGeneration"] == 1


def test_an_object_that_nobody_worked_on_yet_says_so(place):
    place.write("a.yaml", route())
    (one,) = place.state.document()["objects"]
    assert (one["observedGeneration"], one["conditions"]) == (0, [])


def test_problems_of_files_have_their_places(place):
    place.write("a.yaml", route().replace("modelName", "modelNam"))
    assert place.state.document()["problems"] == [
        {"file": f"{place.config}/a.yaml", "line": 5, "path": "spec.modelNam", "message": "unknown field"}
    ]
    (place.config / "a.yaml").unlink()
    place.store.refresh()
    assert place.state.document()["problems"] == []


def test_it_is_written_when_it_changed_and_only_then(place):
    assert place.state.write()
    before = place.file.stat().st_ino
    assert not place.state.write()
    assert place.file.stat().st_ino == before
    place.write("a.yaml", route())
    assert place.state.write()
    assert place.file.stat().st_ino != before
    assert sorted(one.name for one in place.file.parent.iterdir()) == ["config", FILE_NAME]  # no draft is left


def test_a_disk_that_takes_nothing_stops_nobody(place, tmp_path):
    assert not StateFile(place.store, (), tmp_path / "none").write()
