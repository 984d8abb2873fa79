"""What the controllers say of the objects, read from the run directory when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

FILE_NAME = "controllers.json"
FORMAT_VERSION = 1


class Told(Struct, frozen=True):
    """The document of ``controllers.network.state_file``; empty while there is none that this version can read."""

    version: int = FORMAT_VERSION
    objects: list[dict[str, Any]] = []
    problems: list[dict[str, Any]] = []


def read(directory: Path) -> Told:
    """What stands there now. It may be old: whether the controllers live is said by the snapshot."""
    try:
        found = msgspec.json.decode((directory / FILE_NAME).read_bytes(), type=Told)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return Told()
    return found if found.version == FORMAT_VERSION else Told()
