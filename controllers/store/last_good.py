"""The last good objects of every file, kept in the run directory, so that a broken file keeps them over a restart as well."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from controllers.store.yaml_file import TYPES, Item

FORMAT_VERSION = 1
FILE_NAME = "last-good.json"


class _Content(Struct, frozen=True):
    version: int
    folder: str
    files: dict[str, list[msgspec.Raw]]


class _Kind(Struct, frozen=True):
    kind: str


class LastGood:
    """The file of one run directory, for one folder of YAML."""

    def __init__(self, run_directory: Path, folder: Path, report: Callable[[str], None]) -> None:
        self._file = run_directory / FILE_NAME
        self._folder = folder
        self._report = report
        self._kept: bytes | None = None

    def read(self) -> dict[Path, tuple[Item, ...]]:
        """What was kept, by file. Nothing when it is damaged, of another version, or of another folder."""
        try:
            data = self._file.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._report(f"{self._file}: cannot be read: {error.strerror}")
            return {}
        try:
            content = msgspec.json.decode(data, type=_Content)
            if content.version != FORMAT_VERSION or content.folder != str(self._folder.absolute()):
                return {}
            found = {self._folder / name: tuple(map(_item, items)) for name, items in content.files.items()}
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError) as error:
            self._report(f"{self._file}: cannot be used, what broken files last were is not known: {error}")
            return {}
        # what was good for another version may have faults for this one
        return {file: items for file, items in found.items() if not any(list(item.faults()) for item in items)}

    def keep(self, files: Mapping[Path, tuple[Item, ...]]) -> None:
        """Write them, unless they stand there already. A fault is reported, not raised: files are served without it."""
        data = msgspec.json.encode(
            {
                "version": FORMAT_VERSION,
                "folder": str(self._folder.absolute()),
                "files": {str(file.relative_to(self._folder)): items for file, items in files.items()},
            }
        )
        if data == self._kept:
            return
        self._kept = data
        draft = self._file.with_name(f"{FILE_NAME}.{os.getpid()}.new")
        try:
            draft.write_bytes(data)
            draft.replace(self._file)
        except OSError as error:
            self._report(f"{self._file}: cannot be written: {error.strerror}")


def _item(data: msgspec.Raw) -> Item:
    kind = msgspec.json.decode(data, type=_Kind).kind
    return msgspec.json.decode(data, type=TYPES[kind])
