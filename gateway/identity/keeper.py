"""What stands behind the gate in one worker: reads its files when they change, and keeps the issuer's keys.

A file that is wrong or gone while the gateway runs is logged, and what stood before goes on to count.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.identity.directory import (
    Directory,
    KeyEntry,
    Sharing,
    Tenant,
    parse_keys,
    parse_secret,
    parse_tenants,
)
from gateway.identity.gate import ApiKey, Gate
from gateway.identity.settings import Identity
from gateway.identity.watched_file import WatchedFile

if TYPE_CHECKING:
    from gateway.identity.issuer_keys import Fetcher, IssuerKeys, Pace

LOOK_SECONDS = 1.0
"""Between two looks at the files."""
SAVED_FILE = "jwks.json"
"""In the run directory: the issuer's last good keys, which are public."""

logger = logging.getLogger(__name__)


def read_directory(settings: Identity, with_keys: bool = False) -> Directory:
    """Tenants, and keys where they are asked for, as the files say now. Raises OSError and FileFaults."""
    tenants, others = (
        parse_tenants(Path(settings.tenants_file).read_bytes()) if settings.tenants_file else ({}, Tenant())
    )
    secret = parse_secret(Path(settings.cache_salt_file).read_bytes()) if settings.cache_salt_file else b""
    keys = parse_keys(Path(settings.keys_file).read_bytes()) if with_keys and settings.keys_file else []
    return Directory(keys, tenants, others, secret, sharing=_sharing(settings))


def _sharing(settings: Identity) -> Sharing:
    return Sharing(settings.limits_redis, settings.limits_on_store_failure)  # type: ignore[arg-type] # was checked


class Keeper:
    """The gate of one worker, and the tasks beside it."""

    def __init__(
        self,
        settings: Identity,
        run_directory: Path,
        fetch: Fetcher | None,
        wall: Callable[[], float],
        clock: Callable[[], float],
        pace: Pace | None = None,
        replaced: Callable[[], object] = lambda: None,
    ) -> None:
        """``replaced`` is called when callers may have other limits."""
        self._clock = clock
        self._replaced = replaced
        self._sharing = _sharing(settings)
        self._is_settled = False
        self._keys_file = WatchedFile(settings.keys_file, run_directory / "identity-keys")
        self._tenants_file = WatchedFile(settings.tenants_file, run_directory / "identity-tenants")
        self._salt_file = WatchedFile(settings.cache_salt_file, run_directory / "identity-salt")
        self._jwks_file = WatchedFile(settings.jwks_file, run_directory / "identity-jwks")
        self._keys: list[KeyEntry] = []
        self._salt_secret = b""
        self._tenants: tuple[dict[str, Tenant], Tenant] = ({}, Tenant())
        self._issuer = self._make_issuer(settings, run_directory, fetch, wall, clock, pace)
        self._fetches = bool(settings.jwks_url)
        self.gate = Gate(
            self._issuer, frozenset(settings.public_paths.split()), settings.token_bytes, settings.cached_tokens, wall
        )
        if self._issuer is not None and self._fetches:
            self._issuer.restore()
        looked_at = self._generation()
        self._have_changed()  # from now on
        self._put(*self._read(looked_at))
        if self._jwks_file.has_changed():
            self._read_jwks()

    def _make_issuer(
        self,
        settings: Identity,
        run_directory: Path,
        fetch: Fetcher | None,
        wall: Callable[[], float],
        clock: Callable[[], float],
        pace: Pace | None,
    ) -> IssuerKeys | None:
        if not (settings.jwks_url or settings.jwks_file):
            return None
        # the library is an extra: API keys do without it
        from gateway.identity.issuer_keys import IssuerKeys  # noqa: PLC0415
        from gateway.identity.key_set import TokenRules  # noqa: PLC0415

        return IssuerKeys(
            rules=TokenRules(settings.jwt_issuer, settings.jwt_audiences.split(), settings.jwt_leeway_seconds),
            algorithms=settings.jwt_algorithms.split(),
            address=settings.jwks_url,
            fetch=fetch,
            saved=run_directory / SAVED_FILE,
            changed=lambda: self.gate.forget(),
            wall=wall,
            clock=clock,
            pace=pace,
        )

    def issuer_report(self) -> dict[str, Any] | None:
        """How the issuer's keys stand, None without an issuer."""
        return self._issuer.report() if self._issuer is not None else None

    async def run(self) -> None:
        """Keep everything up to date."""
        tasks = [self._look_forever()]
        if self._issuer is not None and self._fetches:
            tasks.append(self._issuer.run())
        await asyncio.gather(*tasks)

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            looked_at = self._generation()
            # a thread's work: YAML of thousands of keys would hold up every request
            if self._have_changed():
                self._put(*await asyncio.to_thread(self._read, looked_at))
            elif not self._is_settled:
                self._put(*await asyncio.to_thread(self._directory, looked_at))
                self._is_settled = True
            if self._jwks_file.has_changed():
                self._read_jwks()

    def _have_changed(self) -> bool:
        looked_at = [file.has_changed() for file in (self._keys_file, self._tenants_file, self._salt_file)]
        return True in looked_at

    def _generation(self) -> int:
        """Of what is found from now on: the later one counts, in whichever worker it was found.

        One that has read a file just before it changed may take its turn after one that has read it just after. So what stands a look
        later has this look's generation, which is later than of all who had not seen the change yet.
        """
        return int(self._clock() * 1e9)

    def _read(self, generation: int) -> tuple[Directory, list[ApiKey]]:
        self._keys = self._keys_file.parsed(parse_keys, self._keys)
        self._tenants = self._tenants_file.parsed(parse_tenants, self._tenants)
        self._salt_secret = self._salt_file.parsed(parse_secret, self._salt_secret)
        return self._directory(generation)

    def _directory(self, generation: int) -> tuple[Directory, list[ApiKey]]:
        directory = Directory(self._keys, *self._tenants, self._salt_secret, generation, self._sharing)
        self._is_settled = not directory.has_limits
        return directory, directory.keys

    def _put(self, directory: Directory, keys: list[ApiKey]) -> None:
        self.gate.replace(keys, directory.caller_of)
        self._replaced()

    def _read_jwks(self) -> None:
        assert self._issuer is not None
        self._jwks_file.parsed(self._issuer.take, None)
