"""The openai package against the gateway, and engines' own answers through it."""

import asyncio
import json
import re

import openai
import pytest

from tests.support import config
from tests.support.client import CHAT, chat
from tests.support.engines import ScriptedEngine, answer, completion
from tests.support.gateway import Gateway

MESSAGES = [{"role": "user", "content": "How does water get to the turbine?"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "open_valve",
            "description": "Öffnet ein Ventil \u2028 \U0001f6b0",
            "parameters": {"type": "object", "properties": {"valve": {"type": "integer"}}, "required": ["valve"]},
        },
    }
]


def test_chat(gateway):
    with gateway.openai() as client:
        answered = client.chat.completions.create(model="demo", messages=MESSAGES, max_tokens=5)
    assert answered.object == "chat.completion"
    assert answered.model == "demo"
    assert len(answered.choices[0].message.content.split()) == 5
    assert answered.usage.completion_tokens == 5


def test_max_completion_tokens(gateway):
    with gateway.openai() as client:
        answered = client.chat.completions.create(model="demo", messages=MESSAGES, max_completion_tokens=7)
    assert answered.usage.completion_tokens == 7


def test_stream(gateway):
    with gateway.openai() as client:
        stream = client.chat.completions.create(model="demo", messages=MESSAGES, max_tokens=9, stream=True)
        pieces = [chunk.choices[0].delta.content for chunk in stream]
    assert len(pieces) == 9
    assert all(pieces)


def test_stream_with_usage(gateway):
    with gateway.openai() as client:
        stream = client.chat.completions.create(
            model="demo", messages=MESSAGES, max_tokens=4, stream=True, stream_options={"include_usage": True}
        )
        *chunks, last = stream
    assert len(chunks) == 4
    assert last.choices == []
    assert last.usage.completion_tokens == 4


async def test_asynchronous_clients_at_once(gateway):
    async with gateway.async_openai() as client:

        async def one(number):
            stream = await client.chat.completions.create(
                model="demo", messages=[{"role": "user", "content": f"question {number}"}], max_tokens=20, stream=True
            )
            return len([chunk async for chunk in stream])

        async def other(number):
            answered = await client.chat.completions.create(
                model="demo", messages=[{"role": "user", "content": f"question {number}"}], max_tokens=20
            )
            return answered.usage.completion_tokens

        counts = await asyncio.gather(*(work(number) for number in range(20) for work in (one, other)))
    assert counts == [20] * 40


def test_models(gateway):
    with gateway.openai() as client:
        names = [model.id for model in client.models.list()]
        assert names == ["demo", "demo-sql"]
        assert client.models.retrieve("demo").id == "demo"
        assert client.models.retrieve("demo-sql").owned_by == "penstock"
        with pytest.raises(openai.NotFoundError, match="`demo2`"):
            client.models.retrieve("demo2")


def test_adapter_is_asked_for_by_its_own_name(gateway):
    with gateway.openai() as client:
        answered = client.chat.completions.create(model="demo-sql", messages=MESSAGES, max_tokens=2)
    assert answered.model == "demo-sql"


@pytest.mark.parametrize(
    ("prompt", "tokens", "choices"),
    [
        ("a text of twenty-five byt", 7, 1),
        (["first text", "second text"], 6, 2),
        ([11, 12, 13, 14], 4, 1),
        ([[11, 12], [13]], 3, 2),
    ],
    ids=["text", "texts", "token-ids", "lists"],
)
def test_completions(gateway, prompt, tokens, choices):
    with gateway.openai() as client:
        answered = client.completions.create(model="demo", prompt=prompt, max_tokens=3)
        assert answered.usage.prompt_tokens == tokens
        assert answered.usage.completion_tokens == 3 * choices
        assert [choice.index for choice in answered.choices] == list(range(choices))
        stream = client.completions.create(model="demo", prompt=prompt, max_tokens=3, stream=True)
        assert len([chunk.choices[0].text for chunk in stream]) == 3 * choices


def test_embeddings(gateway):
    with gateway.openai() as client:
        one = client.embeddings.create(model="demo", input="a text", encoding_format="float")
        two = client.embeddings.create(model="demo", input=["a text", "another"], encoding_format="float")
    assert len(one.data) == 1
    assert one.data[0].embedding == two.data[0].embedding
    assert len(two.data) == 2


def test_request_id_is_echoed_and_logged(gateway):
    reply = gateway.ask(chat(max_tokens=2), headers={"x-request-id": "mine-1.2:3_4"})
    assert reply.header("x-request-id") == "mine-1.2:3_4"
    line = gateway.log_line("mine-1.2:3_4")
    assert line["status_code"] == 200
    assert line["model_name"] == "demo"
    # bug B2: bytes_out counted a whole answer twice
    assert line["bytes_out"] == len(reply.body)
    assert line["bytes_in"] == len(json.dumps(chat(max_tokens=2)))


def test_request_id_is_made_when_there_is_none(gateway):
    first, second = (gateway.ask(chat(max_tokens=1)).header("x-request-id") for _ in range(2))
    assert re.fullmatch(r"req_[0-9a-f]{24}", first)
    assert first != second


