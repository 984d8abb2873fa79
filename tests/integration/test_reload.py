"""A folder of YAML: what is written there is served within a second, and what is broken there breaks nothing."""

import json
import os
import shutil
from collections import Counter
from time import monotonic, sleep

import pytest

from tests.support import config
from tests.support.client import CHAT, Connection, chat, request_bytes
from tests.support.engines import STREAM_END, STREAM_HEAD, ScriptedEngine, answer, chunk, completion, event
from tests.support.gateway import Gateway, run
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def engines():
    """Four engines that answer anything."""

    def script(connection, _):
        connection.sendall(answer(200, completion()))

    with (
        ScriptedEngine(script) as a,
        ScriptedEngine(script) as b,
        ScriptedEngine(script) as c,
        ScriptedEngine(script) as d,
    ):
        yield a, b, c, d


def base_files(engines):
    """Servers ``a``, ``b``, ``c`` and ``d``, each with one engine that bears its name, and a route to the first."""
    named = zip("abcd", engines, strict=True)
    servers = "".join(config.server(name, {name: engine.port}) for name, engine in named)
    return {"servers.yaml": servers, "a.yaml": config.route("a")}


@pytest.fixture(scope="module")
def shared(engines, tmp_path_factory):
    with Gateway(tmp_path_factory.mktemp("gw"), base_files(engines)) as started:
        yield started


@pytest.fixture
def gateway(engines, shared):
    """The gateway, whose folder and snapshot are those of the beginning again after the test."""
    shared.forget_stderr()
    before = shared.worker_processes()
    yield shared
    for path in shared.folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name, text in base_files(engines).items():
        (shared.folder / name).write_text(text)

    def is_as_before():
        state = shared.state()
        found = [
            [one["name"] for one in state["routes"]], sorted(one["name"] for one in state["servers"]),
            [one["targets"] for one in state["routes"]],
        ]  # fmt: skip
        return shared.is_settled() and found == [["default/a"], [f"default/{one}" for one in "abcd"], [["default/a"]]]

    wait_until(is_as_before, message=lambda: str(shared.state()))
    assert shared.worker_processes() == before


def serves(gateway, model):
    return gateway.ask(chat(model=model)).status == 200


