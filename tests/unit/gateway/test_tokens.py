"""Prompts to token ids: as the tokenizer and the template say, within a budget, and by text when that cannot be."""

import asyncio
import json
import sys
import threading
import time

import pytest

from gateway.settings import Tokens
from gateway.tokens import service as service_module
from gateway.tokens.conversation import Unsupported, conversation, named_template, tools, variables
from gateway.tokens.question import CHAT, COMPLETIONS
from gateway.tokens.service import PromptTokens
from gateway.tokens.template import ChatTemplate
from gateway.tokens.tokenizer import PromptTokenizer, SegmentCache, UnusableFolder
from tests.support.tokenizer import TEMPLATE, make_tokenizer

HELLO = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "Hello, river!"}]
TOOL = {
    "type": "function",
    "function": {"name": "open_gate", "parameters": {"type": "object"}, "description": "Öffnet"},
}
HELLO_TEXT = (
    "<|start|>system\nYou are a helpful assistant.<|end|>\n<|start|>user\nHello, river!<|end|>\n<|start|>assistant\n"
)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "model"


@pytest.fixture
def plain(folder):
    return make_tokenizer(folder)


@pytest.fixture
def tokenizer(plain, folder):
    return PromptTokenizer(folder, 1 << 20)


def ids(plain, text, special=False):
    return plain.encode(text, add_special_tokens=special).ids


# -- ids


def test_a_chat_has_the_ids_of_its_rendered_text(tokenizer, plain):
    assert list(tokenizer.prompt(CHAT, {"messages": HELLO})) == ids(plain, HELLO_TEXT)


def test_tools_and_calls_are_rendered_as_the_engine_does(tokenizer, plain):
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "open_gate", "arguments": '{"gate": 3}'}}
        ]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "open"}, {"type": "text", "text": "ed"}]},
    ]  # fmt: skip
    tool = '{"type": "function", "function": {"name": "open_gate", "description": "Öffnet", "parameters": {"type": "object"}}}'
    text = (
        f"<|start|>tools\n{tool}\n<|end|>\n"
        + HELLO_TEXT.removesuffix("<|start|>assistant\n")
        + '<|start|>assistant\n<call>open_gate{"gate": 3}</call><|end|>\n<|start|>tool\nopen\ned<|end|>\n'
    )
    body = {"messages": messages, "tools": [TOOL]}
    assert list(tokenizer.prompt(CHAT, body)) == ids(plain, text + "<|start|>assistant\n")
    assert list(tokenizer.prompt(CHAT, body | {"add_generation_prompt": False})) == ids(plain, text)


def test_a_conversation_that_goes_on_begins_with_the_ids_it_had(tokenizer):
    messages = list(HELLO)
    before = tokenizer.prompt(CHAT, {"messages": messages, "add_generation_prompt": False})
    for turn in range(5):
        messages += [{"role": "assistant", "content": f"answer {turn}"}, {"role": "user", "content": "and then?"}]
        after = tokenizer.prompt(CHAT, {"messages": messages, "add_generation_prompt": False})
        assert after[: len(before)] == before
        before = after


def test_a_completion_has_the_tokens_that_the_post_processor_adds_unless_it_says_otherwise(tokenizer, plain):
    assert list(tokenizer.prompt(COMPLETIONS, {"prompt": "the river"})) == ids(plain, "the river", special=True)
    body = {"prompt": ["the river"], "add_special_tokens": False}
    assert list(tokenizer.prompt(COMPLETIONS, body)) == ids(plain, "the river")


def test_token_ids_are_taken_as_they_are(tokenizer):
    assert list(tokenizer.prompt(COMPLETIONS, {"prompt": [5, 0, (1 << 32) - 1]})) == [5, 0, (1 << 32) - 1]
    assert list(tokenizer.prompt(COMPLETIONS, {"prompt": [[1, 2]]})) == [1, 2]


@pytest.mark.parametrize("prompt", [None, 5, ["a", "b"], [[1], [2]], [1, "a"], [-1], [1 << 32], [True], {"a": 1}])
def test_other_prompts_are_not_supported(tokenizer, prompt):
    with pytest.raises(Unsupported):
        tokenizer.prompt(COMPLETIONS, {"prompt": prompt})


def test_other_operations_are_not_supported(tokenizer):
    with pytest.raises(Unsupported):
        tokenizer.prompt("/v1/responses", {"input": "hello"})


