"""The access log's line against its twin, for any text and any number."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _fastpath.log_line import moment, request_line, server_timing
from tests.reference import log_line as twin
from tests.reference.log_line import request_line as plain_line

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
NAME = st.one_of(st.none(), TEXT)
COUNT = st.integers(0, 2**62)
# milliseconds that three decimals hold exactly, so that rounding is not what is compared
SECONDS = st.one_of(st.just(-1.0), st.integers(0, 10**12).map(lambda microseconds: microseconds / 10**6))
RATIO = st.one_of(st.just(-1.0), st.integers(0, 1000).map(lambda thousandths: thousandths / 1000))
USAGE = st.one_of(st.none(), st.tuples(COUNT, COUNT, st.just(-1) | COUNT))


@given(
    texts=st.tuples(TEXT, TEXT, TEXT), status=st.integers(0, 599), operation=TEXT, model=TEXT, names=st.tuples(NAME, NAME, NAME),
    stream=st.booleans(), times=st.tuples(st.integers(0, 10**12).map(lambda one: one / 10**6), SECONDS, SECONDS),
    counts=st.tuples(COUNT, COUNT, COUNT), ratio=RATIO, usage=USAGE, estimates=st.tuples(COUNT, COUNT), cancelled=st.booleans(),
    error=st.tuples(TEXT, TEXT, TEXT), identity=st.tuples(TEXT, TEXT), waited=SECONDS.filter(lambda one: one >= 0),
    decision=st.just(b"") | st.dictionaries(TEXT, TEXT, min_size=1, max_size=60).map(lambda one: json.dumps(one).encode()),
)  # fmt: skip
def test_a_line_says_what_the_twin_says(
    texts,
    status,
    operation,
    model,
    names,
    stream,
    times,
    counts,
    ratio,
    usage,
    estimates,
    cancelled,
    error,
    identity,
    waited,
    decision,
):
    arguments = (
        *texts, status, operation, model, *names, stream, *times, *counts, ratio, usage, *estimates, cancelled, *error,
        *identity, waited, decision,
    )  # fmt: skip
    line = request_line(*arguments)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    found, expected = json.loads(line), json.loads(plain_line(*arguments))
    assert list(found) == list(expected)
    assert found == expected


@given(TEXT)
def test_no_control_character_of_a_text_is_in_the_line(text):
    line = request_line("", text, text, 200, "", text, text, text, text, False, 0.0, 0.0, 0.0, 0, 0, 0, 0.0, None, 0, 0, False,
                        text, text, text, text, text, 0.0)  # fmt: skip
    assert not any(byte < 0x20 or byte == 0x7F for byte in line[:-1])


@given(SECONDS, SECONDS, SECONDS)
def test_times_of_an_answer_read_as_the_twin_writes_them(overhead, waited, first):
    assert server_timing(overhead, waited, first) == twin.server_timing(overhead, waited, first)


@given(st.text("0123456789-:T", max_size=32), st.integers(0, 999))
def test_a_moment_reads_as_the_twin_writes_it(seconds, milliseconds):
    assert moment(seconds, milliseconds) == twin.moment(seconds, milliseconds)


@pytest.mark.parametrize(("seconds", "milliseconds"), [("x" * 33, 0), ("x", -1), ("x", 1000)])
def test_a_moment_that_is_none_is_refused(seconds, milliseconds):
    with pytest.raises(ValueError, match="a moment is"):
        moment(seconds, milliseconds)
