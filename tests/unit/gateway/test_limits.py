"""The rate limiter: holds at admission, corrects at the end, and follows what the routes say."""

import pytest

from _fastpath.shared_memory import SharedMemory
from gateway.admission.limits import RateLimiter
from gateway.datastore.model import Limit, Route, Rule, Target
from gateway.errors import Overloaded, PenstockError, RateLimited
from gateway.routing.match import compile_route

SECOND = 1_000_000_000
BUCKETS = 16


class Clock:
    def __init__(self):
        self.now = 1000 * SECOND

    def __call__(self):
        return self.now

    def pass_seconds(self, seconds):
        self.now += int(seconds * SECOND)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def memory(tmp_path):
    return SharedMemory.create(
        str(tmp_path / "memory"), workers=2, slots=64, buckets=BUCKETS, journal_records=20, prefix_bytes=192
    )


@pytest.fixture
def generation():
    return [1]


@pytest.fixture
def limiter(memory, generation, clock):
    return RateLimiter(memory, 0, lambda: generation[0], clock)


def limit(name="l", kind="requests", amount=10.0, seconds=10.0, burst=None, **more):
    return Limit(name, kind, amount, seconds, amount if burst is None else burst, **more)


def route(*limits, name="default/r"):
    return Route(name, "m", (Rule((Target("default/s"),)),), limits=limits)


