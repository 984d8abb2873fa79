"""The command line: help with examples, errors in two lines, statuses 0, 1, 2 and 130, JSON for who wants it."""

import contextlib
import http.server
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import click
import pytest

from gateway import errors
from gateway.admin.controllers_file import Told
from gateway.admin.explain import Explainer
from gateway.admin.state import State
from gateway.datastore.model import Limit, Outlier, PluginSpec, Scheduling, Server, Traffic
from gateway.errors import PenstockError
from gateway.settings import Settings, fields
from penstock import __version__
from penstock.addresses import url
from penstock.admin_client import table
from penstock.main import main, penstock
from penstock.settings_help import all_settings
from tests.unit.gateway.fleet import SERVER, Fleet, route
from tests.unit.gateway.test_state_and_explain import Supervisor, scrape

ROOT = Path(__file__).parents[3]
VERBS = ("demo", "run", "gateway", "controllers", "sim", "get", "explain", "version")
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def call(monkeypatch, capfd):
    """Run a command in this process: status, standard output, standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["penstock", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code
        out, err = capfd.readouterr()
        return status, out, err

    return run


def process(*arguments, module=False, **more):
    start = [sys.executable, "-m", "penstock"] if module else [Path(sys.executable).parent / "penstock"]
    return subprocess.run(
        [*start, *arguments], capture_output=True, text=True, timeout=30, cwd=ROOT, check=False, **more
    )


def check_complaint(status, out, err, wanted_status, *words):
    """An error in the way of this program: two paragraphs on standard error, nothing else."""
    assert status == wanted_status
    assert out == ""
    assert "Traceback" not in err
    first, _, rest = err.partition("\n")
    assert first.startswith("error: ")
    assert not first.endswith(".")
    *causes, hint = rest.rpartition("\nhint: ")[::2] if rest else ("", "")
    assert all(line.startswith("  ") for line in causes[0].splitlines())
    assert not rest or hint.count("\n") == 1
    for word in words:
        assert word in err, (word, err)


# -- help


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_help_of_every_verb_is_short_and_has_an_example(call, verb, flag):
    status, out, err = call(verb, flag)
    assert (status, err) == (0, "")
    assert out.startswith(f"Usage: penstock {verb}")
    assert len(out.splitlines()) < 40
    assert max(map(len, out.splitlines())) <= 100
    examples = [line.strip() for line in out.splitlines()[1:] if f"penstock {verb}" in line]
    assert examples
    assert "Options:" in out


def test_the_help_names_every_verb_in_one_line_each(call):
    status, out, err = call("--help")
    assert (status, err) == (0, "")
    listed = [line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line.strip()]
    assert listed == list(VERBS)
    assert len(out.splitlines()) < 40


@pytest.mark.parametrize("verb", VERBS)
def test_the_list_of_verbs_says_what_each_verbs_own_help_says(verb):
    command = penstock.get_command(click.Context(penstock), verb)
    assert command.help.strip().splitlines()[0].endswith((".", "workers."))


def test_without_a_verb_the_help_is_shown_and_nothing_is_called_an_error(call):
    _, out, err = call()
    assert "Commands:" in out + err
    assert "Show the version." in out + err
    assert "error" not in err


def test_examples_use_options_that_exist(call):
    for verb in VERBS:
        text = call(verb, "--help")[1]
        command = penstock.get_command(click.Context(penstock), verb)
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        for line in text.splitlines():
            if f"penstock {verb} " in line and not line.startswith("Usage"):
                used = {word for word in line.split() if word.startswith("-")}
                assert used <= known | {"--help"}, (verb, line)


@pytest.mark.parametrize("verb", ["demo", "run", "gateway"])
def test_the_help_says_what_each_setting_means(call, verb):
    out = " ".join(call(verb, "--help")[1].split())
    assert "--port VALUE Inference port; 0 takes a free one. [default: 8080]" in out
    assert "[default: false]" in out
    assert "--drain-seconds" not in out
    assert "--help-all" in out


@pytest.mark.parametrize("verb", ["demo", "run", "gateway"])
def test_the_whole_help_has_every_setting_with_its_text(call, verb):
    status, out, err = call(verb, "--help-all")
    assert (status, err) == (0, "")
    words = " ".join(out.split())
    for setting in all_settings():
        flag = "--" + setting.name.replace(".", "-").replace("_", "-")
        assert f"{flag} " in words
        assert setting.text.replace("``", "`") in words
    assert "--drain-seconds" not in call(verb, "--help")[1]  # the help itself stays short


def test_every_setting_has_a_text():
    assert [setting.name for setting in all_settings() if not setting.text] == []
    assert {setting.name for setting in all_settings()} == {name for name, _ in fields(Settings)}


# -- starting


def test_the_version_is_told(call):
    assert call("version", "--short") == (0, f"{__version__}\n", "")
    status, out, _ = call("version")
    assert (status, out.startswith(f"penstock {__version__} (Python ")) == (0, True)
    status, out, _ = call("version", "-o", "json")
    assert (status, json.loads(out)["version"]) == (0, __version__)
    assert set(json.loads(out)) == {"version", "python", "system", "machine"}
    assert json.loads(call("version", "--short", "-o", "json")[1]) == {"version": __version__}


@pytest.mark.parametrize("arguments", [["version"], ["version", "--short"], ["get", "--help"], ["nonsense"], ["get"]])
def test_as_a_module_it_is_the_same_program(arguments):
    one, other = process(*arguments), process(*arguments, module=True)
    assert (one.returncode, one.stdout, one.stderr) == (other.returncode, other.stdout, other.stderr)


def test_the_version_costs_less_than_400_milliseconds():
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert process("version").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.4


@pytest.mark.parametrize("verb", ["version", "get", "explain"])
def test_a_verb_that_should_start_at_once_imports_nothing_heavy(verb):
    code = f"""
