"""Two gateways that share a limit in a real Redis, which is killed, hangs, and comes back under load."""

import json
import subprocess
import threading
from collections import Counter
from hashlib import sha256
from time import monotonic, sleep

import pytest

from gateway.admission.limit_store import Ask, StoreAway
from gateway.admission.redis_address import address_of
from gateway.admission.redis_store import RedisOptions, RedisStore
from tests.support import config
from tests.support.client import Connection, chat
from tests.support.engines import Engines
from tests.support.gateway import Gateway
from tests.support.limit_store import StoredLimits
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(150)]

RATE, BURST = 200, 100


def limited(ports, redis, failure="local", **limit):
    limit = {"name": "all", "unit": "second"} | (limit or {"requests": RATE, "burst": BURST})
    shared = {"limits": [limit], "global": {"redis": {"address": redis}}, "onStoreFailure": failure}
    return config.server("demo", ports) + config.route("demo", rateLimit=shared)


class Client(threading.Thread):
    """Asks one gateway again and again: when, the status, and the seconds that the gateway took for itself."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self._port = port
        self.found = []
        self.stopped = False
        self.error = None

    def run(self):
        try:
            with Connection(self._port, timeout=10) as connection:
                while not self.stopped:
                    began = monotonic()
                    reply = connection.ask(chat("x", max_tokens=1))
                    own = monotonic() - began
                    if reply.status == 200:
                        own = float(reply.header("server-timing").partition("dur=")[2].partition(",")[0]) / 1000
                    self.found.append((began, reply.status, own))
                    sleep(0.002)
        except Exception as error:
            self.error = error


class Load:
    """Two clients a gateway, as a context manager."""

    def __init__(self, *gateways):
        self.clients = [Client(one.port) for one in gateways for _ in range(2)]

    def __enter__(self):
        self.began = monotonic()
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_):
        for client in self.clients:
            client.stopped = True
        self.seconds = monotonic() - self.began
        for client in self.clients:
            client.join(timeout=20)
        assert [client.error for client in self.clients] == [None] * len(self.clients)

    def statuses(self, since=0.0, until=float("inf")):
        return Counter(status for client in self.clients for at, status, _ in client.found if since <= at < until)

    def own_time(self, part, since=0.0, until=float("inf")):
        """Seconds that all but the slowest of the requests took at most."""
        times = sorted(own for client in self.clients for at, _, own in client.found if since <= at < until)
        return times[int(part * (len(times) - 1))]


@pytest.fixture(scope="module")
def engines():
    with Engines(1, speed=1000) as started:
        yield started


@pytest.fixture
def redis(tmp_path):
    with RedisServer(tmp_path) as started:
        yield started


@pytest.fixture
def pair(tmp_path, engines, redis):
    text = limited(engines.ports, redis.address)
    with Gateway(tmp_path / "a", {"x.yaml": text}) as first, Gateway(tmp_path / "b", {"x.yaml": text}) as second:
        for one in (first, second):
            wait_until(lambda one=one: [each["gateways"] for each in one.state()["limit_stores"]] == [2])
        yield first, second


def shared(gateway):
    """The condition of the route."""
    conditions = [one for each in gateway.state()["objects"] for one in each["conditions"]]
    return next(({"status": one["status"], **one} for one in conditions if one["type"] == "LimitsShared"), None)


def test_two_gateways_admit_the_limit_of_one(pair):
    with Load(*pair) as load:
        sleep(10)
    expected = RATE * load.seconds + BURST
    found = load.statuses()
    print(
        f"admitted {found[200]} of {expected:.0f}: {found[200] / expected - 1:+.2%}; own time p99 {load.own_time(0.99) * 1e3:.2f} ms"
    )
    assert set(found) == {200, 429}
    assert found[200] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("how", ["killed", "hanging"])
def test_a_redis_that_is_away_for_five_seconds_is_replaced_by_each_gateways_share(pair, redis, how):
    with Load(*pair) as load:
        sleep(5)
        (redis.kill if how == "killed" else redis.hang)()
        away = monotonic()
        sleep(5)
        (redis.start if how == "killed" else redis.go_on)()
        back = monotonic()
        sleep(10)
    found, meanwhile = load.statuses(), load.statuses(away, back)
    expected = RATE * load.seconds + BURST
    before, during = load.own_time(0.99, until=away), load.own_time(0.99, away, back)
    print(
        f"admitted {found[200]} of {expected:.0f}: {found[200] / expected - 1:+.2%}, {meanwhile[200]} in {back - away:.2f} s without Redis"
    )
    print(f"own time p99 {before * 1e3:.2f} ms before, {during * 1e3:.2f} ms meanwhile")
    assert set(found) == {200, 429}, "nobody is told of Redis"
    # a minute has three times as much in it: 5 % of that is what is asked
    assert found[200] == pytest.approx(expected, rel=0.05)
    assert meanwhile[200] == pytest.approx(RATE * (back - away), rel=0.15)
    assert during < max(0.005, 3 * before)


def test_a_request_that_nothing_was_leased_for_yet_is_served_at_once(pair):
    for one in pair:
        reply = one.ask(chat(max_tokens=1))
        assert reply.status == 200
        assert int(reply.header("x-ratelimit-limit-requests")) == BURST
        assert BURST - 10 <= int(reply.header("x-ratelimit-remaining-requests")) < BURST


def test_what_one_gateway_took_the_other_has_not(pair, engines, redis):
    text = limited(engines.ports, redis.address, name="few", unit="hour", requests=20)
    for one in pair:
        one.put("x.yaml", text)
    statuses = Counter(one.ask(chat(max_tokens=1)).status for _ in range(15) for one in pair)
    # each keeps one ahead
    assert 18 <= statuses[200] <= 20
    assert statuses[429] == 30 - statuses[200]


def test_tenants_limits_are_shared_where_the_settings_say_so(tmp_path, engines, redis):
    """Twenty of a tenant, over two gateways and two routes that say nothing of limits; and of who is held to none."""
    keys = [{"name": name, "sha256": sha256(name.encode()).hexdigest()} for name in ("a", "b")]
    (tmp_path / "keys").write_text(json.dumps({"keys": keys}))
    limit = {"name": "few", "unit": "hour", "requests": 20}
    (tmp_path / "tenants").write_text(json.dumps({"tenants": {"a": {"limits": [limit]}}}))
    settings = {
        "identity.keys_file": tmp_path / "keys",
        "identity.tenants_file": tmp_path / "tenants",
        "identity.limits_redis": redis.address,
    }
    text = config.simple("demo", engines.ports, model="demo") + config.route("other", [config.rule("demo")])
    with (
        Gateway(tmp_path / "a", {"x.yaml": text}, **settings) as first,
        Gateway(tmp_path / "b", {"x.yaml": text}, **settings) as second,
    ):
        for one in (first, second):
            wait_until(lambda one=one: [each["gateways"] for each in one.state()["limit_stores"]] == [2])

        def statuses(tenant, count):
            asked = [(one, model) for _ in range(count) for one in (first, second) for model in ("demo", "other")]
            headers = {"authorization": f"Bearer {tenant}"}
            return Counter(one.ask(chat(model=model, max_tokens=1), headers=headers).status for one, model in asked)

        admitted = statuses("a", 8)[200]
        assert 2 <= admitted <= 20
        assert statuses("b", 8) == {200: 32}
        deadline = monotonic() + 30
        while admitted < 20 and monotonic() < deadline:
            sleep(2.5)  # what one holds and does not spend, it gives back after two seconds
            admitted += statuses("a", 2)[200]
        assert admitted == 20
        assert set(statuses("a", 2)) == {429}


def test_a_wrong_address_is_a_condition_and_requests_are_served(tmp_path, engines):
    text = limited(engines.ports, "127.0.0.1:1")
    with Gateway(tmp_path / "a", {"x.yaml": text}) as gateway:
        assert gateway.ask(chat(max_tokens=1)).status == 200
        told = wait_until(lambda: (found := shared(gateway)) and found["status"] == "False" and found, 15)
        assert told["reason"] == "StoreAway"
        assert "127.0.0.1:1" in told["message"]
        assert "onStoreFailure: local" in told["message"]


@pytest.mark.parametrize(("failure", "status"), [("allow", 200), ("deny", 429)])
def test_without_redis_everybody_or_nobody_is_let_through_if_the_route_says_so(tmp_path, engines, failure, status):
    text = limited(engines.ports, "127.0.0.1:1", failure, name="few", unit="hour", requests=3)
    with Gateway(tmp_path / "a", {"x.yaml": text}) as gateway:
        wait_until(lambda: gateway.state()["limit_stores"])
        replies = [gateway.ask(chat(max_tokens=1)) for _ in range(12)]
        assert {one.status for one in replies} == {status}
        if failure == "deny":
            assert "its store is away" in replies[0].error["message"]
            assert replies[0].header("retry-after") == "1"


class TestRedis:
    """What the script does, in Redis and in the stand-in that unit tests use."""

    @pytest.fixture
    async def store(self, redis):
        store = RedisStore(address_of(redis.address), RedisOptions())
        yield store
        await store.close()

    async def test_the_script_and_its_stand_in_answer_alike(self, store):
        plain = StoredLimits()
        seconds = 10**6  # a token: no time passes that counts
        born = {}
        for number in range(200):
            key, burst = number % 3, 100 if number < 120 else 300
            ask = Ask(
                key, seconds, burst, wanted=number % 7 * 3, returned=number % 5, owed=number % 4, born=born.get(key, 0)
            )
            ((real,), expected) = await store.lease([ask]), plain.lease(ask)
            assert (real.granted, real.left) == (expected.granted, pytest.approx(expected.left, abs=1e-3)), number
            assert born.setdefault(key, real.born) == real.born
            ask_born = plain.buckets[key].born
            plain.buckets[key].born = real.born
            assert ask_born in (real.born, plain.now)

    async def test_a_script_that_it_does_not_know_is_sent_to_it(self, store, redis):
        await store.lease([Ask(1, 1.0, 10, wanted=1)])
        await store._redis.script_flush()
        (answer,) = await store.lease([Ask(1, 1.0, 10, wanted=1)])
        assert (answer.granted, round(answer.left)) == (1, 8)

    async def test_gateways_that_say_nothing_more_are_counted_no_more(self, store, redis):
        other = RedisStore(address_of(redis.address), RedisOptions())
        assert [await store.beat(), await other.beat(), await store.beat()] == [1, 2, 2]
        await other.leave()
        assert await store.beat() == 1
        await other.close()

    async def test_keys_of_buckets_that_are_full_expire(self, store):
        await store.lease([Ask(1, 0.001, 10, wanted=10)])
        assert 0 < await store._redis.pttl("penstock:limit:0000000000000001") <= 60_100

    async def test_a_password_and_an_access_list_are_honoured(self, tmp_path):
        with RedisServer(tmp_path, requirepass="secret") as locked:
            for password, works in (("secret", True), ("wrong", False), ("", False)):
                store = RedisStore(address_of(locked.address), RedisOptions(password=password))
                if works:
                    assert await store.beat() == 1
                else:
                    with pytest.raises(StoreAway):
                        await store.beat()
                await store.close()

    async def test_tls_is_verified(self, tmp_path):
        certificate, key = tmp_path / "redis.pem", tmp_path / "redis.key"
        words = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-noenc",
            "-days",
            "2",
        ]
        words += [
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-keyout",
            key,
            "-out",
            certificate,
        ]
        subprocess.run(words, check=True, capture_output=True)
        with RedisServer(tmp_path, tls=(certificate, key)) as secured:
            trusting = RedisStore(address_of(secured.address), RedisOptions(ca_file=str(certificate), timeout=2.0))
            assert await trusting.beat() == 1
            await trusting.close()
            doubting = RedisStore(address_of(secured.address), RedisOptions(timeout=2.0))
            with pytest.raises(StoreAway, match="CERTIFICATE"):
                await doubting.beat()
            await doubting.close()
