"""Chat templates, in a sandbox, with what transformers gives them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox


class _Generation(jinja2.ext.Extension):
    """``{% generation %}``: marks what the assistant wrote, for training. Here it is its content."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(format_: str) -> str:
    return datetime.now().strftime(format_)


class ChatTemplate:
    """One template."""

    def __init__(self, text: str, special_tokens: Mapping[str, Any]) -> None:
        """``special_tokens`` by the names that templates read (``bos_token``). Raises jinja2.TemplateError."""
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._template = environment.from_string(text)
        self._special_tokens = dict(special_tokens)
        self.wants_parts = any(True for _ in _content_loops(environment.parse(text)))
        """Whether it goes through the parts of a message's content, as vLLM finds out."""

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, variables: Mapping[str, Any]
    ) -> str:
        """The prompt's text. Raises jinja2.TemplateError, and whatever a template does wrong with what it is given."""
        given = self._special_tokens | dict(variables)
        return self._template.render(messages=messages, tools=tools, documents=None, **given)


def _content_loops(root: jinja2.nodes.Template) -> Iterator[jinja2.nodes.For]:
    """Loops over a message's content."""
    contents = {"content"}
    for assignment in root.find_all(jinja2.nodes.Assign):
        if isinstance(assignment.target, jinja2.nodes.Name) and _is_content(assignment.node, contents):
            contents.add(assignment.target.name)
    for loop in root.find_all(jinja2.nodes.For):
        if _is_content(loop.iter, contents):
            yield loop


def _is_content(node: jinja2.nodes.Node, names: set[str]) -> bool:
    while isinstance(node, jinja2.nodes.Filter | jinja2.nodes.Test) and node.node is not None:
        node = node.node
    if isinstance(node, jinja2.nodes.Getitem):
        return isinstance(node.arg, jinja2.nodes.Const) and node.arg.value == "content"
    if isinstance(node, jinja2.nodes.Getattr):
        return node.attr == "content"
    return isinstance(node, jinja2.nodes.Name) and node.name in names