import sys
sys.argv = ["penstock", "{verb}", "--help"]
from penstock.main import main
try:
    main()
finally:
    names = {{name.partition(".")[0] for name in sys.modules}}
    heavy = names & {{"gateway", "controllers", "simulator", "_fastpath", "aiohttp", "asyncio", "zmq", "granian", "msgspec"}}
    assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# -- mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], ["No such command 'nonsense'", "`penstock --help`"]),
        (["--nonsense"], ["No such option", "`penstock --help`"]),
        (["get"], ["Missing argument 'KIND'", "`penstock get --help`"]),
        (["get", "nonsense"], ["`nonsense` is none of routes, servers, endpoints, workers, queues, limits, problems"]),
        (["version", "-o", "xml"], ["'xml' is not one of 'table', 'json'"]),
        (["get", "routes", "-o", "xml"], ["'xml' is not one of 'table', 'json'"]),
        (["get", "routes", "more"], ["unexpected extra argument"]),
        (["explain"], ["Missing argument 'MODEL'"]),
        (["explain", "m", "--header", "x"], ["`x` must be NAME=VALUE"]),
        (["explain", "m", "--body", "/nonexistent"], ["/nonexistent", "No such file"]),
        (["run"], ["Missing option '-f'"]),
        (["run", "-f", "/nonexistent"], ["Directory '/nonexistent' does not exist"]),
        (["run", "-f", "/etc/hostname"], ["is a file"]),
        (["controllers"], ["Missing option '-f'"]),
        (["sim", "--port", "abc"], ["'abc' is not a valid integer"]),
        (["sim", "--port", "70000"], ["70000"]),
        (["sim", "--port", "-1"], ["-1"]),
        (["sim", "--port", "0", "--block-size", "0"], ["--block-size"]),
        (["sim", "--port", "0", "--kv-tokens", "0"], ["--kv-tokens"]),
        (["sim", "--port", "0", "--speed", "0"], ["--speed"]),
        (["sim", "--port", "0", "--step-tokens", "0"], ["--step-tokens"]),
        (["sim", "--port", "0", "--running", "0"], ["--running"]),
        (["sim", "--port", "0", "--prefill-speed", "0"], ["--prefill-speed"]),
        (["gateway", "--config", "/"], ["is a directory"]),
        (["gateway", "--nonsense", "1"], ["No such option"]),
    ],
)
def test_a_wrong_command_line_is_status_2_with_a_hint_where_to_look(call, arguments, words):
    status, out, err = call(*arguments)  # that the program says the same: test_as_a_module_it_is_the_same_program
    check_complaint(status, out, err, 2, "hint: ", *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gateway", "--port", "x"], ["`port` must be a whole number, not 'x'"]),
        (["gateway", "--port", "99999", "--workers", "0"], ["`port` must be 0 to 65535", "`workers` must be 1 to 63"]),
        (["gateway", "--host", "0.0.0.0"], ["beyond loopback", "--insecure-no-auth"]),
        (["gateway", "--config", "/nonexistent"], ["/nonexistent"]),
        (["gateway", "--shared-memory-slots", "0"], ["slots"]),
        (["gateway", "--shared-memory-slots", "100000000000"], ["slots"]),
        (["gateway", "--shared-memory-prefix-bytes", "0"], ["prefix_bytes"]),
        (["gateway", "--shared-memory-counter-series", "1"], ["counter_series"]),
        (["demo", "--workers", "x"], ["`workers` must be a whole number"]),
        (["run", "-f", "/tmp", "--drain-seconds", "-1"], ["`drain_seconds` must"]),
        (["get", "routes", "--server", NOWHERE], [f"no gateway answers at http://{NOWHERE}", "penstock demo"]),
        (["explain", "m", "--server", NOWHERE], ["no gateway answers"]),
        (["get", "routes", "--server", "http://[::1"], ["http://[::1"]),
        (["get", "routes", "--server", "ftp://127.0.0.1"], ["no gateway answers"]),
    ],
)
def test_what_cannot_be_done_is_status_1_with_the_reason(call, arguments, words):
    status, out, err = call(*arguments)
    check_complaint(status, out, err, 1, *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gateway", "--port", "x"], ["`port` must be a whole number, not 'x'"]),
        (["gateway", "--run-directory", "/proc/nonexistent"], ["run directory", "--run-directory"]),
        (["gateway", "--run-directory", "/tmp/" + "x" * 200], ["run_directory", "bytes", "--run-directory"]),
        (["gateway", "--host", "192.0.2.1", "--insecure-no-auth"], ["192.0.2.1"]),
        (["controllers", "-f", "/tmp", "--run-directory", "/proc/nonexistent"], ["run directory"]),
        (["sim", "--host", "192.0.2.1"], ["port 8000 cannot be used", "--port"]),
    ],
)
def test_what_is_not_to_be_had_ends_a_program_with_status_1_and_the_reason(tmp_path, arguments, words):
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    if arguments[0] == "gateway":
        arguments = [*arguments, "--admin-port", "0"] + ([] if "--port" in arguments else ["--port", "0"])
    done = process(*arguments, env=environment)
    check_complaint(done.returncode, done.stdout, done.stderr, 1, *words)


