"""Token ids from an engine's /tokenize: what it is asked, whom, how often, and what becomes of a request when it does not say."""

import asyncio
import json

import pytest

from gateway.datastore.model import Server
from gateway.errors import UpstreamError, UpstreamTimeout
from gateway.settings import Tokens
from gateway.tokens.conversation import Unsupported
from gateway.tokens.engine_tokens import AVOIDED_SECONDS, EngineTokens
from gateway.tokens.question import CHAT, COMPLETIONS, question_of, read_answer
from tests.unit.gateway.fakes import Answer, chat
from tests.unit.gateway.fleet import SERVER, Fleet

HELLO = [{"role": "user", "content": "Hello, river!"}]


def body(**more):
    return json.dumps({"model": "m", "messages": HELLO} | more).encode()


def told(*ids, status=200):
    return Answer([json.dumps({"tokens": ids, "count": len(ids), "max_model_len": 100}).encode()], status)


# -- what is asked


def asked(path, content, model=None):
    return json.loads(question_of(path, content, model).body)


def test_a_chat_is_asked_for_with_all_that_its_template_reads():
    tools = [{"type": "function", "function": {"name": "open_gate"}}]
    content = body(
        tools=tools,
        add_generation_prompt=False,
        chat_template_kwargs={"a": 1},
        temperature=0,
        max_tokens=5,
        stream=True,
    )
    wanted = {
        "model": "m", "messages": HELLO, "tools": tools, "add_generation_prompt": False, "chat_template_kwargs": {"a": 1},
    }  # fmt: skip
    assert asked(CHAT, content) == wanted
    assert asked(CHAT, body()) == {"model": "m", "messages": HELLO}


def test_the_effort_of_reasoning_is_told_as_templates_read_it():
    found = asked(CHAT, body(reasoning_effort="none"))["chat_template_kwargs"]
    assert found == {"enable_thinking": False, "reasoning_effort": "none"}


def test_sglang_is_told_a_chat_s_own_members_since_it_renders_them_as_the_chat():
    tools = [{"type": "function", "function": {"name": "open_gate"}}]
    passed_on = {
        "tools": tools, "tool_choice": "auto", "reasoning_effort": "none", "chat_template_kwargs": {"a": 1},
        "continue_final_message": True, "reasoning": {"enabled": False},
    }  # fmt: skip
    content = body(temperature=0, stream=True, add_special_tokens=False, chat_template="{{ x }}", **passed_on)
    found = question_of(CHAT, content, "served", engine="SGLang")
    assert json.loads(found.body) == {"model": "served", "messages": HELLO, **passed_on}
    with pytest.raises(Unsupported):
        question_of(CHAT, body(messages="hello"), None, engine="SGLang")


def test_sglang_adds_special_tokens_to_every_completion():
    content = json.dumps({"model": "m", "prompt": "hello", "add_special_tokens": False}).encode()
    assert json.loads(question_of(COMPLETIONS, content, None, engine="SGLang").body) == {
        "model": "m",
        "prompt": "hello",
    }


def test_an_answer_of_sglang_whose_tokenizer_has_no_longest_prompt_is_read():
    assert list(read_answer(b'{"tokens":[1,2],"count":2,"max_model_len":1000000000000000019884624838656}')) == [1, 2]


@pytest.mark.parametrize("prompt", ["hello", ["hello"]])
def test_a_completion_is_asked_for_by_its_one_text(prompt):
    content = json.dumps({"model": "m", "prompt": prompt, "add_special_tokens": False, "max_tokens": 3}).encode()
    assert asked(COMPLETIONS, content, "served") == {"model": "served", "prompt": "hello", "add_special_tokens": False}


def test_a_prompt_of_ids_needs_nobody():
    assert list(question_of(COMPLETIONS, b'{"model": "m", "prompt": [1, 2]}', None).ids) == [1, 2]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (CHAT, body(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])),
        (CHAT, body(messages="hello")),
        (CHAT, body(truncate_prompt_tokens=3)),
        (CHAT, body(documents=[{"text": "x"}])),
        (COMPLETIONS, b'{"prompt": ["a", "b"]}'),
        (COMPLETIONS, b'{"prompt": [-1]}'),
        (COMPLETIONS, b"{}"),
        ("/v1/responses", b'{"input": "a"}'),
    ],
)
def test_what_tokenize_says_nothing_true_of_is_not_asked(path, content):
    with pytest.raises(Unsupported):
        question_of(path, content, None)


