"""What the index of prefixes forgets when engines report fewer cached tokens than were expected of them."""

from random import Random

import pytest

from _fastpath.hashing import BlockHashes
from _fastpath.policy import Policy
from _fastpath.pool import Pool
from _fastpath.prefix_index import PrefixIndex
from _fastpath.scheduler import Scheduler
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots
from gateway.scheduling.corrections import DOUBTED_AFTER, OLD_SECONDS, SWEEP_SECONDS, Corrections
from simulator.kv_cache import KVCache

ENDPOINT, OTHER = (3, 0), (5, 0)
OLD, NEW = BlockHashes.of(range(100, 140)), BlockHashes.of(range(200, 240))


class Later:
    """What was to be done later, with how long it was to wait."""

    def __init__(self):
        self.waiting = []

    def __call__(self, seconds, work):
        self.waiting.append((seconds, work))

    def run(self):
        waiting, self.waiting = self.waiting, []
        for _, work in waiting:
            work()


@pytest.fixture
def prefixes(tmp_path):
    return PrefixIndex(SharedMemory.create(str(tmp_path / "memory"), workers=1, slots=64, prefix_bytes=1 << 20))


@pytest.fixture
def later():
    return Later()


@pytest.fixture
def corrections(prefixes, later):
    return Corrections(prefixes, later, lambda work: work())


def missed(corrections, endpoint=ENDPOINT, hashes=OLD, cached=0, matched_at=100, sent=200.0):
    return corrections.missed(endpoint, hashes, cached, matched_at, sent)


def test_what_is_as_old_as_what_was_gone_is_forgotten_there_and_nothing_else(corrections, prefixes, later):
    for hashes, when in ((OLD, 90), (NEW, 101)):
        for slot, _ in (ENDPOINT, OTHER):
            prefixes.learn(hashes, slot, when)
    # 64 neighbours share an entry, and with it the time: these two are neighbours
    assert missed(corrections) == "evicted"
    assert prefixes.match(OLD, [3, 5]) == [40, 40]
    later.run()
    assert prefixes.match(OLD, [3, 5]) == [0, 40]
    assert prefixes.match(NEW, [3, 5]) == [40, 40]


def test_many_answers_are_one_look_through_the_index(corrections, later):
    for matched_at in (100, 50, 120):
        missed(corrections, matched_at=matched_at)
    missed(corrections, OTHER)
    ((seconds, _),) = later.waiting
    assert seconds == SWEEP_SECONDS
    later.run()
    missed(corrections)
    assert len(later.waiting) == 1


def test_where_an_endpoint_says_how_much_it_holds_nothing_else_is_forgotten(corrections, later):
    assert corrections.missed(ENDPOINT, OLD, 300, 100, 200.0, True) == "evicted"
    assert later.waiting == []
    for _ in range(DOUBTED_AFTER - 1):
        assert corrections.missed(ENDPOINT, OLD, 0, 100, 200.0, True) == "evicted"
    assert corrections.missed(ENDPOINT, OLD, 0, 100, 200.0, True) == "uncached"


def test_the_youngest_that_was_gone_counts(corrections, prefixes, later):
    prefixes.learn(OLD, 3, 119)
    for matched_at in (100, 120, 50):
        missed(corrections, matched_at=matched_at)
    later.run()
    assert prefixes.match(OLD, [3]) == [0]


def test_what_was_learned_a_moment_ago_may_be_on_its_way(corrections, later):
    assert missed(corrections, matched_at=100, sent=100 + OLD_SECONDS - 0.1) == ""
    assert later.waiting == []
    assert not corrections.is_watching


def test_an_endpoint_that_finds_nothing_again_and_again_keeps_nothing(corrections, prefixes):
    prefixes.learn(NEW, 3, 200)
    for _ in range(DOUBTED_AFTER - 1):
        assert missed(corrections) == "evicted"
    assert corrections.is_watching
    assert corrections.answered(ENDPOINT, NEW, 0) == ""
    assert prefixes.match(NEW, [3]) == [40]
    assert missed(corrections) == "uncached"
    assert corrections.answered(ENDPOINT, NEW, 0) == "uncached"
    assert corrections.answered(OTHER, NEW, 0) == ""
    assert prefixes.match(NEW, [3]) == [0]


