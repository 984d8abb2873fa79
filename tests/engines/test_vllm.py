"""Two real vLLM engines behind Penstock, called with the openai package."""

import asyncio
import collections
import json
import statistics
import time
import urllib.error
import urllib.request

import openai
import pytest

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

LONG = "The river above the dam carries more water in spring than the turbines can take. " * 24
TOOL = {
    "type": "function",
    "function": {
        "name": "open_gate",
        "description": "Open a gate",
        "strict": True,  # the engine's grammar holds even this model, whose weights are random, to the schema
        "parameters": {
            "type": "object",
            "properties": {"gate": {"type": "string", "enum": ["1", "2", "3"]}},
            "required": ["gate"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
def client(gateway):
    with openai.OpenAI(base_url=gateway.base_url, api_key="none", max_retries=0, timeout=120) as made:
        yield made


def endpoint(raw):
    return raw.headers["x-penstock-endpoint"].rpartition("/")[2]


def test_lists_the_routed_models(client):
    assert [model.id for model in client.models.list()] == ["by-token", "plain-only", "tiny", "tools-only"]
    assert client.models.retrieve("tiny").id == "tiny"


def test_answers_a_chat(client):
    answer = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hello"}], max_completion_tokens=8
    )
    assert answer.usage.completion_tokens <= 8
    assert answer.choices[0].message.role == "assistant"


def stream_of_200(client):
    """Seconds at which its pieces came, and the last of them."""
    started, times, last = time.monotonic(), [], None
    stream = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hello"}], max_tokens=200, stream=True,
        stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
    )  # fmt: skip
    for chunk in stream:
        last = chunk
        times.append(time.monotonic() - started)
    return times, last


def test_streams_a_chat_while_it_is_made(client):
    # an engine's first answer takes long to begin, which says nothing of how it is passed on: so the middle one of several
    streams = [stream_of_200(client) for _ in range(6)]
    assert statistics.median(times[0] / times[-1] for times, _ in streams) < 0.5
    for times, last in streams:
        # the engine itself joins tokens into one event when it is busy: how many there are is its own affair
        assert len(times) > 3
        assert last.usage.completion_tokens == 200


async def test_serves_the_async_client(gateway):
    async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key="none", max_retries=0, timeout=120) as client:
        stream = await client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hello"}], max_tokens=4, stream=True
        )
        assert [chunk async for chunk in stream]


@pytest.mark.parametrize(
    "prompt",
    ["water", ["water", "wheel"], [11, 12, 13, 14], [[11, 12, 13], [14, 15]]],
    ids=["text", "texts", "ids", "lists"],
)
def test_takes_prompts_in_every_form(client, prompt):
    answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=4)
    nested = isinstance(prompt, list) and isinstance(prompt[0], str | list)
    assert len(answer.choices) == (len(prompt) if nested else 1)


def test_calls_a_tool_on_the_engine_that_can(client):
    answer = client.chat.completions.create(
        model="tools-only", messages=[{"role": "user", "content": "open gate 3"}], tools=[TOOL], max_tokens=1000,
        tool_choice={"type": "function", "function": {"name": "open_gate"}},
    )  # fmt: skip
    called = answer.choices[0].message.tool_calls[0].function
    assert called.name == "open_gate"
    assert json.loads(called.arguments)["gate"] in ("1", "2", "3")


def test_passes_on_the_400_of_the_engine_that_cannot(gateway, engines):
    body = {"messages": [{"role": "user", "content": "x"}], "tools": [TOOL], "tool_choice": "auto"}
    through = post(f"{gateway.base_url}/chat/completions", {"model": "plain-only", **body})
    direct = post(f"http://127.0.0.1:{engines[0]}/v1/chat/completions", {"model": "tiny", **body})
    assert through == direct
    assert through[0] == 400


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_sends_prompts_that_share_a_prefix_where_it_is_cached(client, hits):
    before = hits()
    took = []
    for number in range(8):
        raw = client.completions.with_raw_response.create(
            model="tiny", prompt=f"{LONG} Question {number}.", max_tokens=2
        )
        took.append(endpoint(raw))
    after = hits()
    assert len(set(took)) == 1
    gained = {port: after[port] - before[port] for port in after}
    shared = max(gained.values())
    assert min(gained.values()) == 0
    assert shared > 7 * 0.8 * len(LONG) / 6  # seven of eight find most of the prefix; a token is at most six bytes here


async def look(gateway, samples):
    """Note again and again how many requests each engine has in flight."""
    while True:
        endpoints = (await asyncio.to_thread(gateway.state))["endpoints"]
        samples.append(sorted(one["in_flight"] for one in endpoints if one["server"] == "default/tiny"))
        await asyncio.sleep(0.02)


async def test_spreads_a_hundred_mixed_requests_by_load(gateway):
    counts, samples = collections.Counter(), []
    async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key="none", max_retries=0, timeout=240) as client:
        turns = asyncio.Semaphore(16)

        async def ask(number):
            async with turns:
                raw = await client.chat.completions.with_raw_response.create(
                    model="tiny", max_tokens=4 + number % 9, stream=number % 3 == 0,
                    messages=[{"role": "user", "content": f"{number} " * (1 + number % 40)}],
                )  # fmt: skip
                counts[endpoint(raw)] += 1
                parsed = raw.parse()
                if number % 3 == 0:
                    assert [chunk async for chunk in parsed]
                else:
                    assert parsed.choices

        looks = asyncio.create_task(look(gateway, samples))
        await asyncio.gather(*(ask(number) for number in range(100)))
        looks.cancel()
    assert sum(counts.values()) == 100
    # who is quicker gets more of them: two engines on two cores are not always equally quick
    assert min(counts["plain"], counts["tools"]) >= 10, counts
    shares = [fewer / (fewer + more) for fewer, more in samples if fewer + more >= 12]
    assert statistics.median(shares) >= 0.3, samples
    await asyncio.sleep(0.5)
    assert all(one["in_flight"] == 0 for one in gateway.state()["endpoints"])
