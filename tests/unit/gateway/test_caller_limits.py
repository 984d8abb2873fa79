"""Limits of a tenant and of an API key, over all routes: from the files to buckets that workers share."""

import asyncio
import json
from hashlib import sha256

import pytest

from _fastpath.shared_memory import SharedMemory
from gateway.admission.limits import RateLimiter
from gateway.datastore.model import Limit, Route, Rule, Target
from gateway.errors import PenstockError, RateLimited
from gateway.identity.directory import Directory, Sharing, parse_keys, parse_tenants
from gateway.identity.keeper import Keeper
from gateway.identity.settings import Identity
from gateway.routing.match import compile_route

SECOND = 1_000_000_000
KEY_1, KEY_2 = (sha256(text).hexdigest() for text in (b"1", b"2"))
A = {"name": "a", "sha256": KEY_1}


@pytest.fixture
def memory(tmp_path):
    return SharedMemory.create(
        str(tmp_path / "memory"), workers=2, slots=64, buckets=16, journal_records=200, prefix_bytes=192
    )


@pytest.fixture
def clock():
    moments = [1000 * SECOND]
    return lambda seconds=0.0: moments.append(moments[-1] + int(seconds * SECOND)) or moments[-1]


@pytest.fixture
def limiter(memory, clock):
    return RateLimiter(memory, 0, lambda: 1, clock)


def route(*limits, name="default/r"):
    return Route(name, "m", (Rule((Target("default/s"),)),), limits=limits)


def directory(keys=(), tenants=None, others=None, generation=1, sharing=None):
    text = json.dumps({"tenants": tenants or {}, "others": others or {}})
    parsed = parse_keys(json.dumps({"keys": list(keys)}).encode())
    return Directory(parsed, *parse_tenants(text.encode()), generation=generation, sharing=sharing)


def tenant(*limits, name="a", **more):
    """A caller of a tenant that has these limits."""
    return directory(tenants={name: {"limits": list(limits)}}, **more).caller_of(name)


def calls(count, name="calls", **more):
    return {"name": name, "unit": "hour", "requests": count, **more}


def reserve(limiter, caller, one=None, tokens_in=1, tokens_out=1):
    one = route() if one is None else one
    return limiter.reserve(compile_route(one), {}.get, caller.tenant, tokens_in, tokens_out, False, caller.limits)


def admitted(limiter, caller, one=None, most=50, **tokens):
    for count in range(most):
        try:
            reserve(limiter, caller, one, **tokens)
        except RateLimited:
            return count
    return most


def refusal(limiter, caller, one=None, **tokens):
    with pytest.raises(RateLimited) as raised:
        reserve(limiter, caller, one, **tokens)
    return raised.value


def test_a_tenant_has_one_bucket_over_all_routes(limiter):
    caller = tenant(calls(5))
    assert admitted(limiter, caller, route(), most=3) == 3
    assert admitted(limiter, caller, route(name="default/other")) == 2


def test_who_has_none_is_held_to_nothing(limiter):
    assert tenant().limits is None
    assert reserve(limiter, tenant()) is None


def test_workers_share_the_bucket(memory, limiter, clock):
    other = RateLimiter(SharedMemory.attach(memory.path), 1, lambda: 1, clock)
    caller = tenant(calls(4))
    assert admitted(limiter, caller, most=3) == 3
    assert admitted(other, caller) == 1


def test_a_key_has_its_own_besides_its_tenant_s(limiter):
    again = {"name": "a", "sha256": KEY_2, "limits": [calls(3)]}
    found = directory([A, again], {"a": {"limits": [calls(5)]}})
    first, second = (key.caller for key in found.keys)
    assert admitted(limiter, second) == 3
    assert refusal(limiter, second).scope == "key"
    assert admitted(limiter, first) == 2
    assert refusal(limiter, first).scope == "tenant"
    assert refusal(limiter, second).scope == "tenant"  # which is asked first


def test_two_keys_of_a_tenant_have_a_bucket_each(limiter):
    keys = [{**A, "limits": [calls(2)]}, {"name": "a", "sha256": KEY_2, "limits": [calls(2)]}]
    first, second = (key.caller for key in directory(keys).keys)
    assert [admitted(limiter, one) for one in (first, second)] == [2, 2]


