"""Addresses of stores, and what becomes of those that cannot be opened. What Redis itself does: tests/integration/test_shared_limits.py."""

import builtins
import sys

import pytest

from gateway.admission.limit_store import StoreAway
from gateway.admission.open_store import open_store
from gateway.admission.redis_address import Address, address_of
from gateway.admission.redis_store import RedisStore
from gateway.datastore import store_states
from gateway.datastore.store_states import StoreState
from gateway.settings import Redis


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("redis:6379", Address("redis", 6379, False)),
        ("redis://10.0.0.1:6379", Address("10.0.0.1", 6379, False)),
        ("rediss://redis.example:6380/", Address("redis.example", 6380, True)),
        ("[::1]:6379", Address("::1", 6379, False)),
    ],
)
def test_an_address_is_a_host_and_a_port_with_or_without_tls(text, address):
    assert address_of(text) == address


@pytest.mark.parametrize(
    "text", ["redis", ":6379", "redis:", "redis:0", "redis:65536", "redis:x", "http://a:1", "redis://u:p@a:1", "a:¹"]
)
def test_what_is_none_is_told_the_form(text):
    with pytest.raises(ValueError, match="must"):
        address_of(text)


async def reason(store):
    with pytest.raises(StoreAway) as raised:
        await store.beat()
    return str(raised.value)


async def test_a_wrong_address_is_a_store_that_is_away():
    store = open_store("nonsense", settings=Redis(), environment={})
    assert "`nonsense` must name a host and a port of 1 to 65535" in await reason(store)


async def test_a_missing_package_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.partition(".")[0] == "redis":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.delitem(sys.modules, "gateway.admission.redis_store", raising=False)
    monkeypatch.delattr(sys.modules["gateway.admission"], "redis_store", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    store = open_store("redis:6379", settings=Redis(), environment={})
    assert "penstock[redis]" in await reason(store)


async def test_a_redis_that_nobody_listens_for_is_away_and_not_an_error():
    store = open_store("127.0.0.1:1", settings=Redis(), environment={})
    assert isinstance(store, RedisStore)
    assert await reason(store)
    with pytest.raises(StoreAway):
        await store.leave()
    await store.close()


async def test_a_password_comes_from_a_file_else_from_the_environment(tmp_path):
    (tmp_path / "password").write_text("from file\n")
    both = {"REDIS_PASSWORD": "from environment"}
    for settings, expected in (
        (Redis(password_file=str(tmp_path / "password")), "from file"),
        (Redis(), "from environment"),
    ):
        store = open_store("127.0.0.1:1", settings=settings, environment=both)
        assert store._options.password == expected
        await store.close()


def test_states_of_stores_are_read_as_they_were_written(tmp_path):
    assert store_states.read(tmp_path) == {}
    states = [StoreState("a:1", True, "", 2), StoreState("b:1", False, "refused")]
    store_states.write(tmp_path, states)
    assert store_states.read(tmp_path) == {"a:1": states[0], "b:1": states[1]}
    (tmp_path / store_states.FILE_NAME).write_text('{"version": 99, "stores": []}')
    assert store_states.read(tmp_path) == {}
