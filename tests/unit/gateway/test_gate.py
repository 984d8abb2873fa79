"""The gate: who is known, what is remembered of tokens and for how long, and under which word a credential is refused."""

from hashlib import sha256

import pytest

from gateway.errors import IdentityUnavailable, Unauthorized, body, headers
from gateway.identity.gate import ApiKey, Caller, Gate, Models

NOW = 1_700_000_000.0


class Issuer:
    """Takes every token ``a.NAME.c``, for a minute, and counts what it is asked."""

    def __init__(self):
        self.is_waiting = False
        self.asked = 0
        self.fault = None

    async def wait(self):
        self.is_waiting = False

    def verify(self, token, now):
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        return token.split(".")[1], now + 60


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def issuer():
    return Issuer()


def key(text, name):
    return ApiKey(sha256(text.encode()).digest(), Caller(name))


@pytest.fixture
def gate(issuer, clock):
    made = Gate(issuer, frozenset(["/v1/models"]), 300, 3, clock)
    made.replace([key("key-a", "a"), key("key-b", "b")], Caller)
    return made


def sent(text, name="authorization"):
    return {name: text}.get


def bearer(text):
    return sent(f"Bearer {text}")


def reason(gate, header):
    with pytest.raises(Unauthorized) as refused:
        gate.identify(header)
    return refused.value.reason


@pytest.mark.parametrize(
    "header", [bearer("key-a"), sent("bearer key-a"), sent("BEARER   key-a "), sent("key-a", "x-api-key")]
)
def test_an_api_key_is_known_at_once(gate, issuer, header):
    assert gate.known(header).tenant == "a"
    assert gate.identify(header).tenant == "a"
    assert issuer.asked == 0


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ({}.get, "missing"),
        (sent(""), "missing"),
        (sent("", "x-api-key"), "missing"),
        (sent("Bearer  "), "missing"),
        (sent("Bearer"), "unknown_scheme"),
        (sent("key-a"), "unknown_scheme"),
        (sent("Basic key-a"), "unknown_scheme"),
        (bearer("key-c"), "unknown_api_key"),
        (bearer("key-aa"), "unknown_api_key"),
        (bearer("a.b"), "unknown_api_key"),
        (bearer("a.b.c.d"), "unknown_api_key"),
        (bearer("k\xe9y"), "malformed"),
        (bearer("\ud800"), "malformed"),
        (bearer("x" * 300), "too_long"),
        (sent("x" * 301, "x-api-key"), "too_long"),
    ],
)
def test_what_does_not_count_has_a_word_for_it(gate, issuer, header, wanted):
    assert reason(gate, header) == wanted
    assert issuer.asked == 0


def test_a_key_whose_digest_begins_as_another_s_does_not_count(clock):
    digest = sha256(b"key-a").digest()
    gate = Gate(None, frozenset(), 300, 3, clock)
    gate.replace([ApiKey(digest[:-1] + bytes([digest[-1] ^ 1]), Caller("a"))], Caller)
    assert reason(gate, bearer("key-a")) == "unknown_api_key"


def test_a_token_is_checked_once_and_again_when_it_may_have_expired(gate, issuer, clock):
    assert gate.known(bearer("a.me.c")) is None
    assert gate.identify(bearer("a.me.c")).tenant == "me"
    clock.now += 59.9
    assert gate.known(bearer("a.me.c")).tenant == "me"
    assert issuer.asked == 1
    clock.now += 0.1
    assert gate.known(bearer("a.me.c")) is None
    issuer.fault = Unauthorized("expired")
    assert reason(gate, bearer("a.me.c")) == "expired"


def test_of_more_tokens_than_are_remembered_the_oldest_is_forgotten(gate, issuer):
    for number in range(4):
        gate.identify(bearer(f"a.{number}.c"))
    assert [gate.known(bearer(f"a.{number}.c")) is not None for number in range(4)] == [False, True, True, True]
    gate.identify(bearer("a.0.c"))
    assert issuer.asked == 5


def test_one_that_expired_is_remembered_anew_without_pushing_another_out(gate, clock):
    for number in range(3):
        gate.identify(bearer(f"a.{number}.c"))
    clock.now += 60
    for number in (2, 0, 1):
        gate.identify(bearer(f"a.{number}.c"))
    assert all(gate.known(bearer(f"a.{number}.c")) is not None for number in range(3))


def test_nothing_is_remembered_of_what_was_refused(gate, issuer):
    issuer.fault = Unauthorized("unknown_key")
    assert reason(gate, bearer("a.b.c")) == "unknown_key"
    issuer.fault = None
    assert gate.identify(bearer("a.b.c")).tenant == "b"


def test_other_keys_and_tenants_stand_at_once(gate, issuer):
    gate.identify(bearer("a.me.c"))
    gate.replace([key("key-c", "c")], lambda name: Caller(name, priority=7))
    assert reason(gate, bearer("key-a")) == "unknown_api_key"
    assert gate.known(bearer("key-c")).tenant == "c"
    assert gate.known(bearer("a.me.c")) is None
    assert gate.identify(bearer("a.me.c")).priority == 7


async def test_it_waits_for_an_issuer_s_first_keys_alone(gate, issuer):
    await gate.wait()
    issuer.is_waiting = True
    await gate.wait()
    assert not issuer.is_waiting


async def test_without_an_issuer_no_token_counts(clock):
    gate = Gate(None, frozenset(), 300, 3, clock)
    await gate.wait()
    assert reason(gate, bearer("a.b.c")) == "unknown_api_key"


def test_an_issuer_without_keys_is_no_fault_of_the_client(gate, issuer):
    issuer.fault = IdentityUnavailable("x", retry_after=5.0)
    with pytest.raises(IdentityUnavailable):
        gate.identify(bearer("a.b.c"))


def test_public_paths_are_those_that_are_listed(gate):
    assert gate.is_public("/v1/models")
    assert not gate.is_public("/v1/models/m")


def test_the_client_is_told_the_same_whatever_the_reason():
    first, second = Unauthorized("expired"), Unauthorized("unknown_key")
    assert body(first) == body(second)
    assert headers(first) == headers(second)
    assert ("www-authenticate", "Bearer") in headers(first)
    assert "expired" not in str(first)


@pytest.mark.parametrize(
    ("lists", "allowed"),
    [
        ((), ["m", "m-sql", "n"]),
        ((Models(frozenset(["m"]), ()),), ["m"]),
        ((Models(frozenset(), ("m",)),), ["m", "m-sql"]),
        ((Models(frozenset(["n"]), ("m-",)),), ["m-sql", "n"]),
        ((Models(frozenset(), ("m",)), Models(frozenset(["n", "m"]), ())), ["m"]),
        ((Models(frozenset(), ()),), []),
        ((Models(frozenset(), ("",)),), ["m", "m-sql", "n"]),
    ],
)
def test_a_caller_may_use_what_all_of_its_lists_cover(lists, allowed):
    caller = Caller("a", lists)
    assert [model for model in ("m", "m-sql", "n") if caller.may_use(model)] == allowed
