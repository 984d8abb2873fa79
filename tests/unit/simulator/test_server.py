"""The simulated engine over HTTP: OpenAI's answers, vLLM's metrics and events, and faults on command."""

import asyncio
import contextlib
import json
import socket
import struct

import aiohttp
import msgspec
import openai
import pytest
import zmq
import zmq.asyncio
from prometheus_client.parser import text_string_to_metric_families

from simulator.engine import Profile
from simulator.kv_cache import Removed, Stored
from simulator.kv_events import END_OF_REPLAY, KVEventPublisher, encode
from simulator.server import Options, SimulatedEngine
from simulator.text import detokenize, render, tokenize, words

QUICK = Profile(step_seconds=0.001, decode_seconds=0.0, prefill_tokens_per_second=1e6)
MESSAGES = [{"role": "user", "content": "hello"}]


class Sim:
    """An engine on a port, and a client of it."""

    def __init__(self, engine, port, session):
        self.engine, self.port, self.session = engine, port, session
        self.url = f"http://127.0.0.1:{port}"

    def post(self, path, content, **more):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.session.post(self.url + path, data=body, **more)

    async def ask(self, path, content):
        """Status and document."""
        async with self.post(path, content) as response:
            return response.status, await response.json(content_type=None)

    def chat(self, **more):
        return {"model": "demo", "messages": MESSAGES, **more}

    async def stream(self, path, content):
        """The events of a stream, decoded; the last is the text of the end mark."""
        async with self.post(path, {**content, "stream": True}) as response:
            assert response.status == 200
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            text = await response.text()
        lines = text.split("\n\n")
        assert lines.pop() == ""
        assert all(line.startswith("data: ") for line in lines)
        assert lines[-1] == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]

    async def metrics(self):
        async with self.session.get(self.url + "/metrics") as response:
            text = await response.text()
        return {
            (sample.name, sample.labels.get("le")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def fault(self, **content):
        async with self.post("/sim/faults", content) as response:
            return response.status


@contextlib.asynccontextmanager
async def running(**options):
    options = {"port": 0, "profile": QUICK, "adapters": ("demo-sql",), **options}
    engine = SimulatedEngine(Options(**options))
    port = await engine.start()
    async with aiohttp.ClientSession() as session:
        yield Sim(engine, port, session)
    await engine.stop()


@pytest.fixture
async def sim():
    async with running() as found:
        yield found


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


# -- answers


async def test_a_chat_is_answered_as_openai_does(sim):
    status, answer = await sim.ask("/v1/chat/completions", sim.chat(max_tokens=5))
    assert status == 200
    assert (answer["object"], answer["model"]) == ("chat.completion", "demo")
    assert answer["id"].startswith("chatcmpl-")
    (choice,) = answer["choices"]
    assert (choice["index"], choice["finish_reason"], choice["message"]["role"]) == (0, "length", "assistant")
    assert len(choice["message"]["content"].split()) == 5
    prompt = len(tokenize(render(MESSAGES)))
    assert answer["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": 5,
        "total_tokens": prompt + 5,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


@pytest.mark.parametrize("prompt", ["hello there", ["hello there"], [1, 2, 3]])
async def test_a_completion_is_answered_as_openai_does(sim, prompt):
    status, answer = await sim.ask("/v1/completions", {"model": "demo", "prompt": prompt, "max_tokens": 3})
    assert (status, answer["object"]) == (200, "text_completion")
    assert answer["id"].startswith("cmpl-")
    assert len(answer["choices"][0]["text"].split()) == 3
    assert answer["usage"]["prompt_tokens"] == 3


async def test_an_adapter_is_a_model_of_its_own_name(sim):
    assert (await sim.ask("/v1/chat/completions", sim.chat(model="demo-sql", max_tokens=1)))[1]["model"] == "demo-sql"
    async with sim.session.get(sim.url + "/v1/models") as response:
        assert [one["id"] for one in (await response.json())["data"]] == ["demo", "demo-sql"]


async def test_equal_prompts_have_equal_answers(sim):
    answers = [await sim.ask("/v1/chat/completions", sim.chat(max_tokens=9)) for _ in range(2)]
    assert answers[0][1]["choices"] == answers[1][1]["choices"]


async def test_a_stream_gives_a_token_an_event_and_then_its_end(sim):
    events = await sim.stream("/v1/chat/completions", sim.chat(max_tokens=6))
    assert len(events) == 6
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1
    deltas = [event["choices"][0]["delta"] for event in events]
    assert [("role" in delta) for delta in deltas] == [True] + [False] * 5
    assert [event["choices"][0]["finish_reason"] for event in events] == [None] * 5 + ["length"]
    whole = (await sim.ask("/v1/chat/completions", sim.chat(max_tokens=6)))[1]["choices"][0]["message"]["content"]
    assert "".join(delta["content"] for delta in deltas) == whole


async def test_a_completion_streams_text(sim):
    events = await sim.stream("/v1/completions", {"model": "demo", "prompt": "x", "max_tokens": 3})
    assert [event["object"] for event in events] == ["text_completion"] * 3
    assert all(event["choices"][0]["text"] for event in events)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_usage_is_one_event_more_for_who_asks_for_it(sim, path):
    content = {
        "model": "demo",
        "messages": MESSAGES,
        "prompt": "x",
        "max_tokens": 3,
        "stream_options": {"include_usage": True},
    }
    events = await sim.stream(path, content)
    assert len(events) == 4
    assert (events[-1]["choices"], events[-1]["usage"]["completion_tokens"]) == ([], 3)


async def test_a_client_that_reads_late_finds_one_role_and_one_reason_to_finish_in_their_places():
    profile = Profile(step_seconds=1e-6, decode_seconds=0.0, prefill_tokens_per_second=1e9)
    async with running(profile=profile) as sim:
        (site,) = sim.engine._runner.sites
        for listener in site._server.sockets:  # connections inherit it: little fits in between
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        body = json.dumps(sim.chat(max_tokens=3000, stream=True)).encode()
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", sim.port))
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        await loop.sock_sendall(client, head.encode() + body)
        await until(lambda: sim.engine.engine.totals.finished)
        received = b""
        while piece := await asyncio.wait_for(loop.sock_recv(client, 1 << 16), 5):
            received += piece
        client.close()
    lines = [line for line in received.splitlines() if line.startswith(b"data: {")]
    choices = [json.loads(line.removeprefix(b"data: "))["choices"][0] for line in lines]
    assert len(choices) == 3000
    assert [place for place, choice in enumerate(choices) if "role" in choice["delta"]] == [0]
    assert [place for place, choice in enumerate(choices) if choice["finish_reason"]] == [2999]


async def test_without_a_bound_the_usual_number_of_tokens_comes(sim):
    assert (await sim.ask("/v1/chat/completions", sim.chat()))[1]["usage"]["completion_tokens"] == 48


async def test_the_newer_name_of_the_bound_counts(sim):
    answer = (await sim.ask("/v1/chat/completions", sim.chat(max_completion_tokens=2, max_tokens=9)))[1]
    assert answer["usage"]["completion_tokens"] == 2


async def test_a_repeated_prompt_is_cached(sim):
    content = {"model": "demo", "prompt": list(range(100)), "max_tokens": 1}
    cached = [
        (await sim.ask("/v1/completions", content))[1]["usage"]["prompt_tokens_details"]["cached_tokens"]
        for _ in range(2)
    ]
    assert cached == [0, 96]


async def test_a_conversation_reuses_what_was_generated(sim):
    first = (await sim.ask("/v1/chat/completions", sim.chat(max_tokens=60)))[1]
    text = first["choices"][0]["message"]["content"]
    messages = [*MESSAGES, {"role": "assistant", "content": text}, {"role": "user", "content": "and then?"}]
    usage = (await sim.ask("/v1/chat/completions", {"model": "demo", "messages": messages, "max_tokens": 1}))[1][
        "usage"
    ]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= len(tokenize(render(MESSAGES))) // 16 * 16


@pytest.mark.parametrize(
    ("content", "status", "parameter"),
    [
        (b"{", 400, None),
        ([], 400, None),
        ({"messages": MESSAGES}, 404, "model"),
        ({"model": "other", "messages": MESSAGES}, 404, "model"),
        ({"model": "demo"}, 400, "messages"),
        ({"model": "demo", "messages": []}, 400, "messages"),
        ({"model": "demo", "messages": "hello"}, 400, "messages"),
        ({"model": "demo", "messages": MESSAGES, "max_tokens": -1}, 400, "max_tokens"),
        ({"model": "demo", "messages": MESSAGES, "max_tokens": 0}, 400, "max_tokens"),
        ({"model": "demo", "messages": MESSAGES, "max_tokens": "5"}, 400, "max_tokens"),
        ({"model": "demo", "messages": MESSAGES, "max_tokens": 10**9}, 400, None),
        ({"model": "demo", "messages": MESSAGES, "max_tokens": True}, 400, "max_tokens"),
        ({"model": "demo", "messages": ["x"]}, 400, "messages"),
        ({"model": "demo", "messages": [*MESSAGES, None]}, 400, "messages"),
        ({"model": "demo", "messages": MESSAGES, "kv_transfer_params": "x"}, 400, "kv_transfer_params"),
        ({"model": "demo", "messages": MESSAGES, "stream_options": "x"}, 400, "stream_options"),
        ({"model": "demo", "messages": MESSAGES, "stream_options": {"include_usage": "x"}}, 400, "stream_options"),
        ({"model": "demo", "messages": MESSAGES, "stream": "x"}, 400, "stream"),
        ({"model": "demo", "messages": MESSAGES, "n": 0}, 400, "n"),
        ({"model": "demo", "messages": MESSAGES, "n": "2"}, 400, "n"),
        ({"model": "demo", "messages": MESSAGES, "n": 129}, 400, "n"),
        (b"[" * 100_000, 400, None),
    ],
)
async def test_what_vllm_would_refuse_is_refused(sim, content, status, parameter):
    found, answer = await sim.ask("/v1/chat/completions", content)
    assert (found, answer["error"]["param"], answer["error"]["code"]) == (status, parameter, status)


@pytest.mark.parametrize(
    "prompt",
    ["", [], 5, None, {"a": 1}, [""], ["a", ""], ["a", 5], [[1], []], [[1], "a", None], [-1], [1 << 40], [True], [1.5]],
)
async def test_a_prompt_that_is_none_is_refused(sim, prompt):
    status, answer = await sim.ask("/v1/completions", {"model": "demo", "prompt": prompt})
    assert (status, answer["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/tokenize", "/detokenize"])
@pytest.mark.parametrize(("content", "status"), [(b"{", 400), ({"model": "other", "input": "x", "prompt": "x"}, 404)])
async def test_other_operations_refuse_in_the_same_way(sim, path, content, status):
    assert (await sim.ask(path, content))[0] == status


async def test_a_request_that_can_never_fit_is_refused_and_holds_nobody_up():
    profile = Profile(step_seconds=0.001, kv_tokens=320, prefill_tokens_per_second=1e6)
    async with running(profile=profile) as sim:
        large = sim.post("/v1/completions", {"model": "demo", "prompt": list(range(400)), "max_tokens": 1})
        growing = sim.post("/v1/completions", {"model": "demo", "prompt": list(range(300)), "max_tokens": 100})
        for waiting in (large, growing):
            async with asyncio.timeout(3), waiting as response:
                assert response.status == 400
        async with asyncio.timeout(3):
            assert (await sim.ask("/v1/completions", {"model": "demo", "prompt": [1], "max_tokens": 3}))[0] == 200


async def test_embeddings_are_one_vector_a_text(sim):
    for given, count in (("hello", 1), (["a", "b", "c"], 3)):
        status, answer = await sim.ask("/v1/embeddings", {"model": "demo", "input": given})
        assert (status, [one["index"] for one in answer["data"]]) == (200, list(range(count)))
        assert all(len(one["embedding"]) == 8 for one in answer["data"])
        assert answer["usage"]["prompt_tokens"] >= count


async def test_tokens_and_text_are_turned_into_each_other(sim):
    status, answer = await sim.ask("/tokenize", {"model": "demo", "prompt": "hello there"})
    assert (status, answer["count"]) == (200, len(answer["tokens"]))
    status, back = await sim.ask("/detokenize", {"model": "demo", "tokens": answer["tokens"]})
    assert (status, back["prompt"]) == (200, "hello there")
    chat = (await sim.ask("/tokenize", {"model": "demo", "messages": MESSAGES}))[1]
    assert chat["count"] == len(tokenize(render(MESSAGES)))


async def test_health_is_told(sim):
    async with sim.session.get(sim.url + "/health") as response:
        assert response.status == 200


# -- several choices


@pytest.mark.parametrize(
    ("prompt", "lengths"), [(["a", "b", "c"], [1, 1, 1]), ([[1, 2], [3]], [2, 1]), (["hello there", [1]], [3, 1])]
)
async def test_every_prompt_of_a_list_has_its_choice(sim, prompt, lengths):
    status, answer = await sim.ask("/v1/completions", {"model": "demo", "prompt": prompt, "max_tokens": 3})
    assert (status, [choice["index"] for choice in answer["choices"]]) == (200, list(range(len(prompt))))
    assert all(len(choice["text"].split()) == 3 for choice in answer["choices"])
    assert answer["usage"]["prompt_tokens"] == sum(lengths)
    assert answer["usage"]["completion_tokens"] == 3 * len(prompt)


async def test_a_choice_of_a_list_is_what_the_prompt_alone_would_have_got(sim):
    ask = {"model": "demo", "max_tokens": 4}
    together = (await sim.ask("/v1/completions", {**ask, "prompt": ["one", "two"]}))[1]["choices"]
    alone = [(await sim.ask("/v1/completions", {**ask, "prompt": one}))[1]["choices"][0] for one in ("one", "two")]
    assert [choice["text"] for choice in together] == [choice["text"] for choice in alone]


async def test_several_choices_of_one_prompt_count_it_once(sim):
    answer = (await sim.ask("/v1/chat/completions", sim.chat(max_tokens=5, n=2)))[1]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert [len(text.split()) for text in texts] == [5, 5]
    assert texts[0] != texts[1]
    assert answer["usage"]["prompt_tokens"] == len(tokenize(render(MESSAGES)))
    assert answer["usage"]["completion_tokens"] == 10


async def test_several_choices_are_streamed_side_by_side_each_with_its_index(sim):
    ask = sim.chat(max_tokens=4, n=3)
    events = await sim.stream("/v1/chat/completions", {**ask, "stream_options": {"include_usage": True}})
    assert events.pop()["usage"]["completion_tokens"] == 12
    whole = (await sim.ask("/v1/chat/completions", ask))[1]["choices"]
    for index in range(3):
        mine = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert "".join(choice["delta"]["content"] for choice in mine) == whole[index]["message"]["content"]
        assert [choice["finish_reason"] for choice in mine] == [None] * 3 + ["length"]
        assert ["role" in choice["delta"] for choice in mine] == [True] + [False] * 3
    indexes = [event["choices"][0]["index"] for event in events]
    assert indexes != sorted(indexes)


async def test_prompts_and_choices_are_numbered_prompt_by_prompt(sim):
    content = {"model": "demo", "prompt": ["one", "two"], "n": 2, "max_tokens": 2}
    events = await sim.stream("/v1/completions", content)
    assert sorted({event["choices"][0]["index"] for event in events}) == [0, 1, 2, 3]
    whole = (await sim.ask("/v1/completions", content))[1]
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    alone = (await sim.ask("/v1/completions", {**content, "prompt": "two"}))[1]["choices"]
    assert [choice["text"] for choice in whole["choices"][2:]] == [choice["text"] for choice in alone]


async def test_a_client_that_leaves_stops_all_its_choices():
    async with running(profile=Profile(step_seconds=0.005)) as sim:
        async with sim.post("/v1/chat/completions", sim.chat(stream=True, max_tokens=10_000, n=3)) as response:
            await response.content.readany()
        await until(lambda: sim.engine.engine.is_idle)
        assert sim.engine._generations == {}


# -- responses


@pytest.fixture
async def client(sim):
    async with openai.AsyncOpenAI(base_url=f"{sim.url}/v1", api_key="none", max_retries=0) as found:
        yield found


async def test_a_response_is_answered_as_openai_does(client):
    found = await client.responses.create(model="demo", input="hello", max_output_tokens=6)
    assert (found.status, found.object, found.model) == ("completed", "response", "demo")
    assert len(found.output_text.split()) == 6
    assert found.output[0].role == "assistant"
    assert found.usage.output_tokens == 6
    assert found.usage.total_tokens == found.usage.input_tokens + 6
    assert found.usage.input_tokens_details.cached_tokens == 0


async def test_a_conversation_with_instructions_is_a_longer_prompt(client):
    short = await client.responses.create(model="demo", input="hello", max_output_tokens=1)
    messages = [
        {"role": "user", "content": "hello"},
        {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
    ]
    long = await client.responses.create(model="demo", instructions="be brief", input=messages, max_output_tokens=1)
    assert long.usage.input_tokens > short.usage.input_tokens
    assert long.instructions == "be brief"


async def test_a_response_streams_its_events_in_order_and_usage_at_the_end(client):
    whole = await client.responses.create(model="demo", input="hello", max_output_tokens=4)
    stream = await client.responses.create(model="demo", input="hello", max_output_tokens=4, stream=True)
    events = [event async for event in stream]
    assert [event.type.removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "content_part.added", *["output_text.delta"] * 4,
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(12))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == events[8].text == events[-1].response.output_text
    assert (events[0].response.status, events[0].response.usage) == ("in_progress", None)
    assert (events[-1].response.status, events[-1].response.usage.output_tokens) == ("completed", 4)


@pytest.mark.parametrize(
    ("content", "parameter"),
    [({}, "input"), ({"input": ""}, "input"), ({"input": 5}, "input"), ({"input": ["x"]}, "input"), ({"input": []}, "input"),
     ({"input": "x", "instructions": 5}, "instructions"), ({"input": "x", "max_output_tokens": 0}, "max_output_tokens")],
)  # fmt: skip
async def test_a_response_to_nothing_is_refused(sim, content, parameter):
    status, answer = await sim.ask("/v1/responses", {"model": "demo", **content})
    assert (status, answer["error"]["param"]) == (400, parameter)


async def test_a_response_has_the_same_faults(sim):
    await sim.fault(kind="die_after", after=2)
    received = b""
    with pytest.raises(aiohttp.ClientPayloadError):
        async with sim.post("/v1/responses", {"model": "demo", "input": "x", "stream": True}) as response:
            while piece := await response.content.readany():
                received += piece
    assert received.count(b"event: response.output_text.delta\n") == 2


# -- odd bodies


@pytest.mark.parametrize(
    ("path", "content", "parameter"),
    [
        ("/v1/embeddings", {}, "input"),
        ("/v1/embeddings", {"input": 5}, "input"),
        ("/v1/embeddings", {"input": [None]}, "input"),
        ("/v1/embeddings", {"input": [[-1]]}, "input"),
        ("/tokenize", {"prompt": ["a", "b"]}, "prompt"),
        ("/tokenize", {"messages": ["x"]}, "messages"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "abc"}, "tokens"),
        ("/detokenize", {"tokens": [1 << 40]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
    ],
)
async def test_what_other_operations_cannot_use_is_refused(sim, path, content, parameter):
    status, answer = await sim.ask(path, {"model": "demo", **content})
    assert (status, answer["error"]["param"]) == (400, parameter)


async def test_half_a_character_is_a_prompt(sim):
    body = b'{"model": "demo", "prompt": "\\ud800", "max_tokens": 1}'
    assert (await sim.ask("/v1/completions", body))[0] == 200


@pytest.mark.parametrize("given", [[[1, 2], [3]], [1, 2]])
async def test_token_ids_are_embedded_too(sim, given):
    answer = (await sim.ask("/v1/embeddings", {"model": "demo", "input": given}))[1]
    assert len(answer["data"]) == (2 if isinstance(given[0], list) else 1)


# -- leaving


async def test_a_client_that_leaves_a_stream_stops_the_generation():
    async with running(profile=Profile(step_seconds=0.005)) as sim:
        async with sim.post("/v1/chat/completions", sim.chat(stream=True, max_tokens=10_000)) as response:
            await response.content.readany()
            assert len(sim.engine.engine.running) == 1
        await until(lambda: sim.engine.engine.is_idle)
        assert sim.engine.engine.cache.used == 0
        assert sim.engine.engine.totals.generated_tokens < 1000
        assert sim.engine._generations == {}


async def test_a_client_that_leaves_before_its_answer_stops_the_generation():
    async with running(profile=Profile(step_seconds=0.005)) as sim:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2), sim.post("/v1/chat/completions", sim.chat(max_tokens=10_000)):
                pass
        await until(lambda: sim.engine.engine.is_idle)
        assert sim.engine._generations == {}


async def test_requests_run_side_by_side(sim):
    answers = await asyncio.gather(*(sim.ask("/v1/chat/completions", sim.chat(max_tokens=20)) for _ in range(20)))
    assert [status for status, _ in answers] == [200] * 20
    assert all(answer["usage"]["completion_tokens"] == 20 for _, answer in answers)
    assert sim.engine.engine.totals.finished == 20


async def test_speed_shortens_real_time():
    profile = Profile(step_seconds=0.5, decode_seconds=0.0, prefill_tokens_per_second=1e6)
    async with running(profile=profile, speed=100.0) as sim:
        started = asyncio.get_running_loop().time()
        await sim.ask("/v1/chat/completions", sim.chat(max_tokens=10))
        assert 0.05 <= asyncio.get_running_loop().time() - started < 2.5


# -- metrics


async def test_the_metrics_have_vllms_names_and_count(sim):
    before = await sim.metrics()
    assert before["vllm:num_requests_running", None] == before["vllm:num_requests_waiting", None] == 0
    for _ in range(2):
        await sim.ask("/v1/completions", {"model": "demo", "prompt": list(range(100)), "max_tokens": 11})
    found = await sim.metrics()
    assert found["vllm:prefix_cache_queries_total", None] == 200
    assert found["vllm:prefix_cache_hits_total", None] == 96
    assert found["vllm:prompt_tokens_total", None] == 200
    assert found["vllm:prompt_tokens_cached_total", None] == 96
    assert found["vllm:generation_tokens_total", None] == 22
    assert found["vllm:num_preemptions_total", None] == 0
    assert found["vllm:kv_cache_usage_perc", None] == 0
    assert found["vllm:time_to_first_token_seconds_count", None] == 2
    assert found["vllm:inter_token_latency_seconds_count", None] == 20
    assert found["vllm:e2e_request_latency_seconds_count", None] == 2
    assert found["vllm:inter_token_latency_seconds_bucket", "+Inf"] == 20
    assert found["vllm:inter_token_latency_seconds_sum", None] > 0
    edges = [value for (name, edge), value in found.items() if name == "vllm:inter_token_latency_seconds_bucket"]
    assert edges == sorted(edges)


async def test_running_and_waiting_requests_and_the_cache_in_use_are_seen():
    profile = Profile(step_seconds=0.01, running_requests=1, kv_tokens=1600)
    async with running(profile=profile) as sim:
        tasks = [asyncio.ensure_future(sim.ask("/v1/chat/completions", sim.chat(max_tokens=30))) for _ in range(3)]
        await until(lambda: len(sim.engine.engine.waiting) == 2)
        found = await sim.metrics()
        assert (found["vllm:num_requests_running", None], found["vllm:num_requests_waiting", None]) == (1, 2)
        assert 0 < found["vllm:kv_cache_usage_perc", None] < 0.1
        await asyncio.gather(*tasks)


async def test_the_cache_configuration_is_told(sim):
    async with sim.session.get(sim.url + "/metrics") as response:
        assert f'block_size="16",num_gpu_blocks="{QUICK.kv_tokens // 16}"' in await response.text()


# -- faults


async def test_a_status_on_command_is_given_once(sim):
    assert await sim.fault(kind="status", status=503, body='{"error": "busy"}', headers={"retry-after": "7"}) == 204
    async with sim.post("/v1/chat/completions", sim.chat(max_tokens=1)) as response:
        assert (response.status, response.headers["retry-after"]) == (503, "7")
        assert await response.json() == {"error": "busy"}
    assert (await sim.ask("/v1/chat/completions", sim.chat(max_tokens=1)))[0] == 200


async def test_a_fault_may_be_for_several_requests_or_for_all_until_it_is_cleared(sim):
    await sim.fault(kind="status", status=500, count=2)
    statuses = [(await sim.ask("/v1/chat/completions", sim.chat(max_tokens=1)))[0] for _ in range(3)]
    assert statuses == [500, 500, 200]
    await sim.fault(kind="status", status=500, count=-1)
    assert [(await sim.ask("/v1/chat/completions", sim.chat(max_tokens=1)))[0] for _ in range(3)] == [500] * 3
    async with sim.session.delete(sim.url + "/sim/faults") as response:
        assert response.status == 204
    assert (await sim.ask("/v1/chat/completions", sim.chat(max_tokens=1)))[0] == 200


async def test_an_engine_can_die_before_its_answer(sim):
    await sim.fault(kind="die_before_headers")
    with pytest.raises(aiohttp.ClientError):
        await sim.ask("/v1/chat/completions", sim.chat(max_tokens=1))


async def test_an_engine_can_die_after_so_many_events(sim):
    await sim.fault(kind="die_after", after=3)
    received = b""
    with pytest.raises(aiohttp.ClientPayloadError):
        async with sim.post("/v1/chat/completions", sim.chat(max_tokens=9, stream=True)) as response:
            while piece := await response.content.readany():
                received += piece
    assert received.count(b"data: {") == 3
    await until(lambda: sim.engine.engine.is_idle)


async def test_an_engine_can_stall_after_so_many_events(sim):
    await sim.fault(kind="stall_after", after=2, seconds=0.3)
    loop = asyncio.get_running_loop()
    times = []
    async with sim.post("/v1/chat/completions", sim.chat(max_tokens=4, stream=True)) as response:
        async for line in response.content:
            if line.startswith(b"data: {"):
                times.append(loop.time())
    assert times[2] - times[1] > 0.25
    assert len(times) == 4


async def test_an_engine_can_hang(sim):
    await sim.fault(kind="hang")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await sim.ask("/v1/chat/completions", sim.chat(max_tokens=1))


async def test_an_engine_can_write_raw_bytes(sim):
    await sim.fault(kind="raw", body="HTTP/1.1 299 Odd\r\ncontent-length: 2\r\n\r\nok")
    async with sim.post("/v1/chat/completions", sim.chat(max_tokens=1)) as response:
        assert (response.status, await response.text()) == (299, "ok")


async def test_the_metrics_name_the_adapters_that_requests_run_with():
    asked = {"model": "law", "prompt": "x", "max_tokens": 50_000, "stream": True}
    async with running(adapters=("demo-sql", "law"), adapters_at_once=3) as sim, sim.post("/v1/completions", asked):
        await until(lambda: sim.engine.engine.running)
        async with sim.session.get(sim.url + "/metrics") as response:
            text = await response.text()
    assert 'vllm:lora_requests_info{max_lora="3",running_lora_adapters="law",waiting_lora_adapters=""}' in text


async def test_metrics_can_be_slow_alone(sim):
    await sim.fault(kind="slow_metrics", seconds=0.3)
    assert (await sim.ask("/v1/chat/completions", sim.chat(max_tokens=1)))[0] == 200
    started = asyncio.get_running_loop().time()
    await sim.metrics()
    assert asyncio.get_running_loop().time() - started > 0.25


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({}, "kind"),
        ({"kind": "explode"}, "kind"),
        ({"kind": "hang", "colour": "red"}, "colour"),
        ({"kind": ["hang"]}, "kind"),
        ({"kind": "die_after", "after": "5"}, "after"),
        ({"kind": "die_after", "after": -1}, "after"),
        ({"kind": "hang", "count": -2}, "count"),
        ({"kind": "hang", "seconds": "long"}, "seconds"),
        ({"kind": "hang", "seconds": -1}, "seconds"),
        ({"kind": "status", "status": 1000}, "status"),
        ({"kind": "status", "body": {}}, "body"),
        ({"kind": "status", "headers": {"x": 5}}, "headers"),
        ({"kind": "status", "headers": {"x": "a\r\nb"}}, "headers"),
        ({"kind": "raw", "body": "\u2713"}, "body"),
        ([], None),
        (5, None),
        (b"{", None),
        (b"\xff", None),
    ],
)
async def test_a_fault_that_is_none_is_refused_by_its_field(sim, content, field):
    status, answer = await sim.ask("/sim/faults", content)
    assert status == 400
    found = answer["error"]["param"]
    assert (found and found.partition(".")[0].partition("[")[0]) == field
    assert field is None or field in answer["error"]["message"]
    assert (await sim.ask("/v1/chat/completions", sim.chat(max_tokens=1)))[0] == 200


# -- prefill and decode apart


async def test_a_prefill_hands_over_what_a_decode_takes():
    async with (
        running() as prefill,
        running(profile=Profile(step_seconds=0.001, transfer_tokens_per_second=1e6)) as decode,
    ):
        content = prefill.chat(max_tokens=1, kv_transfer_params={"do_remote_decode": True, "do_remote_prefill": False})
        answer = (await prefill.ask("/v1/chat/completions", content))[1]
        handed = answer["kv_transfer_params"]
        assert (handed["do_remote_prefill"], handed["do_remote_decode"]) == (True, False)
        assert (handed["remote_host"], handed["remote_port"]) == ("127.0.0.1", prefill.port)
        assert handed["remote_engine_id"]
        taken = (await decode.ask("/v1/chat/completions", decode.chat(max_tokens=5, kv_transfer_params=handed)))[1]
        assert taken["usage"]["completion_tokens"] == 5
        # all but one token of the prompt were computed elsewhere
        assert decode.engine.engine.totals.prompt_tokens == 1


async def test_without_a_transfer_nothing_is_handed_over(sim):
    assert "kv_transfer_params" not in (await sim.ask("/v1/chat/completions", sim.chat(max_tokens=1)))[1]


# -- events


class BlockStored(msgspec.Struct, array_like=True, tag=True):
    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None


class BlockRemoved(msgspec.Struct, array_like=True, tag=True):
    block_hashes: list[int]
    medium: str | None


class EventBatch(msgspec.Struct, array_like=True):
    ts: float
    events: list[BlockStored | BlockRemoved]
    data_parallel_rank: int | None = None


def test_a_batch_is_what_vllm_encodes():
    payload = encode([Stored((1, 2), None, (5, 6)), Stored((3,), 2, (7,)), Removed((1,))], 1, 12.5)
    assert msgspec.msgpack.decode(payload, type=EventBatch) == EventBatch(
        12.5,
        [
            BlockStored([1, 2], None, [5, 6], 1, None, "GPU"),
            BlockStored([3], 2, [7], 1, None, "GPU"),
            BlockRemoved([1], "GPU"),
        ],
        0,
    )


def test_hashes_of_64_bits_travel():
    payload = encode([Removed(((1 << 64) - 1, 0))], 16, 0.0)
    assert msgspec.msgpack.decode(payload, type=EventBatch).events[0].block_hashes == [(1 << 64) - 1, 0]


@contextlib.asynccontextmanager
async def sockets(*kinds_and_endpoints):
    context = zmq.asyncio.Context()
    opened = []
    for kind, endpoint in kinds_and_endpoints:
        one = context.socket(kind)
        one.setsockopt(zmq.LINGER, 0)
        if kind == zmq.SUB:
            one.subscribe(b"")
        one.connect(endpoint)
        opened.append(one)
    yield opened
    for one in opened:
        one.close()
    context.term()


async def received(one):
    return await asyncio.wait_for(one.recv_multipart(), 5)


async def test_an_engine_publishes_what_it_caches(tmp_path):
    events, replay = f"ipc://{tmp_path}/events", f"ipc://{tmp_path}/replay"
    async with (
        running(events_endpoint=events, replay_endpoint=replay) as sim,
        sockets((zmq.SUB, events), (zmq.DEALER, replay)) as (updates, asking),
    ):
        await asyncio.sleep(0.1)
        for number in range(3):
            await sim.ask("/v1/completions", {"model": "demo", "prompt": [number] * 40, "max_tokens": 1})
        batches = []
        for number in range(3):
            topic, sequence, payload = await received(updates)
            assert (topic, struct.unpack(">Q", sequence)[0]) == (b"", number)
            batches.append(payload)
            (stored,) = msgspec.msgpack.decode(payload, type=EventBatch).events
            assert (stored.token_ids, stored.block_size, len(stored.block_hashes)) == ([number] * 32, 16, 2)
        # and again for who came late
        await asking.send_multipart([b"", struct.pack(">Q", 1)])
        replayed = [await received(asking) for _ in range(3)]
        assert [frames[-1] for frames in replayed] == [batches[1], batches[2], b""]
        assert [frames[-2] for frames in replayed] == [struct.pack(">Q", 1), struct.pack(">Q", 2), END_OF_REPLAY]


@pytest.mark.parametrize("question", [[b"x"], [b"", b"123"], [b"", b"12345678", b"more"], [b""]])
async def test_a_question_for_a_replay_that_is_none_stops_nobody(tmp_path, question):
    events, replay = f"ipc://{tmp_path}/events", f"ipc://{tmp_path}/replay"
    publisher = KVEventPublisher(events, replay)
    answering = asyncio.ensure_future(publisher.answer_replays())
    async with sockets((zmq.DEALER, replay)) as (asking,):
        await asking.send_multipart(question)
        await asking.send_multipart([b"", struct.pack(">Q", 0)])
        assert (await received(asking))[-2] == END_OF_REPLAY
    answering.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await answering
    publisher.close()


# -- text


def test_a_tokeniser_keeps_prefixes():
    text = "the same beginning, "
    one, other = tokenize(text + "one end"), tokenize(text + "another end")
    assert one[: len(text) // 4] == other[: len(text) // 4]
    assert tokenize("") == ()


@pytest.mark.parametrize("text", ["hello", "é✓", "abcd", "a", "hello there, this is longer"])
def test_tokens_are_turned_back_into_their_text(text):
    assert detokenize(tokenize(text)) == text


def test_a_template_keeps_roles_contents_and_tools_apart():
    plain = render([{"role": "user", "content": "a"}])
    assert render([{"role": "user", "content": [{"type": "text", "text": "a"}]}]) == plain
    different = [
        render([{"role": "system", "content": "a"}]),
        render([{"role": "user", "content": "b"}]),
        render([{"role": "user", "content": "a"}], tools=[{"x": 1}]),
        render([{"role": "user", "content": None}]),
    ]
    assert len({plain, *different}) == 5


def test_an_answer_begins_with_a_capital_and_goes_on_for_ever():
    one, again, other = words(1), words(1), words(2)
    first = [next(one) for _ in range(500)]
    assert first == [next(again) for _ in range(500)]
    assert first[0][0].isupper()
    assert all(word.startswith(" ") for word in first[1:])
    assert first[:50] != [next(other) for _ in range(50)]


async def test_tokenize_fails_as_told_and_answers_do_not(sim):
    await sim.fault(kind="bad_tokenize", status=404)
    asked = {"model": "demo", "prompt": "one two"}
    assert (await sim.ask("/tokenize", asked))[0] == 404
    assert (await sim.ask("/tokenize", asked))[0] == 200
