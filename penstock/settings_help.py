"""The text below each setting, where its class is written, for the help of commands and for docs/settings.md."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_type_hints

import msgspec

from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its dotted name, its type, its default and what it means."""

    name: str
    kind: type
    default: Any
    text: str

    @property
    def shown_default(self) -> str:
        """As it is written in a file of settings; empty text is not shown."""
        if isinstance(self.default, bool):
            return str(self.default).lower()
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)


def all_settings() -> list[Setting]:
    """Every setting in its order, groups after the plain ones."""
    return list(_settings(Settings, ""))


def _settings(struct: type[msgspec.Struct], before: str) -> Iterator[Setting]:
    later = []
    defaults, kinds, texts = struct(), get_type_hints(struct), _documented(struct)
    for field in msgspec.structs.fields(struct):
        value = getattr(defaults, field.name)
        if isinstance(value, msgspec.Struct):
            later.append((type(value), f"{before}{field.name}."))
        else:
            yield Setting(f"{before}{field.name}", kinds[field.name], value, texts[field.name])
    for kind, name in later:
        yield from _settings(kind, name)


def _documented(struct: type[msgspec.Struct]) -> dict[str, str]:
    """The text below each field of a class."""
    (node,) = ast.parse(inspect.getsource(struct)).body
    assert isinstance(node, ast.ClassDef)
    found: dict[str, str] = {}
    for field, below in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = ""
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                text = str(below.value.value)
            found[field.target.id] = text
    return found
