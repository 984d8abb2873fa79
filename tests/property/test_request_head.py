"""A request's head has the lines that the twin formats, whatever the client sent."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath.request_head import passed_on, request_head
from tests.reference import request_head as reference
from tests.support.examples import examples

VALUE = st.one_of(
    st.text(max_size=60),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=300),
    st.text(st.characters(max_codepoint=130), max_size=8),
)
NAMES = st.sampled_from(["accept", "traceparent", "tracestate", "user-agent", "authorization", "host", "x-other"])
SENT = st.dictionaries(NAMES, VALUE, max_size=7)


def outcome(make, *given_to_it):
    try:
        return make(*given_to_it)
    except ValueError:
        return ValueError


@settings(deadline=None, max_examples=examples(300))
@given(st.one_of(st.from_regex(r"[A-Za-z0-9._:-]{1,128}", fullmatch=True), VALUE), SENT, st.booleans())
def test_the_lines_are_the_twins(request_id, sent, with_authorization):
    found = outcome(passed_on, request_id, sent.get, with_authorization)
    assert found == outcome(reference.passed_on, request_id, sent.get, with_authorization)
    assert found is ValueError or found.isascii()  # also in how it is kept


@settings(deadline=None, max_examples=examples(200))
@given(
    st.binary(max_size=100),
    st.text(max_size=100) | st.text(st.characters(max_codepoint=127)),
    st.integers(0, 2**64 - 1),
)
def test_the_head_is_the_twins(start, lines, length):
    assert outcome(request_head, start, lines, length) == outcome(reference.request_head, start, lines, length)


def test_a_header_that_is_no_text_is_an_error():
    with pytest.raises(TypeError, match="must be a string"):
        passed_on("a", {"accept": b"x"}.get, False)


def test_what_looking_up_raises_comes_through():
    def broken(name):
        raise KeyError(name)

    with pytest.raises(KeyError, match="accept"):
        passed_on("a", broken, True)


@pytest.mark.parametrize("missing", [(None, ""), (b"", None)])
def test_nothing_is_no_head(missing):
    with pytest.raises(TypeError):
        request_head(*missing, 1)
