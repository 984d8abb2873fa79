"""Text without a model: a tokeniser of four bytes a token, a chat template, and answers of canned words."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

TOKEN_BYTES = 4
_TEXT = (
    "water runs through the gate and turns the wheel while the river keeps its level and nobody upstream has to wait "
    "for more than it takes to open one more valve so that every turbine gets what it can use and nothing is spilled"
)
_WORDS = tuple(_TEXT.split(" "))


def tokenize(text: str) -> tuple[int, ...]:
    """Token ids: equal prefixes of a text give equal prefixes of ids, up to the last four bytes."""
    data = text.encode(errors="surrogatepass")  # JSON can name half a character
    return tuple(int.from_bytes(data[at : at + TOKEN_BYTES], "big") for at in range(0, len(data), TOKEN_BYTES))


class Words:
    """Token ids of prompts: :func:`tokenize` and :func:`render`."""

    def of_text(self, text: str) -> tuple[int, ...]:
        """Token ids of a prompt."""
        return tokenize(text)

    def of_chat(self, messages: Sequence[dict[str, Any]], tools: Sequence[Any]) -> tuple[int, ...]:
        """Token ids of a conversation."""
        return tokenize(render(messages, tools))


def detokenize(tokens: Sequence[int]) -> str:
    """The text of token ids."""
    return b"".join(token.to_bytes(TOKEN_BYTES, "big").lstrip(b"\0") for token in tokens).decode(errors="replace")


def render(messages: Sequence[dict[str, Any]], tools: Sequence[Any] = ()) -> str:
    """A chat template in the manner of ChatML."""
    parts = [f"<tools>{tools}</tools>\n"] if tools else []
    for message in messages:
        content = message.get("content") or ""
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        parts.append(f"<|{message.get('role', 'user')}|>\n{content}\n")
    return "".join([*parts, "<|assistant|>\n"])


def words(seed: int) -> Iterator[str]:
    """An answer, word by word, for ever; the same for the same seed."""
    chosen = random.Random(seed)  # noqa: S311 - canned text, not a secret
    at = chosen.randrange(len(_WORDS))
    first = True
    while True:
        word = _WORDS[at % len(_WORDS)]
        yield word.capitalize() if first else f" {word}"
        first = False
        at += 1
