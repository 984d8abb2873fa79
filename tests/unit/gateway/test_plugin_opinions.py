"""What an explanation says of plugins: whom each left out, what it added, what it did wrong."""

import json
import threading
import time

import pytest

from gateway.admin import plugin_opinions
from gateway.admin.explain import Explainer
from gateway.datastore.model import PluginSpec, Scheduling, Server
from gateway.settings import Settings
from tests.unit.gateway.fakes import CHAT, chat
from tests.unit.gateway.fleet import SERVER, Fleet

HERE = __name__
ROW = ("score", "matched_blocks", "in_flight", "prefill_tokens", "running", "waiting", "kv_usage", "scraped")


class Likes:
    """Adds to one endpoint."""

    def __init__(self, name="default/e1"):
        self._name = name

    def score(self, asked, candidates):
        return [float(one.name == self._name) for one in candidates]


class Zone:
    """Leaves those whose name ends as a header says."""

    def filter(self, asked, candidates):
        return [one for one in candidates if one.name.endswith(asked.header("x-zone") or "")]


class Echo:
    """Adds what it was told of the request."""

    def score(self, asked, candidates):
        assert asked.tenant == ""
        return [float(asked.prompt_tokens) + asked.blocks] * len(candidates)


class Broken:
    def filter(self, asked, candidates):
        raise RuntimeError("mine")

    def score(self, asked, candidates):
        return [1.0]


class Hangs:
    """Does not return until it is let go of."""

    let_go = threading.Event()

    def __init__(self, at="score"):
        if at == "load":
            self.let_go.wait()

    def score(self, asked, candidates):
        self.let_go.wait()
        return [7.0] * len(candidates)


def explainer(tmp_path, *specs, policy="cost", **names):
    weights = {"least-request": 1.0} if policy == "weighted" else {}
    server = Server(SERVER, scheduling=Scheduling(policy=policy, weights=weights, plugins=specs))
    fleet = Fleet(tmp_path, server=server)
    setting = " ".join(f"{name}={path}" for name, path in names.items())
    return fleet, Explainer(fleet.memory, Settings(scheduling_plugins=setting))


def explained(given, **headers):
    fleet, found = given
    (server,) = json.loads(json.dumps(found.explain(fleet.replica.world, chat("x" * 640), CHAT, headers)))["servers"]
    return server, {one["endpoint"]: one for one in server["candidates"]}


@pytest.mark.parametrize("policy", ["cost", "weighted"])
@pytest.mark.parametrize("name", ["default/e0", "default/e1"])
def test_a_score_is_shown_by_its_weight_and_decides(tmp_path, policy, name):
    specs = PluginSpec("likes", 300.0, {"name": name})
    server, rows = explained(explainer(tmp_path, specs, policy=policy, likes=f"{HERE}:Likes"))
    other = "default/e1" if name == "default/e0" else "default/e0"
    assert server["choice"] == name
    assert (rows[name]["plugins"], rows[other]["plugins"]) == ({"likes": 300.0}, {"likes": 0.0})
    assert rows[name]["score"] - rows[other]["score"] == pytest.approx(300.0)
    assert server["plugins"] == [{"name": "likes", "weight": 300.0, "errors": {}}]


def test_a_filter_is_shown_where_it_left_out_and_nobody_behind_it_saw_the_endpoint(tmp_path):
    given = explainer(
        tmp_path, PluginSpec("zone"), PluginSpec("likes", 5.0), zone=f"{HERE}:Zone", likes=f"{HERE}:Likes"
    )
    server, rows = explained(given, **{"X-Zone": "e1"})
    assert server["choice"] == "default/e1"
    assert rows["default/e0"]["plugins"] == {"zone": "left_out"}
    assert (rows["default/e0"]["filtered"], rows["default/e0"]["score"]) == ("left_out", None)
    assert rows["default/e1"]["plugins"] == {"zone": 0.0, "likes": 5.0}


def test_a_filter_that_leaves_nobody_leaves_no_choice(tmp_path):
    server, rows = explained(explainer(tmp_path, PluginSpec("zone"), zone=f"{HERE}:Zone"), **{"X-Zone": "nowhere"})
    assert server["choice"] is None
    assert {one["filtered"] for one in rows.values()} == {"left_out"}


def test_plugins_see_the_request_as_in_a_worker(tmp_path):
    server, rows = explained(explainer(tmp_path, PluginSpec("echo"), echo=f"{HERE}:Echo"))
    assert server["blocks"] > 0
    assert rows["default/e0"]["plugins"]["echo"] > 100


