"""From the address that a route names to a store; one that cannot be is a store that is always away, and says why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateway.admission.limit_store import LimitStore, NoStore
from gateway.admission.redis_address import address_of
from gateway.settings import Redis

PASSWORD_VARIABLE = "REDIS_PASSWORD"  # noqa: S105 - its name


def open_store(address: str, *, settings: Redis, environment: Mapping[str, str]) -> LimitStore:
    """The store of an address; nothing is asked of it yet."""
    try:
        # only where a route asks for it: the package is an extra, and takes memory
        from gateway.admission import redis_store  # noqa: PLC0415
    except ImportError:
        return NoStore("the package `redis` is missing: pip install 'penstock[redis]'")
    try:
        options = redis_store.RedisOptions(
            username=settings.username,
            password=_password(settings, environment),
            ca_file=settings.ca_file,
            prefix=settings.prefix,
            timeout=settings.timeout_seconds,
        )
        return redis_store.RedisStore(address_of(address), options)
    except (ValueError, OSError) as error:
        return NoStore(str(error))


def _password(settings: Redis, environment: Mapping[str, str]) -> str:
    if settings.password_file:
        return Path(settings.password_file).read_text().strip()
    return environment.get(PASSWORD_VARIABLE, "")
