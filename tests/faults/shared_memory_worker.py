"""One process of the races: says "ready", waits for the word to start, works, and says as JSON what it saw.

Run as ``python -m tests.faults.shared_memory_worker PATH ROW``. It imports nothing but the compiled modules, so that thirty of
them start in a few seconds.
"""

import json
import sys
from collections.abc import Callable
from random import Random
from time import monotonic_ns, sleep
from typing import Any

from _fastpath.hashing import BlockHashes
from _fastpath.load import Load
from _fastpath.prefix_index import PrefixIndex
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots, SlotsFull
from _fastpath.token_bucket import BucketsFull, Journal, LimitSet, TokenBuckets

PROMPT_BLOCKS = 40


def prompt_hashes(prompt: int) -> list[int]:
    """The same in every process, and no block twice."""
    random = Random(prompt)
    return [random.getrandbits(64) for _ in range(PROMPT_BLOCKS)]


def holds(slot: int, prompt: int) -> bool:
    """Who learns which prompt: known to all, so that a match can be checked without asking."""
    return (slot * 7 + prompt * 3) % 5 < 2


def acquire(memory: SharedMemory, row: int, start: int, identities: list[int]) -> dict[str, Any]:
    """Acquire all of them, insisting: ``refused`` counts how often that was necessary."""
    slots, refused, acquired = Slots(memory), 0, []
    wait_until(start)
    for identity in identities:
        while True:
            try:
                acquired.append(slots.acquire(row, identity))
                break
            except SlotsFull:
                refused += 1
    return {"acquired": acquired, "refused": refused}


def open_buckets(memory: SharedMemory, row: int, start: int, identities: list[int]) -> dict[str, Any]:
    """Open all of them, insisting."""
    buckets, refused, opened = TokenBuckets(memory), 0, []
    wait_until(start)
    for identity in identities:
        while True:
            try:
                opened.append(buckets.open(identity, start))
                break
            except BucketsFull:
                refused += 1
    return {"opened": opened, "refused": refused}


def hold(memory: SharedMemory, row: int, start: int, end: int, identities: list[int]) -> dict[str, Any]:
    """Acquire and drop while the supervisor sweeps. What is held must stay, or ``lost`` lists it."""
    slots, random, lost, rounds, refused = Slots(memory), Random(row), [], 0, 0

    def is_lost(identity: int, place: tuple[int, int]) -> bool:
        if slots.find(identity) == place and slots.is_live(*place):
            return False
        sleep(0.02)  # the sweep marks a slot for a moment when it looks for the second time
        return slots.find(identity) != place or not slots.is_live(*place)

    wait_until(start)
    while monotonic_ns() < end:
        held = {}
        for identity in random.sample(identities, 4):
            try:
                held[identity] = slots.acquire(row, identity)
            except SlotsFull:
                refused += 1
        lost += [
            (identity, place, slots.find(identity)) for identity, place in held.items() if is_lost(identity, place)
        ]
        for slot, _ in held.values():
            slots.drop(row, slot)
        rounds += 1
    return {"lost": lost, "rounds": rounds, "refused": refused}


def hammer(memory: SharedMemory, row: int, start: int, end: int, bucket: int) -> dict[str, Any]:
    buckets, random, admitted, asked = TokenBuckets(memory), Random(row), 0, 0
    amounts = [random.randint(1, 20) for _ in range(1000)]
    wait_until(start)
    while (now := monotonic_ns()) < end:
        amount = amounts[asked % 1000]
        if buckets.reserve(bucket, amount, now) == 0.0:
            admitted += amount
        asked += 1
    return {"admitted": admitted, "asked": asked}


def configure(
    memory: SharedMemory, row: int, start: int, buckets: list[int], generation: int, tokens: float
) -> dict[str, Any]:
    table = TokenBuckets(memory)
    wait_until(start)
    for bucket in buckets:
        table.configure(bucket, generation, tokens, 1, 1000, start)
    return {}


def learn(memory: SharedMemory, row: int, start: int, end: int, slots: int, prompts: int) -> dict[str, Any]:
    """Teach each slot its prompts, over and over."""
    index, random, learned = PrefixIndex(memory), Random(row), 0
    hashes = [BlockHashes.of(prompt_hashes(prompt)) for prompt in range(prompts)]
    pairs = [(slot, prompt) for slot in range(slots) for prompt in range(prompts) if holds(slot, prompt)]
    random.shuffle(pairs)
    wait_until(start)
    while (now := monotonic_ns()) < end or learned < len(pairs):
        slot, prompt = pairs[learned % len(pairs)]
        index.learn(hashes[prompt], slot, now / 1e9)
        learned += 1
    return {"learned": learned}


