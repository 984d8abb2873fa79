"""The load rig's arithmetic: what it reads from /proc, and what it makes of samples."""

import json
import os

import pytest

from bench.load import bodies, budget, granian_alone, processes, profile, report
from bench.load.measure import Sample, doubts, per_piece
from bench.load.processes import Reading
from bench.load.rounds import Result, latency_rates
from gateway.downstream.coalescer import Coalescer

TICKS = os.sysconf("SC_CLK_TCK")


def stat(name="penstock", parent=1, user=300, system=200, started=77):
    fields = ["S", parent, *[0] * 9, user, system, *[0] * 6, started, *[0] * 5]
    return f"42 ({name}) " + " ".join(map(str, fields)) + "\n"


@pytest.mark.parametrize("name", ["penstock", "tokio worker", "a) R 1 (b"])
def test_cpu_seconds_whatever_the_name(name):
    assert processes.cpu_seconds(stat(name)) == 500 / TICKS


def test_this_process_has_used_cpu_and_memory():
    assert processes.total_cpu([os.getpid()]) > 0
    assert processes.total_resident([os.getpid()]) > 1 << 20


def test_resident_bytes():
    assert processes.resident_bytes("Name:\tx\nVmRSS:\t   2048 kB\nThreads:\t1\n") == 2 << 20
    assert processes.resident_bytes("Name:\tkthreadd\n") == 0


def test_core_seconds():
    text = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\ncpu1 100 10 200 4000 50 5 15 20 7 7\n"
    assert processes.core_seconds(text, 1) == (350 / TICKS, 4050 / TICKS)
    with pytest.raises(ValueError):
        processes.core_seconds(text, 2)


def test_children_of_children():
    stats = [(10, stat(parent=1)), (11, stat(parent=10)), (12, stat(parent=11)), (13, stat(parent=2))]
    assert sorted(processes.children(stats, 10)) == [11, 12]


def test_cpu_of_one_piece_and_how_the_cores_were_used():
    before = Reading(at=0.0, main=1.0, every=2.0, gateway_core=10.0, load_core=20.0)
    after = Reading(at=10.0, main=3.0, every=6.0, gateway_core=15.0, load_core=29.0)
    found = per_piece(before, after, 100_000)
    assert found["cpu_us"] == pytest.approx(20)
    assert found["cpu_every_us"] == pytest.approx(40)
    assert found["gateway_core_others"] == pytest.approx(0.1)
    assert found["load_core_busy"] == pytest.approx(0.9)


def test_doubts():
    quiet = {"gateway_core_gateway": 0.9, "gateway_core_others": 0.01, "load_core_busy": 0.6}
    assert doubts(quiet, 0) == []
    assert len(doubts(quiet | {"gateway_core_others": 0.2, "load_core_busy": 0.99}, 3, "status 3")) == 3
    assert doubts({"gateway_core_gateway": 0.0, "load_core_busy": 1.0}, 0) == []
    assert len(doubts(quiet | {"late_p99_us": 9000.0, "unfinished": 4.0}, 0)) == 2


@pytest.mark.parametrize("size", [1200, 200_000])
def test_requests_have_the_size_that_was_asked_for(size):
    texts = [bodies.chat(size, seed) for seed in range(4)]
    assert all(abs(len(text.encode()) - size) < 20 for text in texts)
    assert len(set(texts)) == 4
    assert json.loads(texts[0])["model"] == bodies.MODEL


def test_only_streams_ask_for_streams():
    assert '"stream": true' in bodies.chat(1200, 0, stream=True)
    assert "stream" not in json.loads(bodies.chat(1200, 0))


def test_latency_is_measured_at_half_of_both_capacities():
    rates = latency_rates({"penstock": 30_000, "sglang-router": 8_000, "smg": 4_000, "nginx": 50_000}, (0.5,))
    assert rates == {
        "penstock": [4_000, 15_000],
        "sglang-router": [4_000, 15_000],
        "smg": [2_000],
        "nginx": [4_000, 15_000, 25_000],
    }


