"""Several real processes on one file: racing, and killed at any instruction."""

import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from random import Random
from time import monotonic, monotonic_ns, sleep

import pytest

from _fastpath.hashing import BlockHashes
from _fastpath.load import Load
from _fastpath.prefix_index import PrefixIndex
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots
from _fastpath.token_bucket import Journal, TokenBuckets
from tests.faults.shared_memory_worker import PROMPT_BLOCKS, holds, prompt_hashes

ROOT = Path(__file__).parents[2]
WORKERS = 4
SECOND = 10**9
POOL = 128  # slots that are matched
PROMPTS = 30


class Worker:
    """A process that attaches to the file and does as it is told."""

    def __init__(self, path, row):
        self.row = row
        command = [sys.executable, "-m", "tests.faults.shared_memory_worker", path, str(row)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def wait_until_ready(self):
        assert self._process.stdout.readline() == "ready\n"

    def order(self, work, **arguments):
        self._process.stdin.write(json.dumps({"work": work, **arguments}) + "\n")

    def result(self):
        return json.loads(self._process.stdout.readline())

    def kill(self):
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def is_alive(self):
        return self._process.poll() is None


def make_memory(tmp_path, **sizes):
    return SharedMemory.create(
        str(tmp_path / "memory"),
        **({"workers": WORKERS, "slots": 1024, "buckets": 256, "journal_records": 64} | sizes),
        counter_series=1,
        counter_cells=1,
    )


@contextmanager
def workers(memory, count=WORKERS):
    started = [Worker(memory.path, row) for row in range(count)]
    try:
        for worker in started:
            worker.wait_until_ready()
        yield started
    finally:
        for worker in started:
            worker.kill()


def soon():
    """When all begin: late enough that each has read its order by then."""
    return monotonic_ns() + SECOND // 50


def together(started, works, **arguments):
    """Give each worker its work at once and wait for all results."""
    for worker, work in zip(started, works, strict=True):
        worker.order(work, **arguments)
    return [worker.result() for worker in started]


def race_for_identities(tmp_path, rounds, count):
    """Every round all processes acquire the same new identities at the same time: what they got, refusals apart."""
    memory = make_memory(tmp_path, slots=rounds * count)
    with workers(memory) as started:
        for number in range(rounds):
            identities = [2 * (number * count + i + 1) for i in range(count)]
            yield memory, together(started, ["acquire"] * WORKERS, start=soon(), identities=identities)


def test_processes_that_acquire_the_same_identities_at_once_get_the_same_slots(tmp_path):
    everything = set()
    for number, (memory, results) in enumerate(race_for_identities(tmp_path, 10, 200), 1):
        acquired = [[tuple(place) for place in result["acquired"]] for result in results]
        assert all(each == acquired[0] for each in acquired)
        everything.update(acquired[0])
        assert len(everything) == number * 200
        assert Slots(memory).in_use == number * 200
        assert Slots(memory).sweep() == []


def test_no_process_is_refused_a_slot_because_another_claims_it_too(tmp_path):
    for _, results in race_for_identities(tmp_path, 60, 200):
        assert [result["refused"] for result in results] == [0] * WORKERS


def test_what_a_process_names_stays_its_own_while_others_come_go_and_are_swept(tmp_path):
    memory = make_memory(tmp_path, slots=64)
    supervisor = Slots(memory)
    with workers(memory) as started:
        start, end = soon(), soon() + 3 * SECOND
        for worker in started:
            worker.order("hold", start=start, end=end, identities=[2 * i for i in range(1, 13)])
        freed = 0
        while monotonic_ns() < end:
            freed += len(supervisor.sweep())
            sleep(0.0005)  # without a pause every claim would be taken for one that a dead process left
        results = [worker.result() for worker in started]
    assert [result["lost"] for result in results] == [[]] * WORKERS
    assert min(result["rounds"] for result in results) > 100
    assert freed > 20
    for _ in range(3):
        supervisor.sweep()
    assert supervisor.in_use == 0


def test_processes_that_open_the_same_buckets_at_once_get_the_same(tmp_path):
    rounds, count = 10, 100
    # each process may hold one place more for a moment, and who finds none free takes a full bucket over
    memory = make_memory(tmp_path, buckets=rounds * count + WORKERS)
    everything = set()
    with workers(memory) as started:
        for number in range(1, rounds + 1):
            identities = [2 * (number * count + i) for i in range(count)]
            results = together(started, ["open_buckets"] * WORKERS, start=soon(), identities=identities)
            assert all(result["opened"] == results[0]["opened"] for result in results)
            everything.update(results[0]["opened"])
            assert len(everything) == number * count


@pytest.mark.timeout(90)
def test_requests_of_four_workers_use_what_one_bucket_allows_whatever_was_reserved_for_them(tmp_path):
    memory = make_memory(tmp_path)
    buckets = TokenBuckets(memory)
    bucket, rate, burst, seconds = buckets.open(1000, monotonic_ns()), 50_000, 50_000, 10
    with workers(memory) as started:
        start = soon()
        end = start + seconds * SECOND
        buckets.configure(bucket, 1, rate, 1, burst, start)
        # empty to begin with: what flows into a full bucket is lost, and a busy machine may keep all workers waiting for a while
        assert buckets.reserve(bucket, burst, start) == 0
        order = {"start": start, "end": end, "bucket": bucket, "identity": 1000}
        results = together(started, ["serve"] * WORKERS, **order)
        finished = monotonic_ns()
        left = buckets.available(bucket, finished)
    used, limit = burst + sum(result["used"] for result in results), burst + rate * seconds
    print(
        f"used {used} of {limit}: {used / limit - 1:+.2%}; {sum(result['requests'] for result in results)} requests, {results}"
    )
    # to the token: what was used, what is left, and what has flowed in since
    assert used + left == pytest.approx(burst + rate * (finished - start) / SECOND, abs=1)
    assert used == pytest.approx(limit, rel=0.005)


def test_processes_that_hammer_one_bucket_are_admitted_what_its_limits_say(tmp_path):
    memory = make_memory(tmp_path)
    buckets = TokenBuckets(memory)
    bucket, rate, burst, seconds = buckets.open(1000, monotonic_ns()), 1_000_000, 500_000, 2
    with workers(memory) as started:
        start = soon()
        buckets.configure(bucket, 1, rate, 1, burst, start)
        results = together(started, ["hammer"] * WORKERS, start=start, end=start + seconds * SECOND, bucket=bucket)
    admitted = sum(result["admitted"] for result in results)
    limit = burst + rate * seconds
    assert admitted <= limit + 1
    # on a busy machine nobody may be there to take the last tokens: then they are still in the bucket
    assert admitted + buckets.available(bucket, start + seconds * SECOND) >= limit * 0.995
    assert sum(result["asked"] for result in results) > 10_000
    assert min(result["admitted"] for result in results) > 0


def test_of_two_generations_brought_at_once_the_newer_stands(tmp_path):
    memory = make_memory(tmp_path)
    table = TokenBuckets(memory)
    buckets = [table.open(2 * i + 2, monotonic_ns()) for i in range(200)]
    wrong = 0
    with workers(memory, 2) as started:
        for number in range(1, 1200):
            start = monotonic_ns() + SECOND // 1000
            rates = [2 * number, 2 * number + 1]
            for worker, rate in zip(started, rates, strict=True):
                worker.order("configure", start=start, buckets=buckets, generation=rate, tokens=rate)
            for worker in started:
                worker.result()
            for bucket in buckets:
                table.settle(bucket, 0, 1000, start)
                seconds = table.describe(bucket, start)["seconds_until_full"]
                table.settle(bucket, 1000, 0, start)
                wrong += abs(seconds * rates[1] / 1000 - 1) > 1e-6
    assert wrong == 0


def race_for_prefixes(tmp_path, works, prefix_bytes, seconds=2):
    """The index when all is quiet again, and what its matchers saw."""
    memory = make_memory(tmp_path, prefix_bytes=prefix_bytes)
    with workers(memory) as started:
        start = soon()
        order = {"start": start, "end": start + seconds * SECOND, "slots": POOL, "prompts": PROMPTS}
        results = together(started, works, **order)
        assert all(worker.is_alive() for worker in started)
    statistics = PrefixIndex(memory).statistics()
    assert statistics["entries"] <= statistics["capacity"] <= prefix_bytes // 24
    return PrefixIndex(memory), [result for result in results if "matched" in result]


def test_learners_and_matchers_name_only_slots_that_learned(tmp_path):
    index, seen = race_for_prefixes(tmp_path, ["learn", "learn", "match", "match"], 1 << 20)
    assert [result["wrong"] for result in seen] == [0, 0]
    assert [result["longest"] for result in seen] == [PROMPT_BLOCKS] * 2
    for prompt in range(PROMPTS):
        lengths = index.match(BlockHashes.of(prompt_hashes(prompt)), range(POOL))
        assert lengths == [PROMPT_BLOCKS * holds(slot, prompt) for slot in range(POOL)]


def test_a_full_prefix_index_hardly_ever_names_a_slot_that_did_not_learn(tmp_path):
    # a match that reads an entry while another takes its place sees the holders of both: a hint may be wrong for a moment
    _, seen = race_for_prefixes(tmp_path, ["learn", "learn", "match", "match"], 24 << 8)
    assert min(result["matched"] for result in seen) > 1000
    assert sum(result["wrong"] for result in seen) < sum(result["matched"] for result in seen) / 100


class Supervisor:
    """Buries what was killed, as the gateway's supervisor does."""

    def __init__(self, memory):
        self.memory = memory
        self.slots = Slots(memory)
        self.load = Load(memory)
        self.index = PrefixIndex(memory)
        self.buckets = TokenBuckets(memory)

    def bury(self, row):
        self.memory.release_row(row)
        self.slots.drop_row(row)
        self.load.clear_worker(row)
        Journal(self.memory, row).recover(monotonic_ns())
        assert self.load.worker_in_flight(row) == 0
        assert Journal(self.memory, row).in_use == 0
        assert self.memory.read_row(row)["process"] == 0

    def sweep(self):
        self.buckets.sweep()
        for slot in self.slots.sweep():
            self.index.forget(slot)


def kill_one_after_the_other(memory, supervisor, random, kills, order):
    """Always four at work; the one that is killed is buried and another takes its row. Who is killed has worked."""
    with workers(memory) as started:
        for worker in started:
            worker.order("live", start=0, **order)
        while not all(memory.read_row(row)["heartbeat"] for row in range(WORKERS)):
            sleep(0.001)
        for kill in range(kills):
            sleep(random.uniform(0.0, 0.03))
            row = random.randrange(WORKERS)
            assert started[row].is_alive()
            started[row].kill()
            supervisor.bury(row)
            supervisor.sweep()
            yield kill
            started[row] = Worker(memory.path, row)
            started[row].wait_until_ready()
            started[row].order("live", start=0, **order)


def test_whatever_instruction_processes_are_killed_at_nothing_stays_behind(tmp_path):
    kills, tokens, burst, used = 30, 50, 100_000, 50_000
    memory = make_memory(tmp_path, slots=64, prefix_bytes=1 << 18)
    supervisor = Supervisor(memory)
    table = TokenBuckets(memory)
    names = [1000, 2000]
    buckets = [table.open(name, monotonic_ns()) for name in names]
    for (
        bucket
    ) in buckets:  # nothing flows in during the test, and no bucket is full: what is lost or won can be counted
        table.configure(bucket, 1, 1, 1000, burst, monotonic_ns())
        table.settle(bucket, 0, used, monotonic_ns())
    identities = [2 * i for i in range(1, 40)]
    random = Random(monotonic_ns())
    order = {"buckets": list(zip(buckets, names, strict=True)), "tokens": tokens, "identities": identities}
    killed = sum(1 for _ in kill_one_after_the_other(memory, supervisor, random, kills, order))
    for row in range(WORKERS):
        supervisor.bury(row)
    # who is killed between a bucket and its journal loses what it was taking, and nobody is given anything twice
    most_lost = (killed + WORKERS) * tokens
    for bucket in buckets:
        available = table.available(bucket, monotonic_ns())
        assert burst - used - most_lost <= available <= burst - used + 1
    for _ in range(3):
        supervisor.sweep()
    assert supervisor.slots.in_use == 0
    assert_works_as_new(memory, supervisor, table, buckets)


def assert_works_as_new(memory, supervisor, table, buckets):
    acquired = [supervisor.slots.acquire(0, 5000 + 2 * i) for i in range(memory.slots)]
    assert [slot for slot, _ in acquired] == list(range(memory.slots))
    load = Load(memory, 0)
    for slot, generation in acquired:
        assert load.read(slot, generation) == (0, 0, 0)
        assert load.charge(slot, generation, 1, 1)
        assert load.read(slot, generation) == (1, 1, 1)
    hashes = [BlockHashes.of(prompt_hashes(prompt)) for prompt in range(20)]
    assert [supervisor.index.match(each, range(memory.slots)) for each in hashes] == [[0] * memory.slots] * 20
    for prompt, each in enumerate(hashes):
        supervisor.index.learn(each, prompt, monotonic())
        assert supervisor.index.match(each, [prompt]) == [PROMPT_BLOCKS]
    for bucket in buckets:
        assert table.reserve(bucket, 100, monotonic_ns()) == 0.0
