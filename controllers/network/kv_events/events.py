"""One batch of KV-cache events, out of any encoding that engines use.

A batch is an array ``[time, events, rank]`` or a map; an event is an array with its tag first (vLLM up to 0.23, SGLang) or a map whose
``type`` is the tag. Fields that are not known are ignored, those that older engines do not send are absent.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from gateway.datastore.token_seed import extra_bytes

GPU, CPU, OTHER = 1, 2, 4
"""Bits of the memories that hold blocks."""
_STORED = (
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
    "group_idx",
    "kv_cache_spec_kind",
)
_REMOVED = ("block_hashes", "medium", "group_idx")
_WHOLE_PREFIX_KINDS = ("full_attention", "mla_attention", "sink_full_attention", "unknown")
"""Kinds of cache whose blocks all stay; of the others (sliding windows, states) a block says nothing about the prefix before it."""


class Stored(Struct, frozen=True, gc=False):
    """Blocks that can be reused from now on: a chain that continues ``parent`` (None: from the start)."""

    names: list[Any]
    parent: int | bytes | None
    tokens: list[Any]
    block_tokens: int
    adapter: str = ""
    """LoRA adapter by name; an id alone makes a name that no request has."""
    tier: int = GPU
    extras: list[bytes | None] | None = None
    """What besides tokens and adapter a block depends on (salt, images), None for nothing."""
    group: int = 0
    is_whole: bool = True
    """Whether it belongs to a kind of cache in which a block stands for all before it."""


class Removed(Struct, frozen=True, gc=False):
    """Blocks that are gone."""

    names: list[Any]
    tier: int = GPU
    group: int = 0


class Cleared(Struct, frozen=True, gc=False):
    """The engine's whole cache is gone."""


Event = Stored | Removed | Cleared


class Batch(Struct, frozen=True, gc=False):
    """What one message said. ``dropped``: events that could not be read; ``unknown``: of kinds that are not ours."""

    time: float = 0.0
    rank: int = 0
    events: tuple[Event, ...] = ()
    dropped: int = 0
    unknown: int = 0


class _Unreadable(Exception):
    """An event that is not what its tag says."""


def decode(payload: bytes) -> Batch | None:
    """Read a payload; None for what is no batch. Never raises."""
    try:
        content = msgspec.msgpack.decode(payload)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError, OverflowError):
        return None
    if isinstance(content, dict):
        rank = content.get("data_parallel_rank", content.get("attn_dp_rank"))
        content = [content.get("ts"), content.get("events"), rank]
    if not isinstance(content, list) or len(content) < 2 or not isinstance(content[1], list):
        return None
    time = float(content[0]) if type(content[0]) in (int, float) else 0.0
    rank = content[2] if len(content) > 2 and type(content[2]) is int else 0
    return _read(content[1], time, rank)


def _read(rows: list[Any], time: float, rank: int) -> Batch:
    events: list[Event] = []
    dropped = unknown = 0
    for row in rows:
        try:
            event = _event(row)
        except _Unreadable:
            dropped += 1
            continue
        if event is None:
            unknown += 1
        else:
            events.append(event)
    return Batch(time, rank, tuple(events), dropped, unknown)


def _event(row: Any) -> Event | None:
    """One event; None for a tag that says nothing to us."""
    if isinstance(row, dict):
        tag, found = row.get("type"), row
    elif isinstance(row, list) and row:
        tag = row[0]
        names = _STORED if tag == "BlockStored" else _REMOVED
        found = dict(zip(names, row[1:], strict=False))
        if isinstance(found.get("lora_name"), dict):  # SGLang's metadata, where vLLM has the adapter's name
            found["metadata"] = found.pop("lora_name")
    else:
        raise _Unreadable
    if tag == "BlockStored":
        return _stored(found)
    if tag == "BlockRemoved":
        return Removed(_list(found, "block_hashes"), _tier(found), _group(found))
    if tag == "AllBlocksCleared":
        return Cleared()
    if not isinstance(tag, str):
        raise _Unreadable
    return None


def _stored(found: dict[Any, Any]) -> Stored:
    names, tokens = _list(found, "block_hashes"), _list(found, "token_ids")
    size, parent, kind = found.get("block_size"), found.get("parent_block_hash"), found.get("kv_cache_spec_kind")
    if type(size) is not int or size < 1 or not (parent is None or type(parent) in (int, bytes)):
        raise _Unreadable
    adapter = _adapter(found)
    return Stored(
        names=names,
        parent=parent,
        tokens=tokens,
        block_tokens=size,
        adapter=adapter,
        tier=_tier(found),
        extras=_extras(found.get("extra_keys"), len(names), adapter) or _salted(found, len(names)),
        group=_group(found),
        is_whole=kind is None or kind in _WHOLE_PREFIX_KINDS,
    )


def _list(found: dict[Any, Any], field: str) -> list[Any]:
    value = found.get(field)
    if not isinstance(value, list):
        raise _Unreadable
    return value


def _adapter(found: dict[Any, Any]) -> str:
    name, number = found.get("lora_name"), found.get("lora_id")
    if isinstance(name, str):
        return name
    return "" if number is None else f"\0{number!r}"


def _tier(found: dict[Any, Any]) -> int:
    medium = found.get("medium")
    if medium is None:
        return GPU
    name = medium.upper() if isinstance(medium, str) else ""
    return GPU if name == "GPU" else CPU if name.startswith("CPU") else OTHER


def _group(found: dict[Any, Any]) -> int:
    group = found.get("group_idx")
    return group if type(group) is int else 0


def _extras(keys: Any, blocks: int, adapter: str) -> list[bytes | None] | None:
    """The extra keys of each block; the adapter among them is known already."""
    if keys is None:
        return None
    if not isinstance(keys, list) or len(keys) != blocks:
        raise _Unreadable
    found = [_extra(one, adapter) for one in keys]
    return found if any(one is not None for one in found) else None


def _salted(found: dict[Any, Any], blocks: int) -> list[bytes | None] | None:
    """The salt as SGLang says it, of every event: of a chain from the start the first block has it, the others by their parent."""
    metadata = found.get("metadata")
    salt = metadata.get("cache_salt") if isinstance(metadata, dict) else found.get("cache_salt")
    if not isinstance(salt, str) or not salt or not blocks or found.get("parent_block_hash") is not None:
        return None
    return [extra_bytes([salt]), *[None] * (blocks - 1)]


def _extra(keys: Any, adapter: str) -> bytes | None:
    if keys is None:
        return None
    if not isinstance(keys, list):
        raise _Unreadable
    left = [_untagged(key) for key in keys if not _is_adapter(key, adapter)]
    if not left:
        return None
    try:
        return extra_bytes(left)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
        raise _Unreadable from None


def _is_adapter(key: Any, adapter: str) -> bool:
    """A bare name, or the tagged form of it."""
    tagged = isinstance(key, list) and len(key) >= 2 and key[0] == "lora" and key[1] == adapter
    return bool(adapter) and (key == adapter or tagged)


def _untagged(key: Any) -> Any:
    """Salts stand alone in older events, and tagged in those to come."""
    return key[1] if isinstance(key, list) and len(key) == 2 and key[0] == "cache_salt" else key