def samples():
    for number, (ours, other) in enumerate([(30, 10), (33, 11), (27, 12)], 1):
        for peer, thousands in (("penstock", ours), ("sglang-router", other)):
            yield Sample(
                peer, "unary-1k", number, {"requests_per_second": thousands * 1000.0, "cpu_us": 1000 / thousands}
            )
            yield Sample(peer, "memory", number, {"idle_mb": 50.0, "after_mb": 70.0})
        yield Sample("direct", "latency", number, {"rate": 15_000.0, "p50_us": 50.0, "p99_us": 100.0})
        yield Sample("penstock", "latency", number, {"rate": 15_000.0, "p50_us": 150.0 + number, "p99_us": 400.0})
        yield Sample("sglang-router", "latency", number, {"rate": 15_000.0, "p50_us": 450.0, "p99_us": 1100.0})


def test_medians_and_ranges():
    spread = report.Findings(list(samples())).spread("penstock", "unary-1k", "requests_per_second")
    assert (spread.median, spread.low, spread.high) == (30_000, 27_000, 33_000)
    assert spread.show() == "30,000 (27,000-33,000)"
    assert report.Spread.of([]) is None


def test_added_latency_is_by_round():
    findings = report.Findings(list(samples()))
    assert findings.added("penstock", 15_000.0, "p50_us") == report.Spread(102.0, 101.0, 103.0)
    assert findings.half_rate("penstock") == 15_000.0


def test_ratio():
    assert report.ratio(30.0, 10.0) == 3.0
    assert report.ratio(None, 10.0) is None
    assert report.ratio(30.0, 0.0) is None


FACTS = {
    "date": "today", "cpu": "one", "cores": 2, "kernel": "6", "commit": "abc", "rounds": 3, "seconds": 5.0,
    "gateway_core": 0, "load_core": 1, "programs": {"wrk": "4.1.0"},
}  # fmt: skip


def costs(**by_peer):
    for peer, found in by_peer.items():
        for measure, cost in zip(("unary-1k", "unary-200k", "stream"), found, strict=True):
            yield Sample(peer, measure, 1, {"cpu_us": float(cost)})


def test_what_remains_for_our_stages_is_the_bar_less_granians_share():
    found = budget.budgets(
        report.Findings(list(costs(nginx=(20, 100, 20), granian=(26, 60, 30), penstock=(46, 150, 50))))
    )
    small, large, chunk = (found[name] for name in ("unary-1k", "unary-200k", "stream"))
    assert (small.allowed, small.left, small.ours, small.over) == (36, 10, 20, 10)
    assert (large.allowed, large.left, large.ours, large.over) == (130, 70, 90, 20)
    assert (chunk.allowed, chunk.left, chunk.ours, chunk.over) == (26, -4, 20, 24)


def test_the_budget_is_told_without_penstock_and_not_without_granian():
    text = report.budget_page(Result(list(costs(nginx=(20, 100, 20), granian=(26, 60, 30)))), FACTS)
    assert "| of it Granian's own share | 26.0 (72%) | 60.0 (46%) | 30.0 (115%) |" in text
    assert "| **remains for our stages** | **10.0** | **70.0** | **-4.0** |" in text
    assert "| our stages take | - | - | - |" in text
    alone = report.budget_page(Result(list(costs(nginx=(20, 100, 20))), missing={"granian": "no core"}), FACTS)
    assert "Nothing was measured." in alone
    assert "Missing: granian: no core" in alone


def test_the_whole_report_tells_the_budget_too():
    found = [*samples(), *costs(nginx=(20, 100, 20), granian=(26, 60, 30))]
    assert "**remains for our stages**" in report.markdown(Result(found), FACTS)
    assert "remains" not in report.markdown(Result(list(samples())), FACTS)


class Watcher:
    """Granian's side of one request: a body that is there, and what was answered."""

    def __init__(self, body):
        self.proto, self._body, self.sent, self.ended = self, body, [], 0

    def __call__(self):
        return self

    def add_done_callback(self, callback, context):
        callback(self)

    def result(self):
        return self._body

    def response_bytes(self, status, headers, body):
        self.sent.append(body)

    def response_stream(self, status, headers):
        return self

    def send_bytes(self, piece):
        self.sent.append(piece)

    def done(self):
        self.ended += 1


class Engine:
    """The engine's side of a connection that beats time."""

    def __init__(self):
        self.asked = 0

    def write(self, data):
        self.asked += 1


def test_granian_alone_answers_with_700_bytes():
    watcher = Watcher(bodies.chat(1200, 0).encode())
    granian_alone.Alone(0, Coalescer(0.0)).begin(watcher)
    (body,) = watcher.sent
    assert len(body) == 700
    assert json.loads(body)["object"] == "chat.completion"
    assert watcher.ended == 1