def match(memory: SharedMemory, row: int, start: int, end: int, slots: int, prompts: int) -> dict[str, Any]:
    """Match all slots; ``wrong`` counts the answers that name a slot which never learned the prompt."""
    index, random, matched, wrong, longest = PrefixIndex(memory), Random(row), 0, 0, 0
    hashes = [BlockHashes.of(prompt_hashes(prompt)) for prompt in range(prompts)]
    wait_until(start)
    while monotonic_ns() < end:
        prompt = random.randrange(prompts)
        lengths = index.match(hashes[prompt], range(slots))
        wrong += any(length and not holds(slot, prompt) for slot, length in enumerate(lengths))
        longest = max(longest, *lengths)
        matched += 1
    return {"matched": matched, "wrong": wrong, "longest": longest}


def live(
    memory: SharedMemory, row: int, start: int, buckets: list[tuple[int, int]], tokens: int, identities: list[int]
) -> None:
    """All that a worker does, at random, until it is killed."""
    slots, load, journal, index = Slots(memory), Load(memory, row), Journal(memory, row), PrefixIndex(memory)
    random = Random(monotonic_ns())
    hashes = [BlockHashes.of(prompt_hashes(prompt)) for prompt in range(20)]
    limits = LimitSet([(bucket, identity, "input") for bucket, identity in buckets])
    memory.claim_row(row, 1, 1)
    requests: list[tuple[int, int, int]] = []
    beats = 0
    while True:
        beats += 1
        memory.beat(row, beats, len(requests), 0, 0)
        try:
            slot, generation = slots.acquire(row, random.choice(identities))
        except SlotsFull:
            continue  # a killed process left its claim; the supervisor's second sweep removes it
        handle = journal.take(limits, random.randint(1, tokens), 0, monotonic_ns())
        if handle >= 0:
            load.charge(slot, generation, 100, 10)
            requests.append((slot, generation, handle))
            index.learn(hashes[slot % 20], slot, beats)
        if handle < 0 or len(requests) > 20 or random.random() < 0.4:
            random.shuffle(requests)
            for _ in range(random.randint(0, len(requests))):
                slot, generation, handle = requests.pop()
                load.release(slot, generation, 100, 10)
                # nothing is used in the end: the tokens of a bucket can be counted whenever everybody is dead
                if random.random() < 0.5:
                    journal.settle(limits, handle, 0, 0, monotonic_ns())
                else:
                    journal.cancel(handle, monotonic_ns())
        if random.random() < 0.1:
            slots.drop(row, slot)


def serve(memory: SharedMemory, row: int, start: int, end: int, bucket: int, identity: int) -> dict[str, Any]:
    """Whole requests, a few at once: as soon as one is refused, settle one that is under way, to something else than was reserved."""
    journal, limits, random = Journal(memory, row), LimitSet([(bucket, identity, "output")]), Random(row)
    under_way: list[int] = []
    used = requests = refused = 0
    wait_until(start)
    while monotonic_ns() < end:
        handle = journal.take(limits, 0, 100, monotonic_ns()) if len(under_way) < 8 else -1
        if handle >= 0:
            under_way.append(handle)
            continue
        refused += 1
        if under_way:
            tokens = random.randint(0, 200)
            journal.settle(limits, under_way.pop(0), 0, tokens, monotonic_ns())
            used += tokens
            requests += 1
    for handle in under_way:
        journal.cancel(handle, monotonic_ns())
    return {"used": used, "requests": requests, "refused": refused}


def wait_until(start: int) -> None:
    while monotonic_ns() < start:
        pass


WORK: dict[str, Callable[..., dict[str, Any] | None]] = {
    work.__name__: work for work in (acquire, open_buckets, hold, hammer, serve, configure, learn, match, live)
}


def main() -> None:
    memory, row = SharedMemory.attach(sys.argv[1]), int(sys.argv[2])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        order = json.loads(line)
        result = WORK[order.pop("work")](memory, row, **order)
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