@pytest.mark.parametrize(
    ("arguments", "faults"),
    [
        (["--port", "-1"], ["`port` must be 0 to 65535, not -1"]),
        (["--shared-memory-slots", "-1"], ["`shared_memory.slots` must be 1 to 16777216, not -1"]),
        (["--header-seconds", "-1"], ["`header_seconds` must be 1 to 60 (Granian's bounds), not -1.0"]),
    ],
)
def test_a_fault_of_a_setting_is_said_once(call, arguments, faults):
    status, _, err = call("gateway", *arguments)
    assert (status, err.splitlines()[0]) == (1, f"error: {faults[0]}")
    assert err.count("not -1") == 1


def test_every_fault_of_the_settings_has_a_line_of_its_own(call):
    status, _, err = call("gateway", "--port", "-1", "--workers", "0", "--drain-seconds", "x")
    assert status == 1
    assert err.splitlines()[:4] == [
        "error: 3 settings cannot be used",
        "  flag --drain-seconds: `drain_seconds` must be a number, not 'x'",
        "  `port` must be 0 to 65535, not -1",
        "  `workers` must be 1 to 63, not 0",
    ]


def test_every_fault_of_the_settings_is_said_at_once(call, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("prot: 1\n")
    status, out, err = call("gateway", "--config", file, "--port", "x", "--workers", "99")
    check_complaint(status, out, err, 1, "did you mean `port`", "'x'", "`workers` must be 1 to 63")


@pytest.mark.parametrize("option", ["--port", "--admin-port"])
def test_a_port_that_is_taken_is_named_with_its_owner_and_another_is_offered(tmp_path, option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        others = {"--port": "0", "--admin-port": "0", option: str(port), "--run-directory": str(tmp_path)}
        done = process("gateway", *(word for pair in others.items() for word in pair))
    check_complaint(
        done.returncode, done.stdout, done.stderr, 1, f"port {port} is in use by", f"pid {os.getpid()}", option
    )


def test_an_interrupt_is_status_130_without_a_word(call, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("penstock.commands.version.platform.system", interrupted)
    status, out, err = call("version")
    assert (status, out, err.strip()) == (130, "", "")


def test_a_reader_that_goes_away_is_no_traceback():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "--help"], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=30,
        cwd=ROOT, check=False,
    )  # fmt: skip
    os.close(writing)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert done.returncode != 0


# -- asking a gateway


class Admin:
    """An admin port that answers with what it is told."""

    def __init__(self, answers):
        self.answers, self.requests = answers, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self):
                length = int(self.headers.get("content-length") or 0)
                outer.requests.append((self.command, self.path, dict(self.headers), self.rfile.read(length)))
                status, body = outer.answers(self.path, outer.requests[-1])
                body = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = answer

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def admin():
    with contextlib.ExitStack() as stack:

        def start(answers):
            found = Admin(answers)
            stack.callback(found.close)
            return found

        yield start


