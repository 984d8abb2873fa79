"""A folder as a store: the API server's semantics, read again when a file changes, never worse than it last was."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from controllers.store import folder as module
from controllers.store.folder import FolderStore
from controllers.store.last_good import LastGood
from controllers.store.store import Event, Key
from tests.unit.controllers.objects import route, server

ROUTE, SERVER = Key("ModelRoute", "default", "r"), Key("ModelServer", "default", "s")


class Folder:
    """A store over a folder, and what it reported."""

    def __init__(self, path):
        self.path = path
        self.reported = []
        self.store = FolderStore(path, self.reported.append)
        self._written = 0

    def write(self, name, text):
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        self._written += 1
        os.utime(file, ns=(self._written * 10**9, self._written * 10**9))  # a later change has a later time
        return file

    def refresh(self):
        self.reported.clear()
        return [(event.type, str(event.key)) for event in self.store.refresh()]


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "config"
    path.mkdir()
    return Folder(path)


def put(*keys):
    return [("put", str(key)) for key in keys]


def gone(*keys):
    return [("gone", str(key)) for key in keys]


# -- what is read while it is written


def _written_meanwhile(monkeypatch, file, text):
    """The next read finds ``text``, which was written after the folder was listed."""
    load = module.load_file

    def written_and_loaded(wanted):
        if wanted == file:
            monkeypatch.setattr(module, "load_file", load)
            file.write_text(text)
        return load(wanted)

    monkeypatch.setattr(module, "load_file", written_and_loaded)


def test_a_file_that_is_truncated_between_the_look_and_the_read_keeps_its_objects(folder, monkeypatch):
    # found by the tests of a running gateway: its route was gone for half a second
    file = folder.write("a.yaml", route())
    folder.refresh()
    folder.write("a.yaml", route(name="other"))
    _written_meanwhile(monkeypatch, file, "")
    assert folder.refresh() == []
    folder.write("a.yaml", route(name="another"))
    assert folder.refresh() == gone(ROUTE) + put(Key("ModelRoute", "default", "another"))


def test_nor_does_it_lose_what_was_kept_over_a_restart(tmp_path, monkeypatch):
    folder = tmp_path / "config"
    folder.mkdir()
    file = folder / "a.yaml"
    file.write_text(route())
    FolderStore(folder, last_good=LastGood(tmp_path, folder, print)).refresh()
    store = FolderStore(folder, last_good=LastGood(tmp_path, folder, print))
    _written_meanwhile(monkeypatch, file, "")
    assert [event.key for event in store.refresh()] == [ROUTE]


@pytest.mark.parametrize(("age", "wanted"), [(0.5, []), (1.5, gone(ROUTE))])
def test_a_file_that_became_empty_counts_after_a_second(folder, age, wanted):
    file = folder.write("a.yaml", route())
    folder.refresh()
    file.write_text("")
    then = time.time_ns() - int(age * 1e9)
    os.utime(file, ns=(then, then))
    assert folder.refresh() == wanted


# -- what is read


def test_every_object_of_the_folder_is_an_event_once(folder):
    folder.write("a.yaml", route() + "---\n" + server())
    assert folder.refresh() == put(ROUTE, SERVER)
    assert folder.refresh() == []
    assert folder.store.get(ROUTE).spec.model_name == "m"
    assert folder.store.get(Key("ModelRoute", "default", "none")) is None


def test_subfolders_and_all_three_suffixes_are_read(folder):
    folder.write("a.yaml", route(name="a"))
    folder.write("deep/er/b.yml", route(name="b"))
    folder.write("c.json", '{"apiVersion": "serving.penstock.dev/v1alpha1", "kind": "ModelRoute", "metadata": {"name": "c"},'
                 ' "spec": {"modelName": "m", "rules": [{"targetModels": [{"modelServerName": "s"}]}]}}')  # fmt: skip
    assert sorted(folder.refresh()) == sorted(put(*(Key("ModelRoute", "default", name) for name in "abc")))


def test_other_files_and_hidden_ones_are_not_read(folder):
    for name in ("README.md", "a.yaml.swp", ".a.yaml", "a.txt", ".git/config.yaml", "..2024/a.yaml", "a.yaml~"):
        folder.write(name, "not: [valid")
    assert folder.refresh() == []
    assert folder.reported == []


def test_a_mounted_configmap_is_read_once_and_followed(folder):
    def mount(version, text):
        folder.write(f"..{version}/a.yaml", text)
        link = folder.path / "..data_tmp"
        link.symlink_to(f"..{version}")
        link.rename(folder.path / "..data")

    mount("v1", route(model="one"))
    (folder.path / "a.yaml").symlink_to("..data/a.yaml")
    assert folder.refresh() == put(ROUTE)
    assert folder.reported == []
    mount("v2", route(model="two"))
    assert folder.refresh() == put(ROUTE)
    assert folder.store.get(ROUTE).spec.model_name == "two"


def test_a_link_to_nowhere_is_no_file(folder):
    (folder.path / "a.yaml").symlink_to("nowhere")
    assert folder.refresh() == []


def test_a_folder_that_is_not_there_is_empty(tmp_path):
    assert FolderStore(tmp_path / "none").refresh() == []


# -- semantics


def test_an_object_gets_what_the_api_server_would_give_it(folder):
    folder.write("a.yaml", route() + "---\n" + server())
    folder.refresh()
    one, other = folder.store.get(ROUTE).metadata, folder.store.get(SERVER).metadata
    assert one.uid and other.uid and one.uid != other.uid
    assert (one.generation, other.generation) == (1, 1)
    assert one.resource_version != other.resource_version
    assert one.creation_timestamp < other.creation_timestamp


def test_a_changed_spec_is_a_new_generation_of_the_same_object(folder):
    folder.write("a.yaml", route(model="one"))
    folder.refresh()
    before = folder.store.get(ROUTE).metadata
    folder.write("a.yaml", route(model="two"))
    assert folder.refresh() == put(ROUTE)
    after = folder.store.get(ROUTE).metadata
    assert (after.uid, after.creation_timestamp) == (before.uid, before.creation_timestamp)
    assert after.generation == before.generation + 1
    assert int(after.resource_version) > int(before.resource_version)


def test_changed_labels_are_a_new_version_of_the_same_generation(folder):
    folder.write("a.yaml", route())
    folder.refresh()
    before = folder.store.get(ROUTE).metadata
    folder.write("a.yaml", route().replace("{name: r}", "{name: r, labels: {a: b}}"))
    assert folder.refresh() == put(ROUTE)
    after = folder.store.get(ROUTE).metadata
    assert (after.labels, after.generation) == ({"a": "b"}, before.generation)
    assert int(after.resource_version) > int(before.resource_version)


@pytest.mark.parametrize("change", ["\n# a comment\n", "---\n"])
def test_a_file_that_was_written_again_without_a_change_is_no_event(folder, change):
    folder.write("a.yaml", route())
    folder.refresh()
    before = folder.store.get(ROUTE)
    folder.write("a.yaml", route() + change)
    assert folder.refresh() == []
    assert folder.store.get(ROUTE) is before


def test_a_change_of_one_object_is_no_event_for_the_others_of_its_file(folder):
    folder.write("a.yaml", route() + "---\n" + server())
    folder.refresh()
    folder.write("a.yaml", route(model="two") + "---\n" + server())
    assert folder.refresh() == put(ROUTE)


def test_a_creation_time_that_is_given_is_kept(folder):
    folder.write("a.yaml", route().replace("{name: r}", '{name: r, creationTimestamp: "2020-01-01T00:00:00Z"}'))
    folder.refresh()
    assert folder.store.get(ROUTE).metadata.creation_timestamp == "2020-01-01T00:00:00Z"


def test_the_uid_of_an_object_stays_over_a_restart(folder):
    folder.write("a.yaml", route())
    folder.refresh()
    other = FolderStore(folder.path)
    other.refresh()
    assert other.get(ROUTE).metadata.uid == folder.store.get(ROUTE).metadata.uid


def test_objects_are_listed_by_kind_oldest_first(folder):
    folder.write("z.yaml", route(name="z"))
    folder.refresh()
    folder.write("a.yaml", route(name="a") + "---\n" + server())
    folder.refresh()
    assert [item.metadata.name for item in folder.store.list_objects("ModelRoute")] == ["z", "a"]
    assert [item.metadata.name for item in folder.store.list_objects("ModelServer")] == ["s"]
    assert folder.store.list_objects("Model") == []


def test_equal_names_in_other_namespaces_are_other_objects(folder):
    folder.write("a.yaml", route() + "---\n" + route(namespace="other"))
    assert folder.refresh() == put(ROUTE, Key("ModelRoute", "other", "r"))
    assert folder.reported == []


# -- changes


def test_an_object_that_is_taken_out_is_gone(folder):
    folder.write("a.yaml", route() + "---\n" + server())
    folder.refresh()
    folder.write("a.yaml", route())
    assert folder.refresh() == gone(SERVER)
    assert folder.store.get(SERVER) is None


def test_a_file_that_is_removed_takes_its_objects_along(folder):
    file = folder.write("a.yaml", route() + "---\n" + server())
    folder.refresh()
    file.unlink()
    assert folder.refresh() == gone(ROUTE, SERVER)


def test_an_object_that_moves_to_another_file_is_the_same_object(folder):
    file = folder.write("a.yaml", route())
    folder.refresh()
    before = folder.store.get(ROUTE).metadata
    file.unlink()
    folder.write("b.yaml", route())
    assert folder.refresh() == []
    assert folder.store.get(ROUTE).metadata == before


def test_a_file_of_the_same_size_and_time_but_another_inode_is_read(folder):
    file = folder.write("a.yaml", route(model="one"))
    folder.refresh()
    times = file.stat().st_mtime_ns
    other = folder.path / "new"
    other.write_text(route(model="two"))
    os.utime(other, ns=(times, times))
    other.rename(file)
    assert folder.refresh() == put(ROUTE)


# -- broken files


def test_a_broken_file_keeps_what_it_last_said(folder):
    folder.write("a.yaml", route() + "---\n" + server())
    folder.refresh()
    file = folder.write("a.yaml", "kind: [")
    assert folder.refresh() == []
    assert folder.store.get(ROUTE) is not None
    assert any("2 objects stay" in line for line in folder.reported)
    assert any(line.startswith(f"{file}:1: not valid YAML") for line in folder.reported)
    assert list(folder.store.problems) == [file]


def test_a_file_with_one_bad_object_changes_nothing_of_the_others(folder):
    folder.write("a.yaml", route(model="one") + "---\n" + server())
    folder.refresh()
    folder.write("a.yaml", route(model="two") + "---\n" + server("endpoints: []"))
    assert folder.refresh() == []
    assert folder.store.get(ROUTE).spec.model_name == "one"


def test_a_broken_file_does_not_keep_others_from_changing(folder):
    folder.write("a.yaml", "kind: [")
    folder.write("b.yaml", server())
    assert folder.refresh() == put(SERVER)


def test_a_file_that_was_never_good_has_no_objects_and_says_so(folder):
    file = folder.write("a.yaml", "kind: [")
    assert folder.refresh() == []
    assert folder.reported[-1] == f"{file}: not applied"


def test_a_mended_file_is_applied_and_says_so(folder):
    folder.write("a.yaml", route())
    folder.refresh()
    folder.write("a.yaml", "kind: [")
    folder.refresh()
    file = folder.write("a.yaml", route(model="two"))
    assert folder.refresh() == put(ROUTE)
    assert folder.reported == [f"{file}: mended and applied"]
    assert folder.store.problems == {}


def test_a_broken_file_that_is_removed_takes_its_objects_and_its_problems_along(folder):
    file = folder.write("a.yaml", route())
    folder.refresh()
    folder.write("a.yaml", "kind: [")
    folder.refresh()
    file.unlink()
    assert folder.refresh() == gone(ROUTE)
    assert folder.store.problems == {}


def test_a_problem_is_reported_once_not_at_every_look(folder):
    folder.write("a.yaml", "kind: [")
    folder.refresh()
    folder.refresh()
    assert folder.reported == []


def test_kinds_for_a_cluster_are_noted(folder):
    folder.write("a.yaml", "apiVersion: serving.penstock.dev/v1alpha1\nkind: Model\nmetadata: {name: x}\n")
    folder.refresh()
    assert len(folder.reported) == 1
    assert "Model is for a cluster" in folder.reported[0]


def test_nothing_in_a_file_stops_the_watch(folder):
    folder.write("a.yaml", "[" * 2000 + "]" * 2000)
    folder.write("b.yaml", "a: &a [*a]")
    folder.write("c.yaml", server())
    assert folder.refresh() == put(SERVER)
    assert len(folder.store.problems) == 2


# -- what cannot be looked at is not gone


@pytest.fixture
def moved(folder):
    """The folder with a route and a server, and a place that it can be moved to."""
    folder.write("a.yaml", route())
    folder.write("team/b.yaml", server())
    folder.refresh()
    return folder, folder.path.with_name("elsewhere")


def test_a_folder_that_vanishes_keeps_what_it_said_and_this_is_said_once(moved):
    folder, elsewhere = moved
    folder.path.rename(elsewhere)
    assert folder.refresh() == []
    assert folder.reported == [
        f"{folder.path}: cannot be read: No such file or directory: its 2 objects stay as they last were"
    ]
    assert [str(one) for one in folder.store.problems[folder.path]] == [
        f"{folder.path}: cannot be read: No such file or directory"
    ]
    assert (folder.refresh(), folder.reported) == ([], [])
    assert folder.store.get(ROUTE) is not None


def test_a_folder_that_is_back_is_followed_again_and_says_so(moved):
    folder, elsewhere = moved
    folder.path.rename(elsewhere)
    folder.refresh()
    (elsewhere / "a.yaml").unlink()
    elsewhere.rename(folder.path)
    assert folder.refresh() == gone(ROUTE)
    assert folder.reported == [f"{folder.path}: can be read again"]
    assert folder.store.problems == {}


def test_a_folder_that_is_there_and_empty_holds_nothing(moved):
    folder, elsewhere = moved
    folder.path.rename(elsewhere)
    folder.refresh()
    folder.path.mkdir()
    assert sorted(folder.refresh()) == sorted(gone(ROUTE, SERVER))


def test_a_subfolder_that_cannot_be_listed_keeps_what_it_said(moved, monkeypatch):
    folder, _ = moved
    scandir = os.scandir

    def refused(path):
        if Path(path).name == "team":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    (folder.path / "a.yaml").unlink()
    assert folder.refresh() == gone(ROUTE)
    assert folder.reported == [
        f"{folder.path}/team: cannot be read: Permission denied: its 1 objects stay as they last were"
    ]
    monkeypatch.undo()
    assert folder.refresh() == []
    assert folder.reported == [f"{folder.path}/team: can be read again"]


def test_a_subfolder_that_is_removed_is_gone(moved):
    folder, elsewhere = moved
    (folder.path / "team").rename(elsewhere)
    assert folder.refresh() == gone(SERVER)
    assert folder.reported == []


def test_a_file_that_cannot_be_looked_at_keeps_what_it_said(folder):
    folder.write("a.yaml", route())
    folder.refresh()
    (folder.path / "a.yaml").unlink()
    (folder.path / "a.yaml").symlink_to("a.yaml")
    assert folder.refresh() == []
    assert folder.reported == [
        f"{folder.path}/a.yaml: cannot be read: Too many levels of symbolic links: its 1 objects stay as they last were"
    ]
    (folder.path / "a.yaml").unlink()
    assert folder.refresh() == gone(ROUTE)
    assert folder.reported == [f"{folder.path}/a.yaml: is gone"]


def test_a_link_whose_target_is_away_keeps_what_it_said(folder, tmp_path):
    target = tmp_path / "elsewhere.txt"
    target.write_text(route())
    (folder.path / "a.yaml").symlink_to(target)
    assert folder.refresh() == put(ROUTE)
    target.rename(tmp_path / "away.txt")
    assert folder.refresh() == []
    assert "a link to nowhere" in folder.reported[0]
    (tmp_path / "away.txt").rename(target)
    assert folder.refresh() == []
    assert folder.reported == [f"{folder.path}/a.yaml: can be read again"]


def test_a_file_whose_permissions_are_mended_is_read(folder, monkeypatch):
    read_text = Path.read_text

    def refused(path, **more):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refused)
    file = folder.write("a.yaml", route())
    assert folder.refresh() == []
    monkeypatch.setattr(Path, "read_text", read_text)
    file.chmod(0o640)  # neither its time nor its size changes by that
    assert folder.refresh() == put(ROUTE)


def test_a_named_pipe_holds_nobody_up(folder):
    os.mkfifo(folder.path / "a.yaml")
    folder.write("b.yaml", server())
    assert folder.refresh() == put(SERVER)


# -- over a restart


class Restarted(Folder):
    """The same folder for a process that starts."""

    def __init__(self, before):
        super().__init__(before.path)
        self._written = before._written
        self.run = before.path.with_name("run")
        self.run.mkdir(exist_ok=True)
        self.store = FolderStore(self.path, self.reported.append, LastGood(self.run, self.path, self.reported.append))


def test_a_broken_file_keeps_what_it_last_said_over_a_restart(folder):
    folder = Restarted(folder)
    folder.write("a.yaml", route(model="a"))
    folder.write("b.yaml", route(name="b", model="b"))
    folder.refresh()
    file = folder.write("b.yaml", "kind: [")
    folder.refresh()
    after = Restarted(folder)
    assert sorted(after.refresh()) == sorted(put(ROUTE, Key("ModelRoute", "default", "b")))
    assert after.store.get(Key("ModelRoute", "default", "b")).spec.model_name == "b"
    assert f"{file}: not applied: its 1 objects stay as they last were" in after.reported
    # and over another, and until it is mended
    last = Restarted(after)
    last.refresh()
    last.write("b.yaml", route(name="b", model="c"))
    assert last.refresh() == put(Key("ModelRoute", "default", "b"))
    assert last.reported == [f"{file}: mended and applied"]


def test_what_was_removed_while_nobody_looked_is_gone(folder):
    folder = Restarted(folder)
    folder.write("a.yaml", route())
    file = folder.write("b.yaml", server())
    folder.refresh()
    file.unlink()
    assert Restarted(folder).refresh() == put(ROUTE)


def test_what_changed_while_nobody_looked_is_applied(folder):
    folder = Restarted(folder)
    folder.write("a.yaml", route(model="one"))
    folder.refresh()
    folder.write("a.yaml", route(model="two"))
    after = Restarted(folder)
    after.refresh()
    assert after.store.get(ROUTE).spec.model_name == "two"


def test_a_folder_that_is_away_at_the_start_keeps_what_it_last_said(folder):
    folder = Restarted(folder)
    folder.write("a.yaml", route())
    folder.refresh()
    folder.path.rename(folder.path.with_name("elsewhere"))
    after = Restarted(folder)
    assert after.refresh() == put(ROUTE)
    assert any("its 1 objects stay as they last were" in line for line in after.reported)
    assert after.refresh() == []


# -- duplicates


def test_of_two_objects_with_one_name_the_first_files_is_used_and_the_other_reported(folder):
    first = folder.write("a.yaml", route(model="one"))
    second = folder.write("b.yaml", route(model="two"))
    assert folder.refresh() == put(ROUTE)
    assert folder.store.get(ROUTE).spec.model_name == "one"
    assert folder.reported == [f"{second}: {ROUTE} stands in {first} already: the first is used"]


def test_which_file_is_the_first_does_not_depend_on_which_came_first(folder):
    folder.write("b.yaml", route(model="two"))
    folder.refresh()
    folder.write("a.yaml", route(model="one"))
    folder.refresh()
    after_restart = FolderStore(folder.path, folder.reported.append)
    after_restart.refresh()
    assert folder.store.get(ROUTE).spec == after_restart.get(ROUTE).spec


def test_when_the_first_is_removed_the_second_takes_its_place(folder):
    first = folder.write("a.yaml", route(model="one"))
    folder.write("b.yaml", route(model="two"))
    folder.refresh()
    first.unlink()
    assert folder.refresh() == put(ROUTE)
    assert (folder.store.get(ROUTE).spec.model_name, folder.reported) == ("two", [])


def test_a_duplicate_within_a_file_is_reported(folder):
    folder.write("a.yaml", route(model="one") + "---\n" + route(model="two"))
    folder.refresh()
    assert folder.store.get(ROUTE).spec.model_name == "one"
    assert len(folder.reported) == 1


# -- status


async def test_a_status_is_kept_in_memory_while_its_object_lives(folder):
    file = folder.write("a.yaml", route())
    folder.refresh()
    content = file.read_text()
    assert folder.store.status(ROUTE) is None
    await folder.store.update_status(ROUTE, "fine")
    assert folder.store.status(ROUTE) == "fine"
    assert (folder.refresh(), file.read_text()) == ([], content)  # a status is no change
    folder.write("a.yaml", route(model="two"))
    folder.refresh()
    assert folder.store.status(ROUTE) == "fine"
    file.unlink()
    folder.refresh()
    assert folder.store.status(ROUTE) is None


async def test_a_status_of_an_object_that_is_not_there_is_dropped(folder):
    await folder.store.update_status(ROUTE, "fine")
    assert folder.store.status(ROUTE) is None


# -- watch


async def test_a_watch_gives_what_is_there_and_then_what_changes(folder, monkeypatch):
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    folder.write("a.yaml", route())
    watching = folder.store.watch()

    async def following():
        return await asyncio.wait_for(anext(watching), 5)

    assert await following() == Event("put", ROUTE)
    folder.write("b.yaml", server())
    assert await following() == Event("put", SERVER)
    folder.write("a.yaml", route(model="two"))
    assert await following() == Event("put", ROUTE)
    (folder.path / "b.yaml").unlink()
    assert await following() == Event("gone", SERVER)
    await watching.aclose()


def test_keys_read_as_kubernetes_writes_them():
    assert str(ROUTE) == "ModelRoute default/r"
