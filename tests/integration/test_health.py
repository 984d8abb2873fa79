"""Engines that fail are left alone, tried by one request at a time, and come back; clients' own errors never harm an engine."""

import os
import signal
import socket
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager
from time import sleep

import pytest

from tests.support import config
from tests.support.client import Connection, chat, request_bytes
from tests.support.engines import STREAM_HEAD, Engines, ScriptedEngine, answer, chunk, completion, event
from tests.support.gateway import Gateway
from tests.support.gateway import run as penstock
from tests.support.waiting import wait_until

LONG = {"consecutiveFailures": 3, "baseEjection": "60s", "slowStart": "0s"}
SHORT = LONG | {"baseEjection": "300ms", "maxEjection": "1s"}
SERVES = ("serving", "warming")


def good(connection, _):
    connection.sendall(answer(200, completion()))


def close(_connection, _received):
    return True


def refuse(status, headers=()):
    """A script that answers with this status."""

    def script(connection, _):
        connection.sendall(answer(status, {"error": {"message": "no"}}, headers=headers))

    return script


@contextmanager
def behind(directory, scripts, *, outlier=LONG, workers=2, **traffic):
    """A gateway before one scripted engine each, and the engines."""
    with ExitStack() as stack:
        engines = [stack.enter_context(ScriptedEngine(script)) for script in scripts]
        policy = {"timeout": "20s", "outlier": outlier, **traffic}
        text = config.simple("demo", [one.port for one in engines], traffic=policy)
        yield stack.enter_context(Gateway(directory, {"demo.yaml": text}, workers=workers)), engines


def states(gateway):
    return [one["state"] for _, one in sorted(gateway.endpoints().items())]


def ask_until(gateway, condition, status=200):
    """Ask until it is true; every answer must have one of these statuses."""
    allowed = status if isinstance(status, tuple) else (status,)

    def asked():
        assert gateway.ask().status in allowed
        return condition()

    return wait_until(asked, 20, message=lambda: f"{gateway.endpoints()}\n{gateway.stderr}")


def ask_often(gateway, times=40):
    """Ask so many times, on a connection each, which both workers accept; everybody must be served."""
    replies = [gateway.ask() for _ in range(times)]
    assert {reply.status for reply in replies} == {200}
    return replies


class TestADyingEngine:
    def test_is_left_alone_after_three_failures_and_clients_see_nothing(self, tmp_path):
        with behind(tmp_path, [close, good]) as (gateway, (dead, _)):
            ask_until(gateway, lambda: states(gateway)[0] == "ejected")
            replies = ask_often(gateway)
            assert len(dead.received) == 3
            assert {reply.endpoint for reply in replies} == {"engine-2"}
            one = gateway.endpoints()["engine-1"]
            assert 0 < one["state_seconds_left"] <= 60
            assert "endpoint default/engine-1 of default/demo is ejected for 60 s: upstream_error" in gateway.stderr
            page = gateway.admin("/metrics").decode()
            assert 'penstock_upstream_ejections_total{server="default/demo",reason="upstream_error"} 1' in page
            assert 'penstock_endpoint_ready{server="default/demo",pod="default/engine-1",role="both"} 0' in page
            (server,) = gateway.explain(chat())["servers"]
            assert {row["endpoint"]: row["filtered"] for row in server["candidates"]} == {
                "default/engine-1": "ejected", "default/engine-2": "",
            }  # fmt: skip
            address = f"127.0.0.1:{gateway.admin_port}"
            assert "ejected" in penstock("get", "endpoints", "--server", address)[1]
            assert "ejected" in penstock("explain", "demo", "--server", address)[1]

    def test_by_its_status(self, tmp_path):
        """It is passed on: the engine has answered, and what it did is not done twice."""
        with behind(tmp_path, [refuse(500), good]) as (gateway, (broken, _)):
            ask_until(gateway, lambda: states(gateway)[0] == "ejected", (200, 500))
            ask_often(gateway)
            assert len(broken.received) == 3

    def test_that_truncates_its_answers(self, tmp_path):
        def truncate(connection, _):
            connection.sendall(STREAM_HEAD + chunk(event("one")))
            return True

        with behind(tmp_path, [truncate, good]) as (gateway, (broken, _)):
            ask_until(gateway, lambda: states(gateway)[0] == "ejected")
            ask_often(gateway)
            assert len(broken.received) == 3

    def test_that_nobody_listens_for(self, tmp_path):
        with Engines(2, speed=10) as engines:
            text = config.simple("demo", engines.ports, traffic={"outlier": LONG})
            with Gateway(tmp_path, {"demo.yaml": text}) as gateway:
                engines.stop(0)
                ask_until(gateway, lambda: states(gateway)[0] == "ejected")
                replies = ask_often(gateway)
                lines = [gateway.log_line(reply.header("x-request-id")) for reply in replies]
                assert {line.get("upstream_attempts", 1) for line in lines} == {1}

    def test_is_known_to_the_other_worker(self, tmp_path):
        with behind(tmp_path, [close, good]) as (gateway, (dead, _)):
            with gateway.connect_to(0) as connection:
                wait_until(lambda: connection.ask(chat()).status == 200 and states(gateway)[0] == "ejected", 20)
            with gateway.connect_to(1) as connection:
                assert {connection.ask(chat()).endpoint for _ in range(30)} == {"engine-2"}
            assert len(dead.received) == 3

    def test_is_asked_for_ever_when_that_is_wanted(self, tmp_path):
        off = {"consecutiveFailures": 0}
        with behind(tmp_path, [close, good], outlier=off) as (gateway, (dead, _)):
            ask_until(gateway, lambda: len(dead.received) > 10)
            assert states(gateway)[0] in SERVES


