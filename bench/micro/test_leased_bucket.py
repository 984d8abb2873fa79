"""Limits that gateways share, in the limiter's part of whole requests. Target: under 2 µs a request, the keeper's turns included."""

from collections.abc import Callable, Iterator
from pathlib import Path
from timeit import Timer
from typing import Any, NamedTuple

import pytest
from msgspec import structs

from _fastpath.leased_bucket import LeasedBuckets
from _fastpath.shared_memory import SharedMemory
from _fastpath.token_bucket import TokenBuckets
from bench.micro.ratio import times_faster
from gateway.admission.lease_book import LeaseBook
from gateway.admission.limits import RateLimiter
from gateway.datastore.model import Limit, Route, Rule, Target
from gateway.identity.caller_limits import CallerLimit, CallerLimits
from gateway.routing.match import compile_route
from tests.reference import leased_bucket as reference
from tests.reference import shared_memory as reference_memory
from tests.reference import token_bucket as reference_buckets
from tests.support.limit_store import StoredLimits

NOW = 10**15
REQUESTS_A_TURN = 50
"""A thousand requests a second, and a look every 50 ms."""

pytestmark = pytest.mark.benchmark(max_time=0.5)


class Gateway(NamedTuple):
    """One worker's limiter, and the keeper's book beside it."""

    limiter: RateLimiter
    route: Route
    leased: LeasedBuckets
    book: LeaseBook
    store: StoredLimits


def limited(store: str) -> Route:
    kinds = ("input", "output", "requests")
    limits = tuple(Limit("l", kind, 1e9, 1.0, 1e9, store=store) for kind in kinds)  # type: ignore[arg-type]
    return Route("default/r", "m", (Rule((Target("default/s"),)),), limits=limits)


def made(directory: Path, store: str) -> Gateway:
    memory = SharedMemory.create(str(directory / "memory"), workers=1, prefix_bytes=192)
    limiter = RateLimiter(memory, 0, lambda: 1, lambda: NOW)
    leased = LeasedBuckets(TokenBuckets(memory))
    gateway = Gateway(limiter, limited(store), leased, LeaseBook(leased), StoredLimits())
    limiter.route_changed(None, gateway.route)
    turns(gateway)
    return gateway


def moments() -> Iterator[float]:
    now = 1000.0
    while True:
        now += 0.05
        yield now


CLOCK = moments()


def turns(gateway: Gateway) -> None:
    """One look of the keeper, and what the store does with it."""
    now = next(CLOCK)
    gateway.store.now += 50_000
    for seen in gateway.leased.changed():
        gateway.book.note(seen, now)
    asks = gateway.book.plan(now)
    gateway.book.answered([gateway.store.lease(ask) for ask in asks], now)


def one_request(gateway: Gateway) -> None:
    held = gateway.limiter.reserve(compile_route(gateway.route), str, "", 100, 20)
    gateway.limiter.settle(held, 90, 15)  # type: ignore[arg-type]


def requests_and_a_turn(gateway: Gateway) -> None:
    for _ in range(REQUESTS_A_TURN):
        one_request(gateway)
    turns(gateway)


@pytest.fixture
def shared(tmp_path: Path) -> Gateway:
    return made(tmp_path, "redis:6379")


@pytest.fixture
def alone(tmp_path: Path) -> Gateway:
    return made(tmp_path, "")


def test_limiter_three_limits(benchmark: Callable[..., Any], alone: Gateway) -> None:
    benchmark(one_request, alone)


@pytest.mark.parametrize("of_the_route", [0, 3])
def test_limiter_three_limits_of_the_tenant(benchmark: Callable[..., Any], alone: Gateway, of_the_route: int) -> None:
    route = compile_route(structs.replace(alone.route, limits=alone.route.limits[:of_the_route]))
    own = CallerLimits("a", 1, tuple(CallerLimit("tenant", "a", limit) for limit in alone.route.limits))
    limiter = alone.limiter

    def one() -> None:
        held = limiter.reserve(route, str, "", 100, 20, False, own)
        limiter.settle(held, 90, 15)  # type: ignore[arg-type]

    benchmark(one)


def test_limiter_no_limits(benchmark: Callable[..., Any], alone: Gateway) -> None:
    assert (
        benchmark(alone.limiter.reserve, compile_route(structs.replace(alone.route, limits=())), str, "", 100, 20)
        is None
    )


def test_limiter_three_shared_limits_50_requests_and_a_turn_of_the_keeper(
    benchmark: Callable[..., Any], shared: Gateway
) -> None:
    benchmark(requests_and_a_turn, shared)


def test_a_shared_limit_costs_at_most_four_times_one_of_ones_own(shared: Gateway, alone: Gateway) -> None:
    def seconds(gateway: Gateway, work: Callable[[Gateway], None], loops: int) -> float:
        return min(Timer(lambda: work(gateway)).repeat(7, loops)) / loops

    assert seconds(shared, requests_and_a_turn, 40) / REQUESTS_A_TURN < 4 * seconds(alone, one_request, 2000)


def looked_at(module: Any, buckets: Any, leased: Any) -> Callable[[], Any]:
    for identity in range(1000, 1200, 2):
        index = buckets.open(identity, NOW, store=1 << 20, key=1)
        buckets.configure(index, 1, 1000, 1, 1000, NOW)
    leased.changed()
    return lambda: leased.changed()


def test_looking_at_a_hundred_buckets_is_5_times_faster_than_by_the_twin(tmp_path: Path) -> None:
    compiled = TokenBuckets(SharedMemory.create(str(tmp_path / "memory"), workers=1, buckets=100, prefix_bytes=192))
    plain = reference_buckets.TokenBuckets(reference_memory.SharedMemory(workers=1, buckets=100))
    ours = looked_at(compiled, compiled, LeasedBuckets(compiled))
    twin = looked_at(plain, plain, reference.LeasedBuckets(plain, 100))
    assert times_faster(ours, twin) > 5
