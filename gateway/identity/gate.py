"""The gate of the request path: from a request's headers to who asks, without I/O.

A client is told that it was refused and never why; the reason is the log's. What is remembered is found by the SHA-256 of a credential: no
secret is kept, and how long a look takes says nothing of one.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Protocol

from gateway.errors import Unauthorized
from gateway.identity.caller_limits import CallerLimits

_FOUND_BY = 8
"""Bytes of its digest that a key is looked up by; the whole is compared in constant time."""
Headers = Callable[[str], str | None]
"""Value of a header by its lower-case name."""


class Models:
    """A list of models: names, and beginnings of names."""

    def __init__(self, names: frozenset[str], beginnings: tuple[str, ...]) -> None:
        self.names = names
        self.beginnings = beginnings

    def has(self, model: str) -> bool:
        """Whether the list covers a model."""
        return model in self.names or model.startswith(self.beginnings)


class Caller:
    """Who asks: a tenant, and what it may. ``models``: lists that must all cover a model; with none of them it may use every one.

    ``cache_salt``: what engines are told so that their caches are the tenant's own, as JSON; empty where they are shared.
    ``limits``: over all routes, None for none.
    """

    def __init__(
        self,
        tenant: str,
        models: tuple[Models, ...] = (),
        weight: float = 1.0,
        priority: int = 0,
        cache_salt: bytes = b"",
        limits: CallerLimits | None = None,
    ) -> None:
        self.tenant = tenant
        self.models = models
        self.weight = weight
        self.priority = priority
        self.cache_salt = cache_salt
        self.limits = limits

    def may_use(self, model: str) -> bool:
        """Whether it may ask for a model."""
        for one in self.models:  # noqa: SIM110 - a generator costs more than most lists do
            if not one.has(model):
                return False
        return True


class ApiKey:
    """An API key of the file: its SHA-256, and who it stands for."""

    def __init__(self, digest: bytes, caller: Caller) -> None:
        self.digest = digest
        self.caller = caller


class Admitted:
    """A token that was found good: who it stands for, and until when (Unix time)."""

    def __init__(self, caller: Caller, until: float) -> None:
        self.caller = caller
        self.until = until


class Issuer(Protocol):
    """Checks tokens."""

    @property
    def is_waiting(self) -> bool:
        """Whether its first keys are on their way."""

    async def wait(self) -> None:
        """Until they are here, or could not be had."""

    def verify(self, token: str, now: float) -> tuple[str, float]:
        """Subject of a token, and until when it may be remembered. Raises Unauthorized and IdentityUnavailable."""


class Gate:
    """Knows the callers of one worker. ``wall``: Unix time; ``caller_of``: what a subject of the issuer may."""

    def __init__(
        self,
        issuer: Issuer | None,
        public_paths: frozenset[str],
        token_bytes: int,
        cached_tokens: int,
        wall: Callable[[], float],
    ) -> None:
        self._issuer = issuer
        self._public_paths = public_paths
        self._token_bytes = token_bytes
        self._cached_tokens = cached_tokens
        self._wall = wall
        self._keys: dict[bytes, ApiKey] = {}
        self._caller_of: Callable[[str], Caller] = Caller
        self._admitted: dict[bytes, Admitted] = {}

    def replace(self, keys: Iterable[ApiKey], caller_of: Callable[[str], Caller]) -> None:
        """Other API keys and tenants from now on; tokens are looked at anew."""
        self._keys = {key.digest[:_FOUND_BY]: key for key in keys}
        self._caller_of = caller_of
        self.forget()

    def forget(self) -> None:
        """Look at every token anew: the issuer's keys are others."""
        self._admitted.clear()

    def is_public(self, path: str) -> bool:
        """Whether a path takes no credential."""
        return path in self._public_paths

    def known(self, header: Headers) -> Caller | None:
        """Who asks; None for a token that has yet to be checked. Raises Unauthorized for whatever is no token."""
        credential = self._credential(header)
        digest = sha256(credential.encode()).digest()
        key = self._keys.get(digest[:_FOUND_BY])
        if key is not None and hmac.compare_digest(key.digest, digest):
            return key.caller
        admitted = self._admitted.get(digest)
        if admitted is not None and self._wall() < admitted.until:
            return admitted.caller
        if self._issuer is None or credential.count(".") != 2:
            raise Unauthorized("unknown_api_key")
        return None

    async def wait(self) -> None:
        """Until credentials can be checked: an issuer's first keys may still be on their way."""
        issuer = self._issuer
        if issuer is not None and issuer.is_waiting:
            await issuer.wait()

    def identify(self, header: Headers) -> Caller:
        """Who asks, also with a credential that is seen for the first time. Raises Unauthorized and IdentityUnavailable."""
        known = self.known(header)
        if known is not None:
            return known
        credential = self._credential(header)
        issuer = self._issuer
        assert issuer is not None  # or there would be no token that is yet to be checked
        subject, until = issuer.verify(credential, self._wall())
        caller = self._caller_of(subject)
        digest = sha256(credential.encode()).digest()
        self._admitted.pop(digest, None)
        if len(self._admitted) >= self._cached_tokens:
            del self._admitted[next(iter(self._admitted))]  # the oldest: checked again, it takes the place of another
        self._admitted[digest] = Admitted(caller, until)
        return caller

    def _credential(self, header: Headers) -> str:
        """The API key or token as it was sent. Raises Unauthorized."""
        text = header("authorization")
        if text:
            if len(text) > self._token_bytes:
                raise Unauthorized("too_long")
            if text[:7].lower() != "bearer ":
                raise Unauthorized("unknown_scheme")
            text = text[7:].strip()
        else:
            text = header("x-api-key")  # what clients of /v1/messages send
        if not text:
            raise Unauthorized("missing")
        if len(text) > self._token_bytes:
            raise Unauthorized("too_long")
        if not text.isascii():
            raise Unauthorized("malformed")
        return text
