"""What is wrong with the settings of identity, its files included. Every fault is found, not just the first."""

from __future__ import annotations

import importlib.util
import ipaddress
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

from gateway.datastore.rate_limits import OnStoreFailure
from gateway.identity.directory import parse_keys, parse_secret, parse_tenants
from gateway.identity.faults import FileFaults, UnusableKeys
from gateway.identity.settings import Identity

_LONGEST_LEEWAY = 60.0
_TOKEN_BYTES = (256, 65_536)
_CACHED_TOKENS = (1, 1 << 20)
_ON_STORE_FAILURE = get_args(OnStoreFailure)


def is_configured(identity: Identity) -> bool:
    """Whether anybody is asked who they are."""
    return bool(identity.keys_file or identity.jwks_url or identity.jwks_file)


def identity_faults(identity: Identity) -> Iterator[str]:
    """A line a fault."""
    yield from _file_faults("keys_file", identity.keys_file, parse_keys)
    yield from _file_faults("tenants_file", identity.tenants_file, parse_tenants)
    yield from _file_faults("cache_salt_file", identity.cache_salt_file, parse_secret)
    for name in ("tenants_file", "cache_salt_file", "limits_redis"):
        if getattr(identity, name) and not is_configured(identity):
            yield (
                f"`identity.{name}` is about tenants, and nobody is asked who they are: "
                "give `identity.keys_file`, or an issuer of tokens"
            )
    yield from _bound_faults(identity)
    yield from _sharing_faults(identity)
    for path in identity.public_paths.split():
        if not path.startswith("/"):
            yield f"`identity.public_paths`: `{path}` must begin with /"
    if identity.jwks_url or identity.jwks_file:
        yield from _issuer_faults(identity)
    else:
        for name in ("jwt_issuer", "jwt_audiences"):
            if getattr(identity, name):
                yield f"`identity.{name}` is set, and no keys to check tokens with: give `identity.jwks_url` or `identity.jwks_file`"


def _file_faults(name: str, path: str, parse: Callable[[bytes], object]) -> Iterator[str]:
    if not path:
        return
    try:
        parse(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        yield f"`identity.{name}`: {path} cannot be read: {getattr(error, 'strerror', None) or error}"
    except FileFaults as found:
        for fault in found.faults:
            yield f"`identity.{name}`: {path}: {fault}"


def _sharing_faults(identity: Identity) -> Iterator[str]:
    failure = identity.limits_on_store_failure
    if failure not in _ON_STORE_FAILURE:
        yield f"`identity.limits_on_store_failure` must be {', '.join(_ON_STORE_FAILURE)}, not `{failure}`"
    elif failure != "local" and not identity.limits_redis:
        yield "`identity.limits_on_store_failure` has no effect without `identity.limits_redis`: name a Redis, or leave it out"


def _bound_faults(identity: Identity) -> Iterator[str]:
    if identity.jwt_leeway_seconds > _LONGEST_LEEWAY:
        yield f"`identity.jwt_leeway_seconds` must be at most {_LONGEST_LEEWAY:g}, not {identity.jwt_leeway_seconds:g}"
    for name, (smallest, largest) in (("token_bytes", _TOKEN_BYTES), ("cached_tokens", _CACHED_TOKENS)):
        value = getattr(identity, name)
        if not smallest <= value <= largest:
            yield f"`identity.{name}` must be {smallest} to {largest}, not {value}"


def _issuer_faults(identity: Identity) -> Iterator[str]:
    if identity.jwks_url and identity.jwks_file:
        yield "`identity.jwks_url` and `identity.jwks_file` are both set: give one of them"
    if not identity.jwt_issuer:
        yield "`identity.jwt_issuer` is missing: say what the `iss` of tokens must be"
    if not identity.jwt_audiences.split():
        yield (
            "`identity.jwt_audiences` is missing: say what the `aud` of tokens must be, "
            "or tokens that the issuer made for others would count here"
        )
    if identity.jwks_url:
        yield from _address_faults(identity.jwks_url)
    if importlib.util.find_spec("joserfc") is None:
        yield "tokens are checked by the `auth` extra, which is not installed: pip install 'penstock[auth]'"
    else:
        yield from _key_faults(identity)


def _address_faults(address: str) -> Iterator[str]:
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        yield f"`identity.jwks_url`: {address} is no address: {error}"
        return
    if parts.scheme not in ("http", "https") or not host:
        yield f"`identity.jwks_url` must be an address with https://, not {address}"
    elif parts.scheme == "http" and not _is_loopback(host):
        yield (
            f"`identity.jwks_url`: whoever stands between could give keys of their own for {address}: "
            "take https://, or `identity.jwks_file`"
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _key_faults(identity: Identity) -> Iterator[str]:
    # the library is an extra: a gateway without tokens starts without it
    from gateway.identity.key_set import ALGORITHMS, KeySet  # noqa: PLC0415

    algorithms = identity.jwt_algorithms.split()
    unknown = [name for name in algorithms if name not in ALGORITHMS]
    if unknown or not algorithms:
        given = f"not {', '.join(f'`{name}`' for name in unknown)}" if unknown else "at least one"
        yield f"`identity.jwt_algorithms` must be of {' '.join(sorted(ALGORITHMS))}, {given}"
    elif identity.jwks_file:
        try:
            KeySet(Path(identity.jwks_file).read_bytes(), algorithms)
        except (OSError, ValueError) as error:
            yield f"`identity.jwks_file`: {identity.jwks_file} cannot be read: {getattr(error, 'strerror', None) or error}"
        except UnusableKeys as error:
            yield f"`identity.jwks_file`: {identity.jwks_file} holds no key that can be used: {error}"
