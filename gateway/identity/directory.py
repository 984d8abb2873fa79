"""The two files of identity: API keys, and tenants with what they may. Parsed here, without I/O; every fault is reported at once."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import msgspec
import yaml
from msgspec import Struct

from gateway.datastore.rate_limits import LimitSpec, OnStoreFailure, limit_faults
from gateway.identity.caller_limits import CallerLimit, CallerLimits, Scope
from gateway.identity.faults import FileFaults
from gateway.identity.gate import ApiKey, Caller, Models

_LARGEST_PRIORITY = 1_000_000
_DIGEST_DIGITS = 64
_LONGEST_NAME = 256
_SHORTEST_SECRET = 16
MOST_LIMITS = 4
"""Amounts of a tenant, and as many of an API key: with eight of a route a request is held to sixteen."""
Entry = TypeVar("Entry", bound=Struct)


class KeyEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """One API key."""

    name: str
    """The tenant that it stands for. Two keys of one name are two keys of one tenant, so that one can replace the other."""
    sha256: str
    """Of the key's text, as hexadecimal digits."""
    models: list[str] | None = None
    """Models that it may use, of those of its tenant; a ``*`` at the end stands for all that begin so. None for no further bound."""
    priority: int | None = None
    """Highest priority of its requests where that is less than its tenant's."""
    limits: list[LimitSpec] = []
    """Of all its requests, over every route; besides its tenant's."""


class Tenant(Struct, frozen=True, forbid_unknown_fields=True):
    """What a tenant may."""

    models: list[str] | None = None
    """Models that it may use, as in :class:`KeyEntry`; None for every one."""
    weight: float = 1.0
    """Its share beside other tenants where requests wait."""
    priority: int = 0
    """Highest priority of its requests; the larger is served first."""
    limits: list[LimitSpec] = []
    """Of all its requests, over every route and with whichever key or token. Of ``others`` each tenant has them by itself."""


class Sharing(NamedTuple):
    """Where limits of tenants and keys are shared with other gateways, and what becomes of them while that is away."""

    store: str = ""
    on_store_failure: OnStoreFailure = "local"


class Directory:
    """API keys and tenants, as the files say."""

    def __init__(
        self,
        keys: list[KeyEntry],
        tenants: dict[str, Tenant],
        others: Tenant,
        salt_secret: bytes = b"",
        generation: int = 0,
        sharing: Sharing | None = None,
    ) -> None:
        """``salt_secret``: what tenants' cache salts are made of; without it they have none. ``generation``: of their limits, a later
        reading's is larger.
        """
        self._entries = keys
        self._tenants = tenants
        self._others = others
        self._salt_secret = salt_secret
        self._generation = generation
        self._sharing = sharing or Sharing()

    @property
    def has_limits(self) -> bool:
        """Whether anybody is held to limits over all routes."""
        tenants = [*self._tenants.values(), self._others]
        return any(one.limits for one in self._entries) or any(one.limits for one in tenants)

    @property
    def keys(self) -> list[ApiKey]:
        """Every API key with its caller."""
        return [ApiKey(bytes.fromhex(one.sha256), self._caller(one.name, one)) for one in self._entries]

    @property
    def names(self) -> list[str]:
        """Tenants that the files name, each once: by itself or by a key."""
        return list(dict.fromkeys([*self._tenants, *(one.name for one in self._entries)]))

    def caller_of(self, name: str) -> Caller:
        """What a tenant may that an issuer names."""
        return self._caller(name, None)

    def _caller(self, name: str, key: KeyEntry | None) -> Caller:
        tenant = self._tenants.get(name, self._others)
        lists = [tenant.models] if key is None else [tenant.models, key.models]
        priority = tenant.priority
        if key is not None and key.priority is not None:
            priority = min(priority, key.priority)
        models = tuple(_models(one) for one in lists if one is not None)
        return Caller(name, models, tenant.weight, priority, self._salt(name), self._limits(name, tenant, key))

    def _limits(self, name: str, tenant: Tenant, key: KeyEntry | None) -> CallerLimits | None:
        held = list(self._held("tenant", name, tenant.limits))
        digest = ""
        if key is not None and key.limits:
            digest = key.sha256.lower()
            held += self._held("key", digest, key.limits)
        # no name of a tenant has a zero byte
        return CallerLimits(f"{name}\0{digest}\0{self._generation}", self._generation, tuple(held)) if held else None

    def _held(self, scope: Scope, holder: str, listed: list[LimitSpec]) -> Iterator[CallerLimit]:
        for spec in listed:
            for limit in spec.limits(*self._sharing):
                yield CallerLimit(scope, holder, limit)

    def _salt(self, name: str) -> bytes:
        """As JSON; the same at every gateway that has the secret, so that they share what engines hold."""
        if not self._salt_secret:
            return b""
        return b'"%s"' % base64.urlsafe_b64encode(hmac.digest(self._salt_secret, name.encode(), "sha256"))


