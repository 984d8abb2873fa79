"""Two pieces sent in one call arrive one after the other, as far as the socket takes them: as the twin's do."""

import socket

from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath.gather import send_both
from tests.reference.gather import send_both as plain_send_both
from tests.support.examples import examples

PIECE = st.one_of(st.binary(max_size=200), st.integers(0, 300_000).map(lambda size: b"x" * size))


def outcome(send, pieces):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        counts = [send(ours.fileno(), head, body) for head, body in pieces]
        ours.close()
        received = b""
        while piece := theirs.recv(1 << 20):
            received += piece
        return counts, received


@settings(deadline=None, max_examples=examples(60))
@given(st.lists(st.tuples(PIECE, PIECE), max_size=4))
def test_as_many_bytes_go_out_as_the_twin_sends(pieces):
    counts, received = outcome(send_both, pieces)
    assert (counts, received) == outcome(plain_send_both, pieces)
    expected = b"".join((head + body)[:count] for (head, body), count in zip(pieces, counts, strict=True))
    assert received == expected
