"""The head of an answer of HTTP/1.1."""

import pytest

from _fastpath.http1 import FramingError, parse_head


def head(*lines, status=b"HTTP/1.1 200 OK"):
    return b"\r\n".join((status, *lines, b"", b""))


def test_a_head_says_what_goes_to_the_client_and_how_the_body_is_framed():
    found = parse_head(head(b"Content-Type: application/json", b"Content-Length: 12", b"X-A: b"))
    assert found.headers == [("content-type", "application/json"), ("x-a", "b")]
    assert (found.status, found.length, found.chunked, found.keeps_alive) == (200, 12, False, True)
    assert not found.is_event_stream


def test_a_head_whose_end_has_not_come_is_none_yet():
    whole = head(b"content-length: 2", b"content-type: text/event-stream; charset=utf-8")
    assert all(parse_head(whole[:cut]) is None for cut in range(len(whole)))
    found = parse_head(b"earlier" + whole + b"ok", 7)
    assert (found.end, found.is_event_stream) == (7 + len(whole), True)


def test_headers_that_the_connection_names_stay_on_it():
    found = parse_head(head(b"connection: Keep-Alive , X-Hop", b"x-hop: 1", b"x-a:\tb\t", b"content-length: 0"))
    assert (found.headers, found.keeps_alive) == ([("x-a", "b")], True)


def test_a_value_that_is_not_printable_ascii_is_left_out():
    assert parse_head(head(b"x-a: \xc3\xa9", b"x-b: a\tb", b"x-c:", b"content-length: 0")).headers == [("x-c", "")]


def test_an_interim_answer_has_no_body():
    found = parse_head(head(status=b"HTTP/1.1 100 Continue"))
    assert (found.status, found.length) == (100, 0)


@pytest.mark.parametrize(
    ("lines", "status", "keeps"),
    [
        ([b"transfer-encoding: chunked"], b"HTTP/1.1 200 OK", True),
        ([b"content-length: 1", b"connection: close"], b"HTTP/1.1 200 OK", False),
        ([b"content-length: 1"], b"HTTP/1.0 200 OK", False),
        ([], b"HTTP/1.1 200 OK", False),
        ([], b"HTTP/1.1 204 No Content", True),
    ],
)
def test_a_connection_is_kept_when_the_end_of_the_body_is_known(lines, status, keeps):
    assert parse_head(head(*lines, status=status)).keeps_alive is keeps


@pytest.mark.parametrize("name", [b"x-penstock-endpoint", b"X-Penstock-Anything", b"Server-Timing", b"x-request-id"])
def test_an_engine_cannot_speak_for_the_gateway(name):
    assert parse_head(head(name + b": forged", b"content-length: 0")).headers == []


@pytest.mark.parametrize(
    "data",
    [
        head(status=b"HTTP/1.1 099 No"),
        head(status=b"HTTP/1.1 600 No"),
        head(status=b"HTTP/1.1 999 No"),
        head(status=b"HTTP/1.1 1000 No"),
        head(status=b"HTTP/2.0 200 OK"),
        head(status=b"HTTP/1.1 101 Switching Protocols"),
        head(b"connection: upgrade", b"upgrade: h2c", status=b"HTTP/1.1 101 Switching Protocols"),
        head(b"content-length: 1", b"content-length: 2"),
        head(b"content-length: 3, 3"),
        head(b"content-length: -1"),
        head(b"content-length: +1"),
        head(b"content-length: 0x1"),
        head(b"content-length: 1", b"transfer-encoding: chunked"),
        head(b"transfer-encoding: xchunked"),
        head(b"transfer-encoding: gzip, chunked"),
        head(b"transfer-encoding: chunked", b"transfer-encoding: chunked"),
        head(b"bad name: 1"),
        head(b"x: a\0b"),
        head(b"x: 1", b" folded"),
        head(b"x: " + b"y" * 8200),
        head(*[b"x: 1"] * 101),
        head(status=b"HTTP/1.1 200 O\0K"),
        b"HTTP/1.1 200 OK\nx: 1\r\n\r\n",
        b"\x16\x03\x01\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: 1\n\r\n",
        head(b": empty"),
        head(b"no colon"),
        head(b"x" * 65 + b": 1"),
        head(b"content-length: " + b"1" * 19),
        head(status=b"HTTP/1.1 20 OK"),
        head(status=b"HTTP/1.1  200 OK"),
        head(status=b"HTTP/1.1 200OK"),
        head(status=b"ICY 200 OK12345"),
        b"HTTP/1.1 200 OK\r\n" + b"x: 1\r\n" * 6000,
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 9000,
    ],
)
def test_what_two_parsers_could_read_otherwise_is_refused(data):
    with pytest.raises(FramingError):
        parse_head(data)