def test_granian_alone_lets_as_many_chunks_go_as_the_engine_sent_and_uses_its_connection_again():
    idle, engine, chunk = [], Engine(), b"e\r\ndata: {}\n\n\r\n"
    beat = granian_alone.Beat(idle, Coalescer(0.0))
    beat.connection_made(engine)
    for asked in (1, 2):
        watcher = Watcher(b"")
        beat.begin(watcher, watcher)
        beat.data_received(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        assert (engine.asked, watcher.sent) == (asked, [])
        beat.data_received(chunk)
        beat.data_received(chunk * 3)
        assert [piece.count(b"\n\n") for piece in watcher.sent] == [1, 3]
        assert watcher.ended == 0
        beat.data_received(chunk + chunk + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        assert watcher.sent[-1].count(b"\n\n") == 3
        assert watcher.sent[-1].endswith(b"data: [DONE]\n\n")
        assert (watcher.ended, idle) == (1, [beat])
        idle.clear()


def test_a_missing_peer_and_failures_are_in_the_report():
    broken = Sample("sglang-router", "stream", 1, {}, 7, ["7 failed"])
    result = Result([*samples(), broken], missing={"smg": "no such | package"}, versions={"penstock": "0.1.0"})
    text = report.markdown(result, FACTS)
    assert "**Penstock 0.1.0** | 30,000 (27,000-33,000)" in text
    assert "(missing: no such \\| package)" in text
    assert "| 1.2 KB: requests/s of sglang-router | at least 3.0x | 2.73x | **no** |" in text
    assert "- sglang-router, stream, round 1: 7 failed" in text
    assert json.loads(json.dumps(report.document(result, FACTS)))["samples"][-1]["failed"] == 7


def test_the_report_says_how_evenly_chunks_come_and_what_two_workers_take():
    gaps = Sample("penstock", "stream", 1, {"cpu_us": 30.0, "gap_p50_us": 20_020.0, "gap_p99_us": 20_900.0})
    two = [Sample("penstock-2", "unary-1k", number, {"cpu_us": 40.0}) for number in (1, 2, 3)]
    text = report.markdown(Result([*samples(), gaps, *two], missing={}, versions={}), FACTS)
    assert "| µs between two chunks of a stream (20,000 are due) | p50 | p99 |" in text
    assert "| Penstock | 20,020 | 20,900 |" in text
    assert "that share one core | at least 1.8x | 1.67x | **no** |" in text


PERF = """\
    7f01 memmove (/usr/lib/x86_64-linux-gnu/libc.so.6)
    7f02 [unknown] (/x/granian/_granian.cpython-311-x86_64-linux-gnu.so)

ffffffff81 copy (inlined) ([kernel.kallsyms])
ffffffff82 do_writev ([kernel.kallsyms])
ffffffff83 __x64_sys_writev ([kernel.kallsyms])
    7f03 writev (/usr/lib/x86_64-linux-gnu/libc.so.6)

ffffffff84 finish_task_switch.isra.0 ([kernel.kallsyms])

    7f04 __pyx_f_8gateway (/x/gateway/upstream/connection.cpython-311-x86_64-linux-gnu.so)
    7f05 uv__read (/x/uvloop/loop.cpython-311-x86_64-linux-gnu.so)

    7f05 uv__read (/x/uvloop/loop.cpython-311-x86_64-linux-gnu.so)

    7f06 _PyEval_EvalFrameDefault (/usr/lib/libpython3.11.so.1.0)
"""


def test_a_profile_tells_the_kernel_by_system_calls_and_our_modules_one_by_one():
    assert profile.places(PERF.splitlines()) == {
        "libc": 1,
        "kernel: writev": 1,
        "kernel: the rest": 1,
        "ours: connection": 1,
        "uvloop": 1,
        "CPython": 1,
    }


def test_a_profile_puts_what_is_next_to_nothing_together():
    text = profile.markdown(
        {"a request": {"libc": 3.01, "ours: app": 0.1, "ours: reply": 0.06}, "a chunk": {"libc": 1.0}}
    )
    assert text.splitlines()[2:] == [
        "| libc | 3.0 | 1.0 |",
        "| less than that each | 0.2 | 0.0 |",
        "| **together** | **3.2** | **1.0** |",
    ]
