"""Session affinity: a conversation stays on its engine, in every worker and every gateway."""

import pytest

from tests.support import config
from tests.support.client import CHAT, Connection, chat
from tests.support.engines import ScriptedEngine, answer, completion
from tests.support.gateway import Gateway

SCHEDULING = {
    "policy": "weighted",
    "scorers": [{"name": "session", "weight": 10, "args": {"headers": ["X-Session-Id"]}}, {"name": "random"}],
}


def script(connection, _):
    connection.sendall(answer(200, completion()))


@pytest.fixture(scope="module")
def files():
    with ScriptedEngine(script) as a, ScriptedEngine(script) as b, ScriptedEngine(script) as c:
        ports = {"a": a.port, "b": b.port, "c": c.port}
        yield {"demo.yaml": config.server("demo", ports, scheduling=SCHEDULING) + config.route("demo")}


@pytest.fixture(scope="module")
def gateway(files, tmp_path_factory):
    with Gateway(tmp_path_factory.mktemp("one"), files) as started:
        yield started


def owners(gateway, sessions):
    """Which engine has each session, asked of both workers."""
    found = {}
    for worker in (0, 1):
        with gateway.connect_to(worker) as connection:
            for session in sessions:
                reply = connection.ask(chat(), CHAT, headers={"x-session-id": session})
                found.setdefault(session, set()).add(reply.endpoint)
    return found


def test_a_session_stays_with_its_engine_in_both_workers_and_in_another_gateway(gateway, files, tmp_path):
    sessions = [f"session {number}" for number in range(12)]
    first = owners(gateway, sessions)
    assert all(len(engines) == 1 for engines in first.values())
    assert len(set.union(*first.values())) > 1
    with Gateway(tmp_path, files) as other:
        assert owners(other, sessions) == first


def test_without_a_header_the_prompts_cache_key_names_it(gateway):
    keys = [f"key {number}" for number in range(8)]
    with Connection(gateway.port) as connection:
        found = {key: {connection.ask(chat(prompt_cache_key=key), CHAT).endpoint for _ in range(4)} for key in keys}
    assert all(len(engines) == 1 for engines in found.values())
    assert len(set.union(*found.values())) > 1


def test_explain_tells_it_beforehand(gateway):
    reply = gateway.ask(chat(prompt_cache_key="some"))
    (server,) = gateway.explain({"model": "demo", "messages": [], "prompt_cache_key": "some"})["servers"]
    assert server["choice"].rpartition("/")[2] == reply.endpoint
    assert server["runner_up"] != server["choice"]
