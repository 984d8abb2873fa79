"""The sidecar's wiring, from files to a replica."""

import asyncio
import contextlib
import json

import pytest

from controllers.network.sidecar import AlreadyRunning, Sidecar
from controllers.network.state_file import FILE_NAME
from controllers.store import folder as folder_module
from controllers.store.folder import FolderStore
from gateway.datastore.replica import Replica
from gateway.datastore.subscriber import Subscriber
from tests.unit.controllers.objects import route, server
from tests.unit.controllers.test_publisher import Compiler


class Place:
    def __init__(self, tmp_path):
        self.config, self.run = tmp_path / "config", tmp_path / "run"
        self.config.mkdir()
        self.run.mkdir()
        self.reported = []

    def write(self, name, text):
        draft = self.config / ".draft"
        draft.write_text(text)
        draft.rename(self.config / name)

    def sidecar(self):
        return Sidecar(FolderStore(self.config, self.reported.append), self.run)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "POLL_SECONDS", 0.02)
    return Place(tmp_path)


@contextlib.asynccontextmanager
async def running(coroutine):
    task = asyncio.ensure_future(coroutine)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def following(place):
    replica = Replica(Compiler())
    async with running(Subscriber(replica, place.run).run()):
        yield replica


async def until(condition):
    async with asyncio.timeout(8):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_folder_reaches_the_gateway_and_so_does_every_change_of_it(place):
    place.write("a.yaml", route() + "---\n" + server())
    async with following(place) as replica, running(place.sidecar().run()):
        await until(lambda: replica.world.epoch)
        assert (list(replica.world.by_model), list(replica.world.servers)) == (["m"], ["default/s"])
        place.write("a.yaml", route(model="n") + "---\n" + server())
        await until(lambda: list(replica.world.by_model) == ["n"])
        (place.config / "a.yaml").unlink()
        await until(lambda: not replica.world.routes and not replica.world.servers)


async def test_the_first_snapshot_is_the_whole_folder(place):
    for number in range(40):
        place.write(f"{number}.yaml", route(name=f"r{number}") + "---\n" + server(name=f"s{number}"))
    seen = []
    async with following(place) as replica, running(place.sidecar().run()):
        await until(lambda: seen.append(len(replica.world.routes)) or replica.world.epoch)
    assert set(seen) == {0, 40}


async def test_an_empty_folder_is_published_as_empty(place):
    async with following(place) as replica, running(place.sidecar().run()):
        await until(lambda: replica.world.epoch)
        assert replica.world.routes == {}


async def test_a_route_whose_server_is_missing_is_published_all_the_same(place):
    place.write("a.yaml", route())
    async with following(place) as replica, running(place.sidecar().run()) as task:
        await until(lambda: replica.world.routes)
        assert not task.done()


async def test_a_broken_file_keeps_nobody_from_the_others(place):
    place.write("a.yaml", "kind: [")
    place.write("b.yaml", route())
    async with following(place) as replica, running(place.sidecar().run()):
        await until(lambda: replica.world.routes)
    assert any("a.yaml:1" in line for line in place.reported)


async def test_two_sidecars_do_not_publish_in_one_run_directory(place):
    async with running(place.sidecar().run()) as first:
        await asyncio.sleep(0.2)
        with pytest.raises(AlreadyRunning, match=str(place.run)):
            await place.sidecar().run()
        assert not first.done()


async def test_the_next_sidecar_takes_over(place):
    place.write("a.yaml", route())
    async with following(place) as replica:
        async with running(place.sidecar().run()):
            await until(lambda: replica.world.epoch)
        first = replica.world.epoch
        place.write("a.yaml", route(model="n"))
        async with running(place.sidecar().run()):
            await until(lambda: replica.world.epoch > first)
            assert list(replica.world.by_model) == ["n"]


async def test_what_became_of_the_objects_is_left_in_the_run_directory(place, monkeypatch):
    monkeypatch.setattr("controllers.network.state_file.WRITE_SECONDS", 0.02)
    place.write("a.yaml", route())
    place.write("b.yaml", "kind: [")

    def told():
        with contextlib.suppress(FileNotFoundError):
            return json.loads((place.run / FILE_NAME).read_text())
        return {"objects": [], "problems": []}

    async with running(place.sidecar().run()):
        await until(lambda: told()["objects"])
        assert told()["objects"][0]["conditions"][1]["reason"] == "ModelServerNotFound"
        assert told()["problems"][0]["file"] == f"{place.config}/b.yaml"
        place.write("b.yaml", server())
        await until(lambda: not told()["problems"] and len(told()["objects"]) == 2)
