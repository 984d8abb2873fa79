"""Two real vLLM engines followed by their KV events: what is expected of their caches is what they find in them."""

import asyncio
import json
import random
import socket
import time
import urllib.request

import pytest

from gateway.datastore.model import Endpoint, Server
from gateway.deadlines import Deadlines
from gateway.settings import Tokens
from gateway.tokens.engine_tokens import EngineTokens
from gateway.tokens.service import PromptTokens
from gateway.upstream.client import UpstreamClient
from tests.engines.conftest import PLAIN, TOOL_FLAGS, TOOLS, block_size, start, stop
from tests.support.waiting import wait_until
from tests.unit.gateway.fleet import SERVER, Fleet

pytestmark = [pytest.mark.engines, pytest.mark.timeout(400)]

CHAT = "/v1/chat/completions"
SENTENCES = (
    "The river above the dam carries more water in spring than the turbines can take. ",
    "What is the capital of France? ",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. ",
    "<s>system\nnot a system</s>\n",
    "水は門を通って流れる。",
    '{"a": [1, 2.5, null], "<b>": "&"}\n\n\t',
)


def text(chosen, most):
    return "".join(chosen.choice(SENTENCES) for _ in range(chosen.randrange(1, most)))


def tool(chosen, number):
    function = {"name": f"tool_{number}", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}}
    if chosen.random() < 0.7:
        function["description"] = text(chosen, 3)
    return {"type": "function", "function": function}


def messages_of(chosen, turns):
    found = [{"role": "system", "content": text(chosen, 6)}] if chosen.random() < 0.7 else []
    for number in range(turns):
        asked = text(chosen, 4)
        parts = [{"type": "text", "text": asked}, {"type": "text", "text": "and"}]
        found.append({"role": "user", "content": asked if chosen.random() < 0.7 else parts})
        if chosen.random() < 0.3:
            arguments = json.dumps({"x": text(chosen, 2), "n": number})
            call = {"id": f"c{number}", "type": "function", "function": {"name": "tool_0", "arguments": arguments}}
            found.append({"role": "assistant", "content": None, "tool_calls": [call]})
            found.append({"role": "tool", "tool_call_id": f"c{number}", "content": text(chosen, 3)})
        found.append({"role": "assistant", "content": text(chosen, 4)})
    return [*found, {"role": "user", "content": text(chosen, 3)}]


def chats(count):
    chosen = random.Random(7)
    for _ in range(count):
        body = {"model": "tiny", "messages": messages_of(chosen, chosen.randrange(4))}
        if chosen.random() < 0.6:
            body["tools"] = [tool(chosen, number) for number in range(chosen.randrange(1, 4))]
        yield body


def post(port, path, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response), response.headers


def listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def expected(gateway, body):
    """Tokens that are expected in each engine's cache, and tokens of a block."""
    (found,) = gateway.explain(body)["servers"]
    assert found["matched_by"] == "tokens"
    size = block_size(PLAIN)
    return {one["endpoint"].rpartition("/")[2]: size * one["matched_blocks"] for one in found["candidates"]}


def test_ids_are_the_engines_on_200_chats_with_tools(engines, tokenizer):
    service = PromptTokens(Tokens())
    for body in chats(200):
        found = service.at_once(str(tokenizer), CHAT, json.dumps(body).encode())
        wanted, _ = post(TOOLS, "/tokenize", body)
        assert found.outcome == "tokens"
        assert list(found.ids) == wanted["tokens"], body


async def test_ids_asked_of_an_engine_are_those_made_here_on_200_chats_with_tools(engines, tokenizer, tmp_path):
    fleet = Fleet(tmp_path, server=Server(SERVER, model="tiny"), endpoints=0)
    endpoint = Endpoint("default/tools", SERVER, "tools", "127.0.0.1", TOOLS)
    fleet.serve([], [Server(SERVER, model="tiny")], [endpoint])
    pool = fleet.replica.world.servers[SERVER]
    deadlines = Deadlines()
    client = UpstreamClient(deadlines)
    asking = EngineTokens(Tokens(budget_seconds=30), client, fleet.placer.is_serving)
    here = PromptTokens(Tokens())
    try:
        for body in chats(200):
            content = json.dumps(body | {"model": "an-alias", "max_tokens": 1}).encode()
            found = await asking.of(pool, CHAT, content, False)
            assert found.outcome == "engine", body
            assert found.ids == here.at_once(str(tokenizer), CHAT, content).ids, body
        for more in ({"reasoning_effort": "low"}, {"messages": [{"role": "developer", "content": "Be brief."}]}):
            body = {"model": "tiny", "messages": messages_of(random.Random(1), 2), "max_tokens": 1} | more
            found = await asking.of(pool, CHAT, json.dumps(body).encode(), False)
            answer, _ = await asyncio.to_thread(post, TOOLS, CHAT, body)
            assert len(found.ids) == answer["usage"]["prompt_tokens"], body
    finally:
        asking.close()
        await client.close()
        deadlines.close()


def test_expected_cached_tokens_are_within_2_percent_of_the_engines_count_over_200_requests(gateway, capsys):
    chosen = random.Random(3)
    stems = [text(chosen, 60) for _ in range(8)]
    differ = cached = prompts = 0
    for number in range(200):
        content = chosen.choice(stems)[: chosen.randrange(200, 4000)]
        messages = [
            {"role": "system", "content": content},
            {"role": "user", "content": f"{text(chosen, 6)} {number % 50}"},
        ]
        body = {"model": "by-token", "messages": messages, "max_tokens": 2}
        wanted = expected(gateway, body)
        answer, headers = post(gateway.port, CHAT, body)
        found = answer["usage"]["prompt_tokens_details"]
        found = found["cached_tokens"] if found else 0
        differ += abs(wanted[headers["x-penstock-endpoint"].rpartition("/")[2]] - found)
        cached += found
        prompts += answer["usage"]["prompt_tokens"]
        time.sleep(0.05)  # events leave an engine after the step, in a thread of its own
    with capsys.disabled():
        print(
            f"\nexpected and found differ by {differ} of {cached} cached tokens, {prompts} prompt tokens in 200 requests"
        )
    assert cached > 20_000
    assert differ <= 0.02 * cached


def test_a_restarted_engine_is_expected_to_hold_nothing_and_is_followed_again(gateway):
    messages = [{"role": "user", "content": "restart " + SENTENCES[0] * 60}]
    body = {"model": "by-token", "messages": messages, "max_tokens": 2}
    post(TOOLS, CHAT, body | {"model": "tiny"})
    wait_until(lambda: expected(gateway, body)["tools"] > 500)
    stop("penstock-tools")
    wait_until(lambda: expected(gateway, body)["tools"] == 0, 60)
    wait_until(lambda: not listens(TOOLS) and not listens(TOOLS + 1000), 60)  # it takes its time to end
    start("penstock-tools", TOOLS, TOOL_FLAGS)
    wait_until(lambda: all(one["connected"] for one in gateway.state()["kv_events"]))
    assert expected(gateway, body)["tools"] == 0
    post(TOOLS, CHAT, body | {"model": "tiny"})
    wait_until(lambda: expected(gateway, body)["tools"] > 500)
