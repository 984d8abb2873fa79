"""Filters and scores of one's own: what they see, what they change, and that nothing they do fails a request."""

import json
import sys

import pytest

from _fastpath.load import Load
from gateway.datastore.model import PluginSpec, Scheduling, Server
from gateway.observability.exposition import render
from gateway.plugin_paths import named_paths
from gateway.scheduling import plugins as module
from gateway.scheduling.plugins import Plugins, find_factories
from tests.unit.gateway.fakes import Answer, chat
from tests.unit.gateway.fleet import SERVER, Fleet
from tests.unit.gateway.test_pipeline import check_released, error, request

WHOLE = json.dumps({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}).encode()


class Prefers:
    """Scores one endpoint 1, the others 0, and keeps what it saw."""

    def __init__(self, name):
        self.name, self.seen = name, []

    def score(self, asked, candidates):
        self.seen.append((asked, candidates))
        return [float(one.name == self.name) for one in candidates]


class Allows:
    """Leaves those whose name ends as a header says."""

    def filter(self, asked, candidates):
        return [one for one in candidates if one.name.endswith(asked.header("x-zone") or "")]


class Broken:
    def __init__(self, answer=None):
        self.answer = answer

    def filter(self, asked, candidates):
        raise RuntimeError("mine")

    def score(self, asked, candidates):
        return self.answer


def fleet_with(tmp_path, factories, *specs, policy="cost", **more):
    server = Server(SERVER, scheduling=Scheduling(policy=policy, plugins=specs, **more))
    fleet = Fleet(tmp_path, server=server, plugins=factories)
    fleet.client.answers = [Answer([WHOLE]) for _ in range(20)]
    return fleet


def sent_to(fleet):
    return [name for name, *_ in fleet.client.sent]


def failures(fleet):
    lines = [
        line for line in render(fleet.memory, 2, ()).splitlines() if line.startswith("penstock_plugin_errors_total{")
    ]
    return {line.split("{")[1].split("}")[0]: float(line.split()[-1]) for line in lines}


@pytest.mark.parametrize(("policy", "weight"), [("cost", 10.0), ("weighted", 200.0)])
async def test_a_score_counts_by_its_weight(tmp_path, policy, weight):
    plugin = Prefers("default/e1")
    more = {"weights": {"least-request": 1.0}} if policy == "weighted" else {}
    fleet = fleet_with(tmp_path, {"p": lambda: plugin}, PluginSpec("p", weight), policy=policy, **more)
    placed = {one.endpoint.name: one.slot for one in fleet.replica.world.endpoints.values()}
    slot = placed["default/e1"]
    busy = Load(fleet.memory, 1)
    busy.charge(slot.index, slot.generation, 8000, 10)
    for _ in range(4):
        await request(fleet)
    assert sent_to(fleet) == ["default/e1"] * 4
    asked, candidates = plugin.seen[0]
    assert (asked.model, asked.path, asked.tenant, asked.header("content-length")) == (
        "m",
        "/v1/chat/completions",
        "",
        str(len(chat())),
    )
    assert asked.prompt_tokens > 0
    seen = {one.name: one for one in candidates}
    assert seen["default/e1"].in_flight == 1
    assert seen["default/e1"].prefill_tokens == 8000
    assert seen["default/e0"].address == "10.0.0.0"
    assert seen["default/e0"].score > seen["default/e1"].score
    assert not seen["default/e0"].scraped


async def test_a_filter_leaves_out(tmp_path):
    fleet = fleet_with(tmp_path, {"zone": Allows}, PluginSpec("zone"))
    for _ in range(4):
        await request(fleet, headers={"x-zone": "e1"})
    assert sent_to(fleet) == ["default/e1"] * 4
    check_released(fleet)


async def test_who_leaves_nobody_has_the_request_refused(tmp_path):
    fleet = fleet_with(tmp_path, {"zone": Allows}, PluginSpec("zone"))
    _, status, _, text = await request(fleet, headers={"x-zone": "nowhere"})
    assert (status, error(text)["code"]) == (503, "no_ready_endpoints")
    assert fleet.client.sent == []


async def test_a_later_plugin_sees_whom_the_earlier_one_left(tmp_path):
    plugin = Prefers("default/e0")
    specs = PluginSpec("zone"), PluginSpec("p", 100.0)
    fleet = fleet_with(tmp_path, {"zone": Allows, "p": lambda: plugin}, *specs)
    await request(fleet, headers={"x-zone": "e1"})
    assert [one.name for one in plugin.seen[0][1]] == ["default/e1"]
    assert sent_to(fleet) == ["default/e1"]


@pytest.mark.parametrize("answer", [None, [1.0], [1.0, float("nan")], [float("inf"), 0.0], ["x", "y"], 5], ids=str)
async def test_what_a_plugin_does_wrong_is_counted_logged_once_and_passed_over(tmp_path, caplog, answer):
    fleet = fleet_with(tmp_path, {"b": Broken}, PluginSpec("b", args={"answer": answer}))
    for _ in range(3):
        _, status, _, _ = await request(fleet)
        assert status == 200
    assert failures(fleet) == {'plugin="b",kind="filter"': 3, 'plugin="b",kind="score"': 3}
    assert sorted(record.getMessage() for record in caplog.records) == [
        "the filter of plugin b failed and is passed over",
        "the score of plugin b failed and is passed over",
    ]


@pytest.mark.parametrize(
    ("factories", "args"),
    [({}, {}), ({"b": object}, {}), ({"b": Broken}, {"unknown": 1}), (find_factories("b=no_such_module:X"), {})],
    ids=["not installed", "does nothing", "takes other arguments", "cannot be imported"],
)
async def test_a_plugin_that_cannot_be_had_is_left_out(tmp_path, caplog, factories, args):
    fleet = fleet_with(tmp_path, factories, PluginSpec("b", args=args))
    _, status, _, _ = await request(fleet)
    assert status == 200
    assert failures(fleet) == {'plugin="b",kind="load"': 1}
    assert [record.getMessage() for record in caplog.records] == ["plugin b of ModelServer default/s is left out"]


def test_a_server_keeps_its_plugins_until_what_is_said_of_them_changes():
    made = []
    plugins = Plugins({"p": lambda **args: made.append(args) or Allows()}, lambda *_: None)
    first = plugins.of("s", (PluginSpec("p"),))
    assert plugins.of("s", (PluginSpec("p"),)) is first
    plugins.of("other", (PluginSpec("p"),))
    assert plugins.of("s", (PluginSpec("p", args={"a": 1}),)) is not first
    assert made == [{}, {}, {"a": 1}]
    assert plugins.of("s", ()) == ()


def test_plugins_are_found_by_entry_point_and_by_setting(tmp_path, monkeypatch):
    class Point:
        name, value = "installed", "my_scheduling:Mine"

    (tmp_path / "my_scheduling.py").write_text("class Mine:\n    def __init__(self, a=0):\n        self.a = a\n")
    monkeypatch.setattr(module, "entry_points", lambda group: [Point] if group == "penstock.scheduling" else [])
    monkeypatch.syspath_prepend(tmp_path)
    found = find_factories("mine=my_scheduling:Mine")
    assert "my_scheduling" not in sys.modules  # imported at its first use
    assert [found[name](a=3).a for name in ("installed", "mine")] == [3, 3]


@pytest.mark.parametrize("text", ["mine", "mine=", "=a:b", "mine=a", "mine=a:", "mine=:b", "mine=a b:c", "mine=a-b:c"])
def test_a_setting_that_names_nothing_is_refused(text):
    with pytest.raises(ValueError, match="must be name=module:attribute"):
        named_paths(text)
