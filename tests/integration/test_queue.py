"""Waiting for an endpoint with room: in both workers, fairly by tenant, and not a moment longer than somebody waits."""

import hashlib
import threading
from time import monotonic

import pytest
import yaml

from tests.support import config
from tests.support.client import Connection, chat, request_bytes
from tests.support.engines import Engines
from tests.support.gateway import Gateway
from tests.support.waiting import wait_until

ONE_AT_A_TIME = {"maxInFlight": 1}


def fill(gateway):
    """A long stream on the only endpoint."""
    connection = Connection(gateway.port)
    connection.send(request_bytes(chat("held", stream=True, max_tokens=9000)))
    assert connection.read_head().status == 200
    return connection


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with Engines(1, speed=10) as engines:
        text = config.simple("demo", engines.ports, traffic=ONE_AT_A_TIME)
        with Gateway(tmp_path_factory.mktemp("gw"), {"demo.yaml": text}, **{"queue.seconds": 20}) as started:
            yield started


def waiting(gateway):
    return sum(one["waiting"] for one in gateway.state()["workers"])


@pytest.mark.parametrize("worker", [0, 1])
def test_a_request_waits_for_what_either_worker_gives_back(gateway, worker):
    held = fill(gateway)
    with gateway.connect_to(worker) as connection:
        connection.send(request_bytes(chat("next", max_tokens=1)))
        wait_until(lambda: waiting(gateway) == 1)
        assert 'penstock_queue_depth{worker="' in gateway.admin("/metrics").decode()
        held.close()
        reply = connection.read()
    assert reply.status == 200
    assert gateway.log_line(reply.header("x-request-id"))["queue_ms"] > 0
    assert "queue;dur=" in reply.header("server-timing")
    wait_until(gateway.is_idle)
    wait_until(lambda: waiting(gateway) == 0)


def test_a_client_that_leaves_while_it_waits_leaves_nothing(gateway):
    held = fill(gateway)
    with Connection(gateway.port) as connection:
        connection.send(request_bytes(chat("leaves")))
        wait_until(lambda: waiting(gateway) == 1)
    wait_until(lambda: waiting(gateway) == 0)
    held.close()
    wait_until(gateway.is_idle)


def test_a_drain_ends_who_waits(tmp_path):
    with Engines(1, speed=10) as engines:
        text = config.simple("demo", engines.ports, traffic=ONE_AT_A_TIME)
        with Gateway(tmp_path, {"demo.yaml": text}, drain_seconds=1, **{"queue.seconds": 60}) as gateway:
            held = fill(gateway)
            with Connection(gateway.port) as connection:
                connection.send(request_bytes(chat("waits")))
                wait_until(lambda: waiting(gateway) == 1)
                assert gateway.stop() == 0
                assert connection.read().status == 503
            held.close()


def test_a_tenant_that_floods_does_not_keep_another_waiting(tmp_path):
    """One endpoint, one request at a time; forty of the flood are there before the victim's first."""
    keys = {"flood": "sk-flood", "victim": "sk-victim"}
    entries = [{"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest()} for name, key in keys.items()]
    file = tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump({"keys": entries}))
    file.chmod(0o600)
    with Engines(1, speed=4) as engines:
        text = config.simple("demo", engines.ports, traffic=ONE_AT_A_TIME)
        settings = {"queue.seconds": 60, "identity.keys_file": file}
        with Gateway(tmp_path, {"demo.yaml": text}, workers=1, **settings) as gateway:
            finished = []

            def ask(name):
                reply = gateway.ask(
                    chat(f"{name} {threading.get_ident()}", max_tokens=30),
                    headers={"authorization": f"Bearer {keys[name]}"},
                )
                finished.append((name, reply.status, monotonic()))

            threads = [threading.Thread(target=ask, args=("flood",)) for _ in range(40)]
            for thread in threads:
                thread.start()
            wait_until(lambda: waiting(gateway) > 30)
            for _ in range(3):
                ask("victim")
            served_before = [name for name, _, _ in finished]
            for thread in threads:
                thread.join()
            assert {status for _, status, _ in finished} == {200}
            # each of the victim's three has its turn after one of the flood, and the one that is served when it comes
            assert served_before.count("flood") <= 20
