"""An issuer's public keys, and what a token must be to count. No I/O; the time is an argument.

A key is used with the algorithms that its own type allows, and a token's header chooses among the keys alone: so no public key is ever
taken for a shared secret, and ``none`` is no algorithm. Nothing that a header points to is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from gateway.errors import Unauthorized
from gateway.identity.faults import UnusableKeys

_OF_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_OF_CURVE = {"P-256": ("ES256",), "P-384": ("ES384",), "P-521": ("ES512",), "Ed25519": ("EdDSA", "Ed25519")}
ALGORITHMS = frozenset(_OF_RSA).union(*_OF_CURVE.values())
"""All that may be configured."""
RSA_BITS = (2048, 8192)
"""Smaller ones can be broken, larger ones take milliseconds a token."""
_MOST_KEYS = 100
_LONGEST_SUBJECT = 256
_LARGEST_TIME = 1e11
"""Unix time of the year 5138: whoever writes more means something else."""


class _OneAlgorithm(JWSRegistry):
    """What the library may do for one key: one algorithm, whatever else it knows."""

    max_header_length = 4096

    def __init__(self, name: str) -> None:
        super().__init__(algorithms=[name], strict_check_header=False)
        self._algorithm = self.algorithms[name]

    def get_alg(self, name: str) -> Any:
        """The one algorithm; the library's own look warns of some that we choose to allow."""
        if name != self._algorithm.name:
            raise JoseError(f"not {name}")
        return self._algorithm


class _Reading(JWSRegistry):
    """Bounds for taking a token apart."""

    max_header_length = 4096


_READING = _Reading()


class PublicKey:
    """A key and the algorithms that it is used with."""

    def __init__(self, key: Key, algorithms: Iterable[str]) -> None:
        self._key = key
        self._registries = {name: _OneAlgorithm(name) for name in algorithms}

    def takes(self, algorithm: str) -> bool:
        """Whether it is used with an algorithm."""
        return algorithm in self._registries

    def has_signed(self, token: jws.CompactSignature, algorithm: str) -> bool:
        """Whether a signature is this key's. Raises JoseError for what is no signature."""
        return jws.validate_compact(token, self._key, registry=self._registries[algorithm])


class KeySet:
    """The usable keys of a JWKS document. ``skipped``: why others are not used."""

    def __init__(self, text: bytes, algorithms: Collection[str]) -> None:
        """Raises UnusableKeys when there is none."""
        self.skipped: list[str] = []
        self._named: dict[str, PublicKey] = {}
        self._unnamed: list[PublicKey] = []
        for position, one in enumerate(_listed(text)):
            try:
                key = _public_key(one, algorithms)
            except Exception as error:  # whatever the libraries find in somebody else's document
                self.skipped.append(f"key {position}: {error}")
                continue
            name = one.get("kid")
            if isinstance(name, str) and name in self._named:
                self.skipped.append(f"key {position}: `kid` {name[:40]!r} stands twice")
            elif isinstance(name, str):
                self._named[name] = key
            else:
                self._unnamed.append(key)
        if not self._named and not self._unnamed:
            raise UnusableKeys("; ".join(self.skipped) or "it holds no keys")

    def __len__(self) -> int:
        return len(self._named) + len(self._unnamed)

    def find(self, name: object, algorithm: str) -> PublicKey:
        """The key that a token's header names; the only one that takes its algorithm when it names none. Raises Unauthorized."""
        if isinstance(name, str):
            key = self._named.get(name)
            if key is None:
                raise Unauthorized("unknown_key")
            if not key.takes(algorithm):
                raise Unauthorized("algorithm_not_allowed")
            return key
        if name is not None:
            raise Unauthorized("malformed")
        fitting = [key for key in (*self._named.values(), *self._unnamed) if key.takes(algorithm)]
        if len(fitting) != 1:
            raise Unauthorized("no_key_named" if fitting else "algorithm_not_allowed")
        return fitting[0]