def test_endpoint_is_named_also_by_the_package(gateway):
    with gateway.openai() as client:
        raw = client.chat.completions.with_raw_response.create(model="demo", messages=MESSAGES, max_tokens=2)
    assert raw.headers["x-penstock-endpoint"] in ("default/engine-1", "default/engine-2")
    assert re.fullmatch(r"penstock;dur=[\d.]+, engine;dur=[\d.]+", raw.headers["server-timing"])
    stream = gateway.ask(chat(max_tokens=2, stream=True))
    assert stream.header("x-penstock-endpoint") in ("default/engine-1", "default/engine-2")


def test_unknown_model_names_the_nearest(gateway):
    with gateway.openai() as client, pytest.raises(openai.NotFoundError, match="Did you mean `demo`") as raised:
        client.chat.completions.create(model="dmo", messages=MESSAGES)
    assert raised.value.code == "model_not_found"
    assert raised.value.param == "model"
    assert raised.value.type == "invalid_request_error"


def test_model_name_with_a_slash(engines, tmp_path):
    name = "meta-llama/Llama-3.1-8B"
    text = config.server("llama", engines.ports, model="demo") + config.route(name, rules=[config.rule("llama")])
    with Gateway(tmp_path, {"llama.yaml": text}, workers=1) as gateway, gateway.openai() as client:
        assert [model.id for model in client.models.list()] == [name]
        assert client.chat.completions.create(model=name, messages=MESSAGES, max_tokens=1).usage.completion_tokens == 1
        assert gateway.get(f"/v1/models/{name}").json["id"] == name
        # the package sends the slash as %2F
        assert client.models.retrieve(name).id == name


def by_user(connection, received):
    """A scripted engine: the member `user` says status and body of the answer."""
    wanted = received.json.get("user", "")
    if not wanted:
        connection.sendall(answer(200, completion()))
        return
    status, body = wanted.split(" ", 1)
    connection.sendall(answer(int(status), body.encode(), headers=[("retry-after", "17"), ("x-engine", "kept")]))


@pytest.fixture(scope="module")
def engine():
    with ScriptedEngine(by_user) as started:
        yield started


@pytest.fixture(scope="module")
def scripted(engine, tmp_path_factory):
    with Gateway(tmp_path_factory.mktemp("gw"), {"demo.yaml": config.simple("demo", [engine.port])}) as started:
        yield started


def test_body_passes_unchanged(engine, scripted):
    body = (
        '{ "tools": ' + json.dumps(TOOLS) + ',\n\t"model":"demo" , "seed": 1e2, "unknown": [1.0, 1.00, -0, {"a":null}],'
        ' "messages":[{"role":"user","content":"\\u0068i \\ud83d\\ude00"}],"max_tokens":3 }\n'
    ).encode()
    before = len(engine.received)
    assert scripted.ask(body).status == 200
    (received,) = engine.received[before:]
    assert received.body == body
    assert received.path == CHAT


def test_tools_by_the_package(engine, scripted):
    with scripted.openai() as client:
        client.chat.completions.create(model="demo", messages=MESSAGES, tools=TOOLS, tool_choice="auto")
    received = engine.received[-1]
    assert received.json["tools"] == TOOLS
    assert received.json["tool_choice"] == "auto"


def test_engine_sees_no_credentials_and_the_request_id(engine, scripted):
    headers = {
        "authorization": "Bearer secret", "cookie": "a=b", "x-api-key": "secret", "x-request-id": "the-id",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "connection": "x-hop",
        "x-hop": "1", "x-forwarded-for": "10.0.0.1",
    }  # fmt: skip
    assert scripted.ask(headers=headers).status == 200
    received = engine.received[-1]
    assert received.header("x-request-id") == "the-id"
    assert received.header("traceparent") == headers["traceparent"]
    assert received.header("host") == f"127.0.0.1:{engine.port}"
    assert b"secret" not in received.head
    assert not {"cookie", "authorization", "x-hop", "x-api-key"} & {name.lower() for name, _ in received.headers}


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500, 503])
@pytest.mark.parametrize("stream", [False, True])
def test_engine_error_arrives_unchanged(engine, scripted, status, stream):
    text = '{"object":"error",  "message":"the engine\'s own words: ü"}'
    before = len(engine.received)
    reply = scripted.ask(chat(user=f"{status} {text}", stream=stream))
    assert reply.status == status
    assert reply.body == text.encode()
    assert reply.is_whole
    assert reply.header("retry-after") == "17"
    assert reply.header("content-type") == "application/json"
    assert len(engine.received) == before + 1, "an engine's answer is not asked for twice"


def test_package_raises_by_the_engines_status(scripted):
    with scripted.openai() as client, pytest.raises(openai.UnprocessableEntityError, match="too long"):
        client.chat.completions.create(model="demo", messages=MESSAGES, user='422 {"error": {"message": "too long"}}')


def test_engine_headers_pass_save_for_those_of_the_connection(scripted):
    reply = scripted.ask(chat(user="429 {}"))
    assert reply.header("x-engine") == "kept"
    assert len([name for name, _ in reply.headers if name.lower() == "date"]) == 1
    assert len([name for name, _ in reply.headers if name.lower() == "content-length"]) == 1