def condition(kind, status, reason):
    return {"type": kind, "status": status, "reason": reason, "message": "", "observedGeneration": 2}


def said(kind, name, *conditions, observed=2):
    return {
        "kind": kind, "name": name, "generation": 2, "observedGeneration": observed, "conditions": list(conditions),
    }  # fmt: skip


TOLD = Told(
    objects=[
        said(
            "ModelRoute", "default/r", condition("Accepted", "True", "Valid"),
            condition("Honoured", "False", "NotBuiltYet"), condition("ResolvedRefs", "False", "ModelServerNotFound"),
        ),
        said("ModelRoute", "default/q", condition("Accepted", "True", "Valid"), observed=1),
        said("ModelServer", "default/s", condition("Honoured", "False", "NotBuiltYet")),
        said("ModelServer", "default/q", condition("Accepted", "False", "Other")),
    ],
    problems=[
        {"file": "/c/a.yaml", "line": 7, "path": "spec.modelNam", "message": "unknown field"},
        {"file": "/c", "line": 0, "path": "", "message": "cannot be read: gone"},
    ],
)  # fmt: skip


@pytest.fixture
def gateway(tmp_path, admin):
    """The real documents of a gateway without workers."""
    limited = route(SERVER, "default/none", adapters=("m-sql",), limits=(Limit("l", "requests", 1.0, 60.0, 2.0),))
    warm = Server(SERVER, traffic=Traffic(outlier=Outlier(slow_start=0.0)))
    fleet = Fleet(tmp_path, routes=[limited, route(model="n", name="default/q")], server=warm)
    scrape(fleet)
    state, explainer = State(Supervisor(fleet), "1.2.3", lambda: TOLD), Explainer(fleet.memory, Settings())

    def answer(path, request):
        if path == "/debug/state":
            return 200, state.document()
        wanted = parse_qs(urlsplit(path).query)["path"][0]
        try:
            return 200, explainer.explain(fleet.replica.world, request[3], wanted, request[2])
        except PenstockError as error:
            return error.status, errors.body(error)

    return admin(answer)