class TestFiles:
    def test_new_route_is_served_within_a_second(self, gateway):
        took = []
        for name in "bcd":
            started = monotonic()
            (gateway.folder / f"{name}.yaml").write_text(config.route(name))
            wait_until(lambda name=name: serves(gateway, name), pause=0.005)
            took.append(monotonic() - started)
        assert min(took) < 0.7, took
        assert max(took) < 1.0 + 0.5, took  # half a second for a machine that is busy with other things
        names = [one["id"] for one in gateway.get("/v1/models").json["data"]]
        assert names == ["a", "b", "c", "d"]

    def test_changed_route_is_served_by_both_workers(self, gateway):
        assert gateway.ask(chat(model="a")).endpoint == "a"
        gateway.put("a.yaml", config.route("a", rules=[config.rule("b")]))
        for worker in (0, 1):
            with gateway.connect_to(worker) as connection:
                assert connection.ask(chat(model="a")).endpoint == "b"

    def test_deleted_file_removes_its_route(self, gateway):
        gateway.put("b.yaml", config.route("b"))
        assert serves(gateway, "b")
        before = gateway.state()["snapshot"]
        (gateway.folder / "b.yaml").unlink()
        gateway.wait_newer(before)
        reply = gateway.ask(chat(model="b"))
        assert (reply.status, reply.error["code"]) == (404, "model_not_found")
        assert serves(gateway, "a")

    def test_broken_file_keeps_what_stood_and_says_where(self, gateway):
        broken = config.route("a", rules=[config.rule("b")]).replace("targetModels", "targetModel")
        (gateway.folder / "a.yaml").write_text(broken)
        line = next(number for number, text in enumerate(broken.splitlines(), 1) if "targetModel:" in text)
        wanted = f"{gateway.folder}/a.yaml:{line}: spec.rules[0]"
        wait_until(lambda: wanted in gateway.stderr, 5, message=lambda: f"{wanted!r} in {gateway.stderr}")
        assert "its 1 objects stay as they last were" in gateway.stderr
        assert gateway.ask(chat(model="a")).endpoint == "a"
        # mended, it applies
        gateway.put("a.yaml", config.route("a", rules=[config.rule("b")]))
        assert gateway.ask(chat(model="a")).endpoint == "b"
        assert f"{gateway.folder}/a.yaml: mended and applied" in gateway.stderr

    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("a: [1,\n", ":2: not valid YAML"),
            ("a: b: c\n", ":1: not valid YAML"),
            ("apiVersion: v9\nkind: ModelRoute\n", ":1: apiVersion: must be serving.penstock.dev/v1alpha1"),
            ("apiVersion: serving.penstock.dev/v1alpha1\nkind: ModelRute\n", ":2: kind: unknown kind `ModelRute`"),
            (config.route("x", rules=[config.rule(("a", 101))]), "spec.rules[0].targetModels[0].weight: must be 0 to 100"),
            (config.route("x", rules=[config.rule("a", match={"uri": {"regex": "("}})]), "spec.rules[0].modelMatch.uri.regex: "),
            (config.server("x", {"e": 70000}), "spec.endpoints[0].port: must be 1 to 65535"),
            (config.server("x", {"e": 1}, traffic={"timeout": "soon"}), "spec.trafficPolicy.timeout: `soon` must be a duration"),
            ("!!python/object/apply:os.system ['true']\n", ":1:"),
            ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", ":1: kind: must be one of"),
        ],
    )  # fmt: skip
    def test_faults_name_file_line_and_field(self, gateway, text, wanted):
        (gateway.folder / "new.yaml").write_text(text)
        wait_until(lambda: wanted in gateway.stderr, 5, message=lambda: f"{wanted!r} in {gateway.stderr}")
        assert f"{gateway.folder}/new.yaml:" in gateway.stderr
        assert serves(gateway, "a")
        assert "Traceback" not in gateway.stderr

    def test_not_text_not_readable_and_too_large(self, gateway):
        (gateway.folder / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
        draft = gateway.folder / ".large"
        draft.write_bytes(b"#" * (9 << 20))
        draft.rename(gateway.folder / "large.yaml")
        (gateway.folder / "directory.yaml").mkdir()
        (gateway.folder / "dangling.yaml").symlink_to("nowhere")
        (gateway.folder / "loop").symlink_to(gateway.folder)
        wait_until(lambda: "large.yaml:1: larger than" in gateway.stderr, 5)
        wait_until(lambda: "bytes.yaml:1: " in gateway.stderr, 5)
        gateway.put("b.yaml", config.route("b"))
        assert serves(gateway, "b")
        assert "Traceback" not in gateway.stderr

    @pytest.mark.parametrize("extra", ["\n---\n", "\n---\n# nothing but a comment\n", "\n...\n", "\n---\n---\n"])
    def test_empty_documents_are_skipped(self, gateway, extra):
        # bug B1: an empty document was a fault
        gateway.put("b.yaml", config.route("b") + extra)
        assert serves(gateway, "b")

    def test_several_documents_and_subfolders(self, gateway):
        (gateway.folder / "team").mkdir()
        gateway.put("more.yaml", config.route("b") + config.route("c"))
        before = gateway.state()["snapshot"]
        (gateway.folder / "team" / "d.yml").write_text(config.route("d"))
        gateway.wait_newer(before)
        assert [serves(gateway, name) for name in "bcd"] == [True] * 3

    def test_same_object_twice(self, gateway):
        (gateway.folder / "z.yaml").write_text(config.route("a", rules=[config.rule("b")]))
        wait_until(lambda: "stands in" in gateway.stderr, 5)
        assert gateway.ask(chat(model="a")).endpoint == "a"
        # the second one takes over when the first is gone
        before = gateway.state()["snapshot"]
        (gateway.folder / "a.yaml").unlink()
        gateway.wait_newer(before)
        assert gateway.ask(chat(model="a")).endpoint == "b"

    def test_broken_file_keeps_what_stood_over_a_restart_of_the_controllers(self, gateway):
        # found in acceptance: after a restart of the controllers only the unbroken files were served
        gateway.put("b.yaml", config.route("b"))
        (gateway.folder / "b.yaml").write_text("kind: [")
        wait_until(lambda: "not valid YAML" in gateway.stderr, 5)
        before = gateway.state()["snapshot"]
        gateway.forget_stderr()
        gateway.kill_controllers()
        gateway.wait_newer(before)
        assert [serves(gateway, name) for name in "ab"] == [True, True]
        assert f"{gateway.folder}/b.yaml: not applied: its 1 objects stay as they last were" in gateway.stderr

    def test_folder_that_vanishes_for_a_moment_takes_nothing_along(self, gateway):
        # found in acceptance: `mv cfg cfg2` wiped every route without a word
        elsewhere = gateway.folder.with_name("elsewhere")
        gateway.folder.rename(elsewhere)
        try:
            wait_until(lambda: f"{gateway.folder}: cannot be read" in gateway.stderr, 5)
            sleep(1)
            assert serves(gateway, "a")
            assert len(gateway.state()["routes"]) == 1
        finally:
            elsewhere.rename(gateway.folder)
        wait_until(lambda: f"{gateway.folder}: can be read again" in gateway.stderr, 5)
        assert gateway.stderr.count("cannot be read") == 1
        gateway.put("b.yaml", config.route("b"))
        assert serves(gateway, "b")

    def test_conditions_and_problems_are_shown(self, gateway):
        # found in acceptance: conditions were written and never read
        text = config.route("x", rules=[config.rule("missing")], parentRefs=[{"name": "g"}])
        gateway.put("x.yaml", text)
        (gateway.folder / "y.yaml").write_text("kind: [")
        wait_until(lambda: gateway.state()["problems"], 5)
        line = next(number for number, one in enumerate(text.splitlines(), 1) if "parentRefs" in one)
        assert f"{gateway.folder}/x.yaml:{line}: spec.parentRefs: is not done yet" in gateway.stderr
        (found,) = [one for one in gateway.state()["objects"] if one["name"] == "default/x"]
        assert {one["type"]: one["reason"] for one in found["conditions"]} == {
            "Accepted": "Valid", "ResolvedRefs": "ModelServerNotFound", "Honoured": "NotBuiltYet",
        }  # fmt: skip
        status, output, errors = run("get", "routes", "--server", f"127.0.0.1:{gateway.admin_port}")
        assert status == 0
        rows = {words[0]: words[1:3] for words in map(str.split, output.splitlines())}
        assert rows["default/a"] == ["True", "-"]
        assert rows["default/x"] == ["False", "ModelServerNotFound"]
        assert errors.startswith(f"{gateway.folder}/y.yaml:")
        (gateway.folder / "y.yaml").unlink()
        wait_until(lambda: not gateway.state()["problems"], 5)

    def test_folder_that_is_swapped_like_a_configmap(self, engines, tmp_path):
        """Kubernetes mounts `..data` as a link to a folder that it swaps, and links the files through it."""
        mount = tmp_path / "config"
        for version, name in (("..1", "a"), ("..2", "b")):
            (mount / version).mkdir(parents=True)
            text = config.server("s", {name: engines[0].port}) + config.route("demo", rules=[config.rule("s")])
            (mount / version / "demo.yaml").write_text(text)
        (mount / "..data").symlink_to("..1")
        (mount / "demo.yaml").symlink_to("..data/demo.yaml")
        gateway = Gateway(tmp_path)
        gateway._expected = True
        with gateway:
            assert gateway.ask().endpoint == "a"
            before = gateway.state()["snapshot"]
            (mount / "..next").symlink_to("..2")
            os.replace(mount / "..next", mount / "..data")  # noqa: PTH105
            gateway.wait_newer(before)
            assert gateway.ask().endpoint == "b"
            assert "stands in" not in gateway.stderr

    def test_file_written_piece_by_piece(self, gateway):
        text = config.route("b", rules=[config.rule("b")])
        with (gateway.folder / "b.yaml").open("w") as handle:
            for character in text:
                handle.write(character)
                handle.flush()
                sleep(1.5 / len(text))
        wait_until(lambda: serves(gateway, "b"), 3)

    def test_hundred_changes_in_a_row(self, gateway):
        for number in range(100):
            (gateway.folder / "b.yaml").write_text(config.route(f"b-{number}", rules=[config.rule("b")]))
            sleep(0.01)
        wait_until(lambda: serves(gateway, "b-99"), 3)
        assert not serves(gateway, "b-98")

    def test_no_request_fails_while_files_change(self, gateway):
        statuses = Counter()
        with gateway.connect_to(0) as first, gateway.connect_to(1) as second:
            for number in range(200):
                if number % 10 == 0:
                    target = "ab"[number // 10 % 2]
                    (gateway.folder / "a.yaml").write_text(config.route("a", rules=[config.rule(target)]))
                statuses[(first, second)[number % 2].ask(chat(model="a")).status] += 1
                sleep(0.005)
        assert statuses == {200: 200}

    def test_stream_outlives_its_route_and_its_endpoint(self, engines, tmp_path):
        def script(connection, _):
            connection.sendall(STREAM_HEAD)
            for _ in range(20):
                connection.sendall(chunk(event("still here")))
                sleep(0.1)
            connection.sendall(chunk(b"data: [DONE]\n\n") + STREAM_END)

        with ScriptedEngine(script) as engine:
            files = {
                "demo.yaml": config.simple("demo", [engine.port]),
                "other.yaml": config.server("a", {"a": engines[0].port}),
            }
            with Gateway(tmp_path, files) as gateway, Connection(gateway.port) as connection:
                connection.send(request_bytes(chat(stream=True)))
                reply = connection.read_head()
                before = gateway.state()["snapshot"]
                (gateway.folder / "demo.yaml").unlink()
                gateway.wait_newer(before)
                assert gateway.ask().status == 404
                for _ in connection.pieces(reply):
                    pass
                assert reply.is_whole
                assert len(reply.events) == 21
                wait_until(gateway.is_idle, message=lambda: str(gateway.state()))

    def test_server_that_does_not_exist(self, gateway):
        gateway.put("x.yaml", config.route("x", rules=[config.rule("missing")]))
        reply = gateway.ask(chat(model="x"))
        assert (reply.status, reply.error["code"]) == (503, "no_ready_endpoints")
        assert "`default/missing`" in reply.error["message"]
        assert next(one for one in gateway.state()["routes"] if one["name"] == "default/x")["missing_servers"] == [
            "default/missing"
        ]

    def test_more_endpoints_than_slots(self, engines, tmp_path):
        """A snapshot that does not fit is told of, and what stood before is served on."""
        text = config.simple("a", {"a": engines[0].port})
        with Gateway(tmp_path, {"a.yaml": text}, shared_memory_slots=64) as gateway:
            many = {f"e-{number}": 20_000 + number for number in range(200)}
            (gateway.folder / "many.yaml").write_text(config.simple("many", many))
            sleep(2)
            assert serves(gateway, "a")
            (gateway.folder / "many.yaml").unlink()
            sleep(1)
            (gateway.folder / "b.yaml").write_text(config.simple("b", {"b": engines[1].port}))
            wait_until(lambda: serves(gateway, "b"), 10, message=lambda: gateway.stderr)
            assert [one["restarts"] for one in gateway.state()["workers"]] == [0, 0]


class TestRouting:
    def put(self, gateway, *rules, **spec):
        gateway.put("a.yaml", config.route("a", rules=list(rules), **spec))

    def endpoint(self, gateway, path=CHAT, headers=None, model="a"):
        body = {"model": model, "messages": [], "prompt": "x"}
        reply = gateway.ask(body, path, headers=headers)
        return reply.endpoint if reply.status == 200 else reply.status

    def test_by_header(self, gateway):
        self.put(
            gateway,
            config.rule("b", match={"headers": {"X-Tier": {"exact": "gold"}, "x-region": {"prefix": "eu-"}}}),
            config.rule("c", match={"headers": {"x-tier": {"regex": "^(silver|bronze)$"}}}),
            config.rule("d", match={"headers": {"x-none": {"exact": ""}, "x-probe": {"exact": "1"}}}),
            config.rule("a"),
        )
        for headers, wanted in (
            ({"x-tier": "gold", "x-region": "eu-1"}, "b"),
            ({"X-TIER": "gold", "X-Region": "eu-1"}, "b"),
            ({"x-tier": "gold", "x-region": "us-1"}, "a"),
            ({"x-tier": "gold"}, "a"),
            ({"x-tier": "Gold", "x-region": "eu-1"}, "a"),
            ({"x-tier": "silver"}, "c"),
            ({"x-tier": "bronze"}, "c"),
            ({"x-tier": "silver2"}, "a"),
            ({"x-probe": "1"}, "d"),
            ({}, "a"),
        ):
            assert self.endpoint(gateway, headers=headers) == wanted, headers

    def test_by_uri(self, gateway):
        self.put(
            gateway,
            config.rule("b", match={"uri": {"exact": "/v1/completions"}}),
            config.rule("c", match={"uri": {"regex": "chat/.*ions$"}}),
            config.rule("d", match={"uri": {"prefix": "/token"}}),
        )
        assert self.endpoint(gateway, "/v1/completions") == "b"
        assert self.endpoint(gateway) == "c"
        assert self.endpoint(gateway, "/tokenize") == "d"
        reply = gateway.ask({"model": "a", "input": "x"}, "/v1/embeddings")
        assert reply.status == 404
        assert "No rule of the routes for model `a`" in reply.error["message"]

    def test_by_model_in_the_body(self, gateway):
        self.put(
            gateway,
            config.rule("b", match={"body": {"model": "adapter-1"}}),
            config.rule("c"),
            loraAdapters=["adapter-1", "x"],
        )
        assert self.endpoint(gateway, model="adapter-1") == "b"
        assert self.endpoint(gateway, model="x") == "c"
        assert self.endpoint(gateway, model="a") == "c"

    def test_oldest_route_of_a_model_wins_and_leaves_the_rest_to_the_next(self, gateway):
        gateway.put("a.yaml", config.route("a", rules=[config.rule("a", match={"headers": {"x-old": {"exact": "1"}}})]))
        second = config.route("a2", rules=[config.rule("b")]).replace("modelName: a2", "modelName: a")
        gateway.put("0-later.yaml", second)
        assert self.endpoint(gateway, headers={"x-old": "1"}) == "a"
        assert self.endpoint(gateway) == "b"

    def test_model_name_comes_before_adapter(self, gateway):
        gateway.put("b.yaml", config.route("b", loraAdapters=["a", "sql"]))
        assert self.endpoint(gateway, model="a") == "a"
        assert self.endpoint(gateway, model="sql") == "b"

    def test_weights(self, gateway):
        self.put(gateway, config.rule(("b", 60), ("c", 30), ("d", 10), ("a", 0)))
        with gateway.connect_to(0) as first, gateway.connect_to(1) as second:
            found = Counter((first, second)[number % 2].ask(chat(model="a")).endpoint for number in range(1000))
        assert sum(found.values()) == 1000
        for name, share in (("b", 0.6), ("c", 0.3), ("d", 0.1)):
            # five standard deviations: wrong once in two million runs
            assert abs(found[name] - 1000 * share) < 5 * (1000 * share * (1 - share)) ** 0.5, found
        assert not found["a"]


class TestRewrite:
    """What the engine sees of a request."""

    def see(self, engine, gateway, body, path=CHAT):
        before = len(engine.received)
        reply = gateway.ask(body, path)
        assert reply.status == 200, reply
        (received,) = engine.received[before:]
        assert received.path == path
        return received.body

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (b'{"model":"a"', b"}"),
            (b'{"messages":[{"role":"user","content":"model \\"model\\":\\"a\\""}],"model":"a"', b"}"),
            (
                b' {\n\t"stream" : false , "model"\t:\r\n "a" ',
                b',"metadata":{"model":"a","x":[{"model":"a"}]},"n":1.50e0}\n \n',
            ),
            (b'{"mod\\u0065l":"\\u0061"', b',"user":"\\ud83d\\ude00 \xc3\xbc","tools":[]}'),
        ],
    )
    def test_model_alone_is_replaced(self, engines, gateway, before, after):
        new = 'org/other model \u00fc\u2028"\\'
        gateway.put(
            "servers.yaml",
            (gateway.folder / "servers.yaml").read_text() + config.server("r", {"r": engines[3].port}, model=new),
        )
        gateway.put("a.yaml", config.route("a", rules=[config.rule("r")]))
        messages = b"" if b"messages" in before else b',"messages":[]'
        seen = self.see(engines[3], gateway, before + messages + after)
        # all bytes but those of the model's value
        head = before[: before.rindex(b'"', 0, before.rindex(b'"'))]
        assert seen.startswith(head)
        tail = before[before.rindex(b'"') + 1 :] + messages + after
        assert seen.endswith(tail)
        assert json.loads(seen[len(head) : len(seen) - len(tail)]) == new

    def test_adapter_keeps_its_name(self, engines, gateway):
        gateway.put(
            "servers.yaml",
            (gateway.folder / "servers.yaml").read_text() + config.server("r", {"r": engines[3].port}, model="base"),
        )
        gateway.put("a.yaml", config.route("a", rules=[config.rule("r")], loraAdapters=["lora-1"]))
        assert json.loads(self.see(engines[3], gateway, chat(model="lora-1")))["model"] == "lora-1"
        assert json.loads(self.see(engines[3], gateway, chat(model="a")))["model"] == "base"

    def test_nothing_is_touched_without_it(self, engines, gateway):
        body = b'{"model" : "\\u0061", "messages": [ ] , "x":1.0e5}\n'
        assert self.see(engines[0], gateway, body) == body

    @pytest.mark.parametrize(
        "path", ["/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages", "/tokenize", "/v1/score"]
    )
    def test_on_every_path(self, engines, gateway, path):
        gateway.put(
            "servers.yaml",
            (gateway.folder / "servers.yaml").read_text() + config.server("r", {"r": engines[3].port}, model="base"),
        )
        gateway.put("a.yaml", config.route("a", rules=[config.rule("r")]))
        body = {"model": "a", "prompt": "x", "input": "x", "messages": [], "text_1": "x"}
        assert json.loads(self.see(engines[3], gateway, body, path)) == body | {"model": "base"}