@pytest.mark.parametrize("is_as_expected", [True, False])
def test_one_answer_with_something_cached_ends_the_doubt(corrections, prefixes, is_as_expected):
    for _ in range(DOUBTED_AFTER):
        missed(corrections)
    if is_as_expected:
        assert corrections.answered(ENDPOINT, NEW, 1) == ""
    else:
        assert missed(corrections, cached=16) == "evicted"
    assert not corrections.is_watching
    prefixes.learn(NEW, 3, 200)
    assert missed(corrections) == "evicted"
    assert prefixes.match(NEW, [3]) == [40]


def test_another_endpoint_at_the_same_slot_is_not_doubted(corrections):
    for _ in range(DOUBTED_AFTER):
        missed(corrections)
    assert missed(corrections, (ENDPOINT[0], 1)) == "evicted"


# -- against simulated caches


class World:
    """Conversations over two engines whose caches hold two thirds of them; a request a second, in virtual time."""

    BLOCK_TOKENS, BLOCKS, CONVERSATIONS = 16, 100, 60

    def __init__(self, path, corrects, caches=True):
        memory = SharedMemory.create(str(path), workers=1, slots=64, prefix_bytes=1 << 22)
        self.names = [Slots(memory).acquire(1, 2 * number + 2) for number in range(2)]
        self.scheduler = Scheduler(memory, 0, random_seed=1)
        self.pool = Pool([(*name, 1, 0) for name in self.names])
        self.engines = [KVCache(2000) for _ in self.names]
        self.later, self.corrects, self.caches = Later(), corrects, caches
        self.corrections = Corrections(self.scheduler.prefixes, self.later, lambda work: work())
        self.random = Random(1)
        self.expected = self.found = self.wrong = 0

    def run(self, requests):
        for second in range(100, 100 + requests):
            if second % SWEEP_SECONDS == 0:
                self.later.run()
            # some are asked for again and again, most seldom
            self.ask(min(int(self.random.expovariate(1 / 20)), self.CONVERSATIONS - 1), float(second))
        return self

    def ask(self, conversation, now):
        values = range(1 + 1000 * conversation, 1 + 1000 * conversation + self.BLOCKS)
        hashes, tokens = BlockHashes.of(values), self.BLOCKS * self.BLOCK_TOKENS
        position, matched, uncached = self.scheduler.decide(self.pool, Policy(), hashes, tokens, 10, now)
        matched_at = self.scheduler.matched_at
        cached = self.compute(self.engines[position], list(values))
        self.scheduler.release(self.pool, position, uncached, 10)
        expected = matched * self.BLOCK_TOKENS
        self.expected, self.found = self.expected + expected, self.found + cached
        self.wrong += abs(expected - cached)
        if self.corrects and expected - cached > 256:
            self.corrections.missed(self.names[position], hashes, cached, matched_at, now)
        elif self.corrects and self.corrections.is_watching:
            self.corrections.answered(self.names[position], hashes, cached)

    def compute(self, cache, values):
        """Tokens that were cached."""
        there = cache.match(values) if self.caches else 0
        cache.hold(values[:there])
        assert cache.take(len(values) - there)
        cache.fill(values[there:], None, ())
        cache.release(values, 0)
        return there * self.BLOCK_TOKENS


@pytest.mark.parametrize("caches", [True, False], ids=["evictions", "nothing cached"])
def test_expectations_follow_what_engines_report(tmp_path, caches):
    without, corrected = (World(tmp_path / name, name == "yes", caches).run(3000) for name in ("no", "yes"))
    assert corrected.wrong < without.wrong / 2
    assert corrected.found >= without.found * 0.99
