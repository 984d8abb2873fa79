"""Answers are read as their twin says, however they are cut into reads, and whatever stands in them; and never more freely than llhttp."""

from itertools import pairwise

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath.http1 import BodyReader, FramingError, body_of, parse_head
from tests.reference import http1 as reference
from tests.support.examples import examples

DATA = st.binary(min_size=1, max_size=40)
SIZE_FORMS = st.sampled_from(["{:x}", "{:X}", "0{:x}", "000{:x}"])
EXTENSION = st.sampled_from([b"", b"", b"", b";", b";a=b", b";a=\t\xff"])
TRAILERS = st.sampled_from([b"", b"", b"a: b\r\n", b"a: b\r\nc:\td\r\n"])


@st.composite
def chunked_bodies(draw):
    """A valid chunked body, as it stands on the wire."""
    wire = b""
    for data in draw(st.lists(DATA, max_size=5)):
        size = draw(SIZE_FORMS).format(len(data)).encode()
        wire += size + draw(EXTENSION) + b"\r\n" + data + b"\r\n"
    return wire + draw(st.sampled_from([b"0", b"000"])) + draw(EXTENSION) + b"\r\n" + draw(TRAILERS) + b"\r\n"


@st.composite
def broken(draw, bodies):
    """A body with a byte changed, removed or inserted."""
    wire = draw(bodies)
    at = draw(st.integers(0, len(wire)))
    byte = draw(st.sampled_from([b"\r", b"\n", b"\0", b";", b" ", b"g", b"0", b"F", b"\x7f"]))
    return draw(
        st.sampled_from([wire[:at] + byte + wire[at:], wire[:at] + wire[at + 1 :], wire[:at] + byte + wire[at + 1 :]])
    )


def reads(wire, cuts):
    places = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
    return [wire[first:last] for first, last in pairwise(places)]


def outcome(reader, error, pieces):
    """What each read gave, whether the body is whole and what was too much; or the read that was refused."""
    given = []
    for position, piece in enumerate(pieces):
        try:
            given.append(reader.feed(b"skipped" + piece, 7))
        except error:
            return given, position
    return given, (reader.complete, reader.excess, reader.end())


def agree(wire, cuts, **framing):
    pieces = reads(wire, cuts)
    compiled = outcome(BodyReader(**framing), FramingError, pieces)
    assert compiled == outcome(reference.BodyReader(**framing), reference.FramingError, pieces)
    return compiled


CUTS = st.lists(st.integers(0, 1 << 16), max_size=12)


@settings(max_examples=examples(400), deadline=None)
@given(wire=chunked_bodies(), more=st.binary(max_size=5), cuts=CUTS)
def test_chunked_bodies_are_read_as_their_twin_says(wire, more, cuts):
    given, end = agree(wire + more, cuts, chunked=True)
    assert end == (True, len(more), True)
    whole = BodyReader(chunked=True).feed(wire)
    assert b"".join(given) == whole


@settings(max_examples=examples(600), deadline=None)
@given(wire=broken(chunked_bodies()), cuts=CUTS)
def test_broken_bodies_are_refused_at_the_read_that_their_twin_refuses(wire, cuts):
    agree(wire, cuts, chunked=True)


@settings(max_examples=examples(300), deadline=None)
@given(wire=st.binary(max_size=60), cuts=CUTS)
def test_any_bytes_do_no_harm(wire, cuts):
    agree(wire, cuts, chunked=True)


@settings(max_examples=examples(300), deadline=None)
@given(wire=st.binary(max_size=60), cuts=CUTS, length=st.one_of(st.none(), st.integers(0, 70)))
def test_bodies_with_a_length_or_without_are_read_as_their_twin_says(wire, cuts, length):
    agree(wire, cuts, length=length)


