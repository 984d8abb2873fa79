"""The access log: one line a request, nothing of the prompt, and never in the way."""

import json
import os
import threading
import time

import pytest

from _fastpath.log_line import LogLines
from gateway.errors import UpstreamError
from gateway.intake import BodyRules, scan_body
from gateway.observability import access_log
from gateway.observability.access_log import AccessLog
from gateway.reply import note
from gateway.settings import Settings
from tests.unit.gateway.fakes import chat, make_exchange


def entry(exchange, now, wall):
    found = LogLines()
    access_log.add_line(found, exchange, now, wall)
    return json.loads(found.take())


SECRET = "the prompt that nobody else may read"


class Ends(list):
    """Descriptors, each closed once."""

    def close(self, place):
        os.close(self[place])
        self[place] = -1


@pytest.fixture
def pipe():
    before = set(threading.enumerate())
    ends = Ends(os.pipe())
    yield ends
    if ends[0] >= 0:
        ends.close(0)
    for thread in set(threading.enumerate()) - before:
        if thread.name == "access-log":
            # with the reader gone it ends; later it would write to whoever has the other descriptor next
            thread.join(5)
            assert not thread.is_alive()
    if ends[1] >= 0:
        ends.close(1)


def answered(**more):
    exchange = make_exchange(started=100.0)
    exchange.body = chat(SECRET)
    scan_body(exchange, BodyRules(Settings()))
    exchange.bytes_in = len(exchange.body)
    exchange.status, exchange.sent, exchange.first_byte, exchange.bytes_out = 200, 100.001, 100.25, 77
    exchange.usage = (9, 4, 3)
    for name, value in more.items():
        setattr(exchange, name, value)
    return exchange


def lines(reading):
    os.set_blocking(reading, False)
    data = b""
    try:
        while piece := os.read(reading, 1 << 20):
            data += piece
    except BlockingIOError:
        pass
    return data.splitlines()


def test_a_line_says_when_what_where_and_how_long():
    found = entry(answered(), now=100.5, wall=1_700_000_000.5)
    assert found == {
        "timestamp": "2023-11-14T22:13:20.000+00:00",
        "level": "info",
        "event": "request",
        "request_id": "req_1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status_code": 200,
        "operation": "chat",
        "model_name": "m",
        "model_route": None,
        "model_server": None,
        "selected_pod": None,
        "stream": False,
        "duration_ms": 500.0,
        "ttft_ms": 250.0,
        "overhead_ms": 1.0,
        "upstream_attempts": 0,
        "bytes_in": len(chat(SECRET)),
        "bytes_out": 77,
        "input_tokens": 9,
        "output_tokens": 4,
        "cached_tokens": 3,
        "tokens_source": "engine",
    }


def test_without_the_engines_count_tokens_are_called_estimated():
    found = entry(answered(usage=None, chunks=6), 100.5, 1.7e9)
    assert (found["input_tokens"], found["output_tokens"], found["tokens_source"]) == (
        answered().prompt_tokens,
        6,
        "estimate",
    )
    assert "cached_tokens" not in found


def test_what_did_not_happen_has_no_time():
    found = entry(make_exchange(), 100.5, 1.7e9)
    assert (found["ttft_ms"], found["overhead_ms"]) == (None, None)
    assert "input_tokens" not in found


def test_an_error_says_its_code_origin_and_message():
    exchange = answered()
    note(exchange, UpstreamError("The engine broke off."))
    found = entry(exchange, 100.5, 1.7e9)
    assert (found["level"], found["status_code"]) == ("error", 502)
    assert (found["error.code"], found["error.origin"]) == ("upstream_error", "upstream")
    assert found["error.message"] == "The engine broke off."


def test_a_client_that_left_is_marked():
    assert entry(answered(client_gone=True, status=499), 100.5, 1.7e9)["cancelled"] is True
    assert "cancelled" not in entry(answered(), 100.5, 1.7e9)


def test_nothing_of_the_prompt_is_logged(pipe):
    log = AccessLog(pipe[1])
    log.finished(answered(), 100.5, 1.7e9)
    log.close()
    (line,) = lines(pipe[0])
    assert SECRET.encode() not in line
    assert json.loads(line)["request_id"] == "req_1"


@pytest.mark.parametrize("character", ["\n", "\r", "\x00", "\x1b", "\x7f", "\x85", "\x9b"])
def test_control_characters_of_a_client_do_not_reach_the_log_as_they_are(pipe, character):
    exchange = make_exchange()
    exchange.body = chat(model=f"m{character}x")
    scan_body(exchange, BodyRules(Settings()))
    exchange.status, exchange.error_code, exchange.error_message = 404, "x", f"e{character}y"
    log = AccessLog(pipe[1])
    log.finished(exchange, 100.5, 1.7e9)
    log.close()
    (line,) = lines(pipe[0])
    assert character.encode() not in line
    assert json.loads(line)["status_code"] == 404


