"""Pieces of streams that come in quick succession are handled together; nothing else waits for it."""

import asyncio
import contextvars
import threading
import time

import pytest

from gateway.downstream.coalescer import Coalescer
from gateway.downstream.entrance import Entrance


def come(coalescer, gap, count=400):
    """So many pieces, so many seconds apart."""
    for number in range(count):
        coalescer.note(1000.0 + number * gap)


def turn(coalescer, gap, meanwhile=lambda: None):
    """Seconds that the loop's next turns take, once such pieces have come."""

    async def run():
        come(coalescer, gap)
        meanwhile()
        start = time.monotonic()
        for _ in range(3):
            await asyncio.sleep(0)
        return time.monotonic() - start

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
    assert 0.18 < turn(Coalescer(1.0), 0.02) < 0.6


def test_it_waits_no_longer_than_it_may():
    assert 0.09 < turn(Coalescer(0.1), 0.02) < 0.18


@pytest.mark.parametrize("longest", [0.2, 0.0])
def test_pieces_that_come_seldom_are_handled_at_once(longest):
    assert turn(Coalescer(longest), 0.15 if longest else 0.001) < 0.09


def test_a_pause_between_streams_is_forgotten_soon():
    coalescer = Coalescer(0.1)
    coalescer.note(1.0)
    assert turn(coalescer, 0.001) > 0.009


def test_who_hurries_is_not_kept_waiting():
    coalescer = Coalescer(10.0)
    assert turn(coalescer, 0.09, lambda: ring_when_it_waits(coalescer)) < 0.6
    assert not coalescer.is_waiting


def test_hurrying_while_nothing_waits_is_not_remembered():
    coalescer = Coalescer(0.2)
    coalescer.hurry()
    assert turn(coalescer, 0.01, coalescer.hurry) > 0.09


def test_a_hurry_ends_one_wait_alone():
    coalescer = Coalescer(0.2)
    ringer = ring_when_it_waits(coalescer)
    assert turn(coalescer, 0.01) < 0.09
    ringer.join()
    assert turn(coalescer, 0.01) > 0.09


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

        threading.Thread(target=bring, daemon=True).start()
        come(coalescer, 0.09)
        start = time.monotonic()
        while not called:
            await asyncio.sleep(0)
        return time.monotonic() - start

    assert asyncio.run(run()) < 0.6
    assert called == [(1, 2, "given", threading.main_thread())]
