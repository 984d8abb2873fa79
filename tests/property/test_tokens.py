"""Cutting a conversation at special tokens changes no id, whatever is written in it."""

import functools
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.tokens.question import CHAT
from gateway.tokens.tokenizer import PromptTokenizer
from tests.support.examples import examples
from tests.support.tokenizer import make_tokenizer

PIECES = st.sampled_from(
    [
        "<|start|>",
        "<|end|>",
        "<call>",
        "</call>",
        "<s>",
        "<|sta",
        "rt|>",
        "<|start",
        " ",
        "\n",
        "\n\n",
        "river",
        "ä",
        "\u2028",
        "😀",
        "<",
    ]
)
TEXT = st.one_of(
    st.lists(PIECES, max_size=12).map("".join), st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
)
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": TEXT})


@functools.cache
def made():
    folder = Path(tempfile.mkdtemp(prefix="penstock-tokenizer-"))
    plain = make_tokenizer(folder)
    return plain, PromptTokenizer(folder, 2000)


@settings(max_examples=examples(400), deadline=None)
@given(messages=st.lists(MESSAGE, min_size=1, max_size=6))
def test_segments_have_the_ids_of_the_whole(messages):
    plain, tokenizer = made()
    text = tokenizer._templates[0].render(messages, None, {"add_generation_prompt": True})
    for _ in range(2):
        assert list(tokenizer.prompt(CHAT, {"messages": messages})) == plain.encode(text, add_special_tokens=False).ids
