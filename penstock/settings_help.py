"""The text below each setting in ``gateway/settings.py``, for the help of commands and for docs/settings.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from gateway import settings
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
    texts = _documented(Path(settings.__file__).read_text(encoding="utf-8"))
    return list(_settings(Settings, texts, ""))


def _settings(struct: type[msgspec.Struct], texts: dict[str, dict[str, str]], before: str) -> Iterator[Setting]:
    later = []
    defaults, kinds = struct(), get_type_hints(struct)
    for field in msgspec.structs.fields(struct):
        value = getattr(defaults, field.name)
        if isinstance(value, msgspec.Struct):
            later.append((type(value), f"{before}{field.name}."))
        else:
            yield Setting(f"{before}{field.name}", kinds[field.name], value, texts[struct.__name__][field.name])
    for kind, name in later:
        yield from _settings(kind, texts, name)


def _documented(source: str) -> dict[str, dict[str, str]]:
    """The text below each field, by class and field."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        fields = found[node.name] = {}
        for field, below in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                text = ""
                if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                    text = str(below.value.value)
                fields[field.target.id] = text
    return found
