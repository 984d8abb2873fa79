"""Sending a request's head and body, beside the standard library's call."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from _fastpath.gather import send_both
from tests.reference.gather import send_both as plain_send_both

HEAD, BODY = b"h" * 200, b"b" * 1200

pytestmark = pytest.mark.benchmark(max_time=0.3)


@pytest.fixture
def descriptor() -> Iterator[int]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    theirs.close()  # every call does its work and finds nobody: no reader is needed
    with ours:
        yield ours.fileno()


def test_send_both(benchmark: Callable[..., Any], descriptor: int) -> None:
    benchmark(send_both, descriptor, HEAD, BODY)


def test_send_both_twin(benchmark: Callable[..., Any], descriptor: int) -> None:
    benchmark(plain_send_both, descriptor, HEAD, BODY)
