"""Pieces of streams that come in quick succession are handled together; nothing else waits for it."""

import asyncio
import contextvars
import threading
import time

import pytest

from gateway.downstream.coalescer import Coalescer
from gateway.downstream.entrance import Entrance


class Pieces:
    """A stream's pieces, each so many seconds after the one before."""

    def __init__(self, coalescer, gap):
        self._coalescer = coalescer
        self._gap = gap
        self._now = 1000.0

    def come(self, count):
        for _ in range(count):
            self._now += self._gap
            self._coalescer.note(self._now)

    def pause(self, seconds):
        self._now += seconds

    async def come_for_long(self):
        """So many at once that nothing waits for more."""
        self.come(500)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def wait(pieces, count=1, meanwhile=lambda: None):
    """Seconds that the loop's next turns take, once so many pieces have come."""
    pieces.come(count)
    meanwhile()
    start = time.monotonic()
    for _ in range(3):
        await asyncio.sleep(0)
    return time.monotonic() - start


def waited(coalescer, gap, count=1, meanwhile=lambda: None):
    async def run():
        pieces = Pieces(coalescer, gap)
        await pieces.come_for_long()
        return await wait(pieces, count, meanwhile)

    return asyncio.run(run())


def ring_when_it_waits(coalescer):
    def ring():
        while not coalescer.is_waiting:
            time.sleep(0.001)
        coalescer.hurry()

    thread = threading.Thread(target=ring, daemon=True)
    thread.start()
    return thread


def test_the_loop_waits_for_ten_pieces():
    assert 0.39 < waited(Coalescer(5.0), 0.04) < 2


def test_it_waits_no_longer_than_it_may():
    assert 0.29 < waited(Coalescer(0.3), 0.09) < 0.8


def test_it_does_not_wait_where_twenty_came_in_one_turn():
    assert waited(Coalescer(5.0), 0.09, count=19) > 0.8
    assert waited(Coalescer(5.0), 0.09, count=20) < 0.5


@pytest.mark.parametrize(("longest", "gap", "is_due"), [(0.15, 0.09, False), (0.0, 0.001, False), (0.2, 0.09, True)])
def test_pieces_that_come_seldom_are_handled_at_once(monkeypatch, longest, gap, is_due):
    asked = []

    class Loop:
        call_soon = asked.append

    monkeypatch.setattr("asyncio.get_running_loop", Loop)
    Pieces(Coalescer(longest), gap).come(200)
    assert len(asked) == is_due


def test_a_pause_between_streams_counts_for_little():
    async def run():
        pieces = Pieces(Coalescer(0.3), 0.02)
        await pieces.come_for_long()
        pieces.pause(3600)
        return await wait(pieces)

    assert asyncio.run(run()) > 0.19


def test_who_hurries_is_not_kept_waiting():
    coalescer = Coalescer(10.0)
    assert waited(coalescer, 0.09, meanwhile=lambda: ring_when_it_waits(coalescer)) < 0.7
    assert not coalescer.is_waiting


def test_who_hurries_just_before_the_wait_is_not_kept_waiting_either():
    coalescer = Coalescer(10.0)
    assert waited(coalescer, 0.09, meanwhile=coalescer.hurry) < 0.7


def test_hurrying_while_no_wait_is_due_is_not_remembered():
    coalescer = Coalescer(0.3)

    async def run():
        pieces = Pieces(coalescer, 0.09)
        await pieces.come_for_long()
        coalescer.hurry()
        return await wait(pieces)

    assert asyncio.run(run()) > 0.29


def test_a_hurry_ends_one_wait_alone():
    coalescer = Coalescer(1.0)

    async def run():
        pieces = Pieces(coalescer, 0.09)
        await pieces.come_for_long()
        first = await wait(pieces, meanwhile=lambda: ring_when_it_waits(coalescer))
        return first, await wait(pieces)

    first, second = asyncio.run(run())
    assert first < 0.7
    assert second > 0.8


def test_what_another_thread_brings_is_called_in_the_loop_and_ends_the_wait():
    coalescer = Coalescer(10.0)
    name = contextvars.ContextVar("name", default="none")
    context = contextvars.copy_context()
    context.run(name.set, "given")
    called = []

    async def run():
        entrance = Entrance(asyncio.get_running_loop(), coalescer)

        def bring():
            while not coalescer.is_waiting:
                time.sleep(0.001)
            entrance.call_soon_threadsafe(
                lambda *given: called.append((*given, name.get(), threading.current_thread())), 1, 2, context=context
            )

        pieces = Pieces(coalescer, 0.09)
        await pieces.come_for_long()
        threading.Thread(target=bring, daemon=True).start()
        pieces.come(1)
        start = time.monotonic()
        while not called:
            await asyncio.sleep(0)
        return time.monotonic() - start

    assert asyncio.run(run()) < 0.7
    assert called == [(1, 2, "given", threading.main_thread())]
