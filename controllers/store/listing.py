"""Which files a folder holds, and which part of it could not be looked at: the two must not be confused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

Stamp = tuple[int, int, int, int]
"""Time of the last change in nanoseconds, size, inode, and when these or the permissions changed: another stamp, another look."""

_SUFFIXES = (".yaml", ".yml", ".json")


def list_files(folder: Path) -> tuple[dict[Path, Stamp], dict[Path, str]]:
    """The YAML files of a folder and its subfolders, in order; and what cannot be looked at, with the reason."""
    found: dict[Path, Stamp] = {}
    unseen: dict[Path, str] = {}

    def note(error: OSError) -> None:
        path = Path(error.filename) if error.filename else folder
        # a subfolder that went between the listing of its parent and its own is gone, as a file would be
        if path == folder or not isinstance(error, FileNotFoundError):
            unseen[path] = error.strerror or str(error)

    for directory, inner, names in os.walk(folder, onerror=note):
        inner[:] = [name for name in inner if not name.startswith(".")]  # `..data` of a mounted ConfigMap, `.git`
        for name in names:
            if name.endswith(_SUFFIXES) and not name.startswith("."):
                _look_at(Path(directory) / name, found, unseen)
    return dict(sorted(found.items())), unseen


def _look_at(file: Path, found: dict[Path, Stamp], unseen: dict[Path, str]) -> None:
    try:
        status = file.stat()
    except FileNotFoundError:
        if file.is_symlink():  # it stands there still, what it leads to does not
            unseen[file] = "a link to nowhere"
        return
    except OSError as error:
        unseen[file] = error.strerror or str(error)
        return
    if stat.S_ISREG(status.st_mode):  # reading a named pipe would wait for its writer, and everything behind it
        found[file] = _stamp(status)


def stamp_of(file: Path) -> Stamp | None:
    """The stamp of a file as it is now, None when it cannot be looked at."""
    try:
        return _stamp(file.stat())
    except OSError:
        return None


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns
