"""The access log's line against its twin, for any text and any number."""

import json

from hypothesis import given
from hypothesis import strategies as st

from _fastpath.log_line import request_line
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
):
    arguments = (
        *texts, status, operation, model, *names, stream, *times, *counts, ratio, usage, *estimates, cancelled, *error,
        *identity, waited,
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
