"""One body of an HTTP/1.1 message."""

import pytest

from _fastpath.http1 import BodyReader, FramingError


def test_a_read_that_is_all_body_is_handed_on_itself():
    data = b"x" * 100
    assert BodyReader(length=200).feed(data) is data
    assert BodyReader().feed(data) is data


def test_a_body_with_a_length_ends_there():
    reader = BodyReader(length=5)
    assert reader.feed(b"abc") == b"abc"
    assert not reader.complete
    assert reader.feed(b"defgh") == b"de"
    assert (reader.complete, reader.excess) == (True, 3)


def test_what_comes_after_the_end_counts_as_too_much():
    reader = BodyReader(length=0)
    assert reader.complete
    assert reader.feed(b"HTTP/1.1 200 OK") == b""
    assert reader.excess == 15


def test_a_body_without_length_and_chunks_ends_with_its_connection():
    reader = BodyReader()
    assert reader.feed(b"abc") == b"abc"
    assert not reader.complete
    assert reader.end()


@pytest.mark.parametrize("framing", [{"length": 5}, {"chunked": True}])
def test_a_body_that_breaks_off_is_not_whole(framing):
    assert not BodyReader(**framing).end()


def test_chunks_of_one_read_come_as_one_piece():
    reader = BodyReader(chunked=True)
    assert reader.feed(b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n") == b"abcdefg"
    assert (reader.complete, reader.excess) == (True, 0)


def test_a_chunk_can_be_cut_anywhere():
    wire, reader = b"a\r\n0123456789\r\n0\r\n\r\n", BodyReader(chunked=True)
    assert b"".join(reader.feed(wire[i : i + 1]) for i in range(len(wire))) == b"0123456789"
    assert reader.complete


def test_sizes_extensions_and_trailers_are_read_over():
    reader = BodyReader(chunked=True)
    assert reader.feed(b'00A;name="v"\r\n0123456789\r\n0\r\nx-sum: 1\r\n\r\nmore') == b"0123456789"
    assert (reader.complete, reader.excess) == (True, 4)


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"g\r\n", "not hexadecimal"),
        (b"\r\n", "not hexadecimal"),
        (b" 3\r\nabc", "not hexadecimal"),
        (b"3 \r\nabc", "not hexadecimal"),
        (b"0x3\r\nabc", "not hexadecimal"),
        (b"+3\r\nabc", "not hexadecimal"),
        (b"-1\r\n", "not hexadecimal"),
        (b"3\nabc", "not hexadecimal"),
        (b"3\rabc", "does not end with CR LF"),
        (b"1" * 16 + b"\r\n", "too many digits"),
        (b"3\r\nabcd\r\n", "longer than its size"),
        (b"3\r\nabc\n", "longer than its size"),
        (b"3\r\nabc\rx", "does not end with CR LF"),
        (b"0\r\n\n", "control character"),
        (b"0\r\n\r ", "body does not end"),
        (b"0\r\na: b\rc", "trailer does not end"),
        (b"3;a\x00b\r\n", "control character"),
        (b"3;a\n\r\n", "control character"),
        (b"0\r\n" + b"a: b\r\n" * 2000, "too long"),
        (b"3;" + b"a" * 9000, "too long"),
    ],
)
def test_what_another_parser_might_read_otherwise_is_refused(wire, reason):
    with pytest.raises(FramingError, match=reason):
        BodyReader(chunked=True).feed(wire)


def test_bytes_before_the_start_are_not_read():
    assert BodyReader(chunked=True).feed(b"HTTP/1.1 200 OK\r\n\r\n1\r\na\r\n", 19) == b"a"
    with pytest.raises(ValueError, match="start 4 of 3"):
        BodyReader().feed(b"abc", 4)


@pytest.mark.parametrize("framing", [{"length": -1}, {"length": (1 << 60) + 1}, {"length": 1, "chunked": True}])
def test_framings_that_are_none_are_refused(framing):
    with pytest.raises(ValueError, match="length"):
        BodyReader(**framing)
