"""Whether a tenant can tell by the time what another has asked: with caches of their own it cannot, and without them it can."""

import hashlib
import json
import math
import secrets
from time import perf_counter

import pytest

from tests.support import config
from tests.support.client import Connection, chat, request_bytes
from tests.support.engines import Engines
from tests.support.gateway import Gateway

KEYS = {"a": "sk-a", "b": "sk-b"}
PAIRS = 40
PROMPT_TOKENS = 400
UNLIKELY = 0.01

pytestmark = pytest.mark.thorough


def mann_whitney(first, second):
    """Two-sided probability that samples of one distribution differ by ranks as much as these (normal approximation, no ties)."""
    ranked = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    ranks = sum(rank for rank, (_, which) in enumerate(ranked, 1) if which == 0)
    n, m = len(first), len(second)
    statistic = ranks - n * (n + 1) / 2
    deviation = math.sqrt(n * m * (n + m + 1) / 12)
    return math.erfc(abs(statistic - n * m / 2) / deviation / math.sqrt(2))


def test_the_test_itself_tells_a_shift_from_none():
    assert mann_whitney(range(0, 80, 2), range(1, 81, 2)) > 0.5
    assert mann_whitney(range(40), range(30, 70)) < 1e-6


def first_token(connection, tenant, prompt):
    """Seconds until the first bytes of the answer's body."""
    body = chat(prompt, max_tokens=1, stream=True)
    connection.send(request_bytes(body, headers={"authorization": f"Bearer {KEYS[tenant]}"}))
    begun = perf_counter()
    reply = connection.read_head()
    pieces = connection.pieces(reply)
    next(pieces)
    seconds = perf_counter() - begun
    for _ in pieces:
        pass
    assert reply.status == 200
    return seconds


def probe(directory, **settings):
    """Seconds of tenant b's first tokens: for prompts that a has asked before, and for those that nobody has."""
    entries = [{"name": one, "sha256": hashlib.sha256(key.encode()).hexdigest()} for one, key in KEYS.items()]
    keys = directory / "keys.yaml"
    keys.write_text(json.dumps({"keys": entries}))
    asked, fresh = [], []
    with Engines(1) as engines:
        files = {"demo.yaml": config.simple("demo", engines.ports)}
        with (
            Gateway(directory, files, workers=1, **{"identity.keys_file": keys} | settings) as gateway,
            Connection(gateway.port) as connection,
        ):
            for _ in range(PAIRS):
                known, unknown = ((secrets.token_hex(8) + " ") * (PROMPT_TOKENS * 4 // 17) for _ in range(2))
                first_token(connection, "a", known)
                asked.append(first_token(connection, "b", known))
                fresh.append(first_token(connection, "b", unknown))
        hits = engines.engines[0].engine.totals.prefix_hits
    return asked, fresh, hits


def test_with_salts_no_tenant_can_tell_what_another_asked(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("a secret of some length\n")
    asked, fresh, hits = probe(tmp_path, **{"identity.cache_salt_file": secret})
    assert hits == 0
    assert mann_whitney(asked, fresh) > UNLIKELY


def test_without_them_it_can(tmp_path):
    asked, fresh, hits = probe(tmp_path)
    assert hits >= PAIRS * (PROMPT_TOKENS - 32)
    assert mann_whitney(asked, fresh) < UNLIKELY
