"""How the stores of shared limits stand, in a small file of the run directory: the gateway asks them, the controllers say it of routes."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from msgspec import Struct

FILE_NAME = "limit-stores.json"
FORMAT_VERSION = 1


class StoreState(Struct, frozen=True):
    """One store. ``gateways``: how many share its limits, as it said the last time."""

    address: str
    is_reachable: bool
    reason: str = ""
    gateways: int = 1


class _Document(Struct, frozen=True):
    version: int = FORMAT_VERSION
    stores: list[StoreState] = []


def write(directory: Path, stores: list[StoreState]) -> None:
    """Put them there in one step. Raises OSError."""
    draft = directory / f"{FILE_NAME}.{os.getpid()}.new"
    draft.write_bytes(msgspec.json.encode(_Document(stores=stores)))
    draft.replace(directory / FILE_NAME)


def read(directory: Path) -> dict[str, StoreState]:
    """What stands there, by address; nothing while there is no file that this version can read."""
    try:
        found = msgspec.json.decode((directory / FILE_NAME).read_bytes(), type=_Document)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return {one.address: one for one in found.stores} if found.version == FORMAT_VERSION else {}
