"""The issuer's keys beside the requests: fetched, asked for, kept when the issuer is away, and gone after a day."""

import asyncio
import json
import logging

import pytest

from gateway.errors import IdentityUnavailable, Unauthorized
from gateway.identity.issuer_keys import IssuerKeys, Pace
from gateway.identity.key_set import ALGORITHMS, TokenRules
from gateway.waiting import Run
from tests.support.issuer import AUDIENCE, ISSUER, SigningKey, document, token

NOW = 1_700_000_000
ADDRESS = "https://issuer.example/keys"
NEVER = Pace(refresh=1000.0, asked=1000.0, first_retry=1000.0, longest_retry=1000.0)


class Server:
    """What is fetched: a document, or an error; ``times`` says when."""

    def __init__(self, text):
        self.text = text
        self.times = []
        self.fetched = asyncio.Event()
        self.gate = None

    async def __call__(self, address):
        assert address == ADDRESS
        if self.gate is not None:
            await self.gate.wait()
        self.times.append(asyncio.get_running_loop().time())
        self.fetched.set()
        if isinstance(self.text, Exception):
            raise self.text
        return self.text

    async def until(self, count):
        while len(self.times) < count:
            self.fetched.clear()
            await asyncio.wait_for(self.fetched.wait(), 10)


class Clock:
    now = float(NOW)

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def key():
    return SigningKey()


@pytest.fixture(scope="module")
def other():
    return SigningKey(name="key-2")


@pytest.fixture
def server(key):
    return Server(document(key))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def changes():
    return []


@pytest.fixture
def make(server, clock, changes, tmp_path):
    def made(pace=NEVER, address=ADDRESS):
        return IssuerKeys(
            rules=TokenRules(ISSUER, [AUDIENCE], 30.0), algorithms=ALGORITHMS, address=address, fetch=server,
            saved=tmp_path / "jwks.json", changed=lambda: changes.append(1), wall=clock,
            clock=asyncio.get_running_loop().time, pace=pace,
        )  # fmt: skip

    return made


@pytest.fixture
async def running():
    tasks = []
    yield lambda keys: tasks.append(asyncio.ensure_future(keys.run()))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def reason(keys, text):
    with pytest.raises(Unauthorized) as refused:
        keys.verify(text, NOW)
    return refused.value.reason


async def test_before_the_first_keys_nobody_can_tell(make, key):
    keys = make()
    assert keys.is_waiting
    with pytest.raises(IdentityUnavailable) as raised:
        keys.verify(token(key, NOW), NOW)
    assert raised.value.retry_after == 5.0