@pytest.mark.parametrize(
    ("kind", "columns", "row"),
    [
        (
            "routes",
            "NAME READY REASON MODEL ADAPTERS TARGETS LIMITS MISSING",
            "default/r False ModelServerNotFound m m-sql default/s,default/none 1 default/none",
        ),
        (
            "servers",
            "NAME READY REASON ENGINE MODEL POLICY ENDPOINTS",
            "default/s True NotBuiltYet vLLM - cost 2",
        ),
        (
            "endpoints",
            "NAME SERVER URL ROLE STATE IN-FLIGHT RUNNING WAITING KV PREFIX-HITS SCRAPED",
            "default/e1 default/s http://10.0.0.1:8000 both serving 0 - - - - -",
        ),
        ("problems", "FILE LINE FIELD MESSAGE", "/c/a.yaml 7 spec.modelNam unknown field"),
        ("workers", "WORKER PROCESS STATE IN-FLIGHT WAITING MEMORY LOOP-LAG RESTARTS", "1 0 starting 0 0 0Mi 0.0ms 3"),
    ],
)
def test_what_is_served_is_shown_as_a_table(call, gateway, kind, columns, row):
    status, out, err = call("get", kind, "--server", gateway.address)
    assert status == 0
    assert bool(err) == (kind in ("routes", "servers"))
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == columns
    assert row in lines


LEFT = {
    "route": None, "tenant": "team a", "key": None, "name": "calls", "kind": "requests", "amount": 60.0, "seconds": 60.0,
    "burst": 60.0, "left": 12.25, "seconds_until_full": 47.75, "store": "redis:6379",
}  # fmt: skip


@pytest.mark.parametrize(("words", "query"), [((), ""), (("--tenant", "team a"), "?tenant=team%20a")])
def test_what_is_left_of_limits_is_shown_as_a_table(call, admin, words, query):
    asked = []
    document = {"limits": [LEFT], "left_out": 3, "more": False, "fault": "no file"}
    found = admin(lambda path, _: asked.append(path) or (200, document))
    status, out, err = call("get", "limits", *words, "--server", found.address)
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert (status, asked) == (0, [f"/debug/limits{query}"])
    assert lines == [
        "ROUTE TENANT KEY LIMIT COUNTS LEFT BURST FULL-IN STORE", "- team a - calls requests 12 60 47.8s redis:6379",
    ]  # fmt: skip
    assert err.splitlines() == ["no file", "3 limits are not shown: name a tenant with --tenant"]
    assert json.loads(call("get", "limits", "-o", "json", "--server", found.address)[1]) == [LEFT]


def test_only_limits_are_a_tenant_s(call):
    status, _, err = call("get", "routes", "--tenant", "a")
    assert (status, "--tenant" in err and "penstock get limits" in err) == (2, True)


def test_what_an_engine_says_of_itself_is_in_the_table(call, gateway):
    out = call("get", "endpoints", "--server", gateway.address)[1]
    (line,) = [" ".join(line.split()) for line in out.splitlines() if "default/e0" in line]
    assert line.startswith("default/e0 default/s http://10.0.0.0:8000 both serving 0 5 2 50% 25% ")