@pytest.mark.parametrize(
    "more",
    [
        {"chat_template": "{{ 1 }}"}, {"continue_final_message": True}, {"documents": [{}]}, {"truncate_prompt_tokens": 5},
        {"messages": []}, {"messages": "x"}, {"messages": [5]}, {"messages": [{"role": "developer", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "uuid": "1"}]}]},
        {"messages": [{"role": "user", "content": 5}]}, {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        {"messages": [{"role": "assistant", "content": "x", "reasoning_content": "y"}]},
        {"messages": [{"role": "assistant", "tool_calls": [5]}]}, {"messages": [{"role": "assistant", "tool_calls": 5}]},
        {"tools": 5}, {"tools": [5]}, {"tools": [{"type": "function"}]}, {"chat_template_kwargs": {"tools": []}},
        {"chat_template_kwargs": 5},
    ],
)  # fmt: skip
def test_what_engines_render_in_ways_not_known_here_is_not_supported(tokenizer, more):
    with pytest.raises(Unsupported):
        tokenizer.prompt(CHAT, {"messages": HELLO} | more)


def test_contents_are_texts_or_parts_as_the_template_wants_them():
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}]
    assert conversation({"messages": parts}, wants_parts=False) == [{"role": "user", "content": "a\nb"}]
    wanted = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert conversation({"messages": parts}, wants_parts=True) == [{"role": "user", "content": wanted}]
    assert not ChatTemplate(TEMPLATE, {}).wants_parts
    looping = "{% for m in messages %}{% for part in m['content'] | list %}{{ part.text }}{% endfor %}{% endfor %}"
    assert ChatTemplate(looping, {}).wants_parts
    through_a_name = (
        "{% for m in messages %}{% set c = m.content %}{% for part in c %}{{ part.text }}{% endfor %}{% endfor %}"
    )
    assert ChatTemplate(through_a_name, {}).wants_parts


def test_arguments_that_are_no_object_become_an_empty_one():
    for given in (None, "", "{", "[1]", "5", 7):
        call = {"function": {"name": "f", "arguments": given}}
        found = conversation({"messages": [{"role": "assistant", "tool_calls": [call]}]}, wants_parts=False)
        assert found[0]["tool_calls"][0]["function"]["arguments"] == {}


def test_names_reasoning_and_ids_of_calls_are_passed_on():
    found = conversation(
        {"messages": [
            {"role": "user", "content": "x", "name": "me", "other": 1},
            {"role": "assistant", "content": "y", "reasoning": "because", "tool_calls": []},
            {"role": "tool", "content": "z", "tool_call_id": "1"},
        ]},
        wants_parts=False,
    )  # fmt: skip
    assert found == [
        {"role": "user", "content": "x", "name": "me"},
        {"role": "assistant", "content": "y", "reasoning": "because", "reasoning_content": "because"},
        {"role": "tool", "content": "z", "tool_call_id": "1"},
    ]


def test_variables_of_a_template_come_from_its_request():
    assert variables({}) == {"add_generation_prompt": True}
    assert variables({"chat_template_kwargs": {"a": 1}, "reasoning_effort": "none"}) == {
        "a": 1, "enable_thinking": False, "reasoning_effort": "none", "add_generation_prompt": True,
    }  # fmt: skip


def test_tools_are_in_the_engines_order_with_its_members():
    given = {"type": "function", "function": {"strict": True, "name": "f", "more": 1}, "more": 2}
    wanted = {"type": "function", "function": {"name": "f", "description": None, "parameters": None, "strict": True}}
    assert tools({"tools": [given]}) == [wanted]
    assert tools({"tools": []}) is tools({}) is None


# -- templates and folders


def test_a_template_cannot_leave_its_sandbox():
    for text in ("{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ raise_exception('no') }}"):
        with pytest.raises(Exception, match=r"unsafe|no|security|immutable|not safely"):
            ChatTemplate(text, {}).render([], None, {})


def test_a_template_has_what_transformers_gives_it():
    loop = "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m }}{% endfor %}"
    text = "{% generation %}{{ bos_token }}{% endgeneration %}" + loop
    assert ChatTemplate(text, {"bos_token": "<s>"}).render([1, 2], None, {}) == "<s>1"
    assert ChatTemplate("{{ x | tojson }}", {}).render([], None, {"x": {"ä": "<&>"}}) == '{"ä": "<&>"}'
    assert ChatTemplate("{{ strftime_now('%Y') }}", {}).render([], None, {}) == time.strftime("%Y")


def test_templates_by_name_are_chosen_by_whether_there_are_tools():
    named = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
    assert [named_template(named, has_tools) for has_tools in (False, True)] == ["d", "t"]
    assert named_template(named[:1], True) == "d"
    assert named_template(None, False) is named_template([], True) is named_template(5, True) is None


def test_a_template_in_a_file_of_its_own_comes_first(plain, folder):
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}{{ eos_token }}")
    found = PromptTokenizer(folder, 1 << 20).prompt(CHAT, {"messages": HELLO})
    assert list(found) == ids(plain, "You are a helpful assistant.<|end|>")


