"""What the admin port says is left of limits: read from the buckets that workers share, by what routes and files say."""

import json
import threading
from hashlib import sha256
from types import SimpleNamespace

import pytest

from _fastpath.leased_bucket import STANDINGS, LeasedBuckets
from _fastpath.shared_memory import SharedMemory
from _fastpath.token_bucket import TokenBuckets
from gateway.admin import limits_left
from gateway.admin.limits_left import LimitsLeft
from gateway.admission.limit_names import LimitNames
from gateway.admission.limits import RateLimiter
from gateway.datastore.model import Limit
from gateway.identity.keeper import read_directory
from gateway.identity.settings import Identity
from gateway.routing.match import compile_route
from tests.unit.gateway.test_caller_limits import calls, route

NOW = 10**15
KEY = sha256(b"key-of-a").hexdigest()
FAIR = Limit("fair", "requests", 60.0, 60.0, 60.0, key="tenant")
WHOLE = Limit("whole", "input", 1000.0, 60.0, 1000.0)
TEAM = Limit("team", "requests", 5.0, 60.0, 5.0, key="header", header="x-team")


@pytest.fixture
def memory(tmp_path):
    return SharedMemory.create(
        str(tmp_path / "memory"), workers=2, slots=64, buckets=32, journal_records=200, prefix_bytes=192
    )


class Gateway:
    """One worker's limiter, and what the admin port makes of the same memory."""

    def __init__(self, directory, memory, *routes, tenants=None, others=None, keys=(), asks_nobody=False, **identity):
        self._routes = {one.name: one for one in routes}
        self._world = SimpleNamespace(routes={one.name: SimpleNamespace(name=one.name, route=one) for one in routes})
        self._limiter = RateLimiter(memory, 0, lambda: 1, lambda: NOW)
        if not asks_nobody:
            self.tenants_file = directory / "tenants.yaml"
            self.tenants_file.write_text(json.dumps({"tenants": tenants or {}, "others": others or {}}))
            keys_file = directory / "keys.yaml"
            keys_file.write_text(json.dumps({"keys": list(keys)}))
            identity |= {"tenants_file": str(self.tenants_file), "keys_file": str(keys_file)}
        self._identity = Identity(**identity)
        self._left = LimitsLeft(memory, self._identity, lambda: NOW)

    def use(self, tenant="", route="default/r", tokens=10, key=False):
        """A request of a tenant, or of the only API key."""
        found = read_directory(self._identity, with_keys=True)
        caller = found.keys[0].caller if key else found.caller_of(tenant)
        self._limiter.reserve(
            compile_route(self._routes[route]), {}.get, caller.tenant, tokens, 1, False, caller.limits
        )

    def document(self, tenant=None):
        return json.loads(json.dumps(self._left.document(self._world, tenant)))

    def left(self, tenant=None):
        """What is left, by whose limit it is."""
        rows = self.document(tenant)["limits"]
        return {(row["route"], row["tenant"], row["key"], row["name"]): row["left"] for row in rows}


def test_a_route_s_limit_is_there_before_anybody_asked(tmp_path, memory):
    gateway = Gateway(tmp_path, memory, route(WHOLE), asks_nobody=True)
    (row,) = gateway.document()["limits"]
    assert row == {
        "route": "default/r", "tenant": None, "key": None, "name": "whole", "kind": "input", "amount": 1000.0,
        "seconds": 60.0, "burst": 1000.0, "left": 1000.0, "seconds_until_full": 0.0, "store": None,
    }  # fmt: skip
    gateway.use(tokens=300)
    (row,) = gateway.document()["limits"]
    assert (row["left"], row["seconds_until_full"]) == (pytest.approx(700), pytest.approx(18))


def test_where_nobody_is_asked_all_are_one_tenant(tmp_path, memory):
    gateway = Gateway(tmp_path, memory, route(FAIR), asks_nobody=True)
    gateway.use()
    assert gateway.left() == {("default/r", "", None, "fair"): 59}