def test_an_ejected_endpoint_says_for_how_long(call, admin):
    one = {"name": "default/e0", "server": "default/s", "url": "u", "role": "both", "in_flight": 0, "state": "ejected"}
    one |= dict.fromkeys(("running", "waiting", "kv_usage", "prefix_hit_ratio", "scrape_age_seconds"))
    for seconds, shown in ((9.6, "ejected 10s"), (0.0, "ejected")):
        started = admin(lambda *_, seconds=seconds: (200, {"endpoints": [one | {"state_seconds_left": seconds}]}))
        out = call("get", "endpoints", "--server", started.address)[1]
        assert f"u both {shown} 0 -" in " ".join(out.split())


@pytest.mark.parametrize("kind", ["routes", "servers", "endpoints", "workers", "problems"])
def test_what_is_served_is_json_for_who_wants_it(call, gateway, kind):
    status, out, _ = call("get", kind, "-o", "json", "--server", f"http://{gateway.address}/")
    assert status == 0
    assert json.loads(out)


def test_json_has_the_conditions_whole(call, gateway):
    rows = {one["name"]: one for one in json.loads(call("get", "routes", "-o", "json", "--server", gateway.address)[1])}
    assert rows["default/r"]["conditions"] == TOLD.objects[0]["conditions"]
    assert (rows["default/r"]["generation"], rows["default/r"]["observedGeneration"]) == (2, 2)
    assert (rows["default/q"]["ready"], rows["default/q"]["reason"]) == ("Unknown", "Pending")
    assert json.loads(call("get", "problems", "-o", "json", "--server", gateway.address)[1]) == TOLD.problems


@pytest.mark.parametrize("kind", ["routes", "servers"])
@pytest.mark.parametrize("output", ["table", "json"])
def test_problems_of_files_are_said_beside_what_is_served(call, gateway, kind, output):
    err = call("get", kind, "-o", output, "--server", gateway.address)[2]
    assert err.splitlines() == ["/c/a.yaml:7: spec.modelNam: unknown field", "/c: cannot be read: gone"]


def test_without_word_from_controllers_nothing_is_said_of_readiness(call, admin):
    row = {"name": "default/s", "engine": "vLLM", "model": None, "policy": "cost", "endpoints": 1}
    found = admin(lambda *_: (200, {"servers": [row], "objects": [], "problems": []}))
    out = call("get", "servers", "--server", found.address)[1]
    assert out.splitlines()[1].split()[:3] == ["default/s", "-", "-"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("route", "routes"), ("mroute", "routes"), ("ModelRoutes", "routes"), ("msrv", "servers"), ("modelserver", "servers"),
     ("pods", "endpoints"), ("endpoint", "endpoints"), ("worker", "workers")],
)  # fmt: skip
def test_kinds_have_their_short_names(call, gateway, name, kind):
    assert (
        call("get", name, "-o", "json", "--server", gateway.address)
        == call("get", kind, "-o", "json", "--server", gateway.address)
        or kind == "endpoints"
    )  # the age of a scrape differs
    assert call("get", name, "--server", gateway.address)[0] == 0


def test_an_explanation_shows_the_choice_and_every_candidate(call, gateway):
    status, out, err = call("explain", "m", "hello " * 100, "--server", gateway.address)
    assert (status, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0].startswith("model m: ")
    assert "route default/r" in lines
    assert f"server {SERVER}: 50% of the requests" in lines
    assert "does not exist" in lines
    assert sum(line.startswith("-> default/e") for line in lines) == 1
    assert any(line.startswith("default/e") for line in lines)


def test_an_explanation_is_json_for_who_wants_it(call, gateway):
    document = json.loads(call("explain", "m", "-o", "json", "--server", gateway.address)[1])
    assert document["route"] == "default/r"


class Nearest:
    """A plugin that leaves one out, and whose score fails."""

    def filter(self, asked, candidates):
        return [one for one in candidates if one.name == "default/e1"]

    def score(self, asked, candidates):
        raise RuntimeError("as told")


class Likes:
    def score(self, asked, candidates):
        return [2.5] * len(candidates)


