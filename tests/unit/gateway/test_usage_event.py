"""The usage event that the gateway asked for, and that no client sees which did not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.downstream.usage_event import MOST_HELD, UsageEventFilter

WORD = b'data: {"choices":[{"index":0,"delta":{"content":"usage \\"usage\\""}}],"usage":null}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"


def passed(*pieces):
    one = UsageEventFilter()
    return b"".join([*map(one.feed, pieces), one.end()])


def test_the_usage_event_is_left_out():
    assert passed(WORD, WORD, USAGE, DONE) == WORD + WORD + DONE


def test_events_pass_at_once():
    one = UsageEventFilter()
    assert one.feed(WORD) == WORD
    assert one.feed(WORD + WORD[:20]) == WORD
    assert one.feed(WORD[20:]) == WORD
    assert one.end() == b""


@given(
    st.lists(st.sampled_from([WORD, USAGE, DONE, b": a comment\n\n", b"event: x\ndata: {}\n\n"]), max_size=8), st.data()
)
def test_it_does_not_matter_where_the_pieces_begin(events, data):
    whole = b"".join(events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert passed(*pieces) == b"".join(event for event in events if event != USAGE)


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":3}}\n\n',
        b'data: {"usage":{"prompt_tokens":3}}\n\n',
        b'data: {"choices":[],"usage":null}\n\n',
        b'data: {"choices":[],"usage"\n\n',
        b'event: message\ndata: {"choices":[],"usage":{}}\n\n',
        b'"usage"\n\n',
    ],
)
def test_an_event_that_says_more_passes(event):
    assert passed(WORD, event, DONE) == WORD + event + DONE


def test_other_ends_of_lines_are_understood():
    windows = [one.replace(b"\n", b"\r\n") for one in (WORD, USAGE, DONE)]
    assert passed(*windows) == windows[0] + windows[2]


def test_spaces_in_the_json_are_understood():
    spaced = b"data: " + json.dumps({"id": 1, "choices": [], "usage": {"prompt_tokens": 1}}, indent=1).encode().replace(
        b"\n", b" "
    )
    assert passed(WORD, spaced + b"\n\n", DONE) == WORD + DONE


@pytest.mark.parametrize("beat", [b":\n\n", b"\n\n", b":\r\n\r\n"])
def test_the_shortest_of_events_passes_at_once(beat):
    assert UsageEventFilter().feed(beat) == beat


def test_a_usage_event_that_does_not_end_is_left_out_too():
    assert passed(WORD, USAGE.rstrip()) == WORD


def test_an_event_without_an_end_is_not_held_for_ever():
    one = UsageEventFilter()
    long = b"data: " + b"x" * MOST_HELD
    assert one.feed(long) == long
    assert one.feed(b"y") == b""
    assert one.end() == b"y"
