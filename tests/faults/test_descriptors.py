"""A process that is out of descriptors goes on with what it has."""

import resource
import time
from pathlib import Path

from tests.support import config
from tests.support.engines import Engines
from tests.support.gateway import Gateway
from tests.support.waiting import wait_until

STUCK_SECONDS = 5


def test_a_worker_without_descriptors_goes_on_beating_and_is_not_killed(tmp_path):
    # found in acceptance: reading its own memory failed, the heartbeat ended, and the supervisor killed it for that
    with Engines(1) as engines, Gateway(tmp_path, {"demo.yaml": config.simple("demo", engines.ports)}) as gateway:
        wait_until(lambda: all(one["resident_bytes"] for one in gateway.state()["workers"]))
        processes = gateway.worker_processes()
        before = [resource.prlimit(process, resource.RLIMIT_NOFILE) for process in processes]
        for process in processes:
            highest = max(int(path.name) for path in Path(f"/proc/{process}/fd").iterdir())
            resource.prlimit(process, resource.RLIMIT_NOFILE, (highest + 1, before[0][1]))
        time.sleep(STUCK_SECONDS + 2)
        for process, limit in zip(processes, before, strict=True):
            resource.prlimit(process, resource.RLIMIT_NOFILE, limit)
        assert gateway.worker_processes() == processes
        assert [gateway.ask().status for _ in range(10)] == [200] * 10
        assert "Traceback" not in gateway.stderr
