"""The access log's lines against their twin, for any text and any number."""

import json

from hypothesis import given
from hypothesis import strategies as st

from _fastpath.log_line import LogLines, is_plain, server_timing
from tests.reference import log_line as twin

PLAIN = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
TEXT = PLAIN | st.deferred(lambda: MIXED)
NAME = st.one_of(st.none(), TEXT)
COUNT = st.integers(0, 2**62)
# milliseconds that three decimals hold exactly, so that rounding is not what is compared
SECONDS = st.one_of(st.just(-1.0), st.integers(0, 10**12).map(lambda microseconds: microseconds / 10**6))
RATIO = st.one_of(st.just(-1.0), st.integers(0, 1000).map(lambda thousandths: thousandths / 1000))
# to 9999, in milliseconds, which a double holds well enough to round
WALL = st.integers(0, 253_402_300_799_000).map(lambda milliseconds: milliseconds / 1000)
# what is escaped or is not at each place of a word of eight bytes, and of what is left of one
MIXED = st.text('a"\\\x00\x1f\x7f ~\x80\u00e9\u20ac', max_size=40)
USAGE = st.one_of(st.none(), st.tuples(COUNT, COUNT, st.just(-1) | COUNT))


REST = (
    "/p",
    200,
    "chat",
    "m",
    None,
    None,
    None,
    False,
    1.0,
    0.5,
    0.25,
    1,
    2,
    3,
    -1.0,
    None,
    0,
    0,
    False,
    "",
    "",
    "",
    "",
    "",
    0.0,
)


def written(arguments):
    lines = LogLines()
    lines.add(*arguments)
    return lines.take()


@given(
    wall=WALL, texts=st.tuples(TEXT, TEXT), status=st.integers(0, 599), operation=TEXT, model=TEXT, names=st.tuples(NAME, NAME, NAME),
    stream=st.booleans(), times=st.tuples(st.integers(0, 10**12).map(lambda one: one / 10**6), SECONDS, SECONDS),
    counts=st.tuples(COUNT, COUNT, COUNT), ratio=RATIO, usage=USAGE, estimates=st.tuples(COUNT, COUNT), cancelled=st.booleans(),
    error=st.tuples(TEXT, TEXT, TEXT), identity=st.tuples(TEXT, TEXT), waited=SECONDS.filter(lambda one: one >= 0),
    decision=st.just(b"") | st.dictionaries(TEXT, TEXT, min_size=1, max_size=60).map(lambda one: json.dumps(one).encode()),
)  # fmt: skip
def test_a_line_says_what_the_twin_says(
    wall,
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
        wall, *texts, status, operation, model, *names, stream, *times, *counts, ratio, usage, *estimates, cancelled, *error,
        *identity, waited, decision,
    )  # fmt: skip
    line = written(arguments)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    found, expected = json.loads(line), json.loads(twin.request_line(*arguments))
    assert list(found) == list(expected)
    assert found == expected


@given(TEXT)
def test_no_control_character_of_a_text_is_in_the_line(text):
    line = written((0.0, text, text, 200, "", text, text, text, text, False, 0.0, 0.0, 0.0, 0, 0, 0, 0.0, None, 0, 0, False,
                    text, text, text, text, text, 0.0))  # fmt: skip
    assert not any(byte < 0x20 or byte == 0x7F for byte in line[:-1])


@given(SECONDS, SECONDS, SECONDS)
def test_times_of_an_answer_read_as_the_twin_writes_them(overhead, waited, first):
    assert server_timing(overhead, waited, first) == twin.server_timing(overhead, waited, first)


@given(st.lists(st.tuples(WALL, TEXT) | st.none(), max_size=40))
def test_lines_are_taken_in_their_order_each_once(todo):
    lines, plain = LogLines(), twin.LogLines()
    for one in todo:
        if one is None:
            assert [json.loads(line) for line in lines.take().splitlines()] == [
                json.loads(line) for line in plain.take().splitlines()
            ]
        else:
            for each in (lines, plain):
                each.add(one[0], one[1], *REST)
        assert lines.count == plain.count


@given(TEXT, st.integers(0, 50))
def test_what_is_plain_is_printable_ascii(text, longest):
    assert is_plain(text, longest) == twin.is_plain(text, longest)
