"""What a request asks for: OpenAI's bodies checked as vLLM checks them, and what the engine is to do for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from simulator.text import Words

DEFAULT_OUTPUT_TOKENS = 48
MOST_CHOICES = 128
LARGEST_TOKEN = (1 << 32) - 1
_TYPES = {404: "NotFoundError"}


class Tokenizer(Protocol):
    """What makes token ids of texts and of conversations."""

    def of_text(self, text: str) -> tuple[int, ...]: ...
    def of_chat(self, messages: Sequence[dict[str, Any]], tools: Sequence[Any]) -> tuple[int, ...]: ...


WORDS = Words()


class Refusal(Exception):
    """An error object of the engine."""

    def __init__(self, status: int, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = _TYPES.get(status, "BadRequestError")
        self.content = {"error": {"message": message, "type": kind, "param": parameter, "code": status}}


@dataclass(frozen=True, slots=True)
class Work:
    """What one request is for the engine: ``choices`` answers of ``length`` tokens to each of the prompts."""

    prompts: tuple[tuple[int, ...], ...]
    length: int
    choices: int
    is_streamed: bool
    wants_usage: bool
    transfer: dict[str, Any]
    salt: str = ""
    """Its blocks are shared with those of the same salt alone."""

    @property
    def answers(self) -> int:
        """Choices of the whole answer, those of the first prompt first."""
        return len(self.prompts) * self.choices


def work_of(body: dict[str, Any], prompts: tuple[tuple[int, ...], ...], limits: tuple[str, ...], longest: int) -> Work:
    """Check the members that all operations share; ``limits`` names those that bound the answer. Raises Refusal."""
    length = _length(body, limits)
    for prompt in prompts:
        if len(prompt) + length > longest:
            raise Refusal(400, f"This model's maximum context length is {longest} tokens.")
    options = _object(body, "stream_options")
    return Work(
        prompts=prompts,
        length=length,
        choices=_choices(body),
        is_streamed=_flag(body, "stream", "stream"),
        wants_usage=_flag(options, "include_usage", "stream_options"),
        transfer=_object(body, "kv_transfer_params"),
        salt=_salt(body),
    )


def chat_prompt(body: dict[str, Any], words: Tokenizer = WORDS) -> tuple[tuple[int, ...], ...]:
    """The prompt of a conversation. Raises Refusal."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise Refusal(400, "messages must be a list of objects that is not empty", "messages")
    return (words.of_chat(messages, body.get("tools") or ()),)


def completion_prompts(body: dict[str, Any], words: Tokenizer = WORDS) -> tuple[tuple[int, ...], ...]:
    """The prompts of a completion: one text, several, token ids, or several lists of those. Raises Refusal."""
    prompt = body.get("prompt")
    several = prompt if _is_several(prompt) else [prompt]
    assert isinstance(several, list)
    found = tuple(_tokens(one, words) for one in several)
    if not all(found):
        raise Refusal(400, "prompt must be a text, a list of token ids, or a list of either", "prompt")
    return found


def response_prompt(body: dict[str, Any], words: Tokenizer = WORDS) -> tuple[tuple[int, ...], ...]:
    """The prompt of the responses API: a text or a conversation, below the instructions. Raises Refusal."""
    given = body.get("input")
    if isinstance(given, str) and given:
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given or not all(isinstance(one, dict) for one in given):
        raise Refusal(400, "input must be a text or a list of objects that is not empty", "input")
    instructions = body.get("instructions")
    if instructions is not None and not isinstance(instructions, str):
        raise Refusal(400, "instructions must be a text", "instructions")
    messages = [{"role": "system", "content": instructions}, *given] if instructions else given
    return (words.of_chat(messages, body.get("tools") or ()),)


def embedding_inputs(body: dict[str, Any], words: Tokenizer = WORDS) -> tuple[tuple[int, ...], ...]:
    """What is to be embedded: one text, several, token ids, or several lists of those. Raises Refusal."""
    given = body.get("input")
    several = given if _is_several(given) else [given]
    assert isinstance(several, list)
    if not all(isinstance(one, str) or _tokens(one, words) for one in several):
        raise Refusal(400, "input must be a text, a list of token ids, or a list of either", "input")
    return tuple(_tokens(one, words) for one in several)


def token_ids(body: dict[str, Any]) -> tuple[int, ...]:
    """The member ``tokens``. Raises Refusal."""
    given = body.get("tokens")
    if given != [] and not _is_tokens(given):
        raise Refusal(400, f"tokens must be a list of whole numbers from 0 to {LARGEST_TOKEN}", "tokens")
    return tuple(given or ())


def _is_several(given: Any) -> bool:
    return isinstance(given, list) and bool(given) and all(isinstance(one, str | list) for one in given)


def _is_tokens(given: Any) -> bool:
    return (
        isinstance(given, list) and bool(given) and all(type(one) is int and 0 <= one <= LARGEST_TOKEN for one in given)
    )


def _tokens(given: Any, words: Tokenizer) -> tuple[int, ...]:
    """Token ids of one prompt; none when it is no prompt."""
    if isinstance(given, str):
        return words.of_text(given)
    return tuple(given) if _is_tokens(given) else ()


def _length(body: dict[str, Any], limits: tuple[str, ...]) -> int:
    given = [(name, body[name]) for name in limits if body.get(name) is not None]
    name, length = given[0] if given else (limits[-1], DEFAULT_OUTPUT_TOKENS)
    if type(length) is not int or length < 1:
        raise Refusal(400, f"{name} must be at least 1", name)
    return length


def _choices(body: dict[str, Any]) -> int:
    given = body.get("n")
    if given is None:
        return 1
    if type(given) is not int or not 1 <= given <= MOST_CHOICES:
        raise Refusal(400, f"n must be a whole number from 1 to {MOST_CHOICES}", "n")
    return given


def _salt(body: dict[str, Any]) -> str:
    given = body.get("cache_salt")
    if given is not None and not (isinstance(given, str) and given):
        raise Refusal(400, "cache_salt must be a text that is not empty", "cache_salt")
    return given or ""


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    given = body.get(name)
    if given is not None and not isinstance(given, dict):
        raise Refusal(400, f"{name} must be an object", name)
    return given or {}


def _flag(body: dict[str, Any], name: str, parameter: str) -> bool:
    given = body.get(name)
    if given is not None and not isinstance(given, bool):
        raise Refusal(400, f"{name} must be true or false", parameter)
    return bool(given)