class TokenRules:
    """What a token of the issuer must say."""

    def __init__(self, issuer: str, audiences: Collection[str], leeway: float) -> None:
        """``leeway``: seconds between the issuer's clock and ours."""
        self._issuer = issuer
        self._audiences = frozenset(audiences)
        self._leeway = leeway

    def verify(self, token: str, keys: KeySet, now: float) -> tuple[str, float]:
        """Subject of a token, and when it stops to count (Unix time). Raises Unauthorized."""
        try:
            signed, algorithm = _read(token)
            key = keys.find(signed.protected.get("kid"), algorithm)
            if not key.has_signed(signed, algorithm):
                raise Unauthorized("bad_signature")
            claims = json.loads(signed.payload or b"")
        except JoseError as error:
            raise Unauthorized("bad_signature") from error
        except Unauthorized:
            raise
        except Exception as error:  # whatever the libraries find in a stranger's text: it does not count
            raise Unauthorized("malformed") from error
        if not isinstance(claims, dict):
            raise Unauthorized("malformed")
        return self._check(claims, now)

    def _check(self, claims: dict[str, Any], now: float) -> tuple[str, float]:
        expires = _time(claims, "exp")
        if expires is None:
            raise Unauthorized("no_expiry")
        if now >= expires + self._leeway:
            raise Unauthorized("expired")
        for name in ("nbf", "iat"):
            since = _time(claims, name)
            if since is not None and now < since - self._leeway:
                raise Unauthorized("not_yet_valid")
        if claims.get("iss") != self._issuer:
            raise Unauthorized("wrong_issuer")
        meant = claims.get("aud")
        meant = [meant] if isinstance(meant, str) else meant
        if not isinstance(meant, list) or not any(isinstance(one, str) and one in self._audiences for one in meant):
            raise Unauthorized("wrong_audience")
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= _LONGEST_SUBJECT or not subject.isprintable():
            raise Unauthorized("bad_subject")
        return subject, expires + self._leeway


def _read(token: str) -> tuple[jws.CompactSignature, str]:
    """A token taken apart, and its algorithm. Raises Unauthorized, and what the libraries do."""
    try:
        signed = jws.extract_compact(token.encode(), registry=_READING)
    except (JoseError, AttributeError) as error:
        raise Unauthorized("malformed") from error
    header = signed.protected
    if not isinstance(header, dict) or not isinstance(header.get("alg"), str):
        raise Unauthorized("malformed")
    if "crit" in header or "b64" in header:
        raise Unauthorized("unknown_extension")
    return signed, header["alg"]


def _time(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unauthorized("malformed")
    if not 0 <= value < _LARGEST_TIME:  # NaN as well
        raise Unauthorized("malformed")
    return float(value)


def _listed(text: bytes) -> list[dict[str, Any]]:
    try:
        content = json.loads(text.decode())  # of bytes, the library would guess at the encoding
    except (ValueError, RecursionError) as error:
        raise UnusableKeys(f"it is no JSON: {error}") from error
    listed = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise UnusableKeys('it must be an object with `keys`, a list of objects: {"keys": [...]}')
    return listed[:_MOST_KEYS]


def _public_key(value: dict[str, Any], allowed: Collection[str]) -> PublicKey:
    """Raises JoseError and ValueError for a key that is not used."""
    if value.get("use", "sig") != "sig":
        raise ValueError("it is not for signatures")
    family = _family(value)
    if value.get("kty") not in ("RSA", "EC", "OKP"):
        raise ValueError(f"keys of type {str(value.get('kty'))[:20]!r} are not used")
    key = JWKRegistry.import_key(value)
    assert isinstance(key, RSAKey | ECKey | OKPKey)
    if key.is_private:
        raise ValueError("it holds a private key, which nobody else may have: publish the public one")
    if isinstance(key, RSAKey) and not RSA_BITS[0] <= key.raw_value.key_size <= RSA_BITS[1]:
        raise ValueError(f"{key.raw_value.key_size} bits: RSA keys have {RSA_BITS[0]} to {RSA_BITS[1]}")
    algorithms = [name for name in family if name in allowed and name in JWSRegistry.algorithms]
    if not algorithms:
        raise ValueError("`identity.jwt_algorithms` allows none of its algorithms")
    return PublicKey(key, algorithms)


def _family(value: dict[str, Any]) -> tuple[str, ...]:
    """The algorithms that its type, its curve and its own ``alg`` leave."""
    family = _OF_RSA if value.get("kty") == "RSA" else _OF_CURVE.get(str(value.get("crv")), ())
    own = value.get("alg")
    return family if own is None else tuple(name for name in family if name == own)