def test_each_of_the_others_has_a_bucket_of_its_own(limiter):
    found = directory(tenants={"named": {}}, others={"limits": [calls(2)]})
    assert [admitted(limiter, found.caller_of(name)) for name in ("x", "y", "x")] == [2, 2, 0]
    assert found.caller_of("named").limits is None


def test_a_refusal_names_the_limit_and_whose_it_is(limiter):
    one = route(Limit("calls", "requests", 3.0, 60.0, 3.0))
    caller = tenant(calls(2))
    assert admitted(limiter, caller, one) == 2
    refused = refusal(limiter, caller, one)
    assert "Limit `calls` of tenant `a`, 2 requests in 3600 s, is reached" in refused.message
    assert (refused.limit, refused.scope, refused.retry_after) == ("calls", "tenant", pytest.approx(1800))
    assert admitted(limiter, tenant(name="b"), one) == 1
    assert "Limit `calls` of the route, 3 requests" in refusal(limiter, tenant(name="b"), one).message
    key = directory([{**A, "limits": [calls(1)]}]).keys[0].caller
    reserve(limiter, key)
    assert "of this API key, 1 requests" in refusal(limiter, key).message


def test_a_request_too_large_for_the_tenant_is_told_so_though_the_route_only_lacks_it_now(limiter):
    one = route(Limit("calls", "requests", 1.0, 60.0, 1.0))
    caller = tenant({"name": "small", "inputTokens": 10, "unit": "minute"})
    reserve(limiter, caller, one)
    refused = refusal(limiter, caller, one, tokens_in=11)
    assert (refused.retryable, refused.retry_after, refused.limit) == (False, None, "small")
    assert "limit `small` of tenant `a` can ever hold (10)" in refused.message
    assert refusal(limiter, caller, one, tokens_in=9).limit == "calls"


def test_a_request_holds_at_every_limit_or_at_none(limiter):
    one = route(Limit("wide", "requests", 5.0, 3600.0, 5.0))
    assert admitted(limiter, tenant(calls(2)), one) == 2
    for _ in range(10):
        refusal(limiter, tenant(calls(2)), one)
    assert admitted(limiter, tenant(name="b"), one) == 3


def test_what_the_engine_counted_is_what_was_used(limiter):
    caller = tenant({"name": "t", "unit": "hour", "inputTokens": 100, "outputTokens": 100})
    held = reserve(limiter, caller, tokens_in=100, tokens_out=100)
    limiter.settle(held, 40, 10)
    assert admitted(limiter, caller, tokens_in=20, tokens_out=1) == 3
    limiter.cancel(reserve(limiter, caller, tokens_in=0, tokens_out=80))
    assert reserve(limiter, caller, tokens_in=0, tokens_out=80)


def test_the_tightest_limit_is_in_the_headers_whosever_it_is(limiter):
    one = route(Limit("calls", "requests", 10.0, 3600.0, 10.0))
    headers = dict(limiter.headers(reserve(limiter, tenant(calls(4)), one)))
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("4", "3")
    headers = dict(limiter.headers(reserve(limiter, tenant(calls(100), name="b"), one)))
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("10", "8")


def test_sixteen_limits_hold_a_request(limiter):
    three = {"unit": "hour", "inputTokens": 9, "outputTokens": 9, "requests": 9}
    four = [{"name": "x", **three}, calls(9, "y")]
    found = directory([{**A, "limits": four}], {"a": {"limits": four}})
    limits = tuple(Limit(f"l{number}", "requests", 9.0, 3600.0, 9.0) for number in range(8))
    assert len(reserve(limiter, found.keys[0].caller, route(*limits)).limits) == 16


class TestChanges:
    def test_a_changed_limit_keeps_the_share_that_is_used(self, limiter):
        assert admitted(limiter, tenant(calls(8)), most=6) == 6
        limiter.callers_changed()
        assert admitted(limiter, tenant(calls(80), generation=2)) == 20

    def test_a_removed_limit_is_gone_and_put_back_as_full_as_it_is_by_then(self, limiter):
        assert admitted(limiter, tenant(calls(2))) == 2
        limiter.callers_changed()
        assert admitted(limiter, tenant(generation=2), most=9) == 9
        limiter.callers_changed()
        assert admitted(limiter, tenant(calls(2), generation=3)) == 0

    def test_an_added_one_counts_for_whoever_was_known_before(self, limiter):
        assert admitted(limiter, tenant(calls(20)), most=3) == 3
        limiter.callers_changed()
        assert admitted(limiter, tenant(calls(20), calls(1, "few"), generation=2)) == 1

    def test_a_worker_that_has_not_read_the_change_does_not_undo_it(self, memory, limiter, clock):
        late = RateLimiter(SharedMemory.attach(memory.path), 1, lambda: 1, clock)
        assert admitted(late, tenant(calls(10)), most=1) == 1
        assert admitted(limiter, tenant(calls(20), generation=2), most=1) == 1
        late.callers_changed()
        assert admitted(late, tenant(calls(10))) == 17

    def test_a_request_that_came_before_the_change_does_not_hold_those_after_it_to_the_old_limits(self, limiter):
        before, after = tenant(calls(2)), tenant(calls(2), calls(1, "few"), generation=2)
        limiter.callers_changed()
        reserve(limiter, before)
        assert admitted(limiter, after) == 1
        assert refusal(limiter, after).limit in ("calls", "few")