def parse_keys(text: bytes) -> list[KeyEntry]:
    """The file of API keys. Raises FileFaults."""
    faults: list[str] = []
    content = _mapping(text, {"keys"}, faults)
    listed = content.get("keys") or []
    if not isinstance(listed, list):
        faults.append("`keys` must be a list")
        listed = []
    found: dict[str, KeyEntry] = {}
    for position, one in enumerate(listed):
        entry = _entry(one, KeyEntry, f"keys[{position}]", faults)
        if entry is None:
            continue
        faults += [f"`keys[{position}]{fault}" for fault in _key_faults(entry)]
        digest = entry.sha256.lower()
        if digest in found:
            faults.append(f"`keys[{position}].sha256` stands twice: `{found[digest].name}` has it already")
        found[digest] = entry
    if faults:
        raise FileFaults(faults)
    return list(found.values())


def parse_tenants(text: bytes) -> tuple[dict[str, Tenant], Tenant]:
    """The file of tenants: those that it names, and what all others may. Raises FileFaults."""
    faults: list[str] = []
    content = _mapping(text, {"tenants", "others"}, faults)
    named = content.get("tenants") or {}
    if not isinstance(named, dict):
        faults.append("`tenants` must be a mapping from names")
        named = {}
    found = {}
    for name, one in [*named.items(), ("", content.get("others") or {})]:
        path = f"tenants.{name}" if name else "others"
        if not isinstance(name, str):
            faults.append(f"`{path}`: the name of a tenant must be text, write it in quotes")
        entry = _entry(one or {}, Tenant, path, faults)
        if entry is not None:
            faults += [f"`{path}{fault}" for fault in _tenant_faults(entry)]
            found[str(name)] = entry
    if faults:
        raise FileFaults(faults)
    others = found.pop("")
    return found, others


def parse_secret(text: bytes) -> bytes:
    """The file of a secret, without white space at its ends. Raises FileFaults."""
    secret = text.strip()
    if len(secret) < _SHORTEST_SECRET:
        raise FileFaults([f"holds {len(secret)} bytes: a secret must have at least {_SHORTEST_SECRET}"])
    return secret


def _mapping(text: bytes, known: set[str], faults: list[str]) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text.decode())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        faults.append(" ".join(str(error).split()))
        return {}
    if content is None:
        return {}
    if not isinstance(content, dict):
        faults.append(f"must hold a mapping with {' and '.join(f'`{name}`' for name in sorted(known))}")
        return {}
    faults += [f"unknown field `{name}`" for name in content if name not in known]
    return content


def _entry(value: object, kind: type[Entry], path: str, faults: list[str]) -> Entry | None:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        faults.append(f"`{path}{place or '`'}: {message[:1].lower()}{message[1:]}")
        return None


def _key_faults(entry: KeyEntry) -> Iterator[str]:
    """Each with the end of its path."""
    if not entry.name or len(entry.name) > _LONGEST_NAME or not entry.name.isprintable():
        yield f".name` must be 1 to {_LONGEST_NAME} printable characters"
    digits = entry.sha256.lower()
    if len(digits) != _DIGEST_DIGITS or not set(digits) <= set("0123456789abcdef"):
        yield f".sha256` must be {_DIGEST_DIGITS} hexadecimal digits: printf %s KEY | sha256sum"
    yield from _priority_faults(entry.priority or 0)
    yield from _model_faults(entry.models)
    yield from _limits_faults(entry.limits)


def _tenant_faults(entry: Tenant) -> Iterator[str]:
    if not 0 < entry.weight <= 1e6:
        yield f".weight` must be above 0 and at most a million, not {entry.weight}"
    yield from _priority_faults(entry.priority)
    yield from _model_faults(entry.models)
    yield from _limits_faults(entry.limits)


def _priority_faults(priority: int) -> Iterator[str]:
    if abs(priority) > _LARGEST_PRIORITY:
        yield f".priority` must be -{_LARGEST_PRIORITY} to {_LARGEST_PRIORITY}, not {priority}"


def _model_faults(models: list[str] | None) -> Iterator[str]:
    for position, model in enumerate(models or []):
        if not model or "*" in model[:-1]:
            yield f".models[{position}]` must be a name, or the beginning of one and `*`, not `{model}`"


def _limits_faults(listed: list[LimitSpec]) -> Iterator[str]:
    for where, what in limit_faults(listed):
        yield f".limits{where}` {what}"
    held = sum(len(one.amounts()) for one in listed)
    if held > MOST_LIMITS:
        yield f".limits` holds a request to {held} limits, at most {MOST_LIMITS} are kept: each amount is one"


def _models(listed: list[str]) -> Models:
    beginnings = tuple(one[:-1] for one in listed if one.endswith("*"))
    return Models(frozenset(one for one in listed if not one.endswith("*")), beginnings)
