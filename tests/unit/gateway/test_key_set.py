"""Tokens and keys of an issuer: what counts, what does not, and under which name it is refused."""

import json
import time
from collections import Counter

import pytest

from gateway.errors import Unauthorized
from gateway.identity.faults import UnusableKeys
from gateway.identity.key_set import ALGORITHMS, KeySet, TokenRules
from tests.support.issuer import AUDIENCE, ISSUER, SigningKey, bad_tokens, claims, document, token

NOW = 1_700_000_000
RULES = TokenRules(ISSUER, [AUDIENCE, "second"], 30.0)
KINDS = {
    "RS256": ("RSA", 2048), "RS384": ("RSA", 2048), "PS256": ("RSA", 2048), "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"), "ES512": ("EC", "P-521"), "EdDSA": ("OKP", "Ed25519"), "Ed25519": ("OKP", "Ed25519"),
}  # fmt: skip


@pytest.fixture(scope="module")
def key():
    return SigningKey()


@pytest.fixture(scope="module")
def stranger():
    return SigningKey(name="key-2")


@pytest.fixture(scope="module")
def curve():
    return SigningKey("EC", "P-256", "curve", "ES256")


def keys(*listed, algorithms=ALGORITHMS):
    return KeySet(document(*listed), algorithms)


def verify(text, known, now=NOW):
    return RULES.verify(text, known, now)


def reason(text, known, now=NOW):
    with pytest.raises(Unauthorized) as refused:
        verify(text, known, now)
    return refused.value.reason


@pytest.mark.parametrize("algorithm", KINDS)
def test_a_token_of_every_algorithm_counts_until_it_expires(algorithm):
    key = SigningKey(*KINDS[algorithm], algorithm=algorithm)
    assert verify(token(key, NOW), keys(key)) == ("team-a", NOW + 630)


@pytest.mark.parametrize("changes", [{"aud": ["x", "second"]}, {"nbf": NOW - 5}, {"exp": NOW + 0.5}, {"iat": None}])
def test_what_a_good_token_may_say(key, changes):
    assert verify(token(key, NOW, **changes), keys(key))[0] == "team-a"


def test_the_clocks_may_differ_by_the_leeway(key):
    known = keys(key)
    late, early = token(key, NOW, exp=NOW - 29), token(key, NOW, nbf=NOW + 29)
    assert verify(late, known) == ("team-a", NOW + 1)
    assert verify(early, known)[0] == "team-a"
    assert reason(late, known, NOW + 1) == "expired"
    assert reason(early, known, NOW - 2) == "not_yet_valid"


def test_no_bad_token_counts(key, stranger):
    tried = 0
    reasons = Counter()
    for name, text in bad_tokens(key, stranger):
        tried += 1
        if not text.isascii():
            continue  # the gate's matter
        try:
            verify(text, keys(key), time.time())
        except Unauthorized as refused:
            reasons[refused.reason] += 1
        else:
            # what is too long is the gate's matter as well
            assert len(text) > 8192, name
    assert tried >= 200
    assert set(reasons) == {
        "malformed", "bad_signature", "unknown_key", "algorithm_not_allowed", "unknown_extension", "expired", "no_expiry",
        "not_yet_valid", "wrong_issuer", "wrong_audience", "bad_subject",
    }  # fmt: skip


def test_the_good_twin_of_the_bad_tokens_counts(key):
    assert verify(token(key), keys(key), time.time())[0] == "team-a"


def test_a_key_is_found_by_its_name(key, curve):
    known = keys(key, curve)
    assert verify(token(curve, NOW), known)[0] == "team-a"
    assert reason(token(curve, NOW, header={"kid": "key-1"}), known) == "algorithm_not_allowed"
    assert reason(token(curve, NOW, header={"kid": "key-9"}), known) == "unknown_key"


def test_a_token_that_names_no_key_needs_the_only_one_of_its_algorithm(key, stranger, curve):
    unnamed = token(key, NOW, header={"kid": None})
    assert verify(unnamed, keys(key, curve))[0] == "team-a"
    assert verify(unnamed, keys(key.public(kid=None), curve))[0] == "team-a"
    assert reason(unnamed, keys(key, stranger)) == "no_key_named"
    assert reason(unnamed, keys(curve)) == "algorithm_not_allowed"


def test_a_key_takes_the_algorithms_of_its_type_its_own_and_those_that_are_configured(key):
    any_of_rsa = key.public(alg=None)
    signed = {name: key.sign({"alg": name, "kid": key.name}, claims(NOW)) for name in ("RS256", "RS512", "PS256")}
    assert {verify(one, keys(any_of_rsa))[0] for one in signed.values()} == {"team-a"}
    assert [name for name, one in signed.items() if reason_or_none(one, keys(key)) is None] == ["RS256"]
    some = keys(any_of_rsa, algorithms=["PS256", "ES256"])
    assert [name for name, one in signed.items() if reason_or_none(one, some) is None] == ["PS256"]


def reason_or_none(text, known):
    try:
        verify(text, known)
    except Unauthorized as refused:
        return refused.reason


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"use": "enc"}, "not for signatures"),
        ({"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}, "keys of type 'oct'"),
        ({"kty": None}, "keys of type 'None'"),
        ({"kty": "AKP"}, "keys of type 'AKP'"),
        ({"alg": "HS256"}, "allows none of its algorithms"),
        ({"alg": "ES256"}, "allows none of its algorithms"),
        ({"alg": "none"}, "allows none of its algorithms"),
        ({"n": "!!"}, ""),
        ({"n": None}, "'n' is required"),
        ({"n": 5}, ""),
        ({"e": "AA"}, ""),
    ],
)
def test_a_key_that_cannot_be_used_is_left_out_and_the_reason_kept(key, curve, change, why):
    spoiled = key.public(**change)
    known = keys(spoiled, curve)
    assert verify(token(curve, NOW), known)[0] == "team-a"
    (skipped,) = known.skipped
    assert skipped.startswith("key 0: ")
    assert why in skipped
    with pytest.raises(UnusableKeys, match="key 0"):
        keys(spoiled)


def test_a_published_private_key_is_not_used(key):
    with pytest.raises(UnusableKeys, match="private key"):
        keys(key.key.as_dict(private=True) | {"kid": "key-1"})


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
def test_small_keys_are_not_used():
    with pytest.raises(UnusableKeys, match="1024 bits"):
        keys(SigningKey(size=1024))


def test_two_keys_of_one_name_are_one(key, stranger):
    known = keys(key, stranger.public(kid="key-1"))
    assert "stands twice" in known.skipped[0]
    assert verify(token(key, NOW), known)[0] == "team-a"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"keys": 1}',
        b'{"keys": ["a"]}',
        b'{"keys": []}',
        b"[" * 10**5,
        '{"keys": []}'.encode("utf-16"),
    ],
)
def test_what_is_no_set_of_keys_is_refused_with_the_reason(text):
    with pytest.raises(UnusableKeys) as refused:
        KeySet(text, ALGORITHMS)
    assert str(refused.value)


def test_no_algorithm_takes_a_shared_secret():
    assert not [name for name in ALGORITHMS if name.startswith("HS") or name.lower() == "none"]
    assert json.dumps(sorted(ALGORITHMS))