@pytest.mark.thorough
class TestAReturn:
    def test_by_a_probe(self, tmp_path):
        with behind(tmp_path, [close, good], outlier=SHORT) as (gateway, (dead, _)):
            ask_until(gateway, lambda: states(gateway)[0] == "ejected")
            dead.script = good
            ask_until(gateway, lambda: states(gateway)[0] in SERVES)
            ask_until(gateway, lambda: len(dead.received) > 8)
            assert "endpoint default/engine-1 of default/demo is back" in gateway.stderr

    def test_of_an_engine_that_started_again(self, tmp_path):
        with Engines(2, speed=10) as engines:
            text = config.simple("demo", engines.ports, traffic={"outlier": SHORT})
            with Gateway(tmp_path, {"demo.yaml": text}) as gateway:
                engines.stop(0)
                ask_until(gateway, lambda: states(gateway)[0] == "ejected")
                engines.restart(0)
                ask_until(gateway, lambda: states(gateway)[0] in SERVES)

    def test_is_tried_by_one_request_at_a_time(self, tmp_path):
        """While a probe hangs nobody else is sent there, by either worker."""
        with behind(tmp_path, [close, good], outlier=SHORT) as (gateway, (dead, _)):
            ask_until(gateway, lambda: states(gateway)[0] == "ejected")
            before, go_on = len(dead.received), threading.Event()

            def hang(connection, received):
                go_on.wait(15)
                return good(connection, received)

            dead.script = hang
            probe = self.probe(gateway)
            assert states(gateway)[0] == "probing"
            ask_often(gateway)
            assert len(dead.received) == before + 1
            go_on.set()
            assert probe.read().endpoint == "engine-1"
            probe.close()
            assert states(gateway)[0] in SERVES

    def test_a_probe_whose_client_leaves_is_made_by_the_next(self, tmp_path):
        with behind(tmp_path, [close, good], outlier=SHORT) as (gateway, (dead, _)):
            ask_until(gateway, lambda: states(gateway)[0] == "ejected")
            dead.script = lambda connection, _: dead.until_closed(connection)
            self.probe(gateway).close()
            wait_until(lambda: states(gateway)[0] == "ejected")
            dead.script = good
            ask_until(gateway, lambda: states(gateway)[0] in SERVES)

    def test_a_probe_of_a_killed_worker_is_made_by_the_next(self, tmp_path):
        """Its lease would last for twenty seconds more: the supervisor knows better."""
        with behind(tmp_path, [close, good], outlier=SHORT) as (gateway, (dead, _)):
            ask_until(gateway, lambda: states(gateway)[0] == "ejected")
            dead.script = lambda connection, _: dead.until_closed(connection)
            probe = self.probe(gateway)
            os.kill(gateway.worker_processes()[gateway.worker_of(probe)], signal.SIGKILL)
            dead.script = good
            wait_until(lambda: states(gateway)[0] == "ejected")
            wait_until(gateway.is_settled)
            ask_until(gateway, lambda: states(gateway)[0] in SERVES)
            probe.close()

    def probe(self, gateway):
        """A connection whose request probes."""
        for _ in range(500):
            connection = Connection(gateway.port)
            connection.send(request_bytes(chat()))
            try:
                wait_until(lambda: states(gateway)[0] == "probing", 0.1)
            except AssertionError:
                assert connection.read().status == 200
                connection.close()
            else:
                return connection
        raise AssertionError("no request was a probe")


