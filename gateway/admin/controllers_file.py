"""What the controllers say of the objects, read from the run directory when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

FILE_NAME = "controllers.json"
FORMAT_VERSION = 1


class Told(Struct, frozen=True):
    """The document of ``controllers.network.state_file``; empty while there is none that this version can read.

    ``kv_events``: how each follower of an engine's KV events stands.
    """

    version: int = FORMAT_VERSION
    objects: list[dict[str, Any]] = []
    problems: list[dict[str, Any]] = []
    kv_events: list[dict[str, Any]] = field(default_factory=list, name="kvEvents")


def read(directory: Path) -> Told:
    """What stands there now. It may be old: whether the controllers live is said by the snapshot."""
    try:
        found = msgspec.json.decode((directory / FILE_NAME).read_bytes(), type=Told)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return Told()
    return found if found.version == FORMAT_VERSION else Told()
