"""What a prompt's blocks depend on besides their token ids: agreed between who tokenises prompts and who follows engines' events."""

from __future__ import annotations

import msgspec

from _fastpath.hashing import Hasher


def token_seed(hasher: Hasher, adapter: str) -> int:
    """The start of a chain of token blocks, ``adapter`` empty for the base model. No tenant and no server: a slot is one engine's."""
    return hasher.seed("tokens", adapter)


def extra_bytes(keys: list[object]) -> bytes:
    """The engine's extra keys of one block, as they are hashed before its tokens."""
    return msgspec.msgpack.encode(keys)


def salted_seed(hasher: Hasher, adapter: str, salt: str) -> int:
    """The start of a chain whose first block has the salt (``cache_salt`` of a request) as its only extra key."""
    return hasher.seed("tokens", adapter, extra_bytes([salt]))
