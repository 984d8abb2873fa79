"""A folder of YAML files as a store: read again when a file changes; what is broken or out of sight stays as it last was."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import msgspec

from controllers.store.last_good import LastGood
from controllers.store.listing import Stamp, list_files, stamp_of
from controllers.store.store import Event, Key, Problem, key_of
from controllers.store.yaml_file import Item, Loaded, load_file

POLL_SECONDS = 0.1
SETTLE_SECONDS = 0.1
EMPTY_SETTLE_SECONDS = 1.0
"""A file that became empty is nearly always one whose writer has opened it and not written yet."""

logger = logging.getLogger(__name__)


class FolderStore:
    """The objects of one folder (and its subfolders). Status lives in memory; ``last_good`` outlives the process."""

    def __init__(
        self, folder: Path, report: Callable[[str], None] = logger.warning, last_good: LastGood | None = None
    ) -> None:
        self._folder = folder
        self._report = report
        self._last_good = last_good
        self._stamps: dict[Path, Stamp] = {}
        self._files: dict[Path, tuple[Item, ...]] = {}
        self._objects: dict[Key, Item] = {}
        self._statuses: dict[Key, Any] = {}
        self._version = 0
        self._has_read = False
        self._broken: dict[Path, tuple[Problem, ...]] = {}
        self._unseen: dict[Path, str] = {}

    def get(self, key: Key) -> Item | None:
        """The object as it is now."""
        return self._objects.get(key)

    def list_objects(self, kind: str) -> list[Item]:
        """All objects of a kind, oldest first."""
        found = [item for item in self._objects.values() if item.kind == kind]
        return sorted(
            found, key=lambda item: (item.metadata.creation_timestamp, item.metadata.namespace, item.metadata.name)
        )

    def status(self, key: Key) -> Any | None:
        """What a controller said of an object."""
        return self._statuses.get(key)

    @property
    def problems(self) -> Mapping[Path, tuple[Problem, ...]]:
        """What cannot be read, by file or folder."""
        unseen = {path: (Problem(path, 0, "", f"cannot be read: {why}"),) for path, why in self._unseen.items()}
        return {**self._broken, **unseen}

    async def update_status(self, key: Key, status: Any) -> None:
        """Keep what a controller says of an object."""
        if key in self._objects and self._statuses.get(key) != status:
            self._statuses[key] = status

    async def watch(self) -> AsyncIterator[Event]:
        """Events of the whole folder; looks for changed files ten times a second."""
        while True:
            for event in self.refresh():
                yield event
            await asyncio.sleep(POLL_SECONDS)

    def refresh(self) -> list[Event]:
        """Read what changed. A file counts as gone only when the folder that it stood in was seen without it."""
        if not self._has_read and self._last_good is not None:
            self._files = self._last_good.read()
        present, unseen = list_files(self._folder)
        self._note_unseen(unseen)
        changed = [
            file for file, stamp in present.items() if self._stamps.get(file) != stamp and self._is_settled(stamp)
        ]
        gone = [file for file in {**self._stamps, **self._files} if file not in present and not _hidden(file, unseen)]
        if not changed and not gone and self._has_read:
            return []
        for file in gone:
            self._stamps.pop(file, None)
            self._files.pop(file, None)
            self._broken.pop(file, None)
        for file in changed:
            loaded = load_file(file)
            # written while it was read: what it held before is better than half of what it will hold
            if stamp_of(file) == present[file] or not (self._has_read or file in self._files):
                self._stamps[file] = present[file]
                self._take(file, loaded)
        self._has_read = True
        if self._last_good is not None:
            self._last_good.keep(self._files)
        return self._rebuild()

    def _note_unseen(self, unseen: dict[Path, str]) -> None:
        for path, why in unseen.items():
            if path not in self._unseen:
                hidden = [file for file in self._files if _hidden(file, {path: why})]
                kept = sum(len(self._files[file]) for file in hidden)
                stay = f": its {kept} objects stay as they last were" if kept else ""
                self._report(f"{path}: cannot be read: {why}{stay}")
        for path in self._unseen:
            if path not in unseen:
                self._report(f"{path}: can be read again" if path.exists() else f"{path}: is gone")
        self._unseen = unseen

    def _is_settled(self, stamp: Stamp) -> bool:
        """A file that was written a moment ago may be half written: it is read at the next look."""
        age = time.time() - stamp[0] / 1e9
        if stamp[1] == 0:
            return not 0 <= age < EMPTY_SETTLE_SECONDS
        return not self._has_read or not 0 <= age < SETTLE_SECONDS

    def _take(self, file: Path, loaded: Loaded) -> None:
        for note in loaded.ignored:
            self._report(note)
        if loaded.problems:
            kept = len(self._files.get(file, ()))
            self._broken[file] = loaded.problems
            for problem in loaded.problems:
                self._report(str(problem))
            self._report(
                f"{file}: not applied: its {kept} objects stay as they last were" if kept else f"{file}: not applied"
            )
            return
        if self._broken.pop(file, None):
            self._report(f"{file}: mended and applied")
        self._files[file] = loaded.objects

    def _rebuild(self) -> list[Event]:
        wanted: dict[Key, Item] = {}
        places: dict[Key, Path] = {}
        for file, items in sorted(self._files.items()):
            for item in items:
                key = key_of(item)
                if key in wanted:
                    self._report(f"{file}: {key} stands in {places[key]} already: the first is used")
                    continue
                wanted[key], places[key] = item, file
        events = [Event("gone", key) for key in self._objects if key not in wanted]
        for event in events:
            del self._objects[event.key]
            self._statuses.pop(event.key, None)
        for key, item in wanted.items():
            stamped = self._stamp(key, item)
            if stamped is not None:
                self._objects[key] = stamped
                events.append(Event("put", key))
        return events

    def _stamp(self, key: Key, item: Item) -> Item | None:
        """The object as the API server would keep it; None when nothing changed."""
        before = self._objects.get(key)
        if before is not None and before.spec == item.spec and before.metadata.labels == item.metadata.labels:
            return None
        self._version += 1
        given = item.metadata
        metadata = msgspec.structs.replace(
            given,
            uid=str(uuid5(NAMESPACE_URL, f"penstock:{key.kind}/{key.namespace}/{key.name}")),
            generation=1 if before is None else before.metadata.generation + (before.spec != item.spec),
            resource_version=str(self._version),
            creation_timestamp=before.metadata.creation_timestamp
            if before is not None
            else given.creation_timestamp or datetime.now(UTC).isoformat(timespec="microseconds"),
        )
        return msgspec.structs.replace(item, metadata=metadata)


def _hidden(file: Path, unseen: Mapping[Path, str]) -> bool:
    """Whether a file, or a folder above it, could not be looked at."""
    return file in unseen or any(above in unseen for above in file.parents)
