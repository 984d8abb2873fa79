"""A real gateway: `penstock` as a subprocess, with its folder of YAML, its run directory, its logs and its state."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from _fastpath.counters import Counters
from _fastpath.shared_memory import SharedMemory
from gateway.observability.metrics import FAMILIES
from tests.support import client
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]


def program(*arguments, **options):
    """Start `penstock` with these arguments."""
    command = [sys.executable, "-m", "penstock", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return subprocess.Popen(command, **{"cwd": ROOT, "env": environment} | options)


def run(*arguments, timeout=20, **options):
    """Run `penstock` to its end: exit status, standard output, standard error."""
    process = program(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, output, errors


class Gateway:
    """`penstock run` on a folder, or `penstock gateway`, as a context manager."""

    def __init__(self, directory, files=None, *, workers=2, command="run", **settings):
        self.folder = directory / "config"
        self.run_directory = directory / "run"
        self.folder.mkdir(exist_ok=True, parents=True)
        for name, text in (files or {}).items():
            (self.folder / name).write_text(text)
        self._expected = bool(files)
        self._command = command
        self._settings = {
            "run_directory": self.run_directory, "port": 0, "admin_port": 0, "workers": workers, "drain_seconds": 2,
        } | settings  # fmt: skip
        self.stdout_file = directory / "stdout"
        self.stderr_file = directory / "stderr"
        self._stderr_forgotten = 0
        self.process = None
        self.port = self.admin_port = 0

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def arguments(self):
        """Words of the command."""
        words = [self._command, *(("-f", self.folder) if self._command == "run" else ())]
        for name, value in self._settings.items():
            flag = name.replace("_", "-").replace(".", "-")
            words += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", value]
        return words

    def launch(self, **options):
        """The process."""
        return program(*self.arguments(), **options)

    def start(self, wait=True):
        """Start it, and wait until every worker serves the folder."""
        with self.stdout_file.open("ab") as output, self.stderr_file.open("ab") as errors:
            self.process = self.launch(stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
        if wait:
            try:
                self.wait_ready()
            except BaseException:
                self.kill()
                raise

    def wait_ready(self, seconds=25.0):
        """Wait until it serves; with files in the folder, until all workers serve those."""
        wait_until(lambda: self._is_there(), seconds, message=lambda: f"no gateway:\n{self.stderr}")
        wait_until(self.is_settled, seconds, message=lambda: f"not settled: {self.state()}\n{self.stderr}")

    def _is_there(self):
        assert self.process.poll() is None, f"penstock ended with {self.process.returncode}:\n{self.stderr}"
        try:
            information = json.loads((self.run_directory / "gateway.json").read_text())
            self.port, self.admin_port = information["port"], information["admin_port"]
            return self.admin("/healthz") == b"ok\n" and information["process"] == self.process.pid
        except (OSError, ValueError):
            return False

    def is_settled(self):
        """Every worker serves the snapshot that the supervisor knows, and the controllers are heard."""
        state = self.state()
        snapshot = state["snapshot"]
        return (
            all(one["state"] == "serving" for one in state["workers"])
            and all(one["sequence"] == snapshot["sequence"] for one in state["workers"])
            and (not self._expected or (snapshot["controllers_heard"] and bool(state["routes"] or state["servers"])))
        )

    def stop(self, seconds=15.0):
        """SIGTERM, and its exit status."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        return self.process.returncode

    def kill(self):
        """SIGKILL to the supervisor: its children end with it."""
        self.process.kill()
        self.process.wait()

    def controllers(self):
        """Process id of the controllers that `penstock run` keeps, None while there are none."""
        for process in children_of(self.process.pid):
            try:
                if b"controllers" in Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0"):
                    return process
            except OSError:
                continue
        return None

    def kill_controllers(self):
        """SIGKILL to the controllers."""
        os.kill(wait_until(self.controllers), signal.SIGKILL)

    def admin(self, path, body=None, headers=None):
        """What the admin port answers."""
        address = f"http://127.0.0.1:{self.admin_port}{path}"
        request = urllib.request.Request(address, data=body, headers=headers or {})
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.read()

    def state(self):
        """The document of ``/debug/state``."""
        return json.loads(self.admin("/debug/state"))

    def explain(self, body):
        """The document of ``/debug/explain``."""
        return json.loads(self.admin("/debug/explain", json.dumps(body).encode()))

    def endpoints(self):
        """``/debug/endpoints`` by name without namespace."""
        found = json.loads(self.admin("/debug/endpoints"))
        return {one["name"].rpartition("/")[2]: one for one in found}

    def in_flight(self):
        """Requests in flight by endpoint."""
        return {name: one["in_flight"] for name, one in self.endpoints().items()}

    def charged(self):
        """Requests that workers have under way at engines."""
        return sum(one["charged"] for one in self.state()["workers"])

    def is_idle(self):
        """No worker has charged load anywhere."""
        state = self.state()
        return not any(one["charged"] for one in state["workers"]) and not any(
            one[what] for one in state["endpoints"] for what in ("in_flight", "prefill_tokens", "decode_tokens")
        )

    def worker_processes(self):
        """Process ids of the workers, by index."""
        return [one["process"] for one in self.state()["workers"]]

    def resident(self):
        """Bytes of memory of each worker, as the system says."""
        page = os.sysconf("SC_PAGE_SIZE")
        return [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for pid in self.worker_processes()]

    def put(self, name, text):
        """Put a file into the folder in one step, and wait until every worker serves the new snapshot."""
        before = self.state()["snapshot"]
        draft = self.folder / f".{name}.new"
        draft.write_text(text)
        draft.replace(self.folder / name)
        self.wait_newer(before)

    def wait_newer(self, before, seconds=10.0):
        """Wait until every worker serves a later snapshot than ``before`` (``state()["snapshot"]``)."""
        stood = (before["epoch"], before["sequence"])

        def moved():
            snapshot = self.state()["snapshot"]
            return (snapshot["epoch"], snapshot["sequence"]) > stood and self.is_settled()

        wait_until(moved, seconds, message=lambda: f"no newer snapshot than {stood}\n{self.stderr}")

    @property
    def stderr(self):
        """Standard error so far, from the last :meth:`forget_stderr` on."""
        return self.stderr_file.read_text()[self._stderr_forgotten :]

    def forget_stderr(self):
        """Begin anew with :attr:`stderr`."""
        self._stderr_forgotten = len(self.stderr_file.read_text())

    def log_lines(self):
        """Lines of the access log so far."""
        return [json.loads(line) for line in self.stdout_file.read_bytes().split(b"\n")[:-1]]

    def log_line(self, request_id, seconds=5.0):
        """The line of one request."""

        def found():
            return [one for one in self.log_lines() if one["request_id"] == request_id]

        (line,) = wait_until(found, seconds, message=f"no line of {request_id}")
        return line

    def served_by_worker(self):
        """Requests that each worker has finished, from its counters."""
        memory = SharedMemory.attach(str(self.run_directory / "shared-memory"))
        family = next(i for i, one in enumerate(FAMILIES) if one[0] == "penstock_requests_total")
        return [
            sum(total for kind, _, _, total in Counters(memory, index, FAMILIES).read() if kind == family)
            for index in range(memory.workers - 1)
        ]

    def worker_of(self, connection):
        """Index of the worker that has accepted a connection."""
        inode = wait_until(lambda: _inode(self.port, connection.local_port), message="no such connection")
        return wait_until(lambda: self._holder(inode), message="no worker has accepted it")[0]

    def _holder(self, inode):
        for index, pid in enumerate(self.worker_processes()):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                try:
                    if str(descriptor.readlink()) == f"socket:[{inode}]":
                        return (index,)
                except OSError:
                    continue
        return None

    def connect_to(self, worker, **options):
        """A connection that this worker has accepted."""
        for _ in range(200):
            connection = client.Connection(self.port, **options)
            if self.worker_of(connection) == worker:
                return connection
            connection.close()
        raise AssertionError(f"200 connections, and worker {worker} accepted none")

    def ask(self, body=None, path=client.CHAT, **options):
        """One request on a connection of its own."""
        return client.ask(self.port, client.chat() if body is None else body, path, **options)

    def get(self, path, **options):
        """One request without a body."""
        return client.get(self.port, path, **options)

    def openai(self, **options):
        """A client of the openai package, without retries."""
        import openai  # a second of work, which few tests need

        return openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", **{"max_retries": 0} | options
        )

    def async_openai(self, **options):
        """The same for asyncio."""
        import openai

        return openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", **{"max_retries": 0} | options
        )


def _inode(local_port, remote_port):
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        ends = [int(fields[number].rpartition(":")[2], 16) for number in (1, 2)]
        if ends == [local_port, remote_port] and fields[9] != "0":
            return fields[9]
    return None


def processes_of(directory):
    """Process ids of everything whose command line names this directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(str(directory)) in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def is_alive(process):
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children_of(process):
    """Process ids of all descendants."""
    parents = {}
    for one in Path("/proc").glob("[0-9]*"):
        try:
            fields = (one / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(one.name))
    found, todo = [], [process]
    while todo:
        todo += (new := parents.get(todo.pop(), []))
        found += new
    return found
