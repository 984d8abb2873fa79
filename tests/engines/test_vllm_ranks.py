"""A real vLLM engine of two data-parallel ranks behind one port: the engine or the gateway chooses the rank."""

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
def engine():
    need_engines()
    try:
        with contextlib.suppress(subprocess.CalledProcessError):  # two ranks may take longer than the script waits
            start("penstock-ranks", PORT, ("--data-parallel-size", "2"))
        wait_until(is_ready, 240)
        yield
    finally:
        stop("penstock-ranks")


@contextlib.contextmanager
def gateway_before(directory, **endpoint):
    events = {"port": PORT + 1000, "replayPort": PORT + 2000, **endpoint.pop("events", {})}
    one = {"name": "dp", "address": "127.0.0.1", "port": PORT, "events": events, **endpoint}
    cache = {"mode": "tokens", "blockSize": block_size(PORT)}
    spec = {"inferenceEngine": "vLLM", "model": "tiny", "prefixCache": cache, "endpoints": [one]}
    text = config.document("ModelServer", "demo", spec) + config.route("demo")
    with Gateway(directory, {"demo.yaml": text}, **{"tokens.budget_seconds": 5}) as started:
        wait_until(lambda: sum(one["connected"] for one in started.state()["kv_events"]) == 2, 60)
        yield started


def is_ready():
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def best(gateway, body):
    """Tokens that are expected to be cached where the request would go, and which endpoint that is."""
    (found,) = gateway.explain(body)["servers"]
    assert found["matched_by"] == "tokens"
    chosen = next(one for one in found["candidates"] if one["endpoint"] == found["choice"])
    return chosen["matched_blocks"] * block_size(PORT), chosen["endpoint"]


def cached(answer):
    details = answer.json["usage"]["prompt_tokens_details"]
    return details["cached_tokens"] if details else 0


def test_both_ranks_are_followed_and_nothing_cached_is_unexpected(engine, tmp_path, capsys):
    # an odd number over two ranks in turn: each prompt comes to both
    bodies = [chat(f"{number} {SENTENCE * (6 + 3 * number)}", max_tokens=2) for number in range(7)]
    total = more = 0
    with gateway_before(tmp_path, events={"ranks": 2}) as gateway:
        for _ in range(8):
            for body in bodies:
                wanted, _ = best(gateway, body)
                found = cached(gateway.ask(body))
                assert found <= wanted
                total, more = total + found, more + wanted - found
                time.sleep(0.05)  # events leave an engine after the step, in a thread of its own
        rows = gateway.state()["kv_events"]
    with capsys.disabled():
        print(
            f"\n{total} tokens were cached, {more} more were expected, in 56 requests that the engine gave to its two ranks"
        )
    assert [row["rank"] for row in rows] == [0, 1]
    assert all(row["stored"] > 0 and row["orphaned"] == 0 for row in rows)
    assert total > 10_000


def test_a_rank_that_the_gateway_chooses_has_what_was_expected_of_it(engine, tmp_path, capsys):
    bodies = [chat(f"chosen {number} {SENTENCE * (6 + 3 * number)}", max_tokens=2) for number in range(7)]
    total, differ, seen = 0, 0, set()
    with gateway_before(tmp_path, dataParallelSize=2) as gateway:
        for _ in range(8):
            for body in bodies:
                wanted, chosen = best(gateway, body)
                answer = gateway.ask(body)
                if wanted:  # equals are chosen among at random
                    assert answer.header("x-penstock-endpoint") == chosen
                differ += abs(wanted - cached(answer))
                total += cached(answer)
                seen.add(answer.header("x-penstock-endpoint"))
                time.sleep(0.05)
        ratios = [one["prefix_hit_ratio"] for one in gateway.state()["endpoints"]]
    with capsys.disabled():
        print(
            f"\n{total} tokens were cached, {differ} more or less were expected, in 56 requests to ranks that were chosen"
        )
    assert differ == 0
    assert seen == {"default/dp@0", "default/dp@1"}
    assert total > 10_000
    assert len(set(ratios)) == 2  # each rank's own, though both are on one page
