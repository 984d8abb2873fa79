"""A simulated engine with a real tokenizer."""

from simulator.tokenizer import FolderTokenizer
from tests.support.tokenizer import make_tokenizer

TOOL = {"type": "function", "function": {"name": "f", "description": "<&>", "parameters": {}}}


def test_prompts_and_conversations_have_the_tokenizers_ids(tmp_path):
    plain = make_tokenizer(tmp_path)
    words = FolderTokenizer(tmp_path)
    assert list(words.of_text("the river")) == plain.encode("the river").ids
    text = (
        '<|start|>tools\n{"type": "function", "function": {"name": "f", "description": "<&>", "parameters": {}}}\n<|end|>\n'
        "<|start|>user\nhello<|end|>\n<|start|>assistant\n"
    )
    found = words.of_chat([{"role": "user", "content": "hello"}], [TOOL])
    assert list(found) == plain.encode(text, add_special_tokens=False).ids


def test_a_template_in_a_file_of_its_own_comes_first(tmp_path):
    plain = make_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    found = FolderTokenizer(tmp_path).of_chat([{"content": "river"}], ())
    assert list(found) == plain.encode("river", add_special_tokens=False).ids
