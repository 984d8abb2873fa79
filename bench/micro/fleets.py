"""A fleet of endpoints to choose among, in shared memory and as the plain-Python twins see it."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from _fastpath.hashing import BlockHashes
from _fastpath.health import Outlier
from _fastpath.pool import Pool
from _fastpath.scheduler import Scheduler
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots
from tests.reference import scheduler as twin

Benchmark = Callable[..., Any]
Decide = Callable[[], Any]

NOW = 1000.0
WEIGHTS = dict.fromkeys(twin.SCORES, 1.0)
BLOCKS = 512
SEED = 1
GATEWAY = twin.mixed(SEED) | 1
"""What it likes among endpoints that others share."""


def endpoints(count: int) -> list[twin.Endpoint]:
    """Endpoints that were all scraped a second ago and hold from none to all of the blocks."""
    random = Random(1)
    return [
        twin.Endpoint(
            metrics=twin.Metrics(
                running=float(random.randrange(64)), waiting=float(random.randrange(4)), kv_usage=random.random(),
                first_token=random.uniform(0.05, 2), inter_token=random.uniform(0.005, 0.05), time=NOW - 1,
            ),
            matched_blocks=random.choice((0, 0, 16, 256, BLOCKS)),
            identity=number,
        )
        for number in range(count)
    ]  # fmt: skip


def scheduler_of(
    path: Path, fleet: list[twin.Endpoint], hashes: list[int], prefix_bytes: int = 1 << 22
) -> tuple[Scheduler, Pool]:
    memory = SharedMemory.create(
        str(path), workers=1, slots=len(fleet), buckets=1, journal_records=1, prefix_bytes=prefix_bytes
    )
    scheduler, slots = Scheduler(memory, 0, random_seed=SEED), Slots(memory)
    names = [slots.acquire(1, 2 * number + 2) for number in range(len(fleet))]
    for (slot, generation), endpoint in zip(names, fleet, strict=True):
        metrics = endpoint.metrics
        scheduler.load.write_metrics(
            slot, generation, metrics.running, metrics.waiting, metrics.kv_usage, metrics.first_token, metrics.inter_token, 0.0,
            metrics.time,
        )  # fmt: skip
        scheduler.prefixes.learn(BlockHashes.of(hashes[: endpoint.matched_blocks]), slot, NOW)
    return scheduler, Pool(
        [
            (slot, generation, 1, 0, endpoint.identity)
            for (slot, generation), endpoint in zip(names, fleet, strict=True)
        ],
        Outlier(),
    )
