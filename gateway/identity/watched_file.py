"""A file that may change while the gateway runs, and what is done when it does so for the worse."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gateway.identity.faults import FileFaults

Parsed = TypeVar("Parsed")

logger = logging.getLogger(__name__)


class WatchedFile:
    """A file that is read again when it is another: written over, replaced, gone, or a link that leads elsewhere.

    What was good last is kept at ``saved``, so that a worker which starts while the file is broken serves what the others serve.
    """

    def __init__(self, path: str, saved: Path) -> None:
        self._path = path
        self._saved = saved
        self._seen: tuple[int, ...] | None = None
        self._was_good = False

    def has_changed(self) -> bool:
        """Whether it is another than at the last call; never without a path."""
        if not self._path:
            return False
        try:
            status = os.stat(self._path)  # noqa: PTH116 - once a second, without an object more
            seen: tuple[int, ...] = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
        except OSError:
            seen = ()
        changed, self._seen = seen != self._seen, seen
        return changed

    def parsed(self, parse: Callable[[bytes], Parsed], before: Parsed) -> Parsed:
        """What it says now; ``before``, or what was good last, when it cannot be used, which is logged."""
        if not self._path:
            return before
        try:
            text = Path(self._path).read_bytes()
            found = parse(text)
        except OSError as error:
            faults = [error.strerror or str(error)]
        except FileFaults as error:
            faults = error.faults
        else:
            self._was_good = True
            self._save(text)
            return found
        for fault in faults:
            logger.warning("%s: %s; what it said before goes on to count", self._path, fault)
        return before if self._was_good else self._of_before(parse, before)

    def _save(self, text: bytes) -> None:
        """For its user alone: it may hold a secret."""
        draft = self._saved.with_suffix(f".{os.getpid()}")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "wb") as file:  # noqa: PTH123 - of a descriptor
                file.write(text)
            draft.replace(self._saved)
        except OSError as error:
            logger.warning("%s cannot be kept in %s: %s", self._path, self._saved, error)

    def _of_before(self, parse: Callable[[bytes], Parsed], otherwise: Parsed) -> Parsed:
        try:
            return parse(self._saved.read_bytes())
        except (OSError, FileFaults):
            return otherwise
