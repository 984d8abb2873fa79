"""A chat request as the engine hands it to the chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Message = dict[str, Any]
_TEXT_ALONE = {"type", "text"}
_NOT_RENDERED = (
    "chat_template",
    "continue_final_message",
    "documents",
    "truncate_prompt_tokens",
    "prompt_embeds",
    "mm_processor_kwargs",
)
_ROLES = ("system", "user", "assistant", "tool")
_BILLING_HEADER = "x-anthropic-billing-header"
"""vLLM drops a system text's line that begins so."""


class Unsupported(Exception):
    """The engine would render it in a way that is not known here (images, templates of the client's own)."""


def conversation(body: Mapping[str, Any], wants_parts: bool) -> list[Message]:
    """The messages. ``wants_parts``: the template goes through a list of parts, else contents are texts. Raises Unsupported."""
    for member in _NOT_RENDERED:
        if body.get(member):
            raise Unsupported(member)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Unsupported("messages")
    return [_message(one, wants_parts) for one in messages]


def tools(body: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The tools with the members that the engine passes on, in its order; None when there are none. Raises Unsupported."""
    given = body.get("tools")
    if not given:
        return None
    if not isinstance(given, list):
        raise Unsupported("tools")
    return [_tool(one) for one in given]


def variables(body: Mapping[str, Any]) -> dict[str, Any]:
    """What else the template may read. Raises Unsupported."""
    given = body.get("chat_template_kwargs") or {}
    if not isinstance(given, dict) or given.keys() & {"chat_template", "tokenize", "messages", "tools", "documents"}:
        raise Unsupported("chat_template_kwargs")
    found = dict(given)
    effort = body.get("reasoning_effort")
    if effort is not None:
        found.setdefault("enable_thinking", effort != "none")
        found["reasoning_effort"] = effort
    asked = body.get("add_generation_prompt")
    found["add_generation_prompt"] = True if asked is None else bool(asked)
    return found


def _message(given: Any, wants_parts: bool) -> Message:
    if not isinstance(given, dict) or given.get("role") not in _ROLES:
        raise Unsupported("role")
    role = given["role"]
    texts = _texts(given.get("content"))
    if role == "system" and any(text.startswith(_BILLING_HEADER) for text in texts):
        raise Unsupported("content")
    parts = wants_parts and role != "tool"
    content: Any = [{"type": "text", "text": text} for text in texts] if parts else "\n".join(texts)
    made: Message = {"role": role, "content": content}
    if role == "assistant":
        _add_assistant(made, given)
    elif role == "tool" and "tool_call_id" in given:
        made["tool_call_id"] = given["tool_call_id"]
    if isinstance(given.get("name"), str):
        made["name"] = given["name"]
    return made


def _texts(content: Any) -> list[str]:
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        raise Unsupported("content")
    return [_text(part) for part in content]


def _text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.get("type") != "text" or part.keys() - _TEXT_ALONE:
        raise Unsupported("content")
    if not isinstance(part.get("text"), str):
        raise Unsupported("content")
    text: str = part["text"]
    return text


def _add_assistant(made: Message, given: Mapping[str, Any]) -> None:
    if given.get("reasoning_content") is not None and given.get("reasoning") is None:
        raise Unsupported("reasoning_content")  # some engines read it, others do not
    if given.get("reasoning") is not None:
        made["reasoning"] = made["reasoning_content"] = given["reasoning"]
    calls = given.get("tool_calls")
    if calls:
        if not isinstance(calls, list):
            raise Unsupported("tool_calls")
        made["tool_calls"] = [_call(one) for one in calls]


def _call(given: Any) -> dict[str, Any]:
    """A tool call whose arguments are an object: templates expect no JSON text."""
    function = given.get("function") if isinstance(given, dict) else None
    if not isinstance(function, dict):
        raise Unsupported("tool_calls")
    made: dict[str, Any] = given | {"function": function | {"arguments": _arguments(function.get("arguments"))}}
    return made


def _arguments(given: Any) -> dict[str, Any]:
    if isinstance(given, str) and given:
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            return {}
    return dict(given) if isinstance(given, dict) else {}


def _tool(given: Any) -> dict[str, Any]:
    function = given.get("function") if isinstance(given, dict) else None
    if not isinstance(function, dict) or given.get("defer_loading") is not None:
        raise Unsupported("tools")
    made = {name: function.get(name) for name in ("name", "description", "parameters")}
    if function.get("strict") is not None:
        made["strict"] = function["strict"]
    return {"type": "function", "function": made}


def named_template(given: Any, has_tools: bool) -> str | None:
    """The template out of a tokenizer's configuration: a text, or several by name. None when there is none."""
    if isinstance(given, str):
        return given
    if isinstance(given, Sequence):
        by_name = {one.get("name"): one.get("template") for one in given if isinstance(one, dict)}
        found = by_name.get("tool_use") if has_tools and "tool_use" in by_name else by_name.get("default")
        return found if isinstance(found, str) else None
    return None