async def test_requests_wait_for_the_first_fetch_each_for_itself(make, key, server, running):
    server.gate = asyncio.Event()
    keys = make()
    running(keys)
    waiting = [asyncio.ensure_future(keys.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    went_on = []

    async def request():
        await keys.wait()
        went_on.append(keys.verify(token(key, NOW), NOW)[0])

    left, stays = Run(request()), Run(request())
    left.start()
    stays.start()
    left.throw(asyncio.CancelledError())
    server.gate.set()
    await asyncio.gather(*waiting[1:])
    await stays.finished
    assert went_on == ["team-a"]
    await keys.wait()
    assert len(server.times) == 1


@pytest.mark.parametrize("error", [OSError("refused"), TimeoutError(), None])
async def test_they_do_not_wait_longer_when_it_fails(make, key, server, running, caplog, error):
    server.text = error or b"no keys"
    keys = make()
    running(keys)
    await keys.wait()
    with pytest.raises(IdentityUnavailable):
        keys.verify(token(key, NOW), NOW)
    assert f"none are known: {ADDRESS}: " in caplog.text


async def test_a_failure_is_tried_again_and_logged_once(make, key, server, running, caplog):
    server.text = OSError("refused")
    keys = make(Pace(refresh=1000.0, first_retry=0.01, longest_retry=0.02))
    running(keys)
    await server.until(4)
    server.text = document(key)
    await server.until(6 if len(server.times) > 4 else 5)
    while keys._keys is None:
        await asyncio.sleep(0)
    assert keys.verify(token(key, NOW), NOW)[0] == "team-a"
    assert caplog.text.count("refused") == 1


async def test_retries_take_longer_each_time(make, server, running):
    server.text = OSError("refused")
    running(make(Pace(first_retry=0.05, longest_retry=0.2)))
    await server.until(5)
    gaps = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    assert all(gap >= least - 0.01 for gap, least in zip(gaps, (0.05, 0.1, 0.2, 0.2), strict=True)), gaps


async def test_an_unknown_key_is_asked_for_at_once_and_then_not_before_its_time(make, key, other, server, running):
    keys = make(Pace(refresh=1000.0, asked=0.3))
    running(keys)
    await server.until(1)
    await keys.wait()
    server.text = document(key, other)
    assert reason(keys, token(other, NOW)) == "unknown_key"
    await server.until(2)
    await asyncio.sleep(0)
    assert keys.verify(token(other, NOW), NOW)[0] == "team-a"
    for number in range(100):
        assert reason(keys, token(other, NOW, header={"kid": str(number)})) == "unknown_key"
        await asyncio.sleep(0)
    await server.until(3)
    assert server.times[2] - server.times[1] >= 0.29


async def test_other_refusals_ask_for_nothing(make, key, running, server):
    keys = make(Pace(refresh=1000.0, asked=0.0))
    running(keys)
    await keys.wait()
    assert reason(keys, token(key, NOW, aud="x")) == "wrong_audience"
    assert reason(keys, "a.b.c") == "malformed"
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(server.times) == 1


async def test_known_keys_are_fetched_again_in_time(make, running, server, changes):
    running(make(Pace(refresh=0.02)))
    await server.until(4)
    assert changes == [1]  # they were the same


async def test_a_key_that_is_gone_counts_no_more_and_those_who_remember_are_told(make, key, other, server, changes):
    keys = make()
    await keys.refresh()
    server.text = document(other)
    await keys.refresh()
    assert reason(keys, token(key, NOW)) == "unknown_key"
    assert changes == [1, 1]


async def test_a_set_without_a_usable_key_changes_nothing(make, key, server, changes, caplog):
    keys = make()
    await keys.refresh()
    server.text = b'{"keys": []}'
    await keys.refresh()
    assert keys.verify(token(key, NOW), NOW)[0] == "team-a"
    assert changes == [1]
    assert "those of before count for 86400 s" in caplog.text


async def test_a_key_that_is_left_out_is_named(make, key, server, caplog):
    server.text = document(key, {"kty": "oct", "k": "c2VjcmV0"})
    with caplog.at_level(logging.WARNING):
        await make().refresh()
    assert "a key of the issuer is not used: key 1: keys of type 'oct'" in caplog.text


async def test_the_last_good_keys_count_for_a_day_and_tokens_are_not_remembered_for_longer(make, key, server, clock):
    keys = make()
    await keys.refresh()
    server.text = OSError("refused")
    assert keys.verify(token(key, NOW, exp=NOW + 10**6), NOW) == ("team-a", NOW + 86_400)
    clock.now = NOW + 86_399
    await keys.refresh()
    late = token(key, NOW, exp=NOW + 10**6)
    assert keys.verify(late, clock.now)[1] == NOW + 86_400
    clock.now += 1
    with pytest.raises(IdentityUnavailable):
        keys.verify(late, clock.now)
    server.text = document(key)
    await keys.refresh()
    assert keys.verify(late, clock.now)[0] == "team-a"


async def test_a_worker_begins_with_what_lies_on_disk(make, key, clock):
    await make().refresh()
    clock.now = NOW + 1000
    keys = make()
    keys.restore()
    assert not keys.is_waiting
    assert keys.verify(token(key, NOW, exp=NOW + 10**6), clock.now) == ("team-a", NOW + 86_400)


@pytest.mark.parametrize(
    "change", [{"address": "https://other"}, {"fetched": NOW - 86_400}, {"keys": "{}"}, {"keys": 5}, {"fetched": "a"}]
)
async def test_unless_it_is_another_s_too_old_or_broken(make, tmp_path, change):
    await make().refresh()
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    keys = make()
    keys.restore()
    assert keys.is_waiting


@pytest.mark.parametrize("text", ["", "[]", "null", "{"])
async def test_or_no_such_file_at_all(make, tmp_path, text):
    (tmp_path / "jwks.json").write_text(text)
    keys = make()
    keys.restore()
    assert keys.is_waiting


async def test_a_time_in_the_future_makes_nothing_count_for_longer(make, tmp_path, key):
    await make().refresh()
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"fetched": NOW + 10**8}))
    keys = make()
    keys.restore()
    assert keys.verify(token(key, NOW, exp=NOW + 10**6), NOW)[1] == NOW + 86_400


async def test_a_disk_that_is_full_costs_nothing_but_a_word(make, key, tmp_path, caplog):
    (tmp_path / "jwks.json").mkdir()
    keys = make()
    await keys.refresh()
    assert keys.verify(token(key, NOW), NOW)[0] == "team-a"
    assert "cannot be kept" in caplog.text


async def test_keys_of_a_file_do_not_grow_old(make, key, clock):
    keys = make(address="")
    assert not keys.is_waiting
    keys.take(document(key))
    clock.now = NOW + 10**8
    assert keys.verify(token(key, NOW, exp=NOW + 10**9), clock.now) == ("team-a", NOW + 10**9 + 30)


async def test_it_reports_how_the_keys_stand(make, server, clock, key):
    keys = make()
    assert keys.report() == {"keys": 0, "fetched": None, "until": None, "failures": 0, "fault": None}
    await keys.refresh()
    good = {"keys": 1, "fetched": NOW, "until": NOW + 86_400.0, "failures": 0, "fault": None}
    assert keys.report() == good
    server.text = OSError("nobody there")
    clock.now += 60
    await keys.refresh()
    await keys.refresh()
    assert keys.report() == good | {"failures": 2, "fault": f"{ADDRESS}: nobody there"}
    server.text = document(key)
    await keys.refresh()
    assert keys.report() == good | {"fetched": NOW + 60.0, "until": NOW + 86_460.0}


async def test_keys_of_a_file_are_reported_without_an_age(make, key):
    keys = make(address="")
    keys.take(document(key))
    assert keys.report() == {"keys": 1, "fetched": None, "until": None, "failures": 0, "fault": None}
