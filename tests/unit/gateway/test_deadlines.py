"""The worker's one timer: entries are looked at in time, often enough, and not once they are over."""

import asyncio

from gateway.deadlines import LONGEST_SECONDS, TICK_SECONDS, Deadlines


class Entry:
    def __init__(self, deadlines, pauses):
        self._deadlines, self._pauses = deadlines, list(pauses)
        self.looks = []

    def check(self, now):
        self.looks.append(now)
        if self._pauses:
            self._deadlines.add(self, now + self._pauses.pop(0))


async def test_an_entry_is_looked_at_when_its_time_has_come_and_again_if_it_asks():
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop.time)
    entry, started = Entry(deadlines, [0.05]), loop.time()
    deadlines.add(entry, started + 0.1)
    await asyncio.sleep(0.4)
    first, second = (look - started for look in entry.looks)
    assert 0.1 <= first < 0.1 + 4 * TICK_SECONDS
    assert 0.05 <= second - first < 0.05 + 4 * TICK_SECONDS
    deadlines.close()


async def test_an_entry_whose_time_is_far_off_is_looked_at_now_and_then():
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop.time)
    entry, started = Entry(deadlines, []), loop.time()
    assert deadlines.add(entry, started + 1e9) <= started + LONGEST_SECONDS + TICK_SECONDS
    await asyncio.sleep(LONGEST_SECONDS + 0.2)
    assert len(entry.looks) == 1
    deadlines.close()


async def test_what_is_due_already_is_looked_at_in_the_next_turn():
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop.time)
    entry = Entry(deadlines, [])
    deadlines.add(entry, 0.0)
    await asyncio.sleep(5 * TICK_SECONDS)
    assert len(entry.looks) == 1
    deadlines.close()


async def test_a_loop_that_was_held_up_for_longer_than_the_wheel_misses_nobody():
    now = [1000.0]
    deadlines = Deadlines(lambda: now[0])
    entries = [Entry(deadlines, []) for _ in range(60)]
    for number, entry in enumerate(entries):
        deadlines.add(entry, 1000.0 + number * TICK_SECONDS)
    now[0] += 100
    await asyncio.sleep(4 * TICK_SECONDS)
    assert [len(entry.looks) for entry in entries] == [1] * 60
    deadlines.close()


async def test_one_entry_that_fails_takes_no_other_with_it():
    class Broken:
        def check(self, now):
            raise ValueError

    deadlines = Deadlines(asyncio.get_running_loop().time)
    entry = Entry(deadlines, [])
    deadlines.add(Broken(), 0.0)
    deadlines.add(entry, 0.0)
    await asyncio.sleep(5 * TICK_SECONDS)
    assert len(entry.looks) == 1
    deadlines.close()


async def test_nothing_is_looked_at_once_it_is_closed():
    deadlines = Deadlines(asyncio.get_running_loop().time)
    entry = Entry(deadlines, [])
    deadlines.add(entry, 0.0)
    deadlines.close()
    await asyncio.sleep(4 * TICK_SECONDS)
    assert entry.looks == []
