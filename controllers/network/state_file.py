"""What became of every object, for whoever asks the gateway: a small document in the run directory, written when it changed."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from controllers.store.store import Key, Store, key_of

FORMAT_VERSION = 1
FILE_NAME = "controllers.json"
WRITE_SECONDS = 1.0

logger = logging.getLogger(__name__)


class StateFile:
    """Conditions of the objects of some kinds, the problems of the store, and how the followers of KV events stand."""

    def __init__(
        self,
        store: Store,
        kinds: Iterable[str],
        run_directory: Path,
        followers: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        """``followers``: a report of each endpoint that is followed."""
        self._followers = followers
        self._store = store
        self._kinds = tuple(kinds)
        self._file = run_directory / FILE_NAME
        self._written: bytes | None = None

    async def run(self) -> None:
        """Write it, at most once in WRITE_SECONDS, until cancelled."""
        while True:
            self.write()
            await asyncio.sleep(WRITE_SECONDS)

    def write(self) -> bool:
        """Write the document if it differs from what stands there; whether it did. A fault is logged, once."""
        data = msgspec.json.encode(self.document())
        if data == self._written:
            return False
        self._written = data
        draft = self._file.with_name(f"{FILE_NAME}.{os.getpid()}.new")
        try:
            draft.write_bytes(data)
            draft.replace(self._file)
        except OSError as error:
            logger.warning("%s cannot be written: %s", self._file, error)
            return False
        return True

    def document(self) -> dict[str, Any]:
        """The content. ``observedGeneration`` below ``generation`` says that the conditions are of an older spec."""
        return {
            "version": FORMAT_VERSION,
            "objects": [self._object(item) for kind in self._kinds for item in self._store.list_objects(kind)],
            "problems": [
                {"file": str(one.file), "line": one.line, "path": one.path, "message": one.message}
                for problems in self._store.problems.values()
                for one in problems
            ],
            "kvEvents": self._followers(),
        }

    def _object(self, item: Any) -> dict[str, Any]:
        key: Key = key_of(item)
        status = self._store.status(key)
        return {
            "kind": key.kind,
            "name": f"{key.namespace}/{key.name}",
            "generation": item.metadata.generation,
            "observedGeneration": status.observed_generation if status is not None else 0,
            "conditions": status.conditions if status is not None else [],
        }