def test_sampling_is_no_part_of_the_key_and_prompt_tools_model_and_whose_it_is_are():
    key = question_of(CHAT, body(), None).key
    assert question_of(CHAT, body(temperature=1), None).key == key
    salted = question_of(CHAT, body(cache_salt="pepper"), None)
    assert salted.salt == "pepper"
    others = [
        question_of(CHAT, body(messages=[*HELLO, *HELLO]), None).key,
        question_of(CHAT, body(tools=[{"type": "function", "function": {"name": "f"}}]), None).key,
        question_of(CHAT, body(), "served").key,
        question_of(CHAT, body(), None, b"a tenant's").key,
        question_of(CHAT, body(), None, b"another's").key,
        salted.key,
    ]
    assert len({key, *others}) == 7


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{}", b'{"tokens": 1}', b'{"tokens": ["a"]}', b'{"tokens": [-1]}', b'{"tokens": [4294967296]}'],
)
def test_what_is_no_answer_is_refused(answer):
    with pytest.raises((ValueError, OverflowError, TypeError)):
        read_answer(answer)


# -- the asking


class Engines:
    """Two endpoints, of which those in ``left_alone`` may not be asked, and a clock."""

    def __init__(self, directory, *answers, server=None, **settings):
        self.fleet = Fleet(directory, server=server)
        self.fleet.client.answers = list(answers)
        self.now = 100.0
        self.left_alone = set()
        self.tokens = EngineTokens(
            Tokens(**{"budget_seconds": 10} | settings),
            self.fleet.client,
            lambda server, placed: placed.endpoint.name not in self.left_alone,
            lambda: self.now,
            lambda: 0.0,
        )

    async def of(self, content=None, **more):
        server = self.fleet.replica.world.servers[SERVER]
        return await self.tokens.of(server, CHAT, content or body(), **{"is_adapter": False} | more)

    @property
    def sent(self):
        return self.fleet.client.sent


async def test_an_engine_is_asked_in_its_own_words(tmp_path):
    engines = Engines(tmp_path, told(1), server=Server(SERVER, engine="SGLang"))
    assert list((await engines.of(body(reasoning_effort="none"))).ids) == [1]
    assert json.loads(engines.sent[0][3]) == {"model": "m", "messages": HELLO, "reasoning_effort": "none"}


async def test_ids_come_from_an_engine_with_the_salt(tmp_path):
    engines = Engines(tmp_path, told(1, 2, 3))
    found = await engines.of(body(cache_salt="pepper"))
    assert (list(found.ids), found.salt, found.outcome) == ([1, 2, 3], "pepper", "engine")
    ((name, path, headers, content),) = engines.sent
    assert (name, path, json.loads(content)) == ("default/e0", "/tokenize", {"model": "m", "messages": HELLO})
    assert "content-type: application/json\r\n" in headers


async def test_the_engine_is_told_its_own_name_of_the_model_and_an_adapters_as_it_stands(tmp_path):
    engines = Engines(tmp_path, told(1), told(2), server=Server(SERVER, model="served"))
    await engines.of()
    await engines.of(is_adapter=True)
    assert [json.loads(one[3])["model"] for one in engines.sent] == ["served", "m"]


async def test_the_same_prompt_is_asked_for_once(tmp_path):
    engines = Engines(tmp_path, told(1, 2))
    first, second = await engines.of(), await engines.of(body(max_tokens=9))
    assert (first.ids, first.outcome) == (second.ids, second.outcome)
    assert len(engines.sent) == 1


async def test_what_another_tenant_asked_is_asked_for_again(tmp_path):
    engines = Engines(tmp_path, told(1), told(1), told(1))
    for apart in (b"a", b"b", b"b"):
        await engines.of(apart=apart)
    await engines.of(body(cache_salt="x"))
    assert len(engines.sent) == 3


@pytest.mark.parametrize("status", [401, 403])
async def test_an_engine_that_wants_to_know_who_asks_is_left_alone_for_a_while(tmp_path, status):
    engines = Engines(tmp_path, Answer([b"{}"], status), told(2))
    assert (await engines.of()).outcome == "engine_refused"
    assert list((await engines.of()).ids) == [2]
    assert [one[0] for one in engines.sent] == ["default/e0", "default/e1"]


async def test_requests_with_the_same_prompt_wait_for_one_answer(tmp_path):
    gate = asyncio.Event()

    async def slowly():
        await gate.wait()
        return told(7)

    engines = Engines(tmp_path, slowly)
    asking = [asyncio.create_task(engines.of()) for _ in range(3)]
    while not engines.sent:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    gate.set()
    assert [list(one.ids) for one in await asyncio.gather(*asking)] == [[7]] * 3
    assert len(engines.sent) == 1


