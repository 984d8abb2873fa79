"""Load for the tests of this folder: clients that do not mind being cut, and one that minds being refused."""

import random
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager

from tests.support.client import Connection, chat, request_bytes


class Clients:
    """Clients that ask, streamed and not, and do not mind that a connection is cut; they rest when they are told to."""

    def __init__(self, port, count):
        self._port = port
        self._stopped = False
        self._may_ask = threading.Event()
        self._resting = [threading.Event() for _ in range(count)]
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(count)]
        self.statuses = Counter()
        """Whole answers by status."""
        self.cut = 0
        """Requests that were sent and got no whole answer."""
        self.longest = 0.0
        """Seconds that a whole answer took, from the start of its connection or request on."""

    def __enter__(self):
        self._may_ask.set()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stopped = True
        self._may_ask.set()
        for thread in self._threads:
            thread.join(timeout=30)

    @contextmanager
    def resting(self):
        """Nobody asks: every request that was under way has ended."""
        self._may_ask.clear()
        try:
            for resting in self._resting:
                assert resting.wait(30), "a client got neither an answer nor an end in 30 s"
            yield
        finally:
            for resting in self._resting:
                resting.clear()
            self._may_ask.set()

    def _run(self, number):
        chance = random.Random(number)
        while not self._stopped:
            if not self._may_ask.is_set():
                self._resting[number].set()
                self._may_ask.wait()
                continue
            started = time.monotonic()
            sent = False
            try:
                with Connection(self._port, timeout=25) as connection:
                    for turn in range(10):
                        words = f"client {number} asks, turn {turn}"
                        connection.send(
                            request_bytes(chat(words, stream=turn % 3 > 0, max_tokens=chance.randrange(1, 150)))
                        )
                        sent = True
                        reply = connection.read()
                        if not reply.is_whole:
                            break
                        sent = False
                        with self._lock:
                            self.statuses[reply.status] += 1
                            self.longest = max(self.longest, time.monotonic() - started)
                        if self._stopped or not self._may_ask.is_set():
                            break
                        started = time.monotonic()
            except (OSError, ValueError):
                pass
            if sent:
                with self._lock:
                    self.cut += 1


class Prober:
    """Connects all the time: not once may it be refused."""

    def __init__(self, port):
        self._port = port
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.connected = 0
        self.failures = []

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._thread.join(timeout=10)

    def _run(self):
        while not self._stopped.wait(0.005):
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=2):
                    self.connected += 1
            except OSError as error:
                self.failures.append(error)


class MixedClients(Clients):
    """The same, with all that clients do: leaving in the middle, nonsense, models that do not exist."""

    KINDS = ("whole", "stream", "stream", "leave", "nonsense", "unknown")

    def __init__(self, port, count):
        super().__init__(port, count)
        self.left = 0
        """Streams that the client left in the middle."""

    @property
    def asked(self):
        """Requests that were answered or left."""
        return sum(self.statuses.values()) + self.left

    def _run(self, number):
        chance = random.Random(number)
        while not self._stopped:
            if not self._may_ask.is_set():
                self._resting[number].set()
                self._may_ask.wait()
                continue
            sent = False
            try:
                with Connection(self._port, timeout=25) as connection:
                    for _ in range(10):
                        kind = chance.choice(self.KINDS)
                        sent = True
                        if not self._ask(connection, kind, chance):
                            sent = kind != "leave"
                            break
                        sent = False
                        if self._stopped or not self._may_ask.is_set():
                            break
            except (OSError, ValueError):
                pass
            if sent:
                with self._lock:
                    self.cut += 1

    def _ask(self, connection, kind, chance):
        """One request; False when the connection is of no use any more."""
        started = time.monotonic()
        body = chat(
            f"words {chance.random()} " * 20, stream=kind in ("stream", "leave"), max_tokens=chance.randrange(1, 60)
        )
        if kind == "unknown":
            body["model"] = "no-such-model"
        connection.send(request_bytes(b"{" if kind == "nonsense" else body))
        if kind == "leave":
            connection.read_head()
            with self._lock:
                self.left += 1
            return False
        reply = connection.read()
        if not reply.is_whole:
            return False
        with self._lock:
            self.statuses[reply.status] += 1
            self.longest = max(self.longest, time.monotonic() - started)
        return True
