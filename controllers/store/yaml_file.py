"""YAML documents with the line of every field, so that a fault can name file, line and field."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from controllers.api.meta import API_VERSION, KINDS, Fault
from controllers.api.model_route import ModelRoute
from controllers.api.model_server import ModelServer
from controllers.store.store import Problem

LARGEST_FILE = 8 << 20
LARGEST_OBJECT = 256 << 10
MOST_FIELDS = 100_000
Item = ModelRoute | ModelServer
TYPES: dict[str, type[ModelRoute] | type[ModelServer]] = {"ModelRoute": ModelRoute, "ModelServer": ModelServer}
_AT_PATH = re.compile(r"^(.*?)(?: - at `(?:key in )?\$\.?(.*?)`)?$", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]+)`")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a file holds."""

    objects: tuple[Item, ...]
    problems: tuple[Problem, ...]
    ignored: tuple[str, ...] = ()
    """What is valid and has no effect, a line each."""


def load_file(file: Path) -> Loaded:
    """Every document of a file; problems instead of exceptions."""
    objects: list[Item] = []
    problems: list[Problem] = []
    ignored: list[str] = []
    try:
        if file.stat().st_size > LARGEST_FILE:
            return Loaded((), (Problem(file, 1, "", f"larger than {LARGEST_FILE} bytes"),))
        text = file.read_text(encoding="utf-8")
        nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        detail = getattr(error, "problem", None) or str(error)
        return Loaded((), (Problem(file, mark.line + 1 if mark else 1, "", f"not valid YAML: {detail}"),))
    except RecursionError:
        return Loaded((), (Problem(file, 1, "", "not usable YAML: nested too deeply"),))
    except (OSError, UnicodeDecodeError) as error:
        return Loaded((), (Problem(file, 1, "", str(error)),))
    for node in nodes:
        if node is None or node.tag == "tag:yaml.org,2002:null":
            continue  # an empty document, as templates leave them
        try:
            _load_document(file, node, objects, problems, ignored)
        except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
            detail = (
                "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "problem", None) or error
            )
            problems.append(Problem(file, node.start_mark.line + 1, "", f"not usable YAML: {detail}"))
    return Loaded(tuple(objects), tuple(problems), tuple(ignored))


def _load_document(
    file: Path,
    node: yaml.Node,
    objects: list[Item],
    problems: list[Problem],
    ignored: list[str],
) -> None:
    lines: dict[str, int] = {}
    here: list[Problem] = []
    content = _construct(node, "", lines, file, here)
    if here:
        problems += here
        return
    line = node.start_mark.line + 1
    kind = content.get("kind") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not kind:
        problems.append(Problem(file, line, "kind", f"must be one of {', '.join(KINDS)}"))
        return
    version = content.get("apiVersion")
    if version != API_VERSION:
        problems.append(
            Problem(file, lines.get("apiVersion", line), "apiVersion", f"must be {API_VERSION}, not {version}")
        )
        return
    if kind not in KINDS:
        at = lines.get("kind", line)
        problems.append(Problem(file, at, "kind", f"unknown kind `{kind}`: one of {', '.join(KINDS)}"))
        return
    if kind not in TYPES:
        ignored.append(f"{file}:{line}: {kind} is for a cluster: it does nothing in a folder")
        return
    try:
        item: Item = msgspec.convert(content, TYPES[kind])
    except msgspec.ValidationError as error:
        fault = _fault_of(str(error))
        problems.append(Problem(file, _line_of(fault.path, lines, line), fault.path, fault.message))
        return
    faults = list(item.faults())
    if len(msgspec.json.encode(item)) > LARGEST_OBJECT:
        faults.append(Fault("spec", f"larger than {LARGEST_OBJECT} bytes"))
    problems += [Problem(file, _line_of(fault.path, lines, line), fault.path, fault.message) for fault in faults]
    if not faults:
        objects.append(item)
        for lacking in item.not_built():
            ignored.append(f"{file}:{_line_of(lacking.path, lines, line)}: {lacking.path}: {lacking.message}")


def _construct(node: yaml.Node, path: str, lines: dict[str, int], file: Path, problems: list[Problem]) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if len(lines) > MOST_FIELDS:
        raise ValueError(f"more than {MOST_FIELDS} fields (aliases count as often as they stand)")
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            inner = f"{path}.{key}" if path else key
            lines[inner] = key_node.start_mark.line + 1
            if key in mapping:
                problems.append(Problem(file, lines[inner], inner, "stands twice"))
            mapping[key] = _construct(value_node, inner, lines, file, problems)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_construct(one, f"{path}[{i}]", lines, file, problems) for i, one in enumerate(node.value)]
    if node.tag == "tag:yaml.org,2002:bool" and node.value.lower() not in ("true", "false"):
        return node.value  # `off` and `yes` are words, as in YAML 1.2
    return yaml.SafeLoader("").construct_object(node) if node.tag != "tag:yaml.org,2002:timestamp" else node.value


def _fault_of(message: str) -> Fault:
    found = _AT_PATH.match(message)
    assert found is not None
    text, path = found[1], found[2] or ""
    unknown = _UNKNOWN_FIELD.search(text)
    if unknown is not None:
        return Fault(f"{path}.{unknown[1]}" if path else unknown[1], "unknown field")
    return Fault(path, text[0].lower() + text[1:])


def _line_of(path: str, lines: dict[str, int], otherwise: int) -> int:
    # a field that is missing has no line: its nearest parent that is there has
    while path:
        if path in lines:
            return lines[path]
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return lines.get("", otherwise)
