"""Plugins, choices in the log and adapters, with real gateways and simulated engines."""

import json
import threading

import pytest

from tests.support import config
from tests.support.client import CHAT, Connection, ask, chat, request_bytes
from tests.support.engines import Engines
from tests.support.gateway import Gateway
from tests.support.waiting import wait_until

FILTER = {"policy": "weighted", "scorers": [{"name": "random"}], "filters": [{"name": "lora-affinity"}]}
PLUGIN = {"plugins": [{"name": "mine", "weight": 100, "args": {"endpoint": "default/engine-2"}}]}


@pytest.fixture(scope="module")
def engines():
    with Engines(3, adapters=("demo-sql",)) as started:
        yield started


@pytest.fixture(scope="module")
def gateway(engines, tmp_path_factory):
    text = config.server("demo", engines.ports, scheduling=PLUGIN) + config.route("demo")
    plain = config.server("plain", engines.ports) + config.route("plain", loraAdapters=["demo-sql"])
    settings = {"scheduling_plugins": "mine=tests.support.plugins:Prefers", "access_log_decisions": 1.0}
    with Gateway(tmp_path_factory.mktemp("gw"), {"a.yaml": text, "b.yaml": plain}, **settings) as started:
        yield started


def lines(gateway):
    found = [json.loads(one) for one in gateway.stdout_file.read_text().splitlines() if one.startswith("{")]
    return {one["request_id"]: one for one in found if one.get("event") == "request"}


def test_a_plugin_is_asked_at_every_choice_and_its_faults_fail_nothing(gateway):
    for number in range(8):
        reply = ask(gateway.port, chat(f"request {number}", max_tokens=1), CHAT)
        assert (reply.status, reply.endpoint) == (200, "engine-2")
    assert ask(gateway.port, chat("other", max_tokens=1), CHAT, headers={"x-fail": "1"}).status == 200
    wait_until(lambda: b'penstock_plugin_errors_total{plugin="mine",kind="score"} 1' in gateway.admin("/metrics"), 5)
    assert gateway.stderr.count("the score of plugin mine failed and is passed over") == 1


def test_an_explanation_asks_plugins_and_shows_what_they_do_wrong(gateway):
    (server,) = gateway.explain(chat("x"))["servers"]
    assert server["choice"] == "default/engine-2"
    added = {one["endpoint"]: one["plugins"]["mine"] for one in server["candidates"]}
    assert added == {"default/engine-1": 0.0, "default/engine-2": 100.0, "default/engine-3": 0.0}
    counted = gateway.admin("/metrics").count(b"penstock_plugin_errors_total{")
    failing = json.loads(gateway.admin("/debug/explain", json.dumps(chat("x")).encode(), {"x-fail": "1"}))
    (server,) = failing["servers"]
    assert server["plugins"][0]["errors"] == {"score": "RuntimeError: as told"}
    assert server["choice"] is not None
    assert gateway.admin("/metrics").count(b"penstock_plugin_errors_total{") == counted


def test_the_admin_port_answers_while_a_plugin_does_not_return(gateway):
    explained = []

    def explain():
        explained.append(json.loads(gateway.admin("/debug/explain", json.dumps(chat("x")).encode(), {"x-sleep": "4"})))

    asking = threading.Thread(target=explain)
    asking.start()
    looks = 0
    while asking.is_alive():
        gateway.admin("/healthz")
        gateway.state()
        looks += 1
    assert looks > 3  # of the second that the plugin is given
    (server,) = explained[0]["servers"]
    assert "it has not returned for 1 s" in server["plugins"][0]["errors"]["answer"]
    assert server["choice"] is not None
    wait_until(lambda: gateway.explain(chat("x"))["servers"][0]["plugins"][0]["errors"] == {}, 10)


def test_the_log_says_how_an_endpoint_was_chosen(gateway):
    reply = ask(gateway.port, chat("logged", max_tokens=1), CHAT, headers={"x-request-id": "shown"})
    wait_until(lambda: "shown" in lines(gateway), 5)
    decision = lines(gateway)["shown"]["decision"]
    assert (decision["chosen"], reply.endpoint) == ("default/engine-2", "engine-2")
    assert decision["runner_up"] in ("default/engine-1", "default/engine-3")
    assert len(decision["candidates"]) == decision["endpoints"] == 3


def test_a_request_for_an_adapter_goes_where_another_runs_with_it(gateway):
    with Connection(gateway.port) as connection:
        connection.send(request_bytes(chat("long", model="demo-sql", stream=True, max_tokens=3000)))
        running = connection.read_head().endpoint

        def affinities():
            document = gateway.explain(chat("other", model="demo-sql"))
            return {one["endpoint"]: one["adapter"] for one in document["servers"][0]["candidates"]}

        wait_until(lambda: affinities().get(f"default/{running}") == "loaded", 10)
        assert sorted(affinities().values()) == ["loaded", "room", "room"]
        for number in range(4):
            reply = ask(gateway.port, chat(f"next {number}", model="demo-sql", max_tokens=1), CHAT)
            assert reply.endpoint == running


def test_the_adapter_filter_leaves_out_engines_that_are_taken_by_another(tmp_path):
    with Engines(2, adapters=("demo-sql", "demo-law")) as engines:
        text = config.server("demo", engines.ports, scheduling=FILTER)
        text += config.route("demo", loraAdapters=["demo-sql", "demo-law"])
        with Gateway(tmp_path, {"a.yaml": text}) as gateway, Connection(gateway.port) as connection:
            connection.send(request_bytes(chat("long", model="demo-law", stream=True, max_tokens=3000)))
            taken = f"default/{connection.read_head().endpoint}"

            def filtered():
                (found,) = gateway.explain(chat("other", model="demo-sql"))["servers"]
                return {one["endpoint"]: one["filtered"] for one in found["candidates"]}

            wait_until(lambda: filtered()[taken] == "without_adapter", 10)
            assert sorted(filtered().values()) == ["", "without_adapter"]
            for number in range(6):
                reply = ask(gateway.port, chat(f"next {number}", model="demo-sql", max_tokens=1), CHAT)
                assert (reply.status, f"default/{reply.endpoint}" == taken) == (200, False)
