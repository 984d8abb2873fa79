"""What a gateway asks of a store of shared limits, and what it serves by itself while that is away."""

import pytest

from _fastpath.leased_bucket import STANDINGS, LeasedBuckets
from _fastpath.shared_memory import SharedMemory
from _fastpath.token_bucket import Journal, LimitSet, TokenBuckets
from gateway.admission.lease_book import IDLE_SECONDS, TICK_SECONDS, LeaseBook
from gateway.admission.limit_names import FAILURES
from tests.support.limit_store import StoredLimits

IDENTITY, KEY, STORE = 4242, 77, 1 << 20
RATE, BURST = 100, 200
NOW = 10**12


class Bench:
    """One gateway's bucket of 100 tokens a second, 200 at once, and its book."""

    def __init__(self, directory, failure="local", store=None, gateways=1):
        self.memory = SharedMemory.create(str(directory), workers=1, buckets=8, journal_records=8, prefix_bytes=192)
        self.buckets = TokenBuckets(self.memory)
        self.leased = LeasedBuckets(self.buckets)
        self.book = LeaseBook(self.leased, gateways)
        self.store = store or StoredLimits()
        self.journal = Journal(self.memory, 0)
        self.now = 1000.0
        word = STORE | (FAILURES.index(failure) + 1)
        self.bucket = self.buckets.open(IDENTITY, NOW, False, word, KEY)
        self.buckets.configure(self.bucket, 1, RATE, 1, BURST, NOW)
        self.limits = LimitSet([(self.bucket, IDENTITY, "input")])

    @property
    def there(self):
        return self.buckets.available(self.bucket, NOW)

    def spend(self, tokens):
        return self.buckets.reserve(self.bucket, tokens, NOW) == 0.0

    def ask(self, tokens):
        """A request that is refused, and asks for more."""
        assert self.journal.take(self.limits, tokens, 0, int(self.now * 1e9)) == -1
        return self.journal.ask(self.limits, tokens, 0, int(self.now * 1e9))

    def exchange(self):
        for seen in self.leased.changed():
            self.book.note(seen, self.now)
        asks = self.book.plan(self.now)
        self.book.answered([self.store.lease(one) for one in asks], self.now)
        return asks

    def alone(self):
        for seen in self.leased.changed():
            self.book.note(seen, self.now)
        self.book.share(self.now)

    def pass_seconds(self, seconds):
        self.now += seconds
        self.store.now += int(seconds * 1e6)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "memory")


def test_what_a_request_lacks_is_leased_and_a_little_more(bench):
    assert not bench.spend(150)
    assert bench.ask(150)
    bench.exchange()
    assert 150 < bench.there < 160
    assert bench.spend(150)


def test_more_is_leased_the_faster_it_is_spent(bench):
    held = []
    for _ in range(40):
        bench.pass_seconds(TICK_SECONDS)
        bench.exchange()
        held.append(bench.there)
        bench.spend(3)
    assert max(held[:5]) < 6
    assert max(held[-10:]) > 8


def test_what_nobody_spends_goes_back(bench):
    bench.ask(100)
    bench.exchange()
    assert bench.there > 90
    bench.pass_seconds(IDLE_SECONDS + 0.1)
    (ask,) = bench.exchange()
    assert ask.returned > 90
    assert bench.there < 1
    assert bench.exchange() == []


def test_a_store_that_has_no_more_is_asked_again_only_when_it_may_have(bench):
    bench.store.buckets.clear()
    bench.ask(BURST)
    bench.exchange()
    assert bench.spend(BURST)
    assert bench.ask(50)
    bench.exchange()
    assert not bench.ask(50), "it has nothing now"
    bench.pass_seconds(0.6)
    assert bench.ask(50)


def test_tokens_used_beyond_what_was_reserved_are_paid_from_the_store(bench):
    bench.ask(10)
    bench.exchange()
    bench.spend(10)
    bench.buckets.settle(bench.bucket, 10, 110, NOW)
    assert bench.there < -90
    bench.exchange()
    assert bench.there > 0
    assert bench.store.lease(_none()).left < 100


def _none():
    from gateway.admission.limit_store import Ask

    return Ask(KEY, 1 / RATE, BURST)