def test_long_values_are_cut(pipe):
    exchange = make_exchange()
    exchange.body = chat(model="m" * 500)
    scan_body(exchange, BodyRules(Settings()))
    exchange.error_code, exchange.error_message = "x", "e" * 100_000
    found = entry(exchange, 100.5, 1.7e9)
    assert (len(found["model_name"]), len(found["error.message"])) == (256, 256)


def test_every_request_has_one_line_in_its_order(pipe):
    log = AccessLog(pipe[1])
    for number in range(50):
        log.finished(answered(request_id=f"req_{number}"), 100.5, 1.7e9)
    log.close()
    found = [json.loads(line)["request_id"] for line in lines(pipe[0])]
    assert found == [f"req_{number}" for number in range(50)]
    assert log.dropped == 0


def test_a_reader_that_is_stuck_holds_up_nobody_and_costs_lines_that_are_counted(pipe, monkeypatch):
    monkeypatch.setattr(access_log, "_MOST_LINES_WAITING", 500)
    log = AccessLog(pipe[1])
    started = time.monotonic()
    for number in range(5000):
        log.finished(answered(request_id=f"req_{number}"), 100.5, 1.7e9)
    assert time.monotonic() - started < 5
    assert log.dropped > 3000
    reader = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(pipe[0], 1 << 16), b"")])
    reader.start()
    log.close()
    pipe.close(1)
    reader.join(5)
    assert not reader.is_alive()


def test_closing_does_not_wait_for_a_stuck_reader(pipe):
    log = AccessLog(pipe[1])
    for _ in range(2000):
        log.finished(answered(), 100.5, 1.7e9)
    started = time.monotonic()
    log.close()
    assert 0.5 < time.monotonic() - started < 3


def test_a_reader_that_is_gone_costs_lines_that_are_counted(pipe):
    pipe.close(0)
    log = AccessLog(pipe[1])
    log.finished(answered(), 100.5, 1.7e9)
    log.close()
    assert log.dropped == 1


def test_a_log_that_is_switched_off_writes_nothing_and_has_no_thread(pipe):
    before = threading.active_count()
    log = AccessLog(pipe[1], enabled=False)
    assert threading.active_count() == before
    log.finished(answered(), 100.5, 1.7e9)
    log.close()
    assert lines(pipe[0]) == []


def test_lines_that_come_while_others_are_written_are_written_at_the_end(pipe, monkeypatch):
    writing, go_on = threading.Event(), threading.Event()
    write = os.write

    def slow(descriptor, data):
        writing.set()
        assert go_on.wait(5)
        return write(descriptor, data)

    log = AccessLog(pipe[1])
    monkeypatch.setattr(access_log.os, "write", slow)
    log.finished(answered(request_id="req_first"), 100.5, 1.7e9)
    assert writing.wait(5)
    log.finished(answered(request_id="req_last"), 100.5, 1.7e9)
    threading.Timer(0.2, go_on.set).start()
    log.close()
    assert [json.loads(line)["request_id"] for line in lines(pipe[0])] == ["req_first", "req_last"]
    assert log.dropped == 0


def test_a_line_that_broke_off_does_not_spoil_the_next_and_is_counted_alone(pipe, monkeypatch):
    log = AccessLog(pipe[1], enabled=False)
    write, faults = os.write, [lambda data: data[:5], lambda data: data[:0], None]

    def failing(descriptor, data):
        fault = faults[0] if faults else None
        if fault is None:
            return write(descriptor, data)
        faults[0] = lambda data: data[:0]
        part = fault(data)
        if not part:
            faults.pop(0)
            raise OSError(28, "no space left")
        return write(descriptor, part)

    monkeypatch.setattr(access_log.os, "write", failing)
    log._write(b"one is long\ntwo\n")
    assert log.dropped == 2
    log._write(b"three\n")  # nothing of it is written: what stands there is torn still
    assert log.dropped == 3
    log._write(b"four\n")
    log._write(b"five\n")
    assert (lines(pipe[0]), log.dropped) == ([b"one i", b"four", b"five"], 3)


def test_large_lines_that_wait_are_bounded_by_their_bytes(pipe, monkeypatch):
    monkeypatch.setattr(access_log, "_MOST_BYTES_WAITING", 100_000)
    log = AccessLog(pipe[1])
    log.close()  # nobody takes them
    for _ in range(1000):
        log.finished(answered(decision=b'"' + b"x" * 2000 + b'"'), 100.5, 1.7e9)
    assert 100_000 <= log._lines.size < 110_000
    assert log.dropped > 900
