"""The store interface, with the semantics of the API server: uid, generation, resourceVersion, status of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from controllers.api.meta import Metadata


class Object(Protocol):
    """Any of the kinds."""

    @property
    def kind(self) -> str: ...
    @property
    def metadata(self) -> Metadata: ...


@dataclass(frozen=True, slots=True)
class Key:
    """Names an object."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to an object; what it is now is asked of the store."""

    type: Literal["put", "gone"]
    key: Key


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault with its place; line 0 is the file (or folder) as a whole."""

    file: Path
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else str(self.file)
        return f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"


class Store(Protocol):
    """Objects by kind and name."""

    def get(self, key: Key) -> Any | None:
        """The object as it is now, None when it is gone."""

    def list_objects(self, kind: str) -> list[Any]:
        """All objects of a kind, oldest first."""

    def watch(self) -> AsyncIterator[Event]:
        """First an event for each object that is there, then one for each change."""

    def status(self, key: Key) -> Any | None:
        """What a controller said of an object, None when none did."""

    @property
    def problems(self) -> Mapping[Path, tuple[Problem, ...]]:
        """What cannot be read as objects now, by the file or folder it stands in."""

    async def update_status(self, key: Key, status: Any) -> None:
        """Say what became of it. Does nothing when that is what stands already, or the object is gone."""


def key_of(item: Object) -> Key:
    """The key of an object."""
    return Key(item.kind, item.metadata.namespace, item.metadata.name)
