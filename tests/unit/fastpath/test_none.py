"""What is called as a C function looks for itself whether an object is there: None would be read as memory."""

import pytest

from _fastpath.counters import CounterRow, Counters
from _fastpath.hashing import Hasher
from _fastpath.health import Health
from _fastpath.http1 import BodyReader, body_of, parse_head
from _fastpath.limit_headers import limit_headers
from _fastpath.log_line import LogLines
from _fastpath.scanner import scan
from _fastpath.scheduler import Scheduler
from _fastpath.shared_memory import SharedMemory
from _fastpath.token_bucket import Journal
from _fastpath.usage import Tail, events_in, scan_usage


@pytest.fixture
def memory(tmp_path):
    return SharedMemory.create(
        str(tmp_path / "memory"), workers=1, slots=64, buckets=1, journal_records=1, prefix_bytes=192
    )


@pytest.mark.parametrize(
    "ask",
    [scan, scan_usage, events_in, Tail().add, body_of, parse_head, BodyReader(length=1).feed, Hasher((1, 2)).hash_text],
)
def test_bytes_that_are_not_there_are_refused(ask):
    with pytest.raises(TypeError):
        ask(None)


def test_objects_that_are_not_there_are_refused(memory):
    scheduler, journal, counters = Scheduler(memory), Journal(memory, 0), Counters(memory, 0, [])
    for ask in (
        lambda: scheduler.decide(None, None, None, 1, 1, 0.0),
        lambda: scheduler.release(None, 0, 0, 0),
        lambda: scheduler.first_token(None, 0, 0),
        lambda: Health(memory).note(0, 0, None, 0, 0.0, 0.0),
        lambda: journal.take(None, 1, 1, 0),
        lambda: journal.settle(None, 0, 1, 1, 0),
        lambda: limit_headers(None, None, 0),
        lambda: counters.record(None),
        lambda: CounterRow(None, ()),
        lambda: CounterRow(counters, None),
    ):
        with pytest.raises(TypeError):
            ask()


@pytest.mark.parametrize("missing", [1, 2, 4, 5, 21, 22, 23, 24, 25, 27])
def test_a_line_without_one_of_its_texts_is_refused(missing):
    arguments = [
        0.0, "x", "x", 200, "chat", "m", None, None, None, False, 0.0, 0.0, 0.0, 1, 1, 1, 0.0, None, 1, 1, False, "", "", "", "", "",
        0.0, b"",
    ]  # fmt: skip
    lines = LogLines()
    lines.add(*arguments)
    arguments[missing] = None
    with pytest.raises(TypeError):
        lines.add(*arguments)
    assert lines.count == 1