def test_what_a_plugin_does_wrong_is_shown_and_changes_nothing(tmp_path):
    given = explainer(
        tmp_path, PluginSpec("broken"), PluginSpec("likes", 50.0), broken=f"{HERE}:Broken", likes=f"{HERE}:Likes"
    )
    for _ in range(2):
        server, rows = explained(given)
        (first, second) = server["plugins"]
        assert first["errors"] == {"filter": "RuntimeError: mine", "score": "ValueError: 1 scores for 2 candidates"}
        assert second["errors"] == {}
        assert server["choice"] == "default/e1"
        assert rows["default/e1"]["plugins"] == {"broken": 0.0, "likes": 50.0}


@pytest.mark.parametrize("path", [None, "no_such_module:Plugin", f"{HERE}:Absent"])
def test_a_plugin_that_cannot_be_had_is_shown(tmp_path, path):
    names = {"mine": path} if path else {}
    server, rows = explained(explainer(tmp_path, PluginSpec("mine"), **names))
    assert list(server["plugins"][0]["errors"]) == ["load"]
    assert server["choice"] in rows
    assert rows["default/e0"]["plugins"] == {}


@pytest.fixture
def hanging(monkeypatch):
    """Plugins may take a twentieth of a second, and one that hangs is let go of after all."""
    monkeypatch.setattr(Hangs, "let_go", threading.Event())
    monkeypatch.setattr(plugin_opinions.PluginOpinions.__init__, "__defaults__", (0.05,))
    yield Hangs.let_go
    Hangs.let_go.set()


def settle():
    """Let every thread of plugins come to its end."""
    for thread in threading.enumerate():
        if thread.name.startswith("plugins of"):
            thread.join(10)


def test_a_plugin_that_never_returns_is_named_and_passed_over(tmp_path, hanging):
    given = explainer(
        tmp_path, PluginSpec("likes", 50.0), PluginSpec("hangs"), likes=f"{HERE}:Likes", hangs=f"{HERE}:Hangs"
    )
    begun = time.monotonic()
    for _ in range(3):
        server, rows = explained(given)
        assert server["choice"] in rows
        assert rows["default/e0"]["plugins"] == {}
        likes, hangs = server["plugins"]
        assert likes["errors"] == {}
        assert hangs["errors"]["answer"].startswith("it has not returned for 0 s")
    assert time.monotonic() - begun < 5
    assert (
        sum(thread.name.startswith("plugins of") for thread in threading.enumerate()) == 1
    )  # however often it is asked
    hanging.set()
    settle()
    server, rows = explained(given)
    assert rows["default/e1"]["plugins"] == {"likes": 50.0, "hangs": 7.0}
    assert [one["errors"] for one in server["plugins"]] == [{}, {}]


def test_a_plugin_that_is_never_made_is_as_little_waited_for(tmp_path, hanging):
    given = explainer(tmp_path, PluginSpec("hangs", args={"at": "load"}), hangs=f"{HERE}:Hangs")
    server, _ = explained(given)
    assert server["plugins"][0]["errors"] == {"load": "they are still being imported and made, after 0 s"}
    hanging.set()
    settle()


def test_an_endpoint_that_no_plugin_was_asked_of_says_nothing(tmp_path):
    server = Server(SERVER, scheduling=Scheduling(plugins=(PluginSpec("likes"),)))
    fleet = Fleet(tmp_path, server=server)
    found = Explainer(fleet.memory, Settings(scheduling_plugins=f"likes={HERE}:Likes"))
    pool = fleet.replica.world.servers[SERVER]
    seen = [{"filtered": ""} | dict.fromkeys(ROW, 0), {"filtered": "wrong_role"} | dict.fromkeys(ROW, 0)]
    opinions = found._plugins.ask(pool, None, seen)
    assert (opinions.of(0), opinions.of(1)) == ({"likes": 0.0}, {})


def test_plugins_are_looked_for_only_when_a_server_names_some(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(plugin_opinions, "find_factories", lambda setting: looked.append(setting) or {})
    server, rows = explained(explainer(tmp_path))
    assert (looked, server["plugins"], rows["default/e0"]["plugins"]) == ([], [], {})
    (tmp_path / "second").mkdir()
    given = explainer(tmp_path / "second", PluginSpec("mine"), mine=f"{HERE}:Likes")
    explained(given)
    explained(given)
    assert looked == [f"mine={HERE}:Likes"]
