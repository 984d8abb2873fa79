"""Who asks: an API key among a thousand, a token that is remembered, and one that is not. The first two are on the way of every request."""

import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from gateway.identity.gate import ApiKey, Caller, Gate
from gateway.identity.key_set import ALGORITHMS, KeySet, TokenRules
from tests.support.issuer import AUDIENCE, ISSUER, SigningKey, document, token

API_KEY = f"sk-{7:048d}"

pytestmark = pytest.mark.benchmark(max_time=0.5)


class Issuer:
    is_waiting = False

    def __init__(self, key: SigningKey) -> None:
        self._keys = KeySet(document(key), ALGORITHMS)
        self._rules = TokenRules(ISSUER, [AUDIENCE], 30.0)

    async def wait(self) -> None:
        pass

    def verify(self, text: str, now: float) -> tuple[str, float]:
        return self._rules.verify(text, self._keys, now)


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey()


@pytest.fixture
def gate(key: SigningKey) -> Gate:
    made = Gate(Issuer(key), frozenset(), 8192, 10_000, time.time)
    made.replace([ApiKey(sha256(b"sk-%048d" % one).digest(), Caller(f"tenant-{one}")) for one in range(1000)], Caller)
    return made


def sent(text: str) -> Callable[[str], str | None]:
    return {"authorization": f"Bearer {text}"}.get


def test_api_key(benchmark: Callable[..., Any], gate: Gate) -> None:
    assert benchmark(gate.known, sent(API_KEY)).tenant == "tenant-7"


def test_remembered_token(benchmark: Callable[..., Any], gate: Gate, key: SigningKey) -> None:
    header = sent(token(key))
    gate.identify(header)
    assert benchmark(gate.known, header).tenant == "team-a"


@pytest.mark.parametrize(("kind", "size", "algorithm"), [("RSA", 2048, "RS256"), ("EC", "P-256", "ES256")])
def test_new_token(benchmark: Callable[..., Any], kind: str, size: Any, algorithm: str) -> None:
    key = SigningKey(kind, size, algorithm=algorithm)
    assert benchmark(Issuer(key).verify, token(key), time.time())[0] == "team-a"