def test_what_plugins_said_is_in_the_table(call, admin, tmp_path):
    specs = (PluginSpec("near"), PluginSpec("likes", 2.0), PluginSpec("absent"))
    fleet = Fleet(tmp_path, server=Server(SERVER, scheduling=Scheduling(plugins=specs)))
    settings = Settings(scheduling_plugins=f"near={__name__}:Nearest likes={__name__}:Likes")
    explainer = Explainer(fleet.memory, settings)
    found = admin(
        lambda path, request: (
            200,
            explainer.explain(fleet.replica.world, request[3], "/v1/chat/completions", request[2]),
        )
    )
    out = call("explain", "m", "--server", found.address)[1]
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "plugin near is passed over, its score failed: RuntimeError: as told" in lines
    assert any(line.startswith("plugin absent is passed over, its load failed: LookupError") for line in lines)
    (header,) = [line for line in lines if line.startswith(("endpoint", "ENDPOINT"))]
    assert header.lower().endswith("plugins")
    (chosen,) = [line for line in lines if line.startswith("-> default/e1")]
    assert chosen.endswith("near +0.0000, likes +5.0000")
    (other,) = [line for line in lines if line.startswith("default/e0")]
    assert (" left_out " in other, other.endswith("near left out")) == (True, True)


def test_an_explanation_says_what_would_make_a_request_wait(call, admin, tmp_path):
    fleet = Fleet(tmp_path)
    document = Explainer(fleet.memory, Settings()).explain(
        fleet.replica.world, b'{"model": "m", "prompt": "x"}', "/v1/completions", {}
    )
    (server,) = document["servers"]
    server["turn"] |= {"waited": True, "kept_places": 8, "held_back": True}
    found = admin(lambda *_: (200, document))
    lines = call("explain", "m", "--server", found.address)[1].splitlines()
    assert "requests wait for an endpoint: it would wait in turn" in lines
    assert "held back: 8 places of each endpoint are kept for tenants that had less than their share" in lines


@pytest.mark.parametrize("output", ["table", "json"])
def test_a_model_without_a_route_is_explained_and_is_status_1(call, gateway, output):
    status, out, err = call("explain", "other", "-o", output, "--server", gateway.address)
    assert (status, "other" in out) == (1, True)
    assert err.startswith("error: no route matches model `other`\n\nhint: ")
    if output == "json":
        assert json.loads(out)["route"] is None


def test_a_whole_body_needs_no_model_beside_it(call, gateway, tmp_path):
    body = tmp_path / "body.json"
    body.write_text('{"model": "n", "messages": []}')
    status, out, err = call("explain", "--body", body, "--server", gateway.address)
    assert (status, err) == (0, "")
    assert "route default/q" in out


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/rerank", "/v1/messages"]
)
def test_a_prompt_is_put_where_the_path_wants_it(call, gateway, path):
    status, _, err = call("explain", "m", "hello", "--path", path, "--server", gateway.address)
    assert (status, err) == (0, "")
    assert b"hello" in gateway.requests[-1][3]


def test_headers_and_a_whole_body_can_be_given(call, gateway, tmp_path):
    body = tmp_path / "body.json"
    body.write_text('{"model": "n", "messages": []}')
    status, out, _ = call("explain", "m", "--body", body, "--header", "x-a=b=c", "--server", gateway.address)
    assert (status, "route default/q" in out) == (0, True)
    assert {name.lower(): value for name, value in gateway.requests[-1][2].items()}["x-a"] == "b=c"


def test_a_path_with_odd_characters_arrives_whole(call, admin):
    found = admin(lambda path, _: (404, {"error": {"message": "unknown"}}))
    call("explain", "m", "--path", "/a b&c=d", "--server", found.address)
    assert parse_qs(urlsplit(found.requests[0][1]).query) == {"path": ["/a b&c=d"]}


