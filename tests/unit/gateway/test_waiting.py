"""Runs and signals: a coroutine goes on in the very callback that it waits for."""

import asyncio
import logging

import pytest

from gateway.waiting import Run, Signal


async def test_a_run_goes_on_before_the_signal_that_it_waits_for_has_returned():
    signal, seen = Signal(), []

    async def work():
        seen.append("begins")
        await signal
        seen.append("goes on")

    run = Run(work())
    run.start()
    assert seen == ["begins"]
    signal.set()
    assert seen == ["begins", "goes on"]
    assert run.finished.is_set


async def test_a_signal_that_is_set_is_not_waited_for_and_can_be_cleared():
    signal, seen = Signal(), []
    signal.set()

    async def work():
        await signal
        seen.append(1)
        signal.clear()
        await signal
        seen.append(2)

    Run(work()).start()
    assert seen == [1]
    signal.set()
    assert seen == [1, 2]


async def test_a_run_can_await_what_asyncio_offers():
    async def work():
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        assert await asyncio.get_running_loop().create_task(asyncio.sleep(0.001, "done")) == "done"

    run = Run(work())
    run.start()
    await asyncio.wait_for(_until(run), 5)


async def _until(run):
    await run.finished


async def test_an_asyncio_task_can_wait_for_a_signal_and_be_cancelled_meanwhile():
    signal = Signal()

    async def wait():
        await signal
        return "woken"

    waiting = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    signal.set()
    assert await waiting == "woken"
    signal.clear()
    waiting = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_an_error_is_raised_where_the_run_waits_and_what_it_waited_for_wakes_nobody_any_more():
    first, second, seen = Signal(), Signal(), []

    async def work():
        try:
            await first
        except ValueError:
            seen.append("refused")
        await second
        seen.append("over")

    run = Run(work())
    run.start()
    run.throw(ValueError())
    assert seen == ["refused"]
    first.set()
    assert seen == ["refused"]
    second.set()
    assert seen == ["refused", "over"]
    run.throw(ValueError())  # too late: nothing happens


async def test_a_future_that_a_run_gave_up_waiting_for_wakes_it_no_more():
    late, other, seen = asyncio.get_running_loop().create_future(), Signal(), []

    async def work():
        try:
            await late
        except ValueError:
            await other
            seen.append("over")

    run = Run(work())
    run.start()
    run.throw(ValueError())
    assert late.cancelled()
    await asyncio.sleep(0)
    assert seen == []
    other.set()
    assert seen == ["over"]


async def test_an_error_thrown_while_the_run_moves_is_raised_at_its_next_wait():
    signal, seen, runs = Signal(), [], []

    async def work():
        runs[0].throw(ValueError())
        seen.append("still here")
        try:
            await signal
        except ValueError:
            seen.append("refused")

    runs.append(Run(work()))
    runs[0].start()
    assert seen == ["still here", "refused"]
    assert runs[0].finished.is_set


async def test_an_error_that_nobody_handles_ends_the_run_and_is_logged(caplog):
    async def work():
        raise ValueError("oh")

    run = Run(work())
    with caplog.at_level(logging.ERROR):
        run.start()
    assert run.finished.is_set
    assert "oh" in caplog.text
