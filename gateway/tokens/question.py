"""What an engine's ``/tokenize`` is asked for the ids of a request's prompt, in vLLM's words or SGLang's."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Literal

import msgspec
from msgspec import Struct

from gateway.tokens.conversation import Unsupported, variables

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
LARGEST_ID = (1 << 32) - 1
_PASSED_ON = ("add_generation_prompt", "add_special_tokens", "chat_template", "continue_final_message")
_SGLANG_CHAT = (
    "tools",
    "tool_choice",
    "reasoning",
    "reasoning_effort",
    "chat_template_kwargs",
    "continue_final_message",
)
"""SGLang renders a chat for ``/tokenize`` as it renders the chat itself: out of the request's own members."""
_NOT_ASKED = ("documents", "mm_processor_kwargs", "prompt_embeds", "truncate_prompt_tokens")
"""What changes a prompt and ``/tokenize`` does not take."""


class Question(Struct, frozen=True, gc=False):
    """A body for ``/tokenize``, its hash, and the salt that the prompt's first block has; ``ids`` where nobody need be asked."""

    body: bytes
    key: bytes
    salt: str
    ids: array[int] | None = None


class _Told(Struct):
    tokens: list[int]


def question_of(
    path: str, body: bytes, model: str | None, apart: bytes = b"", engine: Literal["vLLM", "SGLang"] = "vLLM"
) -> Question:
    """What to ask for a request's body; ``model`` replaces the name in it. Raises Unsupported, and DecodeError for what is no object.

    ``apart``: whose questions it shares its hash with; else those with its own salt, or none.
    """
    content = msgspec.json.decode(body, type=dict[str, Any])
    given = content.get("cache_salt")
    salt = given if isinstance(given, str) else ""
    asked: dict[str, Any] = {"model": model if model is not None else content.get("model")}
    if any(content.get(member) for member in _NOT_ASKED):
        raise Unsupported("members that /tokenize does not take")
    is_vllm = engine == "vLLM"
    passed_on = _PASSED_ON if is_vllm else _SGLANG_CHAT if path == CHAT else ()
    asked |= {member: content[member] for member in passed_on if content.get(member) is not None}
    if path == CHAT:
        asked |= _chat(content) if is_vllm else {"messages": _messages(content)}
    elif path == COMPLETIONS:
        prompt = _prompt(content.get("prompt"))
        if not isinstance(prompt, str):
            return Question(b"", b"", salt, prompt)
        asked["prompt"] = prompt
    else:
        raise Unsupported("operation")
    made = msgspec.json.encode(asked)
    whose = blake2b(apart or salt.encode(), digest_size=32).digest()
    return Question(made, blake2b(made, key=whose, digest_size=32).digest(), salt)


def read_answer(answer: bytes) -> array[int]:
    """The ids out of an engine's answer. Raises msgspec.DecodeError and OverflowError for what is none."""
    return array("I", msgspec.json.decode(answer, type=_Told).tokens)


def _messages(content: Mapping[str, Any]) -> list[Any]:
    messages = content.get("messages")
    if not isinstance(messages, list) or not all(map(_is_text, messages)):
        raise Unsupported("messages")  # of images the engine's /tokenize does not say the ids that it computes
    return messages


def _chat(content: Mapping[str, Any]) -> dict[str, Any]:
    asked: dict[str, Any] = {"messages": _messages(content)}
    if content.get("tools"):
        asked["tools"] = content["tools"]
    read = variables(content)
    del read["add_generation_prompt"]
    if read:
        asked["chat_template_kwargs"] = read
    return asked


def _is_text(message: Any) -> bool:
    content = message.get("content") if isinstance(message, dict) else 0
    if isinstance(content, list):
        return all(isinstance(part, str) or (isinstance(part, dict) and part.get("type") == "text") for part in content)
    return content is None or isinstance(content, str)


def _prompt(given: Any) -> str | array[int]:
    """One text, or ids that need no tokenizer. Raises Unsupported."""
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], str | list):
        given = given[0]
    if isinstance(given, str):
        return given
    if isinstance(given, list) and all(type(one) is int and 0 <= one <= LARGEST_ID for one in given):
        return array("I", given)
    raise Unsupported("prompt")