def test_without_a_template_completions_are_tokenised_and_chats_are_not(plain, folder):
    (folder / "tokenizer_config.json").unlink()
    tokenizer = PromptTokenizer(folder, 1 << 20)
    assert tokenizer.prompt(COMPLETIONS, {"prompt": "x"})
    with pytest.raises(Unsupported):
        tokenizer.prompt(CHAT, {"messages": HELLO})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "{"),
        ("chat_template.jinja", "{% if %}"),
        ("tokenizer.json", None),
    ],
)
def test_a_folder_that_cannot_be_used_says_which_file(plain, folder, name, content):
    (folder / name).write_text(content) if content is not None else (folder / name).unlink()
    with pytest.raises(
        UnusableFolder, match=name.partition(".")[0] if name != "chat_template.jinja" else "chat template"
    ):
        PromptTokenizer(folder, 1 << 20)


def test_the_cache_is_bounded_and_keeps_what_was_used_last():
    from array import array

    cache = SegmentCache(10)
    for segment in ("aaaa", "bbbb"):
        cache.put("", segment, array("I", [1]))
    assert cache.get("", "aaaa") is not None
    assert cache.get("another tenant", "aaaa") is None
    cache.put("", "cccc", array("I", [2]))
    cache.put("", "x" * 11, array("I", [3]))
    assert [cache.get("", one) is not None for one in ("aaaa", "bbbb", "cccc", "x" * 11)] == [True, False, True, False]


# -- the service


def body(**more):
    return json.dumps({"model": "m", "messages": HELLO} | more).encode()


async def test_ids_come_from_a_thread_with_the_salt(plain, folder):
    service = PromptTokens(Tokens(budget_seconds=10))
    found = await service.of(str(folder), CHAT, body(cache_salt="pepper"))
    assert (list(found.ids), found.salt, found.outcome) == (ids(plain, HELLO_TEXT), "pepper", "tokens")
    assert found == service.at_once(str(folder), CHAT, body(cache_salt="pepper"))
    service.close()


async def test_what_comes_late_is_late_and_ready_for_the_next(plain, folder, monkeypatch):
    service = PromptTokens(Tokens(budget_seconds=0.05))
    slow = PromptTokenizer.prompt
    monkeypatch.setattr(PromptTokenizer, "prompt", lambda *given: time.sleep(0.3) or slow(*given))
    started = time.monotonic()
    assert (await service.of(str(folder), CHAT, body())).outcome == "late"
    assert time.monotonic() - started < 0.29
    monkeypatch.undo()
    await asyncio.sleep(0.5)
    assert (await service.of(str(folder), CHAT, body())).outcome == "tokens"
    service.close()


async def test_more_than_a_thread_can_do_is_busy_at_once(plain, folder, monkeypatch):
    service, held = PromptTokens(Tokens(budget_seconds=0.01)), threading.Event()
    monkeypatch.setattr(PromptTokenizer, "prompt", lambda *given: held.wait(20) and 1 / 0)
    found = [await service.of(str(folder), CHAT, body()) for _ in range(service_module.PENDING_EACH + 2)]
    assert [one.outcome for one in found] == ["late"] * service_module.PENDING_EACH + ["busy", "busy"]
    service.close()
    held.set()
    await asyncio.sleep(0.3)


async def test_a_request_that_is_cancelled_meanwhile_leaves_nothing_behind(plain, folder, monkeypatch):
    service = PromptTokens(Tokens(budget_seconds=5))
    monkeypatch.setattr(PromptTokenizer, "prompt", lambda *given: time.sleep(0.2) or 1 / 0)
    asking = asyncio.create_task(service.of(str(folder), CHAT, body()))
    await asyncio.sleep(0.05)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await asyncio.sleep(0.4)
    assert service._pending == 0
    service.close()


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        (body(continue_final_message=True), "unsupported"),
        (b"[]", "failed"),
        (b"{", "failed"),
        (body(messages=[{"role": "user", "content": "\ud800"}]), "failed"),
    ],
)
def test_what_cannot_be_tokenised_says_why(plain, folder, given, outcome):
    assert PromptTokens(Tokens()).at_once(str(folder), CHAT, given).outcome == outcome


def test_a_folder_that_is_missing_is_looked_for_again_after_a_while(tmp_path, caplog):
    now = [100.0]
    service = PromptTokens(Tokens(), lambda: now[0])
    for _ in range(3):
        assert service.at_once(str(tmp_path / "later"), CHAT, body()).outcome == "no_tokenizer"
    assert len(caplog.records) == 1
    make_tokenizer(tmp_path / "later")
    assert service.at_once(str(tmp_path / "later"), CHAT, body()).outcome == "no_tokenizer"
    now[0] += service_module.AGAIN_SECONDS
    assert service.at_once(str(tmp_path / "later"), CHAT, body()).outcome == "tokens"


def test_without_the_extra_prompts_are_matched_by_text_and_the_log_says_what_to_install(
    plain, folder, monkeypatch, caplog
):
    monkeypatch.delitem(sys.modules, "gateway.tokens.tokenizer")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert PromptTokens(Tokens()).at_once(str(folder), CHAT, body()).outcome == "no_tokenizer"
    assert "pip install 'penstock[tokens]'" in caplog.text
