"""The reading of usage against its plain-Python twin, on answers whole, cut and spoiled."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath.usage import Tail, events_in, has_no_usage, scan_usage
from tests.property.bodies import FRAGMENTS
from tests.reference import usage as twin
from tests.support.examples import examples

FAST = settings(deadline=None, max_examples=examples(130))
FASTER = settings(deadline=None, max_examples=examples(80))

TOKEN_COUNTS = st.integers(0, 10**9)


@st.composite
def usages(draw: st.DrawFn) -> dict[str, Any]:
    prompt, completion = draw(
        st.sampled_from([("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens")])
    )
    members: dict[str, Any] = {prompt: draw(TOKEN_COUNTS)}
    if draw(st.booleans()):
        members[completion] = draw(TOKEN_COUNTS)
    if draw(st.booleans()):
        members[f"{prompt}_details"] = draw(st.none() | st.fixed_dictionaries({"cached_tokens": TOKEN_COUNTS}))
    members["total_tokens"] = draw(TOKEN_COUNTS)
    return dict(draw(st.permutations(list(members.items()))))


TEXTS = st.text(max_size=8) | st.sampled_from(['"usage', '"usage"', '"usage":{"prompt_tokens":7}', '\\"usage'])


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """A JSON answer, or the events of a stream, with or without usage."""
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    chunks = []
    for _ in range(draw(st.integers(1, 4))):
        chunk: dict[str, Any] = {"object": "chat.completion", "choices": [{"text": draw(TEXTS)}]}
        if draw(st.booleans()):
            chunk["usage"] = draw(st.none() | usages())
        chunk["fingerprint"] = draw(TEXTS)
        chunks.append(json.dumps(chunk, separators=separators).encode())
    return (
        chunks[-1]
        if draw(st.booleans())
        else b"".join(b"data: %b\n\n" % chunk for chunk in chunks) + b"data: [DONE]\n\n"
    )


@FAST
@given(answers())
def test_usage_is_the_last(answer: bytes) -> None:
    assert scan_usage(answer) == twin.scan_usage(answer)


@FASTER
@given(usages())
def test_usage_alone(usage: dict[str, Any]) -> None:
    for indent in (None, 1, "\t"):
        answer = json.dumps({"usage": usage}, indent=indent).encode()
        assert scan_usage(answer) == twin.scan_usage(answer)


@FAST
@given(answers() | usages().map(lambda usage: json.dumps({"id": "x", "usage": usage}).encode()), st.data())
def test_usage_of_a_cut_or_spoiled_answer_raises_nothing(answer: bytes, data: st.DataObject) -> None:
    start, end = data.draw(st.integers(0, len(answer))), data.draw(st.integers(0, len(answer)))
    found = scan_usage(answer[start:end] + data.draw(st.sampled_from(FRAGMENTS)) + answer[end:])
    assert found is None or (len(found) == 3 and min(found[:2]) >= 0 and found[2] >= -1 and max(found) < 2**63)


USAGE_PIECES = [
    b'"usage"',
    b'"prompt_tokens"',
    b'"output_tokens"',
    b'"cached_tokens"',
    b":",
    b" ",
    b"1",
    b"9" * 30,
    b"{",
    b"-",
    b"\xff",
]


@FASTER
@given(st.binary(max_size=100) | st.lists(st.sampled_from(USAGE_PIECES)).map(b"".join))
def test_usage_of_arbitrary_bytes_raises_nothing(text: bytes) -> None:
    found = scan_usage(text)
    if found is not None:
        prompt, output, cached = found
        assert prompt >= 0
        assert output >= 0
        assert cached >= -1  # that many stand for an engine that does not say


@FAST
@given(
    st.lists(st.sampled_from([b"data: {", b"data: ", b"{", b'"a"', b"data: [DONE]\n\n", b"\n\n"]), max_size=12),
    st.data(),
)
def test_events_are_counted_where_they_begin(parts: list[bytes], data: st.DataObject) -> None:
    piece = b"".join(parts)
    cut = piece[data.draw(st.integers(0, len(piece))) :]
    assert events_in(cut) == twin.events_in(cut)


@FAST
@given(
    st.lists(st.integers(0, 9000) | st.sampled_from([4095, 4096, 4097]), max_size=8), st.binary(min_size=1, max_size=7)
)
def test_the_tail_is_the_last_of_all_pieces(sizes: list[int], content: bytes) -> None:
    tail, plain = Tail(), twin.Tail()
    at = 0
    for size in sizes:
        piece = (content * (size // len(content) + 2))[at % len(content) :][:size]
        at += 5
        tail.add(piece)
        plain.add(piece)
        assert tail.text() == plain.text()


@FASTER
@given(
    st.lists(st.sampled_from([b'"usage"', b'"usag', b'"', b"\n", b"\n\n", b"a"]) | st.binary(max_size=6), max_size=8)
)
def test_pieces_without_usage_are_the_twins(fragments: list[bytes]) -> None:
    piece = b"".join(fragments)
    assert has_no_usage(piece) == twin.has_no_usage(piece)


COUNTED = [b'"prompt_tokens"', b'"input_tokens"', b'"completion_tokens"', b'"output_tokens"', b'"cached_tokens"']


@FAST
@given(st.lists(st.sampled_from(COUNTED), max_size=8), st.integers(0, 1000), st.integers(0, 2040))
def test_the_first_count_of_each_name_counts_and_none_that_is_far_away(
    names: list[bytes], number: int, before: int
) -> None:
    members = [b"%b:%d" % (name, number + place) for place, name in enumerate(names)]
    found = scan_usage(b'{"usage":{"a":"%b",%b}}' % (b"x" * before, b",".join(members)))
    counts = {}
    at = len(b'"usage":{"a":"",') + before
    for place, name in enumerate(names):
        if at + len(name) < 2048:
            counts.setdefault(name, number + place)
        at += len(members[place]) + 1
    prompt = counts.get(COUNTED[0], counts.get(COUNTED[1]))
    completion = counts.get(COUNTED[2], counts.get(COUNTED[3], 0))
    end = min(2048, at)
    if prompt is None or end < at:
        return  # whether a name just before the end of the window counts is not laid down
    assert found == (prompt, completion, counts.get(COUNTED[4], -1))