class TestWhileTheStoreIsAway:
    def served(self, bench, seconds):
        """Tokens that somebody gets who always wants more."""
        count = 0
        for _ in range(int(seconds / 0.01)):
            bench.pass_seconds(0.01)
            bench.alone()
            while bench.spend(1):
                count += 1
        return count

    def gone(self, tmp_path, failure, gateways=2):
        bench = Bench(tmp_path / "memory", failure)
        bench.ask(BURST)
        bench.exchange()
        bench.book.gateways = gateways
        bench.spend(BURST)
        bench.book.went_away(bench.now)
        return bench

    def test_a_share_of_the_limit_is_served(self, tmp_path):
        bench = self.gone(tmp_path, "local")
        assert self.served(bench, 5) == pytest.approx(5 * RATE / 2, abs=2)

    def test_a_refusal_says_how_long_at_that_share(self, tmp_path):
        bench = self.gone(tmp_path, "local")
        assert not bench.ask(50)
        assert bench.journal.wait == pytest.approx(2 * 50 / RATE, rel=0.05)

    def test_or_everything(self, tmp_path):
        bench = self.gone(tmp_path, "allow")
        assert [bench.spend(BURST) for _ in range(50)] == [True] * 50
        bench.alone()
        assert bench.there == pytest.approx(0, abs=1)

    def test_or_nothing_and_the_refusal_says_so(self, tmp_path):
        bench = self.gone(tmp_path, "deny")
        assert self.served(bench, 5) == 0
        assert not bench.ask(1)
        assert bench.journal.is_closed

    def test_what_was_served_is_paid_for_afterwards(self, tmp_path):
        bench = self.gone(tmp_path, "local", gateways=1)
        assert self.served(bench, 5) == pytest.approx(5 * RATE, abs=2)
        bench.book.came_back(bench.now)
        bench.exchange()
        # the store's bucket is full after five seconds, of which all was served
        assert bench.store.lease(_none()).left == pytest.approx(0, abs=3)

    def test_a_bucket_that_is_new_then_begins_with_its_share_of_the_burst(self, tmp_path):
        bench = Bench(tmp_path / "memory", gateways=4)
        bench.book.went_away(bench.now)
        bench.ask(1)
        bench.alone()
        assert bench.there == pytest.approx(BURST / 4)

    def test_a_store_that_has_forgotten_everything_is_told(self, tmp_path):
        bench = Bench(tmp_path / "memory")
        bench.ask(BURST)
        bench.exchange()
        bench.spend(BURST)
        bench.store.forget()
        bench.pass_seconds(0.5)
        bench.ask(BURST)
        bench.exchange()
        assert bench.there == pytest.approx(0.5 * RATE, abs=2)


def test_a_clock_of_the_store_that_is_set_back_takes_nothing_away(bench):
    bench.ask(50)
    bench.exchange()
    bench.spend(50)
    bench.store.now -= 3600 * 10**6
    bench.exchange()
    assert bench.store.lease(_none()).left == pytest.approx(BURST - 50, abs=8)


def test_changed_limits_keep_the_share_in_use_at_the_store_and_the_tokens_here(bench):
    bench.ask(100)
    bench.exchange()
    here, spent = bench.there, BURST - bench.store.lease(_none()).left
    bench.buckets.configure(bench.bucket, 2, 10 * RATE, 1, 10 * BURST, NOW)
    assert bench.there == pytest.approx(here, abs=0.1)
    bench.spend(int(here))
    bench.exchange()
    left = bench.store.buckets[KEY]
    assert (left.arrival - bench.store.now) / left.tolerance == pytest.approx(spent / BURST, abs=0.1)


def test_what_a_gateway_holds_goes_back_when_it_ends(bench):
    bench.ask(100)
    bench.exchange()
    bench.book.answered([bench.store.lease(one) for one in bench.book.give_back(bench.now)], bench.now)
    assert bench.there < 1
    assert bench.store.lease(_none()).left == pytest.approx(BURST, abs=1)


def test_standings_are_those_of_the_shared_memory():
    assert STANDINGS == ("unasked", "leased", "shared", "opened", "closed")