def test_an_error_of_the_gateway_is_passed_on(call, admin):
    found = admin(lambda *_: (400, {"error": {"message": "`model` must be text."}}))
    check_complaint(*call("explain", "m", "--server", found.address), 1, "`model` must be text")


@pytest.mark.parametrize(
    "answer",
    [(200, b"<html>"), (200, b""), (200, []), (200, {}), (200, {"routes": 5}), (200, {"routes": [{}]}), (500, b"oops"),
     (404, {}), (404, []), (302, b"")],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["get", "explain"])
def test_a_server_that_is_no_gateway_is_no_traceback(call, admin, verb, answer):
    found = admin(lambda *_: answer)
    check_complaint(*call(verb, "routes", "--server", found.address), 1)


def test_a_table_is_as_wide_as_its_widest_cell_and_has_no_trailing_blanks():
    assert table(["a", "long"], [["xxxx", None], ["y", 5]]) == "A      LONG\nxxxx   -\ny      5"
    assert table(["a"], []) == "A"


# -- programs


def wait_for_line(child, text):
    deadline = time.monotonic() + 20
    lines = []
    while time.monotonic() < deadline:
        line = child.stderr.readline()
        lines.append(line)
        if text in line:
            return line
        if not line:
            break
    pytest.fail(f"{text!r} did not come: {lines}")


@contextlib.contextmanager
def started(*arguments, **more):
    child = subprocess.Popen(
        [sys.executable, "-m", "penstock", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=ROOT, **more,
    )  # fmt: skip
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_simulated_engines_run_until_they_are_told_to_end(number):
    with started("sim", "--port", 0, "--port", 0, "--model", "x") as child:
        urls = [wait_for_line(child, "simulated engine `x` on ").split()[-1] for _ in range(2)]
        assert len(set(urls)) == 2
        child.send_signal(number)
        assert child.wait(10) == 0
        assert "Traceback" not in child.stderr.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_controllers_run_until_they_are_told_to_end(tmp_path, number):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "a.yaml").write_text("kind: [")
    with started("controllers", "-f", tmp_path / "config", "--run-directory", tmp_path / "run") as child:
        wait_for_line(child, "a.yaml:1: not valid YAML")
        while not (tmp_path / "run" / "state").exists():
            time.sleep(0.01)
        child.send_signal(number)
        assert child.wait(10) == 0
        assert "Traceback" not in child.stderr.read()


def test_second_controllers_of_a_run_directory_are_refused(tmp_path):
    (tmp_path / "config").mkdir()
    with started("controllers", "-f", tmp_path / "config", "--run-directory", tmp_path / "run"):
        while not (tmp_path / "run" / "state").exists():
            time.sleep(0.01)
        done = process("controllers", "-f", str(tmp_path / "config"), "--run-directory", str(tmp_path / "run"))
    check_complaint(done.returncode, done.stdout, done.stderr, 1, "other controllers publish in", "--run-directory")


def test_a_simulated_port_that_is_taken_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        taken_port = taken.getsockname()[1]
        done = process("sim", "--port", str(taken_port))
    words = (f"port {taken_port} is in use by", f"pid {os.getpid()}", "--port")
    check_complaint(done.returncode, done.stdout, done.stderr, 1, *words)


@pytest.mark.parametrize(
    ("host", "text"),
    [("127.0.0.1", "http://127.0.0.1:80"), ("::1", "http://[::1]:80"), ("localhost", "http://localhost:80")],
)
def test_an_address_of_ipv6_stands_in_brackets(host, text):
    assert url(host, 80) == text


def test_a_simulated_engine_on_ipv6_prints_a_url_that_works():
    with started("sim", "--port", 0, "--host", "::1", "--model", "x") as child:
        where = wait_for_line(child, "simulated engine `x` on ").split()[-1]
        assert where.startswith("http://[::1]:")
        with urllib.request.urlopen(f"{where}/v1/models", timeout=5) as response:
            assert response.status == 200
