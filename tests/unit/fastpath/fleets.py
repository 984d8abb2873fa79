"""A fleet of endpoints in shared memory, and what tests ask of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _fastpath.hashing import BlockHashes
from _fastpath.health import OUTCOMES, Outlier
from _fastpath.policy import Policy
from _fastpath.pool import Pool
from _fastpath.scheduler import Scheduler
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots
from tests.reference.random import mixed

NOW = 100.0
ROOT = Path(__file__).parents[3]
SQL, CHAT, OTHER = 0x1002, 0x2002, 0x3002


@dataclass
class Fleet:
    """Some endpoints and the scheduler of worker 0."""

    memory: SharedMemory
    slots: Slots
    scheduler: Scheduler

    def add(self, identity: int, roles: int = 1, most: int = 0) -> tuple[int, int, int, int]:
        return (*self.slots.acquire(self.memory.workers, identity), roles, most)

    def pool(self, count: int, **options: int) -> Pool:
        return Pool([self.add(2 * number + 2, **options) for number in range(count)])

    def alike(self, count: int) -> Pool:
        """A pool whose endpoints a gateway among others likes equally."""
        return Pool([(*self.add(2 * number + 2), 7) for number in range(count)])

    def write(self, position: int, **values: float) -> bool:
        """Metrics of the endpoint at this slot, which is its position; whether they were taken."""
        names = ("running", "waiting", "kv_usage", "first_token", "inter_token", "hits")
        numbers = [values.get(name, 0.0) for name in names]
        now, kv_tokens = values.get("now", NOW), values.get("kv_tokens", 0.0)
        return self.scheduler.load.write_metrics(
            position, 0, *numbers, now, kv_tokens=kv_tokens, computed_tokens=values.get("computed", 0.0)
        )

    def scrape(self, position: int, **values: float) -> None:
        assert self.write(position, **values)

    def decide(self, pool: Pool, policy: Policy | None = None, **options: Any) -> tuple[int, int, int] | None:
        arguments = {"hashes": None, "prompt_tokens": 100, "output_tokens": 10, "now": NOW, **options}
        return self.scheduler.decide(pool, policy or Policy(), **arguments)

    def dry(self, pool: Pool, policy: Policy | None = None, **options: Any) -> tuple[int, int, int] | None:
        return self.decide(pool, policy, dry=True, **options)

    def scores(self, pool: Pool, policy: Policy, **options: Any) -> list[float | None]:
        self.dry(pool, policy, **options)
        return [row["score"] for row in pool.explain()]


def weighted(**weights: float) -> Policy:
    return Policy(by_cost=False, weights={name.replace("_", "-"): weight for name, weight in weights.items()})


def hashes(count: int) -> BlockHashes:
    return BlockHashes.of(range(1000, 1000 + count))


RULES = Outlier(failures=1, base_ejection=10.0, maximum_ejected_percent=50.0, slow_start=10.0, probe_seconds=5.0)


def watched(fleet: Fleet, count: int, **options: int) -> Pool:
    return Pool([fleet.add(2 * number + 2, **options) for number in range(count)], RULES)


def with_adapters(fleet: Fleet) -> Pool:
    """One that has SQL loaded, one with room, one where requests wait for SQL, one that is taken, and one that does not say."""
    pool = fleet.pool(5)
    for position in range(5):
        fleet.scrape(position)
    write = fleet.scheduler.adapters.write
    assert write(0, 0, 2, 2, [SQL, CHAT])
    assert write(1, 0, 2, 1, [CHAT])
    assert write(2, 0, 1, 2, [CHAT], [SQL])
    assert write(3, 0, 1, 1, [CHAT])
    return pool


def late(seconds: float) -> float:
    """What a first token costs beyond its time."""
    return seconds * seconds / 5


def bias(scheduler: Scheduler, identity: int) -> float:
    """Of a gateway against an endpoint, 0 to 1."""
    return (mixed(scheduler.gateway ^ mixed(identity)) >> 11) / 2**53


def eject(fleet: Fleet, *positions: int, ago: float = 1.0) -> None:
    for position in positions:
        fleet.scheduler.health.note(position, 0, RULES, OUTCOMES.index("failed"), NOW - ago, NOW - ago)
