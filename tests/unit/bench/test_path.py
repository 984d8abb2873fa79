"""The driver whose instructions are counted serves what it says it does."""

import asyncio

import pytest

from bench.path.drive import SIZES, drive


@pytest.mark.parametrize("kind", SIZES)
def test_requests_of_each_kind_are_served_to_their_end(kind):
    asyncio.run(drive(kind, 3))


def test_a_request_that_goes_wrong_is_told(monkeypatch):
    monkeypatch.setattr("bench.path.drive._WHOLE", b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n")
    with pytest.raises(RuntimeError, match="status 500"):
        asyncio.run(drive("unary-1k", 1))
