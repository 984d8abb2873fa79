"""What broken files last were: written whole, read by the next process, never trusted blindly."""

import json

import pytest

from controllers.store.last_good import FILE_NAME, FORMAT_VERSION, LastGood
from tests.unit.controllers import test_model_route, test_model_server
from tests.unit.controllers.objects import made, route, server


@pytest.fixture
def kept(tmp_path):
    folder = tmp_path / "config"
    files = {
        folder / "a.yaml": (made(route(test_model_route.FULL)), made(server(test_model_server.FULL))),
        folder / "team" / "b.yaml": (made(route(name="b", namespace="team")),),
        folder / "empty.yaml": (),
    }
    reported = []

    def again(where=folder):
        return LastGood(tmp_path, where, reported.append)

    again().keep(files)
    return files, again, reported, tmp_path / FILE_NAME


def test_everything_that_is_kept_is_read_again(kept):
    files, again, reported, file = kept
    assert again().read() == files
    assert reported == []
    assert [one.name for one in file.parent.iterdir()] == [FILE_NAME]  # no draft is left


def test_another_folders_objects_are_not_taken(kept, tmp_path):
    assert kept[1](tmp_path / "other").read() == {}


def test_nothing_is_kept_at_first(tmp_path):
    reported = []
    assert LastGood(tmp_path, tmp_path, reported.append).read() == {}
    assert reported == []


def test_another_versions_file_is_not_taken(kept):
    _, again, _, file = kept
    file.write_text(json.dumps({**json.loads(file.read_text()), "version": FORMAT_VERSION + 1}))
    assert again().read() == {}


@pytest.mark.parametrize(
    "damage",
    [lambda text: text[:-10], lambda _: b"", lambda _: b"[]", lambda _: b"\xff\xfe",
     lambda text: text.replace(b'"ModelRoute"', b'"Model"'), lambda text: text.replace(b'"modelName"', b'"modelNam"')],
)  # fmt: skip
def test_a_damaged_file_is_reported_and_not_taken(kept, damage):
    _, again, reported, file = kept
    file.write_bytes(damage(file.read_bytes()))
    assert again().read() == {}
    assert len(reported) == 1
    assert str(file) in reported[0]


def test_an_object_with_faults_is_not_taken(kept):
    files, again, _, file = kept
    file.write_bytes(file.read_bytes().replace(b'"weight":90', b'"weight":900'))
    assert list(again().read()) == [one for one in files if one.name != "a.yaml"]


def test_what_stands_there_already_is_not_written_again(kept, tmp_path):
    files, again, _, file = kept
    keeper = again()
    keeper.keep(files)
    before = file.stat().st_ino
    keeper.keep(files)
    assert file.stat().st_ino == before


def test_a_disk_that_takes_nothing_is_reported_and_no_exception(tmp_path):
    reported = []
    LastGood(tmp_path / "none", tmp_path, reported.append).keep({})
    assert len(reported) == 1
