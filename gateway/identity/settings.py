"""The settings of identity, a group of the gateway's (``gateway.settings``)."""

from __future__ import annotations

from msgspec import Struct


class Identity(Struct, frozen=True, kw_only=True):
    """Who may ask. With neither API keys nor an issuer of tokens, whoever reaches the inference port may."""

    keys_file: str = ""
    """YAML file of API keys, by their SHA-256 (docs/identity.md); read again when it changes."""
    tenants_file: str = ""
    """YAML file of tenants and what they may; read again when it changes. Without it every tenant may use every model."""
    jwks_url: str = ""
    """Where the issuer's public keys are (``https``, or ``http`` on loopback); fetched in the background, the last good ones kept a day."""
    jwks_file: str = ""
    """The same as a file, read again when it changes, instead of ``jwks_url``."""
    jwt_issuer: str = ""
    """What a token's ``iss`` must be, letter by letter."""
    jwt_audiences: str = ""
    """Of these, by spaces, a token's ``aud`` must name one."""
    jwt_algorithms: str = "RS256 PS256 ES256 ES384 ES512 EdDSA Ed25519"
    """What tokens may be signed with, by spaces. A key takes those of its type, curve and own ``alg``; none is a shared secret."""
    jwt_leeway_seconds: float = 30.0
    """How far the issuer's clock may be from ours, 60 at most."""
    token_bytes: int = 8192
    """Longest credential that is looked at."""
    cached_tokens: int = 10_000
    """Tokens that one worker remembers until they expire, about 0.5 KB each; to check another takes a tenth of a millisecond."""
    public_paths: str = ""
    """Paths of the inference port that take no credential besides ``/healthz`` and ``/readyz``, by spaces."""
    cache_salt_file: str = ""
    """A secret (16 bytes or more) that each tenant's ``cache_salt`` is made of, so that none finds another's prompts in engines' caches."""
    limits_redis: str = ""
    """Address of a Redis in which gateways share the limits of tenants and keys (docs/limits.md); without it they are this gateway's."""
    limits_on_store_failure: str = "local"
    """What becomes of those limits while that Redis is away: ``local``, ``allow`` or ``deny``."""
    forward_authorization: bool = False
    """Whether engines are told the client's ``authorization``. For engines that check it themselves."""
