"""The choice, and what it charges and learns."""

import subprocess
import sys
from pathlib import Path

import pytest

from _fastpath.hashing import BlockHashes
from _fastpath.policy import Policy
from _fastpath.pool import Pool
from _fastpath.scheduler import Scheduler
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots
from tests.unit.fastpath.fleets import NOW, ROOT, Fleet, hashes


def test_one_endpoint(fleet: Fleet) -> None:
    assert fleet.dry(fleet.pool(1)) == (0, 0, 100)


@pytest.mark.parametrize(
    ("kv_tokens", "others", "kept"),
    [(15_000, 0, True), (13_000, 0, False), (0, 0, True), (39_000, 2, False), (46_000, 2, True)],
)
def test_a_prompt_is_cached_for_as_long_as_others_take_to_fill_the_caches(
    fleet: Fleet, kv_tokens: int, others: int, kept: bool
) -> None:
    """20,000 tokens of 240 s ago count a quarter by now, as if 61 came a second; where others send as well, they do so at the same rate."""
    pool = fleet.pool(1)
    assert fleet.decide(pool, hashes=hashes(4), prompt_tokens=20_000) == (0, 0, 20_000)
    for _ in range(2):
        fleet.scrape(0, now=NOW + 240, kv_tokens=kv_tokens, running=1 + others)
    found = fleet.dry(pool, hashes=hashes(4), prompt_tokens=20_000, now=NOW + 240)
    assert found == (0, 4 * kept, 20_000 * (not kept))
    assert fleet.dry(pool, hashes=hashes(4), prompt_tokens=20_000, now=NOW + 240, learn=False) == (0, 4, 0)


def test_the_blocks_of_a_request_that_is_over_are_the_youngest_of_its_endpoint(fleet: Fleet) -> None:
    pool, index = fleet.pool(2), fleet.scheduler.prefixes
    fleet.decide(pool, hashes=hashes(4), excluded=[1])
    assert fleet.scheduler.refresh(pool, 0, hashes(4), NOW, NOW + 60)
    assert index.match(hashes(4), [0, 1], NOW + 59) == [4, 0]


