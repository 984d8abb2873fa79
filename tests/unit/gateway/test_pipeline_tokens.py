"""A request to a server that matches by token: its ids from a thread, its blocks from events, its text when that cannot be."""

import asyncio
import json
from array import array

import pytest

from _fastpath.kv_blocks import KVBlocks
from _fastpath.prefix_index import PrefixIndex
from gateway.datastore.model import PrefixCache, Server
from gateway.datastore.token_seed import extra_bytes, token_seed
from gateway.scheduling.place import Hashers
from gateway.settings import Settings, Tokens
from gateway.tokens.question import CHAT
from gateway.tokens.tokenizer import PromptTokenizer
from tests.support.tokenizer import make_tokenizer
from tests.unit.gateway.fakes import Answer, Protocol, chat, make_exchange
from tests.unit.gateway.fleet import SERVER, Fleet, route
from tests.unit.gateway.test_pipeline import WHOLE, check_released, counted, request

SIZE = 4
LONG = "The river above the dam carries more water in spring."


@pytest.fixture(autouse=True)
def without_sockets(monkeypatch):
    monkeypatch.setattr("gateway.downstream.client_socket.ClientSocket.cut", lambda self: None)


@pytest.fixture
def folder(tmp_path):
    make_tokenizer(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def fleet(tmp_path, folder):
    made = Fleet(
        tmp_path,
        settings=Settings(tokens=Tokens(budget_seconds=10)),
        server=Server(SERVER, prefix_cache=PrefixCache("tokens", SIZE, str(folder))),
        routes=[route(adapters=("sql",))],
    )
    made.client.answers = [Answer([WHOLE], length=len(WHOLE)) for _ in range(10)]
    return made


class Engine:
    """What the sidecar writes of one endpoint's events."""

    def __init__(self, fleet, number):
        placed = next(
            one for one in fleet.replica.world.endpoints.values() if one.endpoint.name == f"default/e{number}"
        )
        self._slot = placed.slot.index
        self._blocks = KVBlocks(PrefixIndex(fleet.memory), fleet.memory.hash_key)
        self._hasher = Hashers(fleet.memory).of_size(64)

    def holds(self, ids, adapter="", extras=None):
        count = len(ids) // SIZE
        seed = token_seed(self._hasher, adapter)
        extras = None if extras is None else [extra_bytes(extras), *[None] * (count - 1)]
        self._blocks.store(list(range(count)), None, list(ids[: count * SIZE]), SIZE, seed, self._slot, 1.0, extras)


def ids_of(folder, body):
    return PromptTokenizer(folder, 1000).prompt(CHAT, json.loads(body))


@pytest.mark.parametrize("number", [0, 1])
async def test_a_request_goes_where_its_tokens_are_and_nothing_is_learned_of_it(fleet, folder, number):
    body = chat(LONG)
    ids = ids_of(folder, body)
    Engine(fleet, number).holds(ids)
    entries = PrefixIndex(fleet.memory).statistics()["entries"]
    for _ in range(3):
        exchange, status, _, _ = await request(fleet, body)
        assert (status, exchange.placement.placed.endpoint.name) == (200, f"default/e{number}")
        assert exchange.placement.matched_blocks == exchange.placement.blocks == (len(ids) - 1) // SIZE
        assert exchange.prompt_tokens == len(ids)
    assert PrefixIndex(fleet.memory).statistics()["entries"] == entries
    assert counted(fleet, "penstock_prompts_tokenised_total", outcome="tokens", server=SERVER) == 3
    check_released(fleet)


async def test_adapters_and_salts_match_blocks_of_their_own(fleet, folder):
    plain, salted, adapted = chat(LONG), chat(LONG, cache_salt="pepper"), chat(LONG, model="sql")
    ids = ids_of(folder, plain)
    Engine(fleet, 0).holds(ids, extras=["pepper"])
    Engine(fleet, 1).holds(ids, adapter="sql")
    found = {}
    for name, body in (("plain", plain), ("salted", salted), ("adapted", adapted)):
        exchange, _, _, _ = await request(fleet, body)
        found[name] = exchange.placement.matched_blocks and exchange.placement.placed.endpoint.name
    assert found == {"plain": 0, "salted": "default/e0", "adapted": "default/e1"}


async def test_a_prompt_without_a_whole_block_is_still_one_by_token(fleet):
    exchange, status, _, _ = await request(
        fleet, json.dumps({"model": "m", "prompt": [1, 2, 3, 4]}).encode(), path="/v1/completions"
    )
    assert (status, exchange.placement.match_ratio, exchange.prompt_tokens) == (200, None, 4)
    assert PrefixIndex(fleet.memory).statistics()["entries"] == 0


async def test_what_cannot_be_tokenised_is_matched_and_learned_by_text(fleet):
    body = chat(LONG * 20, continue_final_message=True)
    first, _, _, _ = await request(fleet, body)
    second, _, _, _ = await request(fleet, body)
    assert (first.placement.matched_blocks, first.placement.blocks > 10) == (0, True)
    assert second.placement.match_ratio == 1.0
    assert second.placement.placed is first.placement.placed
    assert counted(fleet, "penstock_prompts_tokenised_total", outcome="unsupported") == 2


async def test_a_client_that_leaves_meanwhile_ends_its_request(fleet, monkeypatch):
    import time

    monkeypatch.setattr(PromptTokenizer, "prompt", lambda *given: time.sleep(0.3) or array("I"))
    body = chat(LONG)
    protocol = Protocol(body)
    exchange = make_exchange(protocol, headers={"content-length": str(len(body))})
    run = fleet.pipeline.start(exchange)
    await asyncio.sleep(0.1)
    exchange.client_gone = True
    run.throw(asyncio.CancelledError())
    await run.finished
    assert exchange.status == 499
    assert fleet.client.sent == []
    check_released(fleet)
    await asyncio.sleep(0.4)


async def test_without_a_tokenizer_an_engine_of_the_server_is_asked(tmp_path, folder):
    server = Server(SERVER, prefix_cache=PrefixCache("tokens", SIZE, ""))
    fleet = Fleet(tmp_path, settings=Settings(tokens=Tokens(budget_seconds=10)), server=server)
    body = chat(LONG)
    ids = ids_of(folder, body)
    Engine(fleet, 1).holds(ids)
    fleet.client.answers = [
        Answer([json.dumps({"tokens": list(ids)}).encode()]),
        Answer([WHOLE], length=len(WHOLE)),
        Answer([WHOLE], length=len(WHOLE)),
    ]
    for _ in range(2):
        exchange, status, _, _ = await request(fleet, body)
        assert (status, exchange.placement.placed.endpoint.name) == (200, "default/e1")
        assert exchange.prompt_tokens == len(ids)
    assert [one[1] for one in fleet.client.sent] == ["/tokenize", CHAT, CHAT]
    assert counted(fleet, "penstock_prompts_tokenised_total", outcome="engine", server=SERVER) == 2
    check_released(fleet)


async def test_what_no_engine_tokenises_is_matched_and_learned_by_text_and_counted(tmp_path):
    server = Server(SERVER, prefix_cache=PrefixCache("tokens", SIZE, str(tmp_path / "missing")))
    fleet = Fleet(tmp_path, settings=Settings(tokens=Tokens(budget_seconds=10)), server=server)
    whole = [Answer([WHOLE], length=len(WHOLE)) for _ in range(3)]
    fleet.client.answers = [Answer([b"{}"], 404), whole[0], Answer([b"{}"], 500), whole[1], whole[2]]
    for _ in range(3):
        exchange, status, _, _ = await request(fleet, chat(LONG * 20))
        assert status == 200
    assert exchange.placement.match_ratio == 1.0
    for outcome in ("engine_missing", "engine_failed", "no_engine"):
        assert counted(fleet, "penstock_prompts_tokenised_total", outcome=outcome, server=SERVER) == 1
