"""A real vLLM engine of two data-parallel ranks behind one port: both are followed, and what either holds is expected."""

import contextlib
import subprocess
import time
import urllib.request

import pytest

from tests.engines.conftest import block_size, need_engines, start, stop
from tests.support import config
from tests.support.client import chat
from tests.support.gateway import Gateway
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.engines, pytest.mark.slow, pytest.mark.timeout(500)]

PORT = 8303
SENTENCE = "The river above the dam carries more water in spring than the turbines can take. "


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    need_engines()
    try:
        with contextlib.suppress(subprocess.CalledProcessError):  # two ranks may take longer than the script waits
            start("penstock-ranks", PORT, ("--data-parallel-size", "2"))
        wait_until(is_ready, 240)
        events = {"port": PORT + 1000, "replayPort": PORT + 2000, "ranks": 2}
        one = {"name": "dp", "address": "127.0.0.1", "port": PORT, "events": events}
        cache = {"mode": "tokens", "blockSize": block_size(PORT)}
        spec = {"inferenceEngine": "vLLM", "model": "tiny", "prefixCache": cache, "endpoints": [one]}
        text = config.document("ModelServer", "demo", spec) + config.route("demo")
        with Gateway(tmp_path_factory.mktemp("gw"), {"demo.yaml": text}, **{"tokens.budget_seconds": 5}) as started:
            wait_until(lambda: sum(one["connected"] for one in started.state()["kv_events"]) == 2, 60)
            yield started
    finally:
        stop("penstock-ranks")


def is_ready():
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def expected(gateway, body):
    (found,) = gateway.explain(body)["servers"]
    assert found["matched_by"] == "tokens"
    return found["candidates"][0]["matched_blocks"] * block_size(PORT)


def test_both_ranks_are_followed_and_nothing_cached_is_unexpected(gateway, capsys):
    # an odd number over two ranks in turn: each prompt comes to both
    bodies = [chat(f"{number} {SENTENCE * (6 + 3 * number)}", max_tokens=2) for number in range(7)]
    cached = more = 0
    for _ in range(8):
        for body in bodies:
            wanted = expected(gateway, body)
            details = gateway.ask(body).json["usage"]["prompt_tokens_details"]
            found = details["cached_tokens"] if details else 0
            assert found <= wanted
            cached, more = cached + found, more + wanted - found
            time.sleep(0.05)  # events leave an engine after the step, in a thread of its own
    with capsys.disabled():
        print(f"\n{cached} tokens were cached, {more} more were expected, in 56 requests to two ranks")
    rows = gateway.state()["kv_events"]
    assert [row["rank"] for row in rows] == [0, 1]
    assert all(row["stored"] > 0 and row["orphaned"] == 0 for row in rows)
    assert cached > 10_000