def reserve(limiter, route, tokens_in=1, tokens_out=1, tenant="", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return limiter.reserve(compile_route(route), named.get, tenant, tokens_in, tokens_out)


def admitted(limiter, route, most=100, **request):
    """How many equal requests are let through in a row."""
    for count in range(most):
        try:
            reserve(limiter, route, **request)
        except RateLimited:
            return count
    return most


def refusal(limiter, route, **request):
    with pytest.raises(RateLimited) as raised:
        reserve(limiter, route, **request)
    return raised.value


def test_a_route_without_limits_holds_nothing(limiter):
    assert reserve(limiter, route()) is None


def test_a_limit_admits_its_burst_and_then_says_when_to_come_back(limiter, clock):
    limited = route(limit("per-minute", amount=6, seconds=60, burst=3))
    assert admitted(limiter, limited) == 3
    refused = refusal(limiter, limited)
    assert refused.message == "Limit `per-minute` of the route, 6 requests in 60 s, is reached. Try again in 10.0 s."
    assert refused.retry_after == pytest.approx(10.0)
    assert (refused.status, refused.retryable, refused.limit) == (429, True, "per-minute")
    clock.pass_seconds(9.9)
    refusal(limiter, limited)
    clock.pass_seconds(0.2)
    assert admitted(limiter, limited) == 1


@pytest.mark.parametrize(("kind", "request_"), [("input", {"tokens_in": 30}), ("output", {"tokens_out": 30})])
def test_tokens_are_counted_by_what_the_request_is_expected_to_use(limiter, kind, request_):
    limited = route(limit(kind=kind, amount=100))
    assert admitted(limiter, limited, **request_) == 3
    assert f"{kind} tokens" in refusal(limiter, limited, **request_).message


def test_a_request_larger_than_the_bucket_is_refused_for_good(limiter):
    limited = route(limit("tokens", "input", amount=100, burst=50))
    refused = refusal(limiter, limited, tokens_in=51)
    assert refused.retryable is False
    assert refused.retry_after is None
    assert "can ever hold (50)" in refused.message
    assert admitted(limiter, limited, tokens_in=50) == 1


def test_a_settled_request_has_used_what_the_engine_counted(limiter):
    limited = route(limit(kind="input", amount=100))
    held = reserve(limiter, limited, tokens_in=90)
    refusal(limiter, limited, tokens_in=20)
    limiter.settle(held, 10, 1)
    assert admitted(limiter, limited, tokens_in=30) == 3


def test_a_request_that_used_more_than_was_held_leaves_a_debt(limiter, clock):
    limited = route(limit(kind="output", amount=100, seconds=10))
    held = reserve(limiter, limited, tokens_out=10)
    limiter.settle(held, 1, 200)  # 100 over
    assert refusal(limiter, limited, tokens_out=1).retry_after == pytest.approx(10.1)
    clock.pass_seconds(10.2)
    assert admitted(limiter, limited, tokens_out=1) == 1 + 1


def test_a_settled_request_stays_a_request(limiter):
    limited = route(limit(amount=2))
    limiter.settle(reserve(limiter, limited), 0, 0)
    assert admitted(limiter, limited) == 1


def test_a_cancelled_request_gives_everything_back(limiter):
    limited = route(limit("r", amount=2), limit("t", "input", amount=100))
    limiter.cancel(reserve(limiter, limited, tokens_in=100))
    limiter.cancel(reserve(limiter, limited, tokens_in=100))
    assert admitted(limiter, limited, tokens_in=50) == 2


def test_a_request_holds_at_every_limit_or_at_none(limiter):
    both = route(limit("wide", "input", amount=1000), limit("narrow", "output", amount=10))
    assert refusal(limiter, both, tokens_in=1000, tokens_out=11).limit == "narrow"
    assert reserve(limiter, both, tokens_in=1000, tokens_out=10)


def test_the_first_limit_that_refuses_is_named(limiter):
    both = route(limit("first", amount=1), limit("second", amount=1))
    reserve(limiter, both)
    assert refusal(limiter, both).limit == "first"


def test_workers_share_the_buckets(memory, limiter, clock):
    other = RateLimiter(SharedMemory.attach(memory.path), 1, lambda: 1, clock)
    limited = route(limit(amount=4))
    assert admitted(limiter, limited, most=3) == 3
    assert admitted(other, limited) == 1


def test_routes_do_not_share_buckets(limiter):
    assert admitted(limiter, route(limit(amount=2), name="default/a")) == 2
    assert admitted(limiter, route(limit(amount=2), name="default/b")) == 2


def test_each_value_of_a_header_has_a_bucket_of_its_own(limiter):
    limited = route(limit(amount=2, key="header", header="x-team"))
    assert admitted(limiter, limited, x_team="red") == 2
    assert admitted(limiter, limited, x_team="blue") == 2
    assert admitted(limiter, limited) == 2  # no header: a bucket of its own as well
    assert admitted(limiter, limited, x_team="") == 0  # the same as no header


def test_each_tenant_has_a_bucket_of_its_own(limiter):
    limited = route(limit(amount=2, key="tenant"))
    assert admitted(limiter, limited, tenant="a") == 2
    assert admitted(limiter, limited, tenant="b") == 2


def test_limits_by_route_and_by_header_are_counted_side_by_side(limiter):
    limited = route(limit("all", amount=3), limit("team", amount=2, key="header", header="x-team"))
    assert admitted(limiter, limited, x_team="red") == 2
    assert admitted(limiter, limited, x_team="blue") == 1
    assert refusal(limiter, limited, x_team="green").limit == "all"


def test_a_changed_limit_keeps_the_share_that_is_used(limiter, generation):
    before = route(limit(kind="input", amount=100))
    limiter.route_changed(None, before)
    reserve(limiter, before, tokens_in=75)
    generation[0] = 2
    after = route(limit(kind="input", amount=1000))
    limiter.route_changed(before, after)
    assert admitted(limiter, after, tokens_in=50) == 5  # a quarter of 1,000


def test_a_changed_limit_is_not_filled_by_each_worker_that_hears_of_it(memory, limiter, generation, clock):
    other = RateLimiter(SharedMemory.attach(memory.path), 1, lambda: generation[0], clock)
    before, after = route(limit(amount=10)), route(limit(amount=20))
    for one in (limiter, other):
        one.route_changed(None, before)
    assert admitted(limiter, before) == 10
    generation[0] = 2
    for one in (limiter, other):
        one.route_changed(before, after)
        assert admitted(one, after) == 0


def test_a_worker_that_is_behind_does_not_bring_old_limits_back(memory, limiter, generation, clock):
    late = RateLimiter(SharedMemory.attach(memory.path), 1, lambda: 1, clock)
    before, after = route(limit(amount=10)), route(limit(amount=4))
    generation[0] = 2
    limiter.route_changed(before, after)
    late.route_changed(None, before)
    assert admitted(late, before) == 4


def test_a_removed_limit_holds_nobody_any_more(limiter, generation):
    before = route(limit("a", amount=1), limit("b", amount=100))
    limiter.route_changed(None, before)
    assert admitted(limiter, before) == 1
    generation[0] = 2
    after = route(limit("b", amount=100))
    limiter.route_changed(before, after)
    assert admitted(limiter, after, most=5) == 5
    limiter.route_changed(after, None)
    assert reserve(limiter, route()) is None


def test_a_request_in_flight_across_a_change_is_settled_where_it_was_held(limiter, generation):
    before, after = route(limit(kind="input", amount=100)), route(limit(kind="input", amount=200))
    limiter.route_changed(None, before)
    held = reserve(limiter, before, tokens_in=100)
    generation[0] = 2
    limiter.route_changed(before, after)
    limiter.cancel(held)
    assert admitted(limiter, after, tokens_in=100) >= 1


def test_more_header_values_than_buckets_share_one_and_are_not_refused_for_it(limiter):
    limited = route(limit(amount=2, key="header", header="x-team"))
    limiter.route_changed(None, limited)
    for number in range(3 * BUCKETS):
        try:
            reserve(limiter, limited, x_team=f"team-{number}")
        except PenstockError as error:
            assert isinstance(error, RateLimited), f"the {number}th key: {error}"


def test_many_header_values_of_one_route_do_not_lock_out_another(limiter):
    victim = route(limit(amount=1000), name="default/victim")
    limiter.route_changed(None, victim)
    limited = route(limit(amount=2, key="header", header="x-team"))
    for number in range(3 * BUCKETS):
        try:
            reserve(limiter, limited, x_team=f"team-{number}")
        except PenstockError:
            pass
    assert reserve(limiter, victim) is not None


def test_buckets_that_are_full_again_are_used_for_others(limiter, clock):
    limited = route(limit(amount=2, seconds=1, key="header", header="x-team"))
    for number in range(3 * BUCKETS):
        limiter.cancel(reserve(limiter, limited, x_team=f"team-{number}"))
        clock.pass_seconds(5)
    assert admitted(limiter, limited, x_team="team-0") == 2


def test_with_a_full_journal_a_request_is_told_to_come_back(limiter):
    limited = route(limit(amount=1000))
    held = [reserve(limiter, limited) for _ in range(20)]
    with pytest.raises(Overloaded) as raised:
        reserve(limiter, limited)
    assert (raised.value.status, raised.value.retry_after) == (503, 1.0)
    limiter.cancel(held[0])
    assert reserve(limiter, limited) is not None


def test_the_keys_that_a_worker_remembers_are_bounded(limiter, monkeypatch, clock):
    monkeypatch.setattr("gateway.admission.limits._MOST_KEYS", 4)
    limited = route(limit(amount=2, key="header", header="x-team"))
    for number in range(10):
        limiter.cancel(reserve(limiter, limited, x_team=f"team-{number}"))
    assert all(len(sets.known) <= 4 for sets in limiter._sets.values())
    assert admitted(limiter, limited, x_team="team-0") == 2


def test_the_headers_say_what_is_left_of_the_tightest_limits(limiter, clock):
    limited = route(
        limit("in", "input", 100, 10), limit("out", "output", 50, 10), limit("calls", "requests", 4, 10),
    )  # fmt: skip
    reservation = reserve(limiter, limited, tokens_in=20, tokens_out=45)
    assert dict(limiter.headers(reservation)) == {
        "x-ratelimit-limit-tokens": "50",
        "x-ratelimit-remaining-tokens": "5",
        "x-ratelimit-reset-tokens": "9.000s",
        "x-ratelimit-limit-requests": "4",
        "x-ratelimit-remaining-requests": "3",
        "x-ratelimit-reset-requests": "2.500s",
    }
    clock.pass_seconds(9)
    assert dict(limiter.headers(reservation))["x-ratelimit-remaining-tokens"] == "50"


def test_a_refusal_says_what_is_left_as_well(limiter):
    limited = route(limit("calls", "requests", 1, 10))
    reserve(limiter, limited)
    with pytest.raises(RateLimited) as raised:
        reserve(limiter, limited)
    assert ("x-ratelimit-remaining-requests", "0") in raised.value.extra_headers
