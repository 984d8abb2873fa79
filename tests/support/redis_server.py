"""A real redis-server on a free port of loopback, that tests kill, stop and start again."""

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.waiting import wait_until


def needed():
    """The program, or a skipped test; where PENSTOCK_NEEDS_REDIS is set, as in CI, a failed one."""
    program = shutil.which("redis-server")
    if program is None:
        missing = "redis-server is missing: sudo apt-get install redis-server"
        if os.environ.get("PENSTOCK_NEEDS_REDIS"):
            pytest.fail(missing)
        pytest.skip(missing)
    return program


def _free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class RedisServer:
    """It keeps nothing on disk: who starts it again starts an empty one. Options are those of its configuration."""

    def __init__(self, directory, *, tls=None, **options):
        """``tls``: certificate and key for TLS instead of plain text."""
        self._program = needed()
        self._directory = directory
        self._options = options
        self._tls = tls
        self.port = _free_port()
        self.process = None

    @property
    def address(self):
        """As a route names it."""
        return f"rediss://localhost:{self.port}" if self._tls else f"127.0.0.1:{self.port}"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        if self.process is not None:
            self.kill()

    def start(self):
        """Start it, and wait until it listens."""
        words = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": self._directory}
        if self._tls:
            certificate, key = self._tls
            words |= {
                "port": 0, "tls-port": self.port, "tls-cert-file": certificate, "tls-key-file": key,
                "tls-ca-cert-file": certificate, "tls-auth-clients": "no",
            }  # fmt: skip
        words |= {name.replace("_", "-"): value for name, value in self._options.items()}
        command = [self._program, *(str(word) for name, value in words.items() for word in (f"--{name}", value))]
        with (Path(self._directory) / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self._listens, message="no redis-server")

    def _listens(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def kill(self):
        """SIGKILL."""
        self.process.kill()
        self.process.wait()
        self.process = None

    def hang(self):
        """It keeps its connections and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        """After :meth:`hang`."""
        self.process.send_signal(signal.SIGCONT)
