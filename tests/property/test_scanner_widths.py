"""Texts around the widths that the scanner looks at at once: 16, 32, 64 and 128 bytes; the same with AVX2 and without."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath.scanner import ScanError, scan
from tests.property.test_scanner import both_ways, is_object
from tests.support.examples import examples

GOOD = [
    b"\\n",
    b'\\"',
    b"\\\\",
    b"\\/",
    b"\\u00e9",
    b"\\ud83d\\ude00",
    "é".encode(),
    "漢".encode(),
    "😀".encode(),
    b"\x7f",
    b"'",
]
BAD = [
    b"\\x",
    b"\\",
    b"\\u12",
    b"\\ud83d",
    b"\\\x80",
    b"\\\n",
    b'"',
    b"\x1f",
    b"\x00",
    b"\x80",
    b"\xc3",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x98",
]
LONGEST = 300
DENSE = ["\\n", '\\"', "\\\\", "\\t", "\\u0041", "a", "ab " * 13, "é", "漢", '"', "\\", "\x01", "\\x"]


def read(body: bytes) -> str | None:
    """The text that the scanner finds, both ways; None for a body that both refuse alike."""
    wide, narrow = both_ways(body)
    assert wide == narrow
    if isinstance(wide, dict):
        return wide["user"]
    assert wide[0] == "invalid_json"
    return None


def check(text: bytes, after: bytes) -> None:
    """A body with a text is taken, and read, as orjson takes and reads it."""
    body = b'{"user":"' + text + b'"' + after + b"}"
    found = read(body)
    assert (found is not None) == is_object(orjson.loads, body)
    if found is not None:
        assert found == orjson.loads(body)["user"]


# what follows decides how far beyond a text its reader may look
AFTER = [b"", b',"a":[' + b"1," * 100 + b'"' + b"x" * 200 + b'"]']


@pytest.mark.parametrize("after", AFTER, ids=["alone", "with more after it"])
def test_every_length(after: bytes) -> None:
    for length in range(LONGEST):
        check(b"x" * length, after)
        check(b"x" * length + b"\\n", after)
        check(b"\\n" * length, after)
        check(b'\\"' + b"\\\\" * length, after)


@pytest.mark.parametrize("after", AFTER, ids=["alone", "with more after it"])
@pytest.mark.parametrize("piece", GOOD + BAD, ids=ascii)
def test_every_piece_at_every_place(piece: bytes, after: bytes) -> None:
    for at in range(LONGEST):
        check(b"x" * at + piece + b"x" * (LONGEST - at), after)


@pytest.mark.parametrize("piece", GOOD + BAD, ids=ascii)
def test_every_piece_at_every_place_among_escapes(piece: bytes) -> None:
    for at in range(LONGEST // 2):
        check(b"\\n" * at + piece + b'\\"' * (LONGEST // 2 - at), b"")
        check(b"x" * (at % 7) + b"\\\\" * at + piece + b"\\t" * 40, AFTER[1])


def test_bytes_that_are_no_utf_8_are_named_where_they_stand() -> None:
    for at in range(LONGEST):
        for escapes in (b"", b"\\n"):
            body = b'{"user":"' + escapes + b"x" * at + b"\xff" + b"x" * (LONGEST - at) + b'"}'
            for found in both_ways(body):
                assert found == ("invalid_json", "user", 9 + len(escapes) + at)


def test_a_body_may_end_anywhere() -> None:
    for unit in (b"x", b"\\n", "é".encode(), b'\\"', b"ab\\\\"):
        body = b'{"user":"' + unit * 150 + b'"}'
        for end in range(len(body)):
            wide, narrow = both_ways(body[:end])
            assert wide == narrow
            with pytest.raises(ScanError):
                scan(body[:end])


@settings(deadline=None, max_examples=examples(300))
@given(st.lists(st.sampled_from(DENSE), max_size=120), st.sampled_from(AFTER))
def test_texts_dense_with_escapes(pieces: list[str], after: bytes) -> None:
    text = "".join(pieces).encode()[:1000]
    check(text, after)


@settings(deadline=None, max_examples=examples(300))
@given(st.lists(st.sampled_from(DENSE[:9]), max_size=120), st.integers(0, 130))
def test_texts_of_escapes_that_are_right(pieces: list[str], offset: int) -> None:
    text = "x" * offset + "".join(pieces)
    body = b'{"a":"' + text.encode() + b'","user":"u"}'
    assert read(body) == "u"
