"""Start and stop: what the programs do at both ends of their lives, and what they show of themselves in between."""

import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path
from time import monotonic, sleep

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import config
from tests.support.client import CHAT, Connection, ask, chat, get, request_bytes
from tests.support.engines import STREAM_END, STREAM_HEAD, Engines, ScriptedEngine, answer, chunk, completion, event
from tests.support.gateway import Gateway, children_of, is_alive, program, run
from tests.support.waiting import wait_until


def paced(count, pause=0.1):
    """A script that streams so many events, one a pause, or answers at once."""

    def script(connection, received):
        if not received.json.get("stream"):
            connection.sendall(answer(200, completion()))
            return
        connection.sendall(STREAM_HEAD)
        for number in range(count):
            connection.sendall(chunk(event(f" {number}")))
            sleep(pause)
        connection.sendall(chunk(b"data: [DONE]\n\n") + STREAM_END)

    return script


@pytest.fixture
def engine():
    with ScriptedEngine(paced(20)) as started:
        yield started


def files(engine):
    return {"demo.yaml": config.simple("demo", [engine.port])}


class TestRefusals:
    """Nothing starts half: one line says what is wrong, one how to mend it."""

    @staticmethod
    def complaint(status, output, errors):
        assert status == 1, (output, errors)
        assert "Traceback" not in errors
        found = re.fullmatch(r"error: ([^\n]+(?:\n +[^\n]+)*)\n\nhint: ([^\n]+)\n", errors)
        assert found, errors
        return found[1], found[2]

    def test_port_in_use_names_its_owner(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            for which, other in (("port", "admin-port"), ("admin-port", "port")):
                started = monotonic()
                found = run("gateway", f"--{which}", port, f"--{other}", "0", "--run-directory", tmp_path / which)
                message, hint = self.complaint(*found)
                assert (
                    f"port {port} is in use by `{Path('/proc/self/comm').read_text().strip()}` (pid {os.getpid()})"
                    in message
                )
                assert f"--{which}" in hint
                assert monotonic() - started < 5
                # found in acceptance: 74 MB of shared memory were left
                assert not (tmp_path / which / "shared-memory").exists()
                assert not (tmp_path / which / "gateway.json").exists()

    def test_port_of_another_gateway(self, engine, tmp_path):
        (tmp_path / "one").mkdir()
        with Gateway(tmp_path / "one", files(engine)) as gateway:
            port = gateway.port
            message, _ = self.complaint(
                *run("gateway", "--port", port, "--admin-port", "0", "--run-directory", tmp_path / "two")
            )
            assert f"(pid {gateway.process.pid})" in message or re.search(r"\(pid \d+\)", message)
            assert [gateway.ask().status for _ in range(20)] == [200] * 20

    def test_beyond_loopback_without_identity(self, tmp_path):
        """Both ports at once; every kind of address is in the unit tests of the settings."""
        words = ("--host", "0.0.0.0", "--admin-host", "::", "--port", "0", "--run-directory", tmp_path)
        message, hint = self.complaint(*run("gateway", *words))
        assert "--insecure-no-auth" in message + hint
        assert "`host` is 0.0.0.0, beyond loopback" in message
        assert "`admin_host` is ::, beyond loopback" in message

    def test_second_gateway_in_a_run_directory(self, engine, tmp_path):
        with Gateway(tmp_path, files(engine)) as gateway:
            before = gateway.state()
            found = run("gateway", "--port", "0", "--admin-port", "0", "--run-directory", gateway.run_directory)
            message, _ = self.complaint(*found)
            assert "another gateway runs in" in message
            assert "--run-directory" in "".join(found[2])
            assert gateway.ask().status == 200
            assert json.loads((gateway.run_directory / "gateway.json").read_text())["process"] == gateway.process.pid
            assert gateway.state()["process"] == before["process"]

    def test_second_controllers_in_a_run_directory(self, engine, tmp_path):
        with Gateway(tmp_path, files(engine)) as gateway:
            message, hint = self.complaint(
                *run("controllers", "-f", gateway.folder, "--run-directory", gateway.run_directory)
            )
            assert "other controllers publish" in message
            assert hint
            assert gateway.ask().status == 200

    def test_all_faults_of_settings_at_once(self, tmp_path):
        file = tmp_path / "settings.yaml"
        file.write_text("wokers: 3\nport: many\nstreams:\n  backlog_bytes: -1\n")
        message, _ = self.complaint(
            *run("gateway", "--config", file, "--workers", "0", "--admin-port", "70000", "--header-seconds", "0.5", "--host", "0.0.0.0",
                 "--run-directory", tmp_path)
        )  # fmt: skip
        for part in (
            "unknown setting `wokers`: did you mean `workers`?", "`port` must be a whole number", "`workers` must be 1 to 63",
            "`admin_port` must be 0 to 65535", "`header_seconds` must be", "`streams.backlog_bytes` must not be negative",
            "`host` is 0.0.0.0",
        ):  # fmt: skip
            assert part in message, message

    def test_environment_and_flags(self, tmp_path):
        environment = os.environ | {"PENSTOCK_WORKERS": "none", "PENSTOCK_REQUESTS_BODY_BYTES": "x"}
        message, _ = self.complaint(*run("gateway", "--run-directory", tmp_path, env=environment))
        assert "environment PENSTOCK_WORKERS" in message
        assert "environment PENSTOCK_REQUESTS_BODY_BYTES" in message

    @pytest.mark.parametrize("path", ["x" * 120, "file", "/proc/penstock"])
    def test_run_directory_that_cannot_be_used(self, tmp_path, path):
        (tmp_path / "file").write_text("")
        message, hint = self.complaint(*run("gateway", "--port", "0", "--run-directory", tmp_path / path))
        assert "run" in message
        assert "--run-directory" in hint

    def test_folder_that_is_not_there(self, tmp_path):
        status, _, errors = run("run", "-f", tmp_path / "none", "--run-directory", tmp_path)
        assert status == 2
        assert errors.startswith("error: ")
        assert "Traceback" not in errors

    def test_get_and_explain_without_a_gateway(self, tmp_path):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            server = f"127.0.0.1:{unused.getsockname()[1]}"
            for words in (("get", "endpoints"), ("explain", "demo", "hi")):
                message, hint = self.complaint(*run(*words, "--server", server))
                assert "no gateway answers" in message
                assert "penstock demo" in hint


class TestDemo:
    @pytest.fixture
    def temporary(self, tmp_path):
        """Where the demo makes its directory."""
        (tmp_path / "t").mkdir()
        return tmp_path / "t"

    @pytest.fixture
    def demo(self, temporary):
        """A running demo: its process, the text it printed, and how long it took."""
        started = monotonic()
        process = program(
            "demo", "--port", "0", "--admin-port", "0", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, env=os.environ | {"TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        lines = []
        try:
            while not lines or "Ctrl-C" not in lines[-1]:
                line = process.stdout.readline()
                assert line, "the demo ended: " + "".join(lines)
                lines.append(line)
            yield process, "".join(lines), monotonic() - started
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=10)
            process.stdout.close()

    def test_starts_in_three_seconds_and_what_it_says_works(self, demo):
        process, text, took = demo
        assert took < 3 * (1 + os.getloadavg()[0] / (os.cpu_count() or 1)), f"{took:.1f} s"
        assert float(re.search(r"ready in ([\d.]+) s", text)[1]) <= took
        (command,) = re.findall(r"^  (curl .*)$", text, re.MULTILINE)
        found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=20, check=True)
        assert found.stdout.endswith("data: [DONE]\n\n")
        assert found.stdout.count("data: {") == 48
        line = next(line for line in process.stdout if line.strip())
        assert re.search(r"demo-8b +-> engine-\d +200", line), line
        for words in re.findall(r"^  penstock (.*)$", text, re.MULTILINE):
            status, output, errors = run(*[word.strip('"') for word in words.split()])
            assert (status, errors) == (0, "")
            assert "engine-1" in output
        folder = Path(re.search(r"Config +(\S+)", text)[1])
        assert sorted(path.name for path in folder.iterdir()) == ["model-route.yaml", "model-server.yaml"]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_end_leaves_nothing_behind(self, demo, temporary, number):
        process, _, _ = demo
        children = children_of(process.pid)
        assert len(children) >= 4, "two workers, controllers and simulator"
        assert list(temporary.iterdir())
        process.send_signal(number)
        assert process.wait(timeout=10) in (0, 130)
        wait_until(lambda: not [one for one in children if is_alive(one)], 3)
        assert list(temporary.iterdir()) == []

    def test_kill_leaves_no_process_behind(self, demo):
        process, _, _ = demo
        children = children_of(process.pid)
        process.kill()
        process.wait()
        wait_until(lambda: not [one for one in children if is_alive(one)], 3, message=lambda: str(children))


def _workers_of(process):
    """Process ids of a gateway's workers, also of those that have not said so yet."""
    found = []
    for one in children_of(process):
        try:
            if b"gateway.supervisor.worker" in Path(f"/proc/{one}/cmdline").read_bytes():
                found.append(one)
        except OSError:
            continue
    return found


@pytest.mark.thorough
class TestRun:
    def test_end_leaves_nothing_but_the_snapshot(self, engine, tmp_path):
        gateway = Gateway(tmp_path, files(engine))
        gateway.start()
        children = children_of(gateway.process.pid)
        assert len(children) >= 3
        assert gateway.ask().status == 200
        assert gateway.stop() == 0
        assert not [one for one in children if is_alive(one)]
        left = {path.name for path in gateway.run_directory.iterdir()}
        assert "last-snapshot" in left
        assert not left & {"gateway.json", "shared-memory"}
        assert "Traceback" not in gateway.stderr
        assert (gateway.run_directory.stat().st_mode & 0o777) == 0o700

    def test_killed_and_started_again_in_the_same_directory(self, engine, tmp_path):
        gateway = Gateway(tmp_path, files(engine))
        for _ in range(2):
            gateway.start()
            assert gateway.ask().status == 200
            children = children_of(gateway.process.pid)
            gateway.kill()
            wait_until(lambda children=children: not [one for one in children if is_alive(one)], 3)
        with gateway:
            assert gateway.ask().status == 200
            left = {path.name for path in gateway.run_directory.iterdir()}
            assert not [name for name in left if name.endswith((".new", ".draft"))]

    def hang(self, gateway, stuck, seconds):
        """Stop a worker's process, and wait for another in its place."""
        os.kill(stuck, signal.SIGSTOP)
        try:
            wait_until(lambda: not is_alive(stuck), seconds, message=lambda: str(gateway.state()["workers"]))
        finally:
            if is_alive(stuck):
                os.kill(stuck, signal.SIGKILL)
        wait_until(gateway.is_settled, message=lambda: str(gateway.state()))
        assert [gateway.ask().status for _ in range(20)] == [200] * 20

    def test_worker_that_hangs_is_replaced(self, engine, tmp_path):
        with Gateway(tmp_path, files(engine)) as gateway:
            wait_until(lambda: all(one["resident_bytes"] for one in gateway.state()["workers"]))
            stuck, other = gateway.worker_processes()
            self.hang(gateway, stuck, 10)
            assert gateway.worker_processes()[1] == other

    def test_worker_that_hangs_before_its_first_beat_is_replaced(self, engine, tmp_path):
        gateway = Gateway(tmp_path, files(engine))
        gateway.start(wait=False)
        try:
            stuck = wait_until(lambda: _workers_of(gateway.process.pid), pause=0.002)[0]
            os.kill(stuck, signal.SIGSTOP)
            # bug B8: such a worker was never missed
            wait_until(lambda: not is_alive(stuck), 30, message=lambda: gateway.stderr)
            gateway.wait_ready()
            assert [gateway.ask().status for _ in range(20)] == [200] * 20
        finally:
            if is_alive(stuck):
                os.kill(stuck, signal.SIGKILL)
            gateway.stop()

    def test_worker_that_starts_slowly_is_left_to_it(self, engine, tmp_path):
        with Gateway(tmp_path, files(engine)) as gateway:
            before = set(_workers_of(gateway.process.pid))
            os.kill(gateway.worker_processes()[0], signal.SIGKILL)
            (slow,) = wait_until(lambda: set(_workers_of(gateway.process.pid)) - before, pause=0.002)
            os.kill(slow, signal.SIGSTOP)
            try:
                # bug B10: it was killed for the silence of the one before it
                sleep(6.5)
            finally:
                os.kill(slow, signal.SIGCONT)
            wait_until(gateway.is_settled, 15, message=lambda: str(gateway.state()))
            assert gateway.worker_processes()[0] == slow

    def test_worker_that_keeps_dying_does_not_take_the_others_along(self, engine, tmp_path):
        with Gateway(tmp_path, files(engine)) as gateway, gateway.connect_to(1) as connection:
            for _ in range(6):
                process = wait_until(lambda: gateway.state()["workers"][0]["process"], 10)
                os.kill(process, signal.SIGKILL)
                wait_until(lambda process=process: gateway.state()["workers"][0]["process"] != process)
                assert connection.ask(chat()).status == 200
            wait_until(gateway.is_settled, 10)
            assert gateway.state()["workers"][0]["restarts"] == 6

    def test_stdout_that_nobody_reads_holds_up_nothing(self, engine, tmp_path):
        gateway = Gateway(tmp_path, files(engine), workers=1)
        reading, writing = os.pipe()
        try:
            with gateway.stderr_file.open("ab") as errors:
                gateway.process = gateway.launch(stdin=subprocess.DEVNULL, stdout=writing, stderr=errors)
            os.close(writing)
            gateway.wait_ready()
            with Connection(gateway.port) as connection:
                assert all(connection.ask(chat()).status == 200 for _ in range(400))
        finally:
            os.close(reading)
            gateway.stop()

    def test_stdout_that_is_closed_holds_up_nothing(self, engine, tmp_path):
        gateway = Gateway(tmp_path, files(engine), workers=1)
        reading, writing = os.pipe()
        with gateway.stderr_file.open("ab") as errors:
            gateway.process = gateway.launch(stdin=subprocess.DEVNULL, stdout=writing, stderr=errors)
        os.close(writing)
        os.close(reading)
        try:
            gateway.wait_ready()
            assert [gateway.ask().status for _ in range(20)] == [200] * 20
        finally:
            assert gateway.stop() == 0

    def test_more_endpoints_than_slots(self, engine, tmp_path):
        # found in acceptance: 65 tracebacks in 8 s, and never ready
        many = {f"engine-{number}": 20_000 + number for number in range(100)}  # nobody is asked
        with Gateway(tmp_path, {}, shared_memory_slots=64) as gateway:
            gateway.put("demo.yaml", config.simple("demo", [engine.port]))
            draft = gateway.folder / "many.yaml"
            draft.write_text(config.simple("many", many))
            wait_until(lambda: "cannot be served" in gateway.stderr, message=lambda: gateway.stderr)
            sleep(5)
            lines = [line for line in gateway.stderr.splitlines() if "cannot be served" in line]
            assert len(lines) == 3, "once for each worker and the supervisor"
            assert all("raise `shared_memory.slots`" in line for line in lines)
            assert "Traceback" not in gateway.stderr
            assert gateway.get("/readyz").status == 200
            assert gateway.ask().status == 200, "what stood before stands"
            draft.write_text(config.simple("many", [engine.port]))
            wait_until(lambda: gateway.ask(chat(model="many")).status == 200, 5)

    def test_more_endpoints_on_disk_than_slots(self, engine, tmp_path):
        # found in acceptance: a traceback after 20 s of silence
        many = {f"engine-{number}": 20_000 + number for number in range(100)}  # nobody is asked
        with Gateway(tmp_path, {"demo.yaml": config.simple("demo", many)}) as gateway:
            wait_until((gateway.run_directory / "last-snapshot").exists)
        with Gateway(tmp_path, command="gateway", shared_memory_slots=64) as gateway:
            assert "raise `shared_memory.slots`" in gateway.stderr
            assert "Traceback" not in gateway.stderr
            reply = gateway.get("/readyz")
            assert reply.status == 503
            assert b"raise `shared_memory.slots`" in reply.body
            assert gateway.ask().status == 503

    def test_folder_that_is_empty(self, engine, tmp_path):
        with Gateway(tmp_path, {}) as gateway:
            wait_until(lambda: gateway.state()["snapshot"]["epoch"] and gateway.is_settled())
            assert gateway.get("/v1/models").json == {"object": "list", "data": []}
            assert gateway.ask().status == 404
            gateway.put("demo.yaml", config.simple("demo", [engine.port]))
            assert gateway.ask().status == 200


class TestHealth:
    @pytest.fixture(scope="class")
    @staticmethod
    def engines():
        with Engines(2, speed=10) as started:
            yield started

    @pytest.fixture(scope="class")
    @staticmethod
    def gateway(engines, tmp_path_factory):
        text = config.simple("demo", engines.ports)
        with Gateway(tmp_path_factory.mktemp("gw"), {"demo.yaml": text}) as started:
            yield started

    def test_probes(self, gateway):
        for port in (gateway.port, gateway.admin_port):
            assert (get(port, "/healthz").status, get(port, "/healthz").body) == (200, b"ok\n")
            assert (get(port, "/readyz").status, get(port, "/readyz").body) == (200, b"ready\n")
        with Connection(gateway.port) as connection:
            connection.send(request_bytes(b"", "/healthz", {"content-length": None}, "HEAD"))
            assert connection.read_head().status == 200

    def test_not_ready_without_a_snapshot(self, tmp_path):
        with Gateway(tmp_path, command="gateway", workers=1) as gateway:
            for port in (gateway.port, gateway.admin_port):
                reply = get(port, "/readyz")
                assert reply.status == 503
                assert b"no snapshot yet" in reply.body
                assert get(port, "/healthz").status == 200
            reply = gateway.ask()
            assert (reply.status, reply.error["code"]) == (503, "no_ready_endpoints")

    def test_not_ready_while_it_drains(self, tmp_path):
        with (
            ScriptedEngine(paced(30)) as engine,
            Gateway(tmp_path, files(engine), drain_seconds=5, drain_delay_seconds=1) as gateway,
        ):
            gateway.process.send_signal(signal.SIGTERM)
            # a balancer must learn of it while new requests are still taken
            wait_until(lambda: get(gateway.port, "/readyz").status == 503, 0.9)

    def test_page_and_documents(self, gateway):
        page = gateway.admin("/").decode()
        assert "<html" in page
        assert gateway.admin("/page.js")
        state = gateway.state()
        assert state["version"] == 1
        assert state["process"] == gateway.process.pid
        snapshot = json.loads(gateway.admin("/debug/snapshot"))
        assert [one["name"] for one in snapshot["routes"]] == ["default/demo"]
        assert len(snapshot["endpoints"]) == 2
        assert json.loads(gateway.admin("/debug/limits")) == {"limits": [], "left_out": 0, "more": False, "fault": ""}

    def test_documents_are_not_on_the_inference_port(self, gateway):
        for path in ("/metrics", "/debug/state", "/debug/snapshot", "/debug/limits", "/debug/explain"):
            assert get(gateway.port, path).status == 404

    @staticmethod
    def metrics(gateway):
        """Every sample by name and labels."""
        found = {}
        families = list(text_string_to_metric_families(gateway.admin("/metrics").decode()))
        for family in families:
            assert family.documentation, family.name
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                assert key not in found, f"{key} stands twice"
                found[key] = sample.value
        return found

    @staticmethod
    def total(metrics, name, **labels):
        return sum(
            value for (one, pairs), value in metrics.items() if one == name and labels.items() <= dict(pairs).items()
        )

    def test_counters_add_up(self, gateway):
        before = self.metrics(gateway)
        with gateway.connect_to(0) as first, gateway.connect_to(1) as second:
            for number in range(20):
                connection = (first, second)[number % 2]
                assert connection.ask(chat(f"n {number}", max_tokens=5)).status == 200
                assert connection.ask(chat(f"s {number}", max_tokens=5, stream=True)).is_whole
                assert connection.ask(chat(model="other")).status == 404
                assert connection.ask(b"{").status == 400
        assert ask(gateway.port, {"model": "demo", "input": ["x"]}, "/v1/embeddings").status == 200

        def counted():
            now = self.metrics(gateway)
            return (
                self.total(now, "penstock_requests_total") - self.total(before, "penstock_requests_total") >= 81 and now
            )

        after = wait_until(counted)

        def grown(name, **labels):
            return self.total(after, name, **labels) - self.total(before, name, **labels)

        assert grown("penstock_requests_total", model="demo", code="200", operation="chat", route="default/demo") == 40
        assert grown("penstock_requests_total", model="demo", code="200", operation="embeddings") == 1
        assert grown("penstock_requests_total", model="_unknown", code="404", error_type="model_not_found") == 20
        assert grown("penstock_requests_total", code="400", error_type="invalid_json") == 20
        assert grown("penstock_requests_total") == 81
        assert grown("penstock_request_duration_seconds_count") == 81
        assert grown("penstock_request_duration_seconds_bucket", le="+Inf") == 81
        assert grown("penstock_time_to_first_token_seconds_count") == 41
        assert grown("penstock_time_per_output_token_seconds_count") == 20
        assert grown("penstock_overhead_seconds_count", operation="chat") == 40
        # streams too, although their clients did not ask for a count
        assert grown("penstock_tokens_total", type="output") == 40 * 5
        assert grown("penstock_client_cancelled_total") == 0
        assert grown("penstock_metrics_series_dropped_total") == 0
        wait_until(lambda: self.total(self.metrics(gateway), "penstock_requests_in_flight") == 0)

    def test_histograms_rise(self, gateway):
        gateway.ask()
        buckets = {}
        for (name, labels), value in self.metrics(gateway).items():
            if name.endswith("_bucket"):
                labels = dict(labels)
                edge = float(labels.pop("le"))
                buckets.setdefault((name, tuple(labels.items())), []).append((edge, value))
        assert buckets
        for series in buckets.values():
            values = [value for _, value in sorted(series)]
            assert values == sorted(values)

    def test_gauges_show_the_engines(self, gateway):
        wait_until(
            lambda: (
                self.total(self.metrics(gateway), "penstock_endpoint_scrape_age_seconds", pod="default/engine-1") < 3
            )
        )
        found = self.metrics(gateway)
        assert self.total(found, "penstock_config_generation") == gateway.state()["snapshot"]["sequence"]
        assert {dict(labels)["worker"] for (name, labels) in found if name == "penstock_worker_rss_bytes"} == {"0", "1"}
        assert all(value > 10 << 20 for (name, _), value in found.items() if name == "penstock_worker_rss_bytes")

    def test_counters_survive_a_worker(self, engines, tmp_path):
        with Gateway(tmp_path, {"demo.yaml": config.simple("demo", engines.ports)}) as gateway:
            with gateway.connect_to(0) as connection:
                assert all(connection.ask(chat(max_tokens=1)).status == 200 for _ in range(10))
            wait_until(lambda: gateway.served_by_worker()[0] == 10)
            process = gateway.worker_processes()[0]
            os.kill(process, signal.SIGKILL)
            wait_until(lambda: gateway.worker_processes()[0] not in (0, process), 10)
            wait_until(gateway.is_settled)
            assert self.total(self.metrics(gateway), "penstock_requests_total", code="200") == 10
            with gateway.connect_to(0) as connection:
                assert connection.ask(chat(max_tokens=1)).status == 200
            wait_until(lambda: self.total(self.metrics(gateway), "penstock_requests_total", code="200") == 11)

    def test_log_line_of_every_request(self, gateway):
        ids = [gateway.ask(chat(max_tokens=3, stream=bool(number % 2))).header("x-request-id") for number in range(10)]
        for number, request_id in enumerate(ids):
            line = gateway.log_line(request_id)
            assert line["path"] == CHAT
            assert line["model_route"] == line["model_server"] == "default/demo"
            assert line["selected_pod"] in ("default/engine-1", "default/engine-2")
            assert line["stream"] is bool(number % 2)
            assert line["output_tokens"] == 3
            assert 0 <= line["overhead_ms"] <= line["ttft_ms"] <= line["duration_ms"]
            assert "hello" not in json.dumps(line)
