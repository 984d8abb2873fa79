"""What crowds cost a worker: ten thousand clients that are connected and silent, a thousand that are being streamed to.

Counted is all that the system calls resident, the strictest reading of "at most 200 MB". ``test_soak.py`` asks what grows, and leaves the
shared memory out: its pages stand once for all workers, and come to be resident as prompts touch them (``file`` below, ``shared`` where the
run directory lies on a tmpfs). Here prompts are alike and touch little of it; a prefix index in full use adds up to its own size.
"""

import resource
import time
from pathlib import Path

import pytest

from tests.faults.crowd import PROMPT, Crowd
from tests.faults.results import write_result
from tests.support import config
from tests.support.gateway import Gateway
from tests.support.waiting import wait_until

CONNECTIONS = 10_000
FEWEST_CONNECTIONS = 9_000
"""With fewer, what is measured says nothing about so many."""
STREAMS = 1_000
MOST_IDLE_MB = 200
MOST_STREAMS_MB = 64
WARM_UP_REQUESTS = 200
SETTLE_SECONDS = 1.5
"""The worker's timer lets go of what is over within a second."""
KINDS = {"VmRSS": "all", "RssAnon": "anonymous", "RssFile": "file", "RssShmem": "shared"}
_KEPT_BACK = 400
"""Descriptors that a worker reserves, and some for this test's own requests. Of the rest, half are for clients."""


def resident(process):
    """Megabytes of a process by kind."""
    lines = [line.partition(":") for line in Path(f"/proc/{process}/status").read_text().splitlines()]
    return {KINDS[name]: round(int(size.split()[0]) / 1024, 1) for name, _, size in lines if name in KINDS}


def affordable_connections():
    """So many of CONNECTIONS as a worker takes here. Skips when those are too few."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return CONNECTIONS
    found = min(CONNECTIONS, (hard - _KEPT_BACK) // 2)
    if found < FEWEST_CONNECTIONS:
        pytest.skip(
            f"a worker has descriptors for {found} connections here: {CONNECTIONS} need a hard limit of "
            f"{2 * CONNECTIONS + _KEPT_BACK} descriptors (ulimit -Hn), and it is {hard}"
        )
    return found


def measured(directory, count, *, stream=False, prompt=PROMPT):
    """Megabytes of the one worker before and with so many clients, each of which has been answered or is being streamed to."""
    with Crowd() as crowd:
        text = config.simple("demo", [crowd.engine_port])
        with Gateway(directory, {"demo.yaml": text}, workers=1, access_log=False) as gateway:
            (worker,) = gateway.worker_processes()
            assert [gateway.ask().status for _ in range(WARM_UP_REQUESTS)] == [200] * WARM_UP_REQUESTS
            time.sleep(SETTLE_SECONDS)
            before = resident(worker)
            crowd.connect(gateway.port, count, stream=stream, prompt=prompt)
            time.sleep(SETTLE_SECONDS)
            wait_until(lambda: gateway.charged() == (count if stream else 0), message=lambda: str(gateway.state()))
            found = resident(worker)
            assert crowd.look() == (count, count if stream else 0), "not all of them were there when it was measured"
            assert gateway.worker_processes() == [worker]
    each = (found["anonymous"] - before["anonymous"]) * 1024 / count
    return {"clients": count, "MB before": before, "MB": found, "anonymous KB a client": round(each, 1)}


def measured_idle(directory, **options):
    """The same of silent ones, with what CONNECTIONS of them would come to where they are more than a worker takes here."""
    count = affordable_connections()
    facts = measured(directory, count, **options)
    before, found = facts["MB before"]["all"], facts["MB"]["all"]
    return facts | {f"MB with {CONNECTIONS}": round(before + (found - before) * CONNECTIONS / count, 1)}


@pytest.mark.crowd
def test_ten_thousand_idle_connections_leave_a_worker_within_200_megabytes(tmp_path):
    facts = measured_idle(tmp_path)
    assert facts[f"MB with {CONNECTIONS}"] <= MOST_IDLE_MB, facts


@pytest.mark.crowd
def test_a_thousand_streams_at_once_cost_a_worker_at_most_64_megabytes(tmp_path):
    facts = measured(tmp_path, STREAMS, stream=True)
    assert facts["MB"]["all"] - facts["MB before"]["all"] <= MOST_STREAMS_MB, facts


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_crowds_cost_is_kept_with_its_date(tmp_path):
    """Long prompts have no bar: the server's buffer of a connection grows with what it has read, and stays."""
    long = {"prompt": "water " * 33_000}
    facts = {
        f"{name}, {what}": value
        for name, found in (
            ("idle after 1.2 KB", measured_idle(tmp_path / "idle")),
            ("streams of 1.2 KB", measured(tmp_path / "streams", STREAMS, stream=True)),
            ("idle after 200 KB", measured(tmp_path / "long-idle", STREAMS, **long)),
            ("streams of 200 KB", measured(tmp_path / "long-streams", STREAMS // 2, stream=True, **long)),
        )
        for what, value in found.items()
    }
    write_result("crowds", facts)
    assert facts[f"idle after 1.2 KB, MB with {CONNECTIONS}"] <= MOST_IDLE_MB, facts
    assert facts["streams of 1.2 KB, MB"]["all"] - facts["streams of 1.2 KB, MB before"]["all"] <= MOST_STREAMS_MB, (
        facts
    )
