"""The reconcile loop: every event leads to work, errors come back, no object is worked on twice at once."""

import asyncio
import contextlib
import random

import pytest

from controllers.runtime.queue import WorkQueue
from controllers.runtime.reconcile import feed, reconcile_forever, reconcile_next
from controllers.store.store import Event, Key

A, B, OTHER = Key("ModelRoute", "default", "a"), Key("ModelRoute", "default", "b"), Key("ModelServer", "default", "a")


class Reconciler:
    """Does what it is told for each call; keeps the calls."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.calls = []

    async def __call__(self, key):
        self.calls.append(key)
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


@pytest.fixture
async def queue():
    return WorkQueue()


@contextlib.asynccontextmanager
async def running(*coroutines):
    tasks = [asyncio.ensure_future(one) for one in coroutines]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


async def test_a_name_goes_to_the_reconciler_of_its_kind(queue):
    routes, servers = Reconciler(), Reconciler()
    for key in (A, OTHER):
        queue.add(key)
        await reconcile_next(queue, {"ModelRoute": routes, "ModelServer": servers})
    assert (routes.calls, servers.calls) == ([A], [OTHER])
    assert queue.is_drained


async def test_an_error_is_logged_with_the_object_and_the_name_comes_back(queue, caplog):
    reconciler = Reconciler(ValueError("once"), ValueError("twice"))
    queue.add(A)
    async with running(reconcile_forever(queue, {"ModelRoute": reconciler})):
        await until(lambda: len(reconciler.calls) == 3)
    assert caplog.text.count("ModelRoute default/a could not be reconciled") == 2


async def test_an_error_does_not_hold_up_others(queue):
    reconciler = Reconciler(ValueError("a"), None)
    queue.add(A)
    queue.add(B)
    async with running(reconcile_forever(queue, {"ModelRoute": reconciler})):
        await until(lambda: B in reconciler.calls)


async def test_a_name_of_an_unknown_kind_is_an_error_like_any_other(queue, caplog):
    queue.add(Key("Unknown", "default", "a"))
    await reconcile_next(queue, {})
    assert "could not be reconciled" in caplog.text


async def test_a_reconciler_may_ask_to_look_again(queue):
    reconciler = Reconciler(0.02)
    queue.add(A)
    async with running(reconcile_forever(queue, {"ModelRoute": reconciler})):
        await until(lambda: len(reconciler.calls) == 2)
        await asyncio.sleep(0.06)
    assert len(reconciler.calls) == 2


async def test_a_reconcile_that_is_cancelled_leaves_its_name_for_the_next(queue):
    async def hang(key):
        await asyncio.sleep(3600)

    queue.add(A)
    async with running(reconcile_next(queue, {"ModelRoute": hang})):
        await asyncio.sleep(0.01)
    reconciler = Reconciler()
    await asyncio.wait_for(reconcile_next(queue, {"ModelRoute": reconciler}), 1)
    assert reconciler.calls == [A]


async def test_no_name_is_worked_on_twice_at_once_and_none_is_forgotten(queue):
    working, wanted, seen = set(), {}, {}
    random_numbers = random.Random(1)

    async def reconcile(key):
        assert key not in working
        working.add(key)
        version = wanted[key]
        await asyncio.sleep(random_numbers.random() * 0.002)
        working.remove(key)
        if random_numbers.random() < 0.2:
            raise ValueError("by chance")
        seen[key] = version

    keys = [Key("ModelRoute", "default", str(number)) for number in range(7)]
    async with running(*(reconcile_forever(queue, {"ModelRoute": reconcile}) for _ in range(4))) as tasks:
        for version in range(300):
            key = random_numbers.choice(keys)
            wanted[key] = version
            queue.add(key)
            if version % 10 == 0:
                await asyncio.sleep(0.001)
        await until(lambda: seen == wanted)
        assert not any(task.done() for task in tasks)


async def test_events_of_the_kinds_wanted_become_names(queue):
    class Store:
        async def watch(self):
            for key in (A, OTHER, B):
                yield Event("put", key)
            yield Event("gone", A)

    await feed(Store(), queue, frozenset({"ModelRoute"}))
    assert [await queue.get() for _ in range(len(queue))] == [A, B]
