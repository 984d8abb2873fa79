"""What one worker learns, sends or spends, the other knows at the very next request."""

import json
from collections import Counter
from contextlib import ExitStack
from time import sleep

import pytest

from tests.support import config
from tests.support.client import chat, request_bytes
from tests.support.engines import STREAM_HEAD, Engines, ScriptedEngine, answer, chunk, completion, event
from tests.support.gateway import Gateway, run
from tests.support.waiting import wait_until

ENGINES = 4


@pytest.fixture(scope="module")
def engines():
    with Engines(ENGINES, speed=10) as started:
        yield started


@pytest.fixture(scope="module")
def gateway(engines, tmp_path_factory):
    with Gateway(tmp_path_factory.mktemp("gw"), {"demo.yaml": config.simple("demo", engines.ports)}) as started:
        wait_until(lambda: all(one["scrape_age_seconds"] is not None for one in started.endpoints().values()))
        yield started


@pytest.fixture
def workers(gateway):
    """A connection to each of the two workers."""
    with gateway.connect_to(0) as first, gateway.connect_to(1) as second:
        yield first, second


def prompt(topic, length=6000):
    """A long text that shares no block with that of another topic."""
    return "".join(f"{topic} {number} " for number in range(length // 8))


class TestPrefix:
    def test_the_other_worker_sends_the_same_prefix_to_the_same_endpoint(self, workers, gateway):
        """Eight prompts: by chance this would happen once in 65,536 runs."""
        for number in range(8):
            first, second = workers if number % 2 else reversed(workers)
            text = prompt(f"topic-{number}")
            chosen = first.ask(chat(text + "first question", max_tokens=1)).endpoint
            reply = second.ask(chat(text + "second question", max_tokens=1))
            assert reply.endpoint == chosen
            line = gateway.log_line(reply.header("x-request-id"))
            assert line["prefix_match_ratio"] > 0.9

    def test_known_also_to_explain(self, workers, gateway):
        body = chat(prompt("explained"), max_tokens=1)
        assert all(one["matched_blocks"] == 0 for one in gateway.explain(body)["servers"][0]["candidates"])
        chosen = workers[0].ask(body).endpoint
        (server,) = gateway.explain(body)["servers"]
        assert server["choice"].endswith(chosen)
        matched = {one["endpoint"].rpartition("/")[2]: one["matched_blocks"] for one in server["candidates"]}
        assert matched.pop(chosen) > 50
        assert set(matched.values()) == {0}

    def test_fresh_connections_until_both_workers_have_served(self, gateway):
        text = prompt("fresh")
        before = gateway.served_by_worker()
        chosen = gateway.ask(chat(text + "0", max_tokens=1)).endpoint
        for number in range(1, 200):
            assert gateway.ask(chat(text + str(number), max_tokens=1)).endpoint == chosen
            served = [now - then for now, then in zip(gateway.served_by_worker(), before, strict=True)]
            if number >= 20 and all(count > 3 for count in served):
                return
        pytest.fail(f"one worker served all: {served}")

    def test_of_a_turn_before_is_part_of_a_conversation(self, workers):
        messages = [{"role": "system", "content": prompt("conversation")}, {"role": "user", "content": "hello"}]
        chosen = workers[0].ask({"model": "demo", "messages": messages, "max_tokens": 1}).endpoint
        for number in range(6):
            messages += [
                {"role": "assistant", "content": f"answer {number}"},
                {"role": "user", "content": prompt(f"turn {number}")},
            ]
            reply = workers[(number + 1) % 2].ask({"model": "demo", "messages": messages, "max_tokens": 1})
            assert reply.endpoint == chosen

    def test_of_one_model_or_tools_is_not_that_of_another(self, workers, gateway):
        body = chat(prompt("tools"), max_tokens=1)
        workers[0].ask(body)
        other = body | {"tools": [{"type": "function", "function": {"name": "f"}}]}
        (server,) = gateway.explain(other)["servers"]
        assert all(one["matched_blocks"] == 0 for one in server["candidates"])

    def test_of_an_engine_that_was_started_anew_is_forgotten(self, tmp_path):
        with (
            Engines(1, speed=10) as started,
            Gateway(tmp_path, {"demo.yaml": config.simple("demo", started.ports)}) as gateway,
        ):
            body = chat(prompt("restarted"), max_tokens=1)

            def known():
                (server,) = gateway.explain(body)["servers"]
                return server["candidates"][0]["matched_blocks"]

            assert gateway.ask(body).status == 200
            assert known() > 50
            wait_until(lambda: gateway.endpoints()["engine-1"]["prefix_hit_ratio"] is not None)
            started.stop(0)
            started.restart(0)
            wait_until(lambda: known() == 0)

    def test_of_an_engine_that_is_gone_is_forgotten(self, engines, tmp_path):
        with Gateway(tmp_path, {"demo.yaml": config.simple("demo", engines.ports[:2])}) as gateway:
            text = prompt("forgotten")
            chosen = gateway.ask(chat(text, max_tokens=1)).endpoint
            left = {f"engine-{i}": port for i, port in enumerate(engines.ports[:2], 1) if f"engine-{i}" != chosen}
            gateway.put("demo.yaml", config.simple("demo", left))
            assert {gateway.ask(chat(text, max_tokens=1)).endpoint for _ in range(4)} == set(left)
            sleep(3)  # workers, controllers and supervisor let go of a slot one after the other, each within a second
            gateway.put("demo.yaml", config.simple("demo", engines.ports[:2]))
            assert gateway.ask(chat(text, max_tokens=1)).endpoint in left


class TestLoad:
    @pytest.fixture(scope="class")
    @staticmethod
    def unscraped(tmp_path_factory):
        """Four engines without metrics: what is known of them is what the workers have there."""

        def script(connection, received):
            if not received.json.get("stream"):
                connection.sendall(answer(200, completion()))
                return None
            connection.sendall(STREAM_HEAD + chunk(event("one")))
            engines[0].until_closed(connection, 60)
            return True

        with ExitStack() as stack:
            engines = [stack.enter_context(ScriptedEngine(script)) for _ in range(ENGINES)]
            text = config.simple("demo", [one.port for one in engines])
            yield stack.enter_context(Gateway(tmp_path_factory.mktemp("gw"), {"demo.yaml": text}))

    def test_of_a_stream_is_seen_by_the_other_worker(self, unscraped):
        """Three of four endpoints hold a stream: either worker finds the one that is free, every time."""
        busy = {}
        with ExitStack() as stack:
            for number in range(ENGINES - 1):
                connection = stack.enter_context(unscraped.connect_to(number % 2))
                connection.send(request_bytes(chat(f"hold {number}", stream=True)))
                endpoint = connection.read_head().endpoint
                assert endpoint not in busy, "a stream must not go where another is"
                busy[endpoint] = 1
            workers = [stack.enter_context(unscraped.connect_to(number)) for number in (0, 1)]
            for number in range(50):
                # a worker lets go of a request a moment after its answer was sent
                wait_until(lambda: {name: count for name, count in unscraped.in_flight().items() if count} == busy)
                assert workers[number % 2].ask(chat(f"short {number}")).endpoint not in busy
        wait_until(unscraped.is_idle, message=lambda: str(unscraped.state()))

    def test_is_spread_evenly_over_endpoints(self, gateway):
        with_streams = [gateway.connect_to(number % 2) for number in range(4 * ENGINES)]
        try:
            for number, connection in enumerate(with_streams):
                connection.send(request_bytes(chat(f"spread {number}", stream=True, max_tokens=9000)))
                connection.read_head()
            assert set(gateway.in_flight().values()) == {4}
        finally:
            for connection in with_streams:
                connection.close()
        wait_until(gateway.is_idle, message=lambda: str(gateway.state()))

    def test_is_shown_by_get_endpoints(self, gateway):
        server = f"http://127.0.0.1:{gateway.admin_port}"
        with gateway.connect_to(1) as connection:
            connection.send(request_bytes(chat("shown", stream=True, max_tokens=9000)))
            endpoint = connection.read_head().endpoint
            status, output, _ = run("get", "endpoints", "-o", "json", "--server", server)
            assert status == 0
            assert {one["name"].rpartition("/")[2]: one["in_flight"] for one in json.loads(output)}[endpoint] == 1
            state = gateway.state()
            assert [one["charged"] for one in state["workers"]] == [0, 1]
            # what the engine itself says comes by the scraper, within about a second
            wait_until(lambda: gateway.endpoints()[endpoint]["running"] == 1)
            status, output, _ = run("get", "workers", "--server", server)
            assert status == 0
            assert output.splitlines()[0].split()[:2] == ["WORKER", "PROCESS"]
        wait_until(gateway.is_idle)

    def test_bound_of_a_server_holds_over_both_workers(self, engines, tmp_path):
        text = config.simple("demo", engines.ports[:2], traffic={"maxInFlight": 2})
        with Gateway(tmp_path, {"demo.yaml": text}, **{"queue.seconds": 0}) as gateway:
            held = [gateway.connect_to(number % 2) for number in range(4)]
            try:
                for number, connection in enumerate(held):
                    connection.send(request_bytes(chat(f"bound {number}", stream=True, max_tokens=9000)))
                    assert connection.read_head().status == 200
                assert gateway.in_flight() == {"engine-1": 2, "engine-2": 2}
                for worker in (0, 1):
                    with gateway.connect_to(worker) as connection:
                        reply = connection.ask(chat("one too many"))
                        assert (reply.status, reply.error["code"]) == (429, "queue_full")
                        assert reply.header("retry-after") == "1"
                        assert reply.header("x-should-retry") == "true"
            finally:
                for connection in held:
                    connection.close()
            wait_until(gateway.is_idle)
            assert gateway.ask().status == 200


class TestLimits:
    """A token bucket is one for both workers."""

    @pytest.fixture(scope="class")
    @staticmethod
    def engine():
        def script(connection, received):
            # what it says it used is what the member `user` says
            used = json.loads(received.json.get("user") or "null")
            content = completion()
            if used is not None:
                content["usage"] = dict(zip(("prompt_tokens", "completion_tokens"), used, strict=True))
            status = received.json.get("seed", 200)
            connection.sendall(answer(status, content))

        with ScriptedEngine(script) as started:
            yield started

    @pytest.fixture
    def limited(self, engine, tmp_path):
        with Gateway(tmp_path, {"server.yaml": config.server("demo", [engine.port])}) as started:
            self.put(started, requests=10)
            yield started

    @staticmethod
    def put(gateway, *, unit="hour", burst=None, key=None, **amounts):
        """Give the route one limit, or none."""
        limit = {"name": "fair", "unit": unit, **amounts} | ({"burst": burst} if burst else {})
        limit |= {"key": {"type": "header", "header": key}} if key else {}
        gateway.put("route.yaml", config.route("demo", rateLimit={"limits": [limit]} if amounts else None))

    @staticmethod
    def ask_both(gateway, count, headers=None, **members):
        """Statuses of requests that alternate between the workers."""
        with gateway.connect_to(0) as first, gateway.connect_to(1) as second:
            replies = [(first, second)[number % 2].ask(chat(**members), headers=headers) for number in range(count)]
        return [one.status for one in replies], replies

    def test_exactly_so_many_are_admitted(self, limited):
        statuses, replies = self.ask_both(limited, 30)
        assert Counter(statuses) == {200: 10, 429: 20}
        assert statuses[:10] == [200] * 10
        refused = replies[-1]
        assert refused.error["code"] == "rate_limit_exceeded"
        assert refused.error["type"] == "rate_limit_error"
        assert "`fair`" in refused.error["message"]
        assert refused.header("x-should-retry") == "true"
        # ten an hour: the next one flows in within six minutes
        assert 300 < int(refused.header("retry-after")) <= 360
        assert abs(int(refused.header("retry-after-ms")) - 1000 * int(refused.header("retry-after"))) <= 1000

    def test_concurrent_requests_too(self, limited):
        connections = [limited.connect_to(number % 2) for number in range(24)]
        try:
            for connection in connections:
                connection.send(request_bytes(chat()))
            statuses = Counter(connection.read().status for connection in connections)
        finally:
            for connection in connections:
                connection.close()
        assert statuses == {200: 10, 429: 14}

    def test_change_keeps_the_fill(self, limited):
        assert Counter(self.ask_both(limited, 5)[0]) == {200: 5}
        self.put(limited, requests=100)
        # half of it was used: half of it is left, as a share
        assert Counter(self.ask_both(limited, 60)[0])[200] in (50, 51)
        self.put(limited, requests=10)
        assert Counter(self.ask_both(limited, 6)[0]) == {429: 6}
        self.put(limited, requests=1000)
        assert Counter(self.ask_both(limited, 10)[0])[200] <= 2

    def test_removal_lifts_it_and_its_return_does_not_refill(self, limited):
        assert Counter(self.ask_both(limited, 12)[0]) == {200: 10, 429: 2}
        self.put(limited)
        assert Counter(self.ask_both(limited, 20)[0]) == {200: 20}
        self.put(limited, requests=10)
        assert Counter(self.ask_both(limited, 4)[0])[429] >= 3

    def test_refused_request_takes_nothing(self, limited, engine):
        before = len(engine.received)
        self.ask_both(limited, 30)
        assert len(engine.received) == before + 10

    def test_failed_request_counts_as_a_request(self, limited):
        assert Counter(self.ask_both(limited, 12, seed=500)[0]) == {500: 10, 429: 2}

    def test_burst_is_what_is_there_at_once(self, limited):
        self.put(limited, requests=3600, burst=5)
        statuses, replies = self.ask_both(limited, 8)
        assert 5 <= Counter(statuses)[200] <= 6
        assert replies[-1].header("retry-after") == "1"

    def test_by_header(self, limited):
        self.put(limited, requests=3, key="X-Team")
        for team in ("red", "blue"):
            assert Counter(self.ask_both(limited, 5, headers={"x-team": team})[0]) == {200: 3, 429: 2}
        assert Counter(self.ask_both(limited, 5)[0]) == {200: 3, 429: 2}

    def test_output_tokens_are_settled_to_what_the_engine_counted(self, limited):
        # 256 output tokens are expected of each request, the engine says that it was 1
        self.put(limited, outputTokens=512)
        assert Counter(self.ask_both(limited, 40, user="[1, 1]")[0]) == {200: 40}
        # and 10,000 of one that was let in put the bucket into debt
        assert self.ask_both(limited, 1, user="[1, 10000]")[0] == [200]
        assert self.ask_both(limited, 4, user="[1, 1]", max_tokens=1)[0] == [429] * 4

    def test_request_that_can_never_fit(self, limited):
        self.put(limited, inputTokens=100)
        status, (reply,) = self.ask_both(limited, 1, content="a" * 10_000)
        assert status == [429]
        assert reply.header("x-should-retry") == "false"
        assert reply.header("retry-after") is None
        assert self.ask_both(limited, 1)[0] == [200]

    def test_outlives_a_restart_of_controllers(self, limited):
        """A new publisher takes a new epoch; the bucket stands."""
        assert Counter(self.ask_both(limited, 12)[0]) == {200: 10, 429: 2}
        before = limited.state()["snapshot"]
        limited.kill_controllers()
        limited.wait_newer(before)
        assert self.ask_both(limited, 4)[0] == [429] * 4

    def test_more_keys_than_buckets(self, engine, tmp_path):
        """Made-up header values fill the table of buckets: who comes late shares one; nobody gets a 500."""
        limit = {"name": "fair", "unit": "hour", "requests": 2, "key": {"type": "header", "header": "x-team"}}
        text = config.simple("demo", [engine.port], limits=[limit])
        with (
            Gateway(tmp_path, {"demo.yaml": text}, shared_memory_buckets=64) as gateway,
            gateway.connect_to(0) as connection,
        ):
            statuses = Counter(connection.ask(chat(), headers={"x-team": f"team-{i}"}).status for i in range(300))
        assert set(statuses) <= {200, 429, 503}, statuses
        assert statuses[200] >= 32
