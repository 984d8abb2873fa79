"""One system call for a request."""

import signal
import socket

import pytest

from _fastpath.gather import send_both


@pytest.fixture
def pair():
    one, other = socket.socketpair()
    one.setblocking(False)
    with one, other:
        yield one, other


def test_both_pieces_arrive(pair):
    assert send_both(pair[0].fileno(), b"head ", b"body") == 9
    assert pair[1].recv(100) == b"head body"


def test_a_full_socket_takes_none(pair):
    while send_both(pair[0].fileno(), b"x" * 65536, b""):
        pass
    assert send_both(pair[0].fileno(), b"head", b"body") == 0


def test_a_broken_socket_takes_none_and_kills_nobody(pair):
    pair[1].close()
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        assert send_both(pair[0].fileno(), b"head", b"body") == 0
    finally:
        signal.signal(signal.SIGPIPE, before)


def test_no_socket_takes_none():
    assert send_both(-1, b"head", b"body") == 0


def test_pieces_are_bytes(pair):
    with pytest.raises(TypeError):
        send_both(pair[0].fileno(), bytearray(b"head"), b"")