LINES = st.sampled_from(
    [
        b"content-length: 5", b"Content-Length:5 ", b"content-length: 05", b"content-length: x", b"content-length: 5,5",
        b"transfer-encoding: chunked", b"Transfer-Encoding:\tCHUNKED", b"transfer-encoding: gzip", b"connection: close",
        b"connection: x-a, keep-alive", b"connection: upgrade", b"x-a: 1", b"X-A:", b"x-b: \xe9", b"x-c: a\tb", b"x penstock: 1",
        b"x-penstock-endpoint: a", b"server: b", b"content-type: text/event-stream", b"content-type: application/json",
        b"content-type: text/event-stream;\tx", b"content-type: text/event-stream; charset=utf-8", b"connection: content-type",
        b"content-type: text/event-stream; x=\xe9",
        b" folded", b": none", b"no colon", b"x\0: 1", b"x: \0", b"x: a\rb", b"x: a\nb", b"date: now",
    ]
)  # fmt: skip
STATUSES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 204 ",
        b"HTTP/1.1 404 Not\tFound", b"HTTP/1.1 100 Continue", b"HTTP/1.1 101 Switching", b"HTTP/1.1 099 X", b"HTTP/1.1 600 X",
        b"HTTP/2.0 200 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1  200 OK", b"http/1.1 200 OK", b"HTTP/1.1 200 \xff", b"HTTP/1.1 200OK",
    ]
)  # fmt: skip
HEADS = st.tuples(STATUSES, st.lists(LINES, max_size=5)).map(
    lambda drawn: b"\r\n".join((drawn[0], *drawn[1], b"", b""))
)


def read_head(parse, error, data, start=0):
    try:
        found = parse(data, start)
    except error:
        return "refused"
    if found is None:
        return None
    names = ("status", "headers", "length", "chunked", "keeps_alive", "is_event_stream", "end")
    return tuple(getattr(found, name) for name in names)


@settings(max_examples=examples(800), deadline=None)
@given(data=st.one_of(HEADS, broken(HEADS)), cut=st.integers(0, 400), before=st.binary(max_size=3))
def test_heads_are_read_as_their_twin_says_and_not_before_their_end(data, cut, before):
    whole = read_head(parse_head, FramingError, before + data, len(before))
    assert whole == read_head(reference.parse_head, reference.FramingError, before + data, len(before))
    begun = read_head(parse_head, FramingError, data[:cut])
    assert begun == read_head(reference.parse_head, reference.FramingError, data[:cut])
    assert begun in (None, "refused") or cut >= begun[-1]


class Collector:
    def __init__(self):
        self.headers = []

    def on_header(self, name, value):
        self.headers.append((name.lower(), value))


@settings(max_examples=examples(800), deadline=None)
@given(data=st.one_of(HEADS, broken(HEADS)))
def test_what_llhttp_refuses_is_refused_and_what_is_read_is_what_llhttp_reads(data):
    found = read_head(parse_head, FramingError, data)
    if found in (None, "refused"):
        return
    collector = Collector()
    parser = httptools.HttpResponseParser(collector)
    parser.feed_data(data[: found[-1]])
    assert parser.get_status_code() == found[0]
    values = [(name.decode(), value.decode("latin-1").strip(" \t")) for name, value in collector.headers]
    assert [pair for pair in values if pair in found[1]] == found[1]


@pytest.mark.parametrize(
    "told", [b"content-length: 5\r\n", b"content-length: 0\r\n", b"transfer-encoding: chunked\r\n", b""]
)
def test_the_reader_of_a_heads_body_is_the_one_that_its_head_asks_for(told):
    head = parse_head(b"HTTP/1.1 200 OK\r\n" + told + b"\r\n")
    assert head is not None
    found, asked = body_of(head), BodyReader(length=head.length, chunked=head.chunked)
    for piece in (b"5\r\nhello", b"\r\n0\r\n\r\n"):
        assert (found.feed(piece), found.complete, found.excess) == (asked.feed(piece), asked.complete, asked.excess)
    assert found.end() == asked.end()
