"""The keeper of leases: rung by workers, one exchange a store at a time, and what it says of stores."""

import asyncio
import os
from contextlib import asynccontextmanager

import pytest

from _fastpath.shared_memory import SharedMemory
from _fastpath.token_bucket import TokenBuckets
from gateway.admission.lease_keeper import LeaseKeeper
from gateway.admission.limit_store import NoStore, StoreAway
from gateway.admission.limits import RateLimiter
from gateway.datastore.model import Limit, Route, Rule, Target
from gateway.errors import RateLimited
from gateway.routing.match import compile_route
from tests.support.limit_store import MemoryStore, StoredLimits


def route(store="redis:6379", name="default/r", amount=100.0, failure="local"):
    limit = Limit("l", "requests", amount, 10.0, amount, store=store, on_store_failure=failure)
    return Route(name, "m", (Rule((Target("default/s"),)),), limits=(limit,))


class Gateway:
    """A keeper and one worker's limiter."""

    def __init__(self, directory, store, name="one"):
        self.memory = SharedMemory.create(
            str(directory / name), workers=1, buckets=8, journal_records=200, prefix_bytes=192
        )
        self.opened = []
        self.states = []
        self.stores = store if isinstance(store, dict) else {"redis:6379": store}
        self.keeper = LeaseKeeper(TokenBuckets(self.memory), self.open, self.states.append)
        clock = iter(range(10**15, 10**18, 1000)).__next__
        self.limiter = RateLimiter(self.memory, 0, lambda: 1, clock, lambda: os.eventfd_write(self.keeper.bell, 1))

    def open(self, address):
        self.opened.append(address)
        return self.stores[address]

    def serve(self, one):
        self.keeper.route_changed(None, one)
        self.limiter.route_changed(None, one)

    async def admitted(self, one, seconds=0.5):
        """Whether a request is let through, waiting for leases as the pipeline does."""
        deadline = asyncio.get_running_loop().time() + seconds
        again = False
        while True:
            try:
                self.limiter.reserve(compile_route(one), lambda name: None, "", 1, 1, again)
            except RateLimited as refused:
                again = True
                if not refused.is_awaited or asyncio.get_running_loop().time() > deadline:
                    return False
            else:
                return True
            await asyncio.sleep(0.001)


@asynccontextmanager
async def running(*gateways):
    tasks = [asyncio.create_task(one.keeper.run()) for one in gateways]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in gateways:
            await one.keeper.stop()
            one.keeper.close()


@pytest.fixture
def limits():
    return StoredLimits()


@pytest.fixture
def gateway(tmp_path, limits):
    return Gateway(tmp_path, MemoryStore(limits))


async def test_the_first_request_finds_its_lease_within_milliseconds(gateway):
    one = route()
    gateway.serve(one)
    async with running(gateway):
        await asyncio.sleep(0.01)
        assert await gateway.admitted(one)


async def test_two_gateways_admit_what_one_would(tmp_path, limits):
    gateways = [Gateway(tmp_path, MemoryStore(limits, name), name) for name in ("a", "b")]
    one = route(amount=40.0)
    for each in gateways:
        each.serve(one)
    async with running(*gateways):
        count = sum([await each.admitted(one) for _ in range(22) for each in gateways])  # a refusal takes half a second
    assert count == 40  # the store's clock stands still


async def test_a_store_that_no_route_names_is_opened_for_whoever_else_wants_it(gateway):
    gateway.keeper.wants("identity", ["redis:6379"])
    async with running(gateway):
        await asyncio.sleep(0.05)
        assert gateway.opened == ["redis:6379"]
        gateway.serve(route())
        gateway.keeper.route_changed(route(), None)
        await asyncio.sleep(0.05)
        assert [one.address for one in gateway.keeper.states()] == ["redis:6379"]


async def test_every_gateway_that_lives_is_counted(tmp_path, limits):
    gateways = [Gateway(tmp_path, MemoryStore(limits, name), name) for name in ("a", "b", "c")]
    for each in gateways:
        each.serve(route())
    async with running(*gateways):
        await asyncio.sleep(0.1)
        assert limits.gateways == {"a", "b", "c"}
    assert limits.gateways == set()


async def test_a_store_that_is_away_is_named_and_requests_are_served(gateway, limits):
    limits.fault = "connection refused"
    one = route()
    gateway.serve(one)
    async with running(gateway):
        await asyncio.sleep(0.05)
        assert await gateway.admitted(one)
        (state,) = gateway.states[-1]
        assert (state.address, state.is_reachable, state.reason) == ("redis:6379", False, "connection refused")
        limits.fault = ""
        await asyncio.sleep(0.7)
        assert gateway.states[-1][0].is_reachable
        assert gateway.keeper.failures() == {"redis:6379": pytest.approx(1, abs=1)}


async def test_an_answer_that_makes_no_sense_counts_as_a_store_that_is_away(gateway, monkeypatch, caplog):
    async def nonsense(self, asks):
        raise KeyError("granted")

    one = route()
    gateway.serve(one)
    monkeypatch.setattr(MemoryStore, "lease", nonsense)
    async with running(gateway):
        assert await gateway.admitted(one)
    assert not gateway.states[-1][0].is_reachable
    assert "KeyError" in caplog.text


async def test_a_store_that_hangs_holds_up_no_other(tmp_path, limits):
    class Hanging(MemoryStore):
        async def lease(self, asks):
            await asyncio.sleep(100)

    gateway = Gateway(tmp_path, {"a:1": MemoryStore(limits), "b:1": Hanging(StoredLimits())})
    quick, hanging = route("a:1", "default/quick"), route("b:1", "default/hanging")
    for one in (quick, hanging):
        gateway.serve(one)
    async with running(gateway):
        await asyncio.sleep(0.01)
        waiting = asyncio.create_task(gateway.admitted(hanging, 0.3))
        await asyncio.sleep(0.01)
        assert await gateway.admitted(quick)
        assert not waiting.done()
        assert await waiting is False


async def test_stores_are_opened_for_routes_and_closed_with_the_last(gateway):
    first, second = route(name="default/a"), route(name="default/b")
    async with running(gateway):
        for one in (first, second):
            gateway.keeper.route_changed(None, one)
        await asyncio.sleep(0.02)
        assert gateway.opened == ["redis:6379"]
        gateway.keeper.route_changed(first, None)
        await asyncio.sleep(0.02)
        assert not gateway.stores["redis:6379"].closed
        gateway.keeper.route_changed(second, route("", "default/b"))
        await asyncio.sleep(0.05)
        assert gateway.stores["redis:6379"].closed


async def test_no_store_says_why_whatever_it_is_asked():
    store = NoStore("`a` must name a host and a port")
    for call in (store.lease([]), store.beat(), store.leave()):
        with pytest.raises(StoreAway, match="must name a host"):
            await call
    await store.close()


async def test_a_turn_that_fails_is_followed_by_another(gateway, caplog, monkeypatch):
    opened = gateway.open
    failures = [OSError("once")]

    def fails_once(address):
        if failures:
            raise failures.pop()
        return opened(address)

    monkeypatch.setattr(gateway.keeper, "_open_store", fails_once)
    one = route()
    gateway.serve(one)
    async with running(gateway):
        assert await gateway.admitted(one, 5.0)
    assert "a turn of the keeper of leases failed" in caplog.text
