"""Two real vLLM engines on the CPU, and Penstock in front of them, for the whole folder."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGINES = ROOT.parent / "shared" / "engines" / "engines"
PLAIN, TOOLS = 8301, 8302
"""The second engine is started with tool calling, the first without."""

CONFIG = f"""\
apiVersion: serving.penstock.dev/v1alpha1
kind: ModelServer
metadata:
  name: tiny
spec:
  inferenceEngine: vLLM
  endpoints:
  - {{name: plain, address: 127.0.0.1, port: {PLAIN}}}
  - {{name: tools, address: 127.0.0.1, port: {TOOLS}}}
---
apiVersion: serving.penstock.dev/v1alpha1
kind: ModelServer
metadata:
  name: plain-only
spec:
  inferenceEngine: vLLM
  model: tiny
  endpoints:
  - {{name: plain, address: 127.0.0.1, port: {PLAIN}}}
---
apiVersion: serving.penstock.dev/v1alpha1
kind: ModelServer
metadata:
  name: tools-only
spec:
  inferenceEngine: vLLM
  model: tiny
  endpoints:
  - {{name: tools, address: 127.0.0.1, port: {TOOLS}}}
""" + "".join(
    f"""\
---
apiVersion: serving.penstock.dev/v1alpha1
kind: ModelRoute
metadata:
  name: {name}
spec:
  modelName: {name}
  rules:
  - targetModels:
    - modelServerName: {name}
"""
    for name in ("tiny", "plain-only", "tools-only", "by-token")
)
TEMPLATE = Path(__file__).with_name("chat_template.jinja")
"""Of both engines: the model's own says nothing of tools."""
MODEL = Path(os.environ.get("PENSTOCK_ENGINES_HOME", Path.home() / ".cache" / "penstock-engines")) / "model"
TOOL_FLAGS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")


def by_token(tokenizer, block_size):
    """A server of both engines that follows their KV events."""
    endpoints = "".join(
        f"  - {{name: {name}, address: 127.0.0.1, port: {port}, events: {{port: {port + 1000}, replayPort: {port + 2000}}}}}\n"
        for name, port in (("plain", PLAIN), ("tools", TOOLS))
    )
    return f"""\
---
apiVersion: serving.penstock.dev/v1alpha1
kind: ModelServer
metadata:
  name: by-token
spec:
  inferenceEngine: vLLM
  model: tiny
  prefixCache: {{mode: tokens, tokenizer: {tokenizer}, blockSize: {block_size}}}
  endpoints:
{endpoints}"""


def start(name, port, flags):
    """Start an engine and wait until it is ready."""
    # an engine binds where its endpoint has a star; elsewhere it would connect, and nobody could subscribe
    events = {
        "enable_kv_cache_events": "true",
        "publisher": "zmq",
        "endpoint": f"tcp://*:{port + 1000}",
        "replay_endpoint": f"tcp://*:{port + 2000}",
    }
    published = [f"--kv-events-config.{key}={value}" for key, value in events.items()]
    flags = ("--", "--chat-template", TEMPLATE, *published, *flags)
    subprocess.run([ENGINES, "up", name, str(port), "plain", *flags], check=True, timeout=300)


def stop(name):
    """End an engine."""
    subprocess.run([ENGINES, "down", name], check=True)


def block_size(port):
    """Tokens of a block, as the engine says."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        return int(re.search(r'block_size="(\d+)"', response.read().decode())[1])


def need_engines():
    """Skip where engines cannot be started; in CI that is a failure."""
    if not ENGINES.exists():
        reason = f"real engines are not here: {ENGINES} is missing"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def engines():
    """Ports of two engines."""
    need_engines()
    started = []
    try:
        for name, port, flags in (("penstock-plain", PLAIN, ()), ("penstock-tools", TOOLS, TOOL_FLAGS)):
            start(name, port, flags)
            started.append(name)
        yield PLAIN, TOOLS
    finally:
        for name in started:
            stop(name)


class Gateway:
    """A running `penstock run`."""

    def __init__(self, process, directory):
        self.process = process
        information = json.loads((directory / "gateway.json").read_text())
        self.port, self.admin_port = information["port"], information["admin_port"]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"

    def explain(self, body):
        """The document of ``/debug/explain``."""
        data = json.dumps(body).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/debug/explain", data, timeout=30) as response:
            return json.load(response)

    def state(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/debug/state", timeout=5) as response:
            return json.load(response)


@pytest.fixture(scope="session")
def tokenizer(engines, tmp_path_factory):
    """Folder of the engines' tokenizer and chat template."""
    folder = tmp_path_factory.mktemp("model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / name, folder)
    shutil.copy(TEMPLATE, folder)
    return folder


@pytest.fixture(scope="session")
def gateway(engines, tokenizer, tmp_path_factory):
    """Penstock with two workers in front of both engines."""
    folder, directory = tmp_path_factory.mktemp("config"), tmp_path_factory.mktemp("run")
    (folder / "tiny.yaml").write_text(CONFIG + by_token(tokenizer, block_size(PLAIN)))
    command = [sys.executable, "-m", "penstock", "run", "-f", folder, "--run-directory", directory]
    with (directory / "access.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", "0", "--admin-port", "0", "--workers", "2"], cwd=ROOT, stdout=log
        )
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert process.poll() is None, "penstock run ended"
            try:
                running = Gateway(process, directory)
                state = running.state()
            except (OSError, ValueError, KeyError):
                time.sleep(0.1)
                continue
            scraped = [one for one in state["endpoints"] if one["scrape_age_seconds"] is not None]
            followed = [one for one in state["kv_events"] if one["connected"]]
            if len(scraped) == 6 and len(followed) == 2 and all(one["sequence"] for one in state["workers"]):
                break
            time.sleep(0.1)
        else:
            pytest.fail("penstock run does not see both engines")
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=40)


def metric(port, name):
    """Sum of an engine's own series of this name."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + "{", name + " ")))


@pytest.fixture
def hits(engines):
    """Tokens that each engine found in its prefix cache so far, by port."""
    return lambda: {port: metric(port, "vllm:prefix_cache_hits_total") for port in engines}