async def test_what_is_remembered_is_bounded(tmp_path):
    size = len(question_of(CHAT, body(), None).body)
    contents = [body(messages=[{"role": "user", "content": f"Hello, number{n}"}]) for n in range(3)]
    engines = Engines(tmp_path, *[told(n) for n in range(9)], cache_characters=3 * size)
    for content in (*contents, contents[2], contents[0]):
        await engines.of(content)
    assert len(engines.sent) == 4  # the first had to make room for the third


async def test_what_comes_late_is_late_and_ready_for_the_next(tmp_path):
    gate = asyncio.Event()

    async def slowly():
        await gate.wait()
        return told(7)

    engines = Engines(tmp_path, slowly, budget_seconds=0.05)
    assert (await engines.of()).outcome == "engine_late"
    gate.set()
    await asyncio.sleep(0.1)
    found = await engines.of(seconds=10)
    assert (list(found.ids), len(engines.sent)) == ([7], 1)


async def test_more_than_may_be_asked_at_once_is_busy(tmp_path):
    gate = asyncio.Event()

    async def slowly():
        await gate.wait()
        return told(7)

    engines = Engines(tmp_path, *[slowly] * 2, engine_requests=2)
    asking = [
        asyncio.create_task(engines.of(body(n=n, messages=[{"role": "user", "content": str(n)}]))) for n in range(2)
    ]
    await asyncio.sleep(0.05)
    assert (await engines.of()).outcome == "busy"
    gate.set()
    assert [one.outcome for one in await asyncio.gather(*asking)] == ["engine"] * 2


async def test_with_none_at_once_nobody_is_asked(tmp_path):
    engines = Engines(tmp_path, engine_requests=0)
    assert (await engines.of()).outcome == "no_tokenizer"
    assert engines.sent == []


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (UpstreamError("no"), "engine_failed"),
        (UpstreamTimeout("late"), "engine_late"),
        (Answer([b"{}"], 404), "engine_missing"),
        (Answer([b"{}"], 500), "engine_failed"),
        (Answer([b"{}"], 200), "engine_failed"),
        (Answer([UpstreamError("broke off")]), "engine_failed"),
        (Answer([b" " * (2 << 20)], 200), "engine_failed"),
    ],
)
async def test_an_engine_that_cannot_say_is_left_alone_for_a_while(tmp_path, answer, outcome, caplog):
    engines = Engines(tmp_path, answer, told(1), told(2), told(3))
    assert (await engines.of()).outcome == outcome
    assert "default/e0 cannot tokenise" in caplog.text
    assert (await engines.of()).outcome == "engine"
    engines.now += AVOIDED_SECONDS
    assert (await engines.of(body(user="x", messages=HELLO * 2))).outcome == "engine"
    assert [one[0] for one in engines.sent] == ["default/e0", "default/e1", "default/e0"]


async def test_a_prompt_that_the_engine_refuses_says_nothing_of_the_engine(tmp_path):
    engines = Engines(tmp_path, Answer([b"{}"], 400), told(1))
    assert (await engines.of()).outcome == "engine_refused"
    assert (await engines.of()).outcome == "engine"
    assert [one[0] for one in engines.sent] == ["default/e0"] * 2


async def test_only_endpoints_that_serve_are_asked(tmp_path):
    engines = Engines(tmp_path, told(1))
    engines.left_alone = {"default/e0"}
    assert (await engines.of()).outcome == "engine"
    engines.left_alone = {"default/e0", "default/e1"}
    assert (await engines.of(body(messages=HELLO * 2))).outcome == "no_engine"
    assert [one[0] for one in engines.sent] == ["default/e1"]


@pytest.mark.parametrize(("content", "outcome"), [(b"[]", "failed"), (body(documents=[1]), "unsupported")])
async def test_what_cannot_be_asked_says_why(tmp_path, content, outcome):
    engines = Engines(tmp_path)
    assert (await engines.of(content)).outcome == outcome


async def test_a_request_that_leaves_meanwhile_leaves_its_ids_for_the_next(tmp_path):
    gate = asyncio.Event()

    async def slowly():
        await gate.wait()
        return told(7)

    engines = Engines(tmp_path, slowly)
    asking = asyncio.create_task(engines.of())
    while not engines.sent:
        await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    gate.set()
    assert list((await engines.of()).ids) == [7]
    assert len(engines.sent) == 1


async def test_closing_ends_what_is_asked(tmp_path):
    engines = Engines(tmp_path, lambda: asyncio.sleep(3600))
    asking = asyncio.create_task(engines.of(chat()))
    while not engines.sent:
        await asyncio.sleep(0.01)
    engines.tokens.close()
    assert (await asking).outcome == "failed"
