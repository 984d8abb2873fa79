"""Twenty minutes of all that clients do, while the configuration changes: what the processes hold does not grow."""

import os
import time
from pathlib import Path

import pytest

from tests.faults.load import MixedClients, Prober
from tests.faults.results import write_result
from tests.support import config
from tests.support.engines import Engines
from tests.support.gateway import Gateway, children_of
from tests.support.waiting import wait_until

SECONDS = float(os.environ.get("PENSTOCK_SOAK_SECONDS", "1200"))
WARM_UP_SECONDS = min(60.0, SECONDS / 4)
CLIENTS = 12
MOST_GROWN_BYTES = 16 << 20
MOST_GROWN_DESCRIPTORS = 8

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS + 300)]


def held(gateway):
    """Bytes of their own, descriptors and threads of the processes, summed over those of a kind.

    The shared memory is not counted: whoever looks through it has touched all of it, and it is as large as it was made.
    """
    found = {}
    workers = gateway.worker_processes()
    for process in (gateway.process.pid, *children_of(gateway.process.pid)):
        folder = Path(f"/proc/{process}")
        kind = "supervisor" if process == gateway.process.pid else "workers" if process in workers else "controllers"
        row = found.setdefault(kind, {"bytes": 0, "descriptors": 0, "threads": 0})
        row["bytes"] += own_bytes(folder)
        row["descriptors"] += len(list((folder / "fd").iterdir()))
        row["threads"] += len(list((folder / "task").iterdir()))
    return found


def own_bytes(folder):
    (line,) = [line for line in (folder / "status").read_text().splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) << 10


def at_rest(gateway, clients):
    """The same when nobody asks."""
    with clients.resting():
        wait_until(gateway.is_idle, 5, message=lambda: str(gateway.state()))
        time.sleep(1)
        return held(gateway)


def test_twenty_minutes_of_mixed_load_leave_nothing(tmp_path):
    facts = {"outcome": "failed", "seconds": SECONDS, "clients": CLIENTS}
    with Engines(3, speed=10) as engines:
        text = config.simple("demo", engines.ports)
        with Gateway(tmp_path, {"demo.yaml": text}, workers=2, access_log=False) as gateway:
            try:
                soak(gateway, engines, facts)
                facts["outcome"] = "passed"
            finally:
                write_result("soak", facts)


def soak(gateway, engines, facts):
    processes = gateway.worker_processes()
    with Prober(gateway.port) as prober, MixedClients(gateway.port, CLIENTS) as clients:
        ends = time.monotonic() + SECONDS
        time.sleep(WARM_UP_SECONDS)
        before = facts["before"] = at_rest(gateway, clients)
        changes = change_until(gateway, engines, ends)
        gateway.put("demo.yaml", config.simple("demo", engines.ports))
        after = facts["after"] = at_rest(gateway, clients)
    facts |= {
        "changes of the folder": changes,
        "connections refused": len(prober.failures),
        "whole answers by status": {str(status): count for status, count in sorted(clients.statuses.items())},
        "streams left by the client": clients.left,
        "requests cut": clients.cut,
        "longest whole answer, seconds": round(clients.longest, 2),
    }
    assert set(clients.statuses) == {200, 400, 404}, facts
    assert not prober.failures, facts
    assert clients.cut == 0, facts
    assert gateway.worker_processes() == processes
    assert "Traceback" not in gateway.stderr
    for kind, row in after.items():
        assert row["bytes"] - before[kind]["bytes"] < MOST_GROWN_BYTES, facts
        assert row["descriptors"] - before[kind]["descriptors"] <= MOST_GROWN_DESCRIPTORS, facts
        assert row["threads"] <= before[kind]["threads"] + 2, facts


def change_until(gateway, engines, ends):
    """A route and an engine more, a route and an engine less, every few seconds: how many changes that were."""
    changes = 0
    while time.monotonic() < ends:
        changes += 1
        ports = engines.ports if changes % 2 else engines.ports[:2]
        text = config.simple("demo", ports) + (config.route("other", [config.rule("demo")]) if changes % 2 else "")
        gateway.put("demo.yaml", text)
        time.sleep(min(3.0, max(0.0, ends - time.monotonic())))
    return changes