def test_what_was_learned_a_moment_ago_is_not_learned_again_at_its_end(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    fleet.decide(pool, hashes=hashes(4))
    assert not fleet.scheduler.refresh(pool, 0, hashes(4), NOW, NOW + 7)
    assert fleet.scheduler.prefixes.match(hashes(4), [0], NOW + 1) == [0]


def test_who_had_it_long_ago_has_it_no_more_when_another_is_done_with_it(fleet: Fleet) -> None:
    """Its engines say how much they hold: what others sent has filled the first one's cache since."""
    pool, index = fleet.pool(2), fleet.scheduler.prefixes
    for position in range(2):
        fleet.scrape(position, kv_tokens=10_000, computed=100_000)
    fleet.decide(pool, hashes=hashes(4), excluded=[1])
    assert 0 < pool.kept_seconds < 60
    index.learn(hashes(4), 1, NOW + 1)
    assert index.match(hashes(4), [0, 1]) == [4, 4]
    assert fleet.scheduler.refresh(pool, 0, hashes(4), NOW, NOW + 100)
    assert index.match(hashes(4), [0, 1]) == [4, 0]


def test_an_endpoint_that_is_another_by_now_holds_nothing_of_it(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    fleet.decide(pool, hashes=hashes(4))
    fleet.slots.drop(fleet.memory.workers, 0)
    assert fleet.slots.sweep() == [0]
    assert not fleet.scheduler.refresh(pool, 0, hashes(4), NOW, NOW + 60)


@pytest.mark.parametrize("chosen", [1, 64])
def test_refresh_of_a_position_beyond_the_pool(fleet: Fleet, chosen: int) -> None:
    with pytest.raises(IndexError, match=f"endpoint {chosen} of 1"):
        fleet.scheduler.refresh(fleet.pool(1), chosen, hashes(1), NOW, NOW + 60)


def test_a_decision_charges(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    assert fleet.decide(pool, prompt_tokens=70, output_tokens=30) == (0, 0, 70)
    assert fleet.scheduler.load.read(0, 0) == (1, 70, 30)


def test_a_dry_decision_does_not(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    fleet.dry(pool, hashes=hashes(4))
    assert fleet.scheduler.load.read(0, 0) == (0, 0, 0)
    assert fleet.scheduler.prefixes.match(hashes(4), [0]) == [0]


def test_a_decision_without_learning_charges_alone(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    fleet.decide(pool, hashes=hashes(4), learn=False)
    assert fleet.scheduler.load.read(0, 0)[0] == 1
    assert fleet.scheduler.prefixes.match(hashes(4), [0]) == [0]


def test_a_decision_learns(fleet: Fleet) -> None:
    pool = fleet.pool(4)
    first = fleet.decide(pool, hashes=hashes(4), prompt_tokens=64)
    assert first[1:] == (0, 64)
    assert fleet.scheduler.prefixes.match(hashes(4), [0, 1, 2, 3]) == [4 * (slot == first[0]) for slot in range(4)]
    fleet.scheduler.release(pool, first[0], 64, 10)
    assert fleet.decide(pool, hashes=hashes(8), prompt_tokens=128) == (first[0], 4, 64)


@pytest.mark.parametrize(("later", "is_kept"), [(7, False), (9, True)])
def test_a_decision_learns_again_what_was_learned_some_time_ago(tmp_path: Path, later: int, is_kept: bool) -> None:
    memory = SharedMemory.create(
        str(tmp_path / "small"), workers=2, slots=64, buckets=1, journal_records=1, prefix_bytes=192,
        counter_series=1, counter_cells=1,
    )  # fmt: skip
    small = Fleet(memory, Slots(memory), Scheduler(memory, 0))
    pool = small.pool(1)
    small.decide(pool, hashes=hashes(2), now=NOW)
    small.decide(pool, hashes=hashes(2), now=NOW + later)
    others = [BlockHashes.of([number * 0xA0761D6478BD642F % (1 << 64)]) for number in range(100, 107)]
    for other in others:  # with the two above one more than there are places
        small.scheduler.prefixes.learn(other, 0, NOW + 5)
    assert small.scheduler.prefixes.match(hashes(2), [0]) == [2 if is_kept else 0]


def test_nobody_left_charges_nothing(fleet: Fleet) -> None:
    pool = fleet.pool(1, most=1)
    fleet.decide(pool)
    assert fleet.decide(pool, hashes=hashes(2)) is None
    assert fleet.scheduler.load.read(0, 0) == (1, 100, 10)
    assert fleet.scheduler.prefixes.match(hashes(2), [0]) == [0]


def test_first_token_and_release(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    fleet.decide(pool)
    fleet.decide(pool)
    assert fleet.scheduler.first_token(pool, 0, 100)
    assert fleet.scheduler.load.read(0, 0) == (2, 100, 20)
    assert fleet.scheduler.release(pool, 0, 0, 10)
    assert fleet.scheduler.load.read(0, 0) == (1, 100, 10)
    assert fleet.scheduler.release(pool, 0, 100, 10)
    assert fleet.scheduler.load.read(0, 0) == (0, 0, 0)
    assert not fleet.scheduler.release(pool, 0, 100, 10)
    assert fleet.scheduler.load.read(0, 0) == (0, 0, 0)


def test_a_late_release_does_nothing(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    fleet.decide(pool)
    fleet.slots.drop(fleet.memory.workers, 0)
    fleet.slots.sweep()
    successor = Pool([fleet.add(50)])
    fleet.decide(successor)
    assert not fleet.scheduler.release(pool, 0, 100, 10)
    assert not fleet.scheduler.first_token(pool, 0, 100)
    assert fleet.scheduler.load.read(0, 2) == (1, 100, 10)


@pytest.mark.parametrize("chosen", [1, 2, 2**40])
def test_release_of_a_position_beyond_the_pool(fleet: Fleet, chosen: int) -> None:
    pool = fleet.pool(1)
    with pytest.raises(IndexError):
        fleet.scheduler.release(pool, chosen, 0, 0)
    with pytest.raises(IndexError):
        fleet.scheduler.first_token(pool, chosen, 0)


def test_without_a_row_decisions_are_dry(fleet: Fleet) -> None:
    pool = fleet.pool(1)
    reader = Scheduler(fleet.memory)
    arguments = (pool, Policy(), None, 100, 10, NOW)
    assert reader.decide(*arguments, dry=True) == (0, 0, 100)
    with pytest.raises(ValueError, match="row of its own"):
        reader.decide(*arguments)
    with pytest.raises(ValueError, match="row of its own"):
        reader.release(pool, 0, 0, 0)
    assert fleet.scheduler.load.read(0, 0) == (0, 0, 0)


def test_two_workers_see_each_other(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    other = Scheduler(fleet.memory, 1)
    for _ in range(10):
        first = fleet.decide(pool)[0]
        assert other.decide(Pool([(0, 0, 1, 0), (1, 0, 1, 0)]), Policy(), None, 100, 10, NOW)[0] == 1 - first


@pytest.mark.parametrize("row", [2, 3, 1000])
def test_a_row_that_is_not_there(fleet: Fleet, row: int) -> None:
    with pytest.raises(IndexError):
        Scheduler(fleet.memory, row)


def test_the_same_seed_picks_the_same(fleet: Fleet) -> None:
    pool = fleet.pool(10)

    def picks(seed: int | None) -> list[int]:
        scheduler = Scheduler(fleet.memory, 0, random_seed=seed)
        return [scheduler.decide(pool, Policy(), None, 1, 1, NOW, dry=True)[0] for _ in range(50)]

    assert picks(5) == picks(5)
    assert picks(5) != picks(8)
    assert picks(None) != picks(None)


def test_what_others_had_computed_fills_caches_too(fleet: Fleet) -> None:
    """A prompt is taken to be cached for as long as it takes to fill the caches, by whomever."""
    pool = fleet.alike(1)
    fleet.scheduler.prefixes.learn(hashes(4), 0, NOW - 30)
    fleet.scrape(0, kv_tokens=10_000, computed=1_000)
    assert fleet.dry(pool, hashes=hashes(4)) == (0, 4, 0)
    fleet.scrape(0, kv_tokens=10_000, computed=1_000_000)
    assert fleet.dry(pool, hashes=hashes(4)) == (0, 0, 100)


CRASH = """
from _fastpath.policy import Policy
from _fastpath.pool import Pool
from _fastpath.scheduler import Scheduler
from _fastpath.shared_memory import SharedMemory
memory = SharedMemory.create({path!r}, workers=1, slots=64, buckets=1, journal_records=1, prefix_bytes=192)
pool = Pool([(1, 0, 1, 0), ({slot}, 0, 1, 0), (2, 0, 1, 0)])
for dry in (True, False):
    try:
        Scheduler(memory, 0).decide(pool, Policy(), None, 1, 1, 1.0, dry=dry)
        print("taken")
    except IndexError as error:
        print(error)
"""


@pytest.mark.parametrize("slot", [0, 63, 64, 10**9])
def test_a_slot_beyond_the_memory_raises(tmp_path: Path, slot: int) -> None:
    """A pool that was made for a larger shared memory, before its supervisor started again. In a process of its own: it may crash."""
    script = CRASH.format(path=str(tmp_path / "memory"), slot=slot)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, timeout=30, capture_output=True, check=False, text=True
    )
    assert done.returncode == 0
    expected = "taken" if slot < 64 else f"slot {slot} of 64: the pool was made for another shared memory"
    assert done.stdout.splitlines() == [expected] * 2
