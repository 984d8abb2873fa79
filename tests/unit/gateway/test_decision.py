"""Choices in the access log: what one says, and that only as many as were asked for are described."""

import json

import pytest

from _fastpath.load import Load
from _fastpath.log_line import LogLines
from gateway.datastore.model import Server, Traffic
from gateway.observability.access_log import add_line
from gateway.settings import Settings, SettingsError, load
from tests.unit.gateway.fakes import Answer
from tests.unit.gateway.fleet import SERVER, Fleet
from tests.unit.gateway.test_pipeline import WHOLE, request


def fleet_of(tmp_path, share, **more):
    fleet = Fleet(tmp_path, settings=Settings(access_log_decisions=share), **more)
    fleet.client.answers = [Answer([WHOLE]) for _ in range(40)]
    return fleet


def decision(exchange):
    lines = LogLines()
    add_line(lines, exchange, 1.0, 2.0)
    return json.loads(lines.take()).get("decision")


async def test_a_line_says_who_was_chosen_and_who_would_have_been_next(tmp_path):
    fleet = fleet_of(tmp_path, 1.0, endpoints=3, server=Server(SERVER, traffic=Traffic(maximum_in_flight=2)))
    placed = {one.endpoint.name: one.slot for one in fleet.replica.world.endpoints.values()}
    other = Load(fleet.memory, 1)
    for name, requests in (("default/e1", 1), ("default/e2", 2)):
        for _ in range(requests):
            other.charge(placed[name].index, placed[name].generation, 800, 10)
    exchange, *_ = await request(fleet)
    found = decision(exchange)
    first, second = found.pop("candidates")
    assert found.pop("blocks") >= 0
    assert found == {
        "policy": "cost",
        "chosen": "default/e0",
        "runner_up": "default/e1",
        "endpoints": 3,
        "filtered": {"full": 1},
    }
    assert (first["endpoint"], first["in_flight"], first["prefill_tokens"]) == ("default/e0", 0, 0)
    assert (second["endpoint"], second["in_flight"], second["prefill_tokens"]) == ("default/e1", 1, 800)
    assert first["score"] > second["score"]


async def test_of_many_endpoints_the_best_are_shown(tmp_path):
    fleet = fleet_of(tmp_path, 1.0, endpoints=20)
    exchange, *_ = await request(fleet)
    found = decision(exchange)
    assert (found["endpoints"], len(found["candidates"])) == (20, 16)
    assert found["candidates"][0]["endpoint"] == found["chosen"] == fleet.client.sent[0][0]
    assert found["candidates"][1]["endpoint"] == found["runner_up"]


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 5, 35), (1.0, 40, 40)])
async def test_as_many_choices_are_shown_as_were_asked_for(tmp_path, share, least, most):
    fleet = fleet_of(tmp_path, share)
    shown = [decision((await request(fleet))[0]) is not None for _ in range(40)]
    assert least <= sum(shown) <= most


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(SettingsError, match="access_log_decisions"):
        load({"access_log_decisions": share}, {})


def test_a_share_can_be_set_from_the_environment():
    assert load({}, {"PENSTOCK_ACCESS_LOG_DECISIONS": "0.25"}).access_log_decisions == 0.25


def test_plugins_can_be_named_in_the_environment():
    assert load({}, {"PENSTOCK_SCHEDULING_PLUGINS": "a=b:c"}).scheduling_plugins == "a=b:c"


def test_plugins_that_are_named_wrongly_are_refused():
    with pytest.raises(SettingsError, match="`scheduling_plugins`: `mine` must be name=module:attribute"):
        load({"scheduling_plugins": "mine"}, {})
