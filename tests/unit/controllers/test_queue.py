"""The work queue: bursts are one piece of work, failures wait longer each time."""

import asyncio

import pytest

from controllers.runtime.queue import FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, WorkQueue


@pytest.fixture
async def queue():
    return WorkQueue()


async def next_of(queue):
    return await asyncio.wait_for(queue.get(), 1)


async def is_empty(queue):
    try:
        await asyncio.wait_for(queue.get(), 0.01)
    except TimeoutError:
        return True
    return False


async def test_names_come_out_in_the_order_of_their_coming(queue):
    for key in "abc":
        queue.add(key)
    assert [await next_of(queue) for _ in range(3)] == ["a", "b", "c"]


async def test_a_burst_for_one_name_is_one_piece_of_work(queue):
    for _ in range(10):
        queue.add("a")
    assert len(queue) == 1
    assert await next_of(queue) == "a"
    queue.done("a", True)
    assert await is_empty(queue)


async def test_a_name_that_comes_while_it_is_worked_on_waits_until_that_is_over_and_comes_once(queue):
    queue.add("a")
    await next_of(queue)
    queue.add("a")
    queue.add("a")
    assert await is_empty(queue)
    queue.done("a", True)
    assert await next_of(queue) == "a"
    queue.done("a", True)
    assert await is_empty(queue)


async def test_a_waiting_getter_is_woken(queue):
    getting = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    assert await asyncio.wait_for(getting, 1) == "a"


async def test_several_getters_get_one_name_each(queue):
    getting = [asyncio.ensure_future(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    for key in "abc":
        queue.add(key)
    assert sorted(await asyncio.wait_for(asyncio.gather(*getting), 1)) == ["a", "b", "c"]


async def test_a_getter_that_is_cancelled_loses_nothing(queue):
    getting = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    getting.cancel()
    queue.add("a")
    assert await next_of(queue) == "a"


async def test_a_failure_doubles_its_delay_up_to_the_longest_and_success_forgets_it(queue, monkeypatch):
    delays = []
    monkeypatch.setattr(queue, "add_after", lambda key, delay: delays.append(delay))

    async def fail(times):
        delays.clear()
        for _ in range(times):
            queue.add("a")
            await next_of(queue)
            queue.done("a", False)
        return list(delays)

    first = await fail(40)
    for place, delay in enumerate(first):
        wanted = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2**place)
        assert wanted <= delay <= wanted * 1.2
    assert first[-1] >= LONGEST_DELAY_SECONDS
    queue.add("a")
    await next_of(queue)
    queue.done("a", True)
    assert (await fail(1))[0] <= FIRST_DELAY_SECONDS * 1.2


async def test_failures_of_one_name_do_not_delay_another(queue, monkeypatch):
    delays = {}
    monkeypatch.setattr(queue, "add_after", lambda key, delay: delays.__setitem__(key, delay))
    for key in "aaab":
        queue.add(key)
        await next_of(queue)
        queue.done(key, False)
    assert delays["b"] <= FIRST_DELAY_SECONDS * 1.2 < delays["a"]


async def test_delays_are_not_all_the_same(queue, monkeypatch):
    delays = []
    monkeypatch.setattr(queue, "add_after", lambda key, delay: delays.append(delay))
    for number in range(20):
        queue.add(number)
        await next_of(queue)
        queue.done(number, False)
    assert len(set(delays)) > 10


async def test_a_name_that_failed_comes_back_by_itself(queue):
    queue.add("a")
    await next_of(queue)
    queue.done("a", False)
    assert await next_of(queue) == "a"


async def test_a_name_that_is_asked_for_later_comes_later(queue):
    loop = asyncio.get_running_loop()
    started = loop.time()
    queue.add_after("a", 0.05)
    assert len(queue) == 0
    assert await next_of(queue) == "a"
    assert loop.time() - started >= 0.045


async def test_of_two_timers_for_a_name_the_earlier_counts_and_only_once(queue):
    loop = asyncio.get_running_loop()
    started = loop.time()
    queue.add_after("a", 30)
    queue.add_after("a", 0.02)
    queue.add_after("a", 60)
    assert await next_of(queue) == "a"
    assert loop.time() - started < 1
    queue.done("a", True)
    assert await is_empty(queue)


async def test_a_timer_that_fires_while_its_name_is_worked_on_lets_it_wait(queue):
    queue.add("a")
    await next_of(queue)
    queue.add_after("a", 0.005)
    assert await is_empty(queue)
    await asyncio.sleep(0.02)
    queue.done("a", True)
    assert await next_of(queue) == "a"


async def test_it_is_drained_when_nothing_waits_and_nothing_is_worked_on(queue):
    assert queue.is_drained
    queue.add("a")
    assert not queue.is_drained
    await next_of(queue)
    assert not queue.is_drained
    queue.add_after("a", 60)  # what comes back later is no reason to wait
    queue.done("a", True)
    assert queue.is_drained


async def test_it_is_not_drained_while_a_name_that_came_meanwhile_waits(queue):
    queue.add("a")
    await next_of(queue)
    queue.add("a")
    queue.done("a", True)
    assert not queue.is_drained
