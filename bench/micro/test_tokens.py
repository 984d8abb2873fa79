"""Tokenising a conversation of 100 KB as a worker's thread does: whole, and when one turn has come to it. The tokenizer is tiny."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from gateway.tokens.question import CHAT
from gateway.tokens.tokenizer import PromptTokenizer
from tests.support.tokenizer import CORPUS, make_tokenizer

RANDOM = Random(1)
WORDS = " ".join(CORPUS).split(" ")
TURNS = [
    {"role": ("user", "assistant")[turn % 2], "content": " ".join(RANDOM.choices(WORDS, k=400))} for turn in range(40)
]

pytestmark = pytest.mark.benchmark(max_time=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("model")
    make_tokenizer(found)
    return found


def body_of(turns: list[dict[str, str]]) -> bytes:
    return msgspec.json.encode({"model": "m", "messages": turns})


def test_tokenise_conversation_100_kb(benchmark: Callable[..., Any], folder: Path) -> None:
    tokenizer, body = PromptTokenizer(folder, 0), body_of(TURNS)
    assert 90_000 < len(body) < 130_000
    assert len(benchmark(lambda: tokenizer.prompt(CHAT, msgspec.json.decode(body)))) > 10_000


def test_tokenise_conversation_100_kb_with_one_new_turn(benchmark: Callable[..., Any], folder: Path) -> None:
    tokenizer = PromptTokenizer(folder, 64 << 20)
    tokenizer.prompt(CHAT, {"messages": TURNS[:-1]})
    turn = iter(range(1 << 30))

    def next_turn() -> int:
        # each round has a last turn of its own, which no round before has tokenised
        messages = [*TURNS[:-1], {"role": "assistant", "content": f"{next(turn)} {TURNS[-1]['content']}"}]
        return len(tokenizer.prompt(CHAT, msgspec.json.decode(body_of(messages))))

    assert benchmark(next_turn) > 10_000