@pytest.mark.thorough
class TestAStalledEngine:
    def test_before_its_head(self, tmp_path):
        def stall(_connection, _received):
            sleep(3)
            return True

        with behind(tmp_path, [stall, good], timeout="300ms") as (gateway, (stalled, _)):
            ask_until(gateway, lambda: states(gateway)[0] == "ejected", (200, 504))
            ask_often(gateway)
            assert len(stalled.received) == 3
            assert "is ejected for 60 s: upstream_timeout" in gateway.stderr

    def test_between_two_tokens(self, tmp_path):
        def stall(connection, _):
            connection.sendall(STREAM_HEAD + chunk(event("one")))
            sleep(3)
            return True

        with behind(tmp_path, [stall, good], idleTimeout="300ms") as (gateway, (stalled, _)):
            ask_until(gateway, lambda: states(gateway)[0] == "ejected")
            ask_often(gateway)
            assert len(stalled.received) == 3


@pytest.mark.thorough
class TestClients:
    def test_errors_eject_nobody_and_neither_does_an_engine_that_asks_for_a_pause(self, tmp_path):
        with behind(tmp_path, [good] * 2, workers=1) as (gateway, engines):
            for status in (400, 404, 422, 429, 501, 503):
                for engine in engines:
                    engine.script = refuse(status, headers=(("retry-after", "1"),))
                    engine.received.clear()
                assert {gateway.ask().status for _ in range(20)} == {status}
                assert min(len(one.received) for one in engines) > 0
                assert [(one["state"], one["failures"]) for one in gateway.endpoints().values()] == [("serving", 0)] * 2

    @pytest.mark.parametrize("stream", [False, True])
    def test_that_leave_eject_nobody(self, tmp_path, stream):
        begun = threading.Semaphore(0)

        def endless(connection, _):
            if stream:
                connection.sendall(STREAM_HEAD + chunk(event("one")))
            begun.release()
            sleep(0.2)
            return True

        with behind(tmp_path, [endless] * 2, workers=1) as (gateway, _):
            for number in range(12):
                connection = Connection(gateway.port)
                connection.send(request_bytes(chat(stream=stream), headers={"x-request-id": f"left-{number}"}))
                assert begun.acquire(timeout=5)
                connection.reset()
                assert gateway.log_line(f"left-{number}")["status_code"] == 499
            assert [(one["state"], one["failures"]) for one in gateway.endpoints().values()] == [("serving", 0)] * 2


@pytest.mark.thorough
class TestWhenAllFail:
    def test_all_are_asked_and_half_come_back_at_once(self, tmp_path):
        """Two of three are more than half: from there on nobody is left alone."""
        with behind(tmp_path, [close] * 3, retry={"attempts": 0}) as (gateway, engines):
            ask_until(gateway, lambda: states(gateway) == ["ejected"] * 3, 502)
            before = [len(one.received) for one in engines]
            ask_until(gateway, lambda: all(len(e.received) > b for e, b in zip(engines, before, strict=True)), 502)
            for engine in engines:
                engine.script = good
            # the ejections of a minute are not waited for, until enough serve again
            ask_until(gateway, lambda: sum(state in SERVES for state in states(gateway)) == 2)
            ask_often(gateway)
            assert states(gateway).count("ejected") == 1

    def test_a_single_engine_is_never_left_alone(self, tmp_path):
        with behind(tmp_path, [close]) as (gateway, (engine,)):
            assert {gateway.ask().status for _ in range(10)} == {502}
            assert len(engine.received) == 10
            engine.script = good
            ask_often(gateway, 5)