def test_tenants_without_a_bucket_share_one_of_the_same_limit_and_are_not_refused_for_it(limiter):
    for number in range(60):
        amount = 2 + number % 2
        with_limit = tenant(calls(amount), name=f"t{number}")
        try:
            reserve(limiter, with_limit)
        except PenstockError as error:
            assert isinstance(error, RateLimited), f"the {number}th tenant: {error}"
            assert f"{amount} requests" in error.message


def test_shared_ones_are_leased(limiter):
    caller = tenant(calls(5), sharing=Sharing("redis:6379", "deny"))
    refused = refusal(limiter, caller)
    assert refused.is_awaited
    (held,) = caller.limits.limits
    assert (held.limit.store, held.limit.on_store_failure) == ("redis:6379", "deny")


class TestKeeper:
    @pytest.fixture
    def files(self, tmp_path):
        (tmp_path / "keys").write_text(json.dumps({"keys": [A]}))
        (tmp_path / "tenants").write_text(json.dumps({"tenants": {"a": {"limits": [calls(5)]}}}))
        return tmp_path

    @pytest.fixture
    def made(self, files, monkeypatch):
        monkeypatch.setattr("gateway.identity.keeper.LOOK_SECONDS", 0.0)
        replaced = []
        settings = Identity(keys_file=str(files / "keys"), tenants_file=str(files / "tenants"))
        seconds = iter(range(10, 10**6))
        clock = lambda: float(next(seconds))  # noqa: E731
        return Keeper(settings, files, None, lambda: 0.0, clock, replaced=lambda: replaced.append(1)), replaced

    @staticmethod
    def limits(keeper):
        return keeper.gate.known({"x-api-key": "1"}.get).limits

    @staticmethod
    async def looked(keeper, until):
        """Let it look at the files until something is so."""
        task = asyncio.create_task(keeper.run())
        try:
            async with asyncio.timeout(10):
                while not until():
                    await asyncio.sleep(0.001)
        finally:
            task.cancel()

    async def test_what_still_stands_a_look_later_has_a_later_generation_and_no_more_after_that(self, made):
        keeper, replaced = made
        first = self.limits(keeper)
        assert len(replaced) == 1
        await self.looked(keeper, lambda: len(replaced) > 1)
        assert self.limits(keeper).generation > first.generation
        assert self.limits(keeper).limits == first.limits
        assert self.limits(keeper).name != first.name
        task = asyncio.create_task(keeper.run())
        await asyncio.sleep(0.05)
        task.cancel()
        assert len(replaced) == 2

    async def test_a_changed_file_brings_other_limits(self, made, files):
        keeper, _ = made
        before = self.limits(keeper)
        (files / "tenants").write_text(json.dumps({"tenants": {"a": {"limits": [calls(7777)]}}}))
        await self.looked(keeper, lambda: self.limits(keeper).limits[0].limit.amount == 7777)
        assert self.limits(keeper).generation > before.generation
        (files / "tenants").write_text("{}")
        await self.looked(keeper, lambda: self.limits(keeper) is None)


def test_a_tenant_with_several_limits_has_a_bucket_for_each_when_all_places_have_been_used(limiter, clock):
    """A bucket that is configured is full, and full ones give way to those that are opened: both at once would take one place."""
    for number in range(60):
        caller = tenant(calls(5), {"name": "tokens", "unit": "hour", "inputTokens": 100}, name=f"t{number}")
        clock(7200)
        assert admitted(limiter, caller, tokens_in=30) == 3  # its tokens, not its calls