def test_tenants_have_their_part_of_a_route_and_limits_of_their_own(tmp_path, memory):
    tenants = {"a": {"limits": [calls(10)]}, "b": {}}
    gateway = Gateway(tmp_path, memory, route(FAIR), tenants=tenants, others={"limits": [calls(3)]})
    for _ in range(2):
        gateway.use("a")
    gateway.use("stranger")
    assert gateway.left() == {
        (None, "a", None, "calls"): 8,
        ("default/r", "a", None, "fair"): 58,
        ("default/r", "b", None, "fair"): 60,
    }
    assert gateway.left("stranger") == {
        (None, "stranger", None, "calls"): 2,
        ("default/r", "stranger", None, "fair"): 59,
    }


def test_an_api_key_s_own_limit_is_told_by_the_first_digits_of_what_it_is_known_by(tmp_path, memory):
    keys = [{"name": "a", "sha256": KEY, "limits": [calls(4)]}]
    gateway = Gateway(tmp_path, memory, route(), keys=keys, tenants={"a": {"limits": [calls(9, "all")]}})
    gateway.use(key=True)
    expected = {(None, "a", KEY[:12], "calls"): 3, (None, "a", None, "all"): 8}
    assert gateway.left() == gateway.left("a") == expected
    assert gateway.left("b") == {}


def test_limits_that_are_shared_count_what_the_store_has_left(tmp_path, memory):
    gateway = Gateway(tmp_path, memory, route(), tenants={"a": {"limits": [calls(100)]}}, limits_redis="redis:6379")
    (row,) = gateway.document()["limits"]
    assert (row["left"], row["store"]) == (100, "redis:6379")
    limit = read_directory(gateway._identity).caller_of("a").limits.limits[0].limit
    names, buckets = LimitNames(), TokenBuckets(memory)
    identity = names.identity("tenant", limit, "a")
    place = buckets.open(identity, NOW, True, names.store(limit), names.key("tenant", limit, "a"))
    buckets.configure(place, 1, limit.amount, limit.seconds, limit.burst, NOW)
    keeper = LeasedBuckets(buckets)
    keeper.grant(place, identity, 5)
    keeper.tell(place, identity, STANDINGS.index("leased"), 0, 40.0, 2.0)
    assert gateway.left() == {(None, "a", None, "calls"): pytest.approx(45)}


def test_limits_by_a_header_are_not_listed(tmp_path, memory):
    assert Gateway(tmp_path, memory, route(TEAM), asks_nobody=True).left() == {}


def test_asking_opens_no_bucket(tmp_path, memory):
    gateway = Gateway(tmp_path, memory, route(FAIR), tenants={f"t{number}": {} for number in range(100)})
    assert len(gateway.document()["limits"]) == 100
    assert TokenBuckets(memory).open(12345678, NOW) == 0  # the first place is free


def test_the_document_is_bounded_and_has_those_first_of_which_least_is_left(tmp_path, memory, monkeypatch):
    monkeypatch.setattr(limits_left, "MOST_SHOWN", 3)
    tenants = {f"t{number}": {} for number in range(10)}
    gateway = Gateway(tmp_path, memory, route(FAIR), tenants=tenants)
    for _ in range(5):
        gateway.use("t7")
    found = gateway.document()
    assert found["limits"][0]["tenant"] == "t7"
    assert (len(found["limits"]), found["left_out"], found["more"]) == (3, 7, False)
    monkeypatch.setattr(limits_left, "MOST_ASKED", 5)
    found = gateway.document()
    assert (len(found["limits"]), found["left_out"], found["more"]) == (3, 2, True)


def test_files_that_cannot_be_read_leave_the_routes(tmp_path, memory):
    gateway = Gateway(tmp_path, memory, route(WHOLE))
    gateway.tenants_file.write_text("tenants: 5")
    found = gateway.document()
    assert [row["name"] for row in found["limits"]] == ["whole"]
    assert "`tenants` must be a mapping" in found["fault"]
    gateway.tenants_file.unlink()
    assert "cannot be read" in gateway.document()["fault"]


def test_any_thread_may_ask(tmp_path, memory):
    gateway = Gateway(tmp_path, memory, route(WHOLE), asks_nobody=True)
    found = []
    threads = [threading.Thread(target=lambda: found.append(gateway.left())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
