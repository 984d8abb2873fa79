"""The timer looks after a request: its client may leave, its body may be late."""

import asyncio

import pytest

from gateway.deadlines import Deadlines
from gateway.errors import RequestTimeout
from gateway.settings import Requests
from gateway.waiting import Run, Signal
from gateway.watch import Watches, leave
from tests.unit.gateway.fakes import Protocol, make_exchange


@pytest.fixture
async def deadlines():
    found = Deadlines(asyncio.get_running_loop().time)
    yield found
    found.close()


def watched(deadlines, ends, protocol=None, deadline=0.0):
    exchange = make_exchange(protocol or Protocol(), started=asyncio.get_running_loop().time())
    exchange.deadline = deadline

    async def work():
        try:
            await Signal()
        except BaseException as error:
            ends.append(error)

    exchange.run = Run(work())
    exchange.run.start()
    Watches(deadlines, Requests(body_seconds=0.1)).begin(exchange)
    return exchange


async def test_a_client_that_leaves_ends_its_request(deadlines):
    ends, protocol = [], Protocol()
    exchange = watched(deadlines, ends, protocol)
    await asyncio.sleep(0.1)
    assert ends == []
    protocol.left.set()
    await asyncio.sleep(0.02)
    assert isinstance(ends[0], asyncio.CancelledError)
    assert exchange.client_gone


async def test_a_body_that_is_late_ends_its_request(deadlines):
    ends = []
    exchange = watched(deadlines, ends, deadline=asyncio.get_running_loop().time() + 0.1)
    await asyncio.sleep(0.25)
    assert isinstance(ends[0], RequestTimeout)
    assert (ends[0].status, ("connection", "close") in ends[0].extra_headers) == (408, True)
    assert not exchange.client_gone


async def test_a_request_that_is_over_is_left_alone(deadlines):
    ends, asked = [], []

    class Asked(Protocol):
        async def client_disconnect(self):
            asked.append(1)

    exchange = watched(deadlines, ends, Asked())
    exchange.run.throw(ValueError())
    await asyncio.sleep(0.1)
    assert asked == []
    leave(exchange)
    assert not exchange.client_gone


async def test_a_request_that_cannot_be_looked_after_leaves_the_others_to_be(deadlines, caplog):
    class Broken(Protocol):
        def client_disconnect(self):
            raise RuntimeError("no such future")

    ends, protocol = [], Protocol()
    watches = Watches(deadlines, Requests())
    broken, other = watched(deadlines, ends, Broken()), watched(deadlines, ends, protocol)
    for exchange in (broken, other):
        watches.begin(exchange)
    await asyncio.sleep(0.1)
    assert "cannot be looked after" in caplog.text
    protocol.left.set()
    await asyncio.sleep(0.02)
    assert other.client_gone
    broken.run.throw(ValueError())