@pytest.mark.thorough
class TestEnginesThatNobodyHearsOf:
    """Never scraped, scraped in vain, or behind a network that drops packets: never preferred for it, and delaying nobody."""

    def test_get_their_share_and_no_more(self, tmp_path):
        def hang(connection):
            sleep(20)

        with (
            Engines(2, speed=10) as engines,
            ScriptedEngine(good) as never,
            ScriptedEngine(good, scrape=hang) as hanging,
        ):
            ports = {
                "scraped-1": engines.ports[0],
                "scraped-2": engines.ports[1],
                "never": never.port,
                "hanging": hanging.port,
            }
            with Gateway(tmp_path, {"demo.yaml": config.simple("demo", ports, prefixCache={"mode": "off"})}) as gateway:
                wait_until(lambda: gateway.endpoints()["scraped-1"]["scrape_age_seconds"] is not None)
                shares = Counter(reply.endpoint for reply in ask_often(gateway, 160))
                # one of four: 40, and five deviations of 5.5 more
                assert shares["never"] < 68, shares
                assert shares["hanging"] < 68, shares
                found = gateway.endpoints()
                assert found["never"]["scrape_age_seconds"] is found["hanging"]["scrape_age_seconds"] is None
                wait_until(
                    lambda: (
                        max(gateway.endpoints()[name]["scrape_age_seconds"] for name in ("scraped-1", "scraped-2")) < 2
                    ),
                    message="the scrape that hangs holds up the others",
                )

    def test_behind_dropped_packets_cost_three_connects(self, tmp_path):
        with ExitStack() as stack:
            engines = [stack.enter_context(ScriptedEngine(good)) for _ in range(2)]
            hole = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            # a queue that is full drops what comes: nobody accepts these
            for _ in range(3):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(hole.getsockname())
            ports = {"engine-1": hole.getsockname()[1], "engine-2": engines[0].port, "engine-3": engines[1].port}
            text = config.simple("demo", ports, traffic={"connect": "200ms", "outlier": LONG})
            gateway = stack.enter_context(Gateway(tmp_path, {"demo.yaml": text}))
            ask_until(gateway, lambda: states(gateway)[0] == "ejected")
            ids = {reply.header("x-request-id") for reply in ask_often(gateway)}
            wait_until(lambda: ids <= {line["request_id"] for line in gateway.log_lines()})
            attempts = [line.get("upstream_attempts", 1) for line in gateway.log_lines()]
            assert sum(attempts) - len(attempts) == 3
            assert {line.get("upstream_attempts", 1) for line in gateway.log_lines() if line["request_id"] in ids} == {
                1
            }


@pytest.mark.thorough
def test_a_new_engine_begins_with_a_little(tmp_path):
    """Requests that are held go to the engine that joined a moment ago less often than to those that serve for long."""
    go_on = threading.Event()

    def hold(connection, received):
        go_on.wait(20)
        return good(connection, received)

    outlier = LONG | {"slowStart": "10m"}
    with ExitStack() as stack:
        engines = [stack.enter_context(ScriptedEngine(good)) for _ in range(3)]
        ports = [one.port for one in engines]
        policy = {"outlier": LONG}
        gateway = stack.enter_context(
            Gateway(tmp_path, {"demo.yaml": config.simple("demo", ports[:2], traffic=policy)})
        )
        ask_until(gateway, lambda: states(gateway) == ["serving"] * 2)
        while min(len(one.received) for one in engines[:2]) == 0:
            assert gateway.ask().status == 200
        gateway.put("demo.yaml", config.simple("demo", ports, traffic={"outlier": outlier}))
        assert states(gateway) == ["serving", "serving", "warming"]
        for engine in engines:
            engine.script = hold
        before = len(engines[2].received)
        connections = [stack.enter_context(Connection(gateway.port)) for _ in range(24)]
        for connection in connections:
            connection.send(request_bytes(chat()))
        wait_until(lambda: gateway.charged() == 24)
        held = gateway.in_flight()
        go_on.set()
        assert {connection.read().status for connection in connections} == {200}
        assert held["engine-3"] <= 2, held
        assert len(engines[2].received) - before == held["engine-3"]
