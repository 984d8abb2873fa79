"""Moving a coroutine on by one wait."""

import asyncio
import gc
import weakref

import pytest

from _fastpath.stepping import ENDED, is_end, step


class Thing:
    pass


async def waits_for(signal):
    await signal
    return 5


def test_what_it_waits_for_is_returned_and_then_its_end():
    loop = asyncio.new_event_loop()
    try:
        future = loop.create_future()
        coroutine = waits_for(future)
        assert step(coroutine) is future
        future.set_result(None)
        assert step(coroutine) is ENDED
    finally:
        loop.close()


def test_nothing_is_held_or_let_go_of_too_often():
    async def returns(thing):
        return thing

    thing = Thing()
    gone = weakref.ref(thing)
    for _ in range(1000):
        assert is_end(step(returns(thing)))
    del thing
    gc.collect()
    assert gone() is None


def test_what_it_raises_is_raised():
    async def fails():
        raise KeyError("x")

    with pytest.raises(KeyError):
        step(fails())


@pytest.mark.parametrize("other", [5, None, [1]])
def test_what_is_no_coroutine_is_refused(other):
    with pytest.raises((TypeError, AttributeError)):
        step(other)
