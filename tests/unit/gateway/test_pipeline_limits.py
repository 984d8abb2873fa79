"""What a whole request does at its limits: expects as much output as answers had, and waits for what is being leased."""

import asyncio

import pytest

from _fastpath.leased_bucket import LeasedBuckets
from _fastpath.token_bucket import TokenBuckets
from gateway.datastore.model import Limit, Server
from gateway.settings import Settings
from tests.unit.gateway.fakes import Answer, chat
from tests.unit.gateway.fleet import SERVER, Fleet, route
from tests.unit.gateway.test_pipeline import WHOLE, error, request, without_sockets

__all__ = ["without_sockets"]
OUTPUT = 4  # what the engine counts in WHOLE


async def ask(fleet, **members):
    fleet.client.answers = [Answer([WHOLE])]
    exchange, *_ = await request(fleet, chat(**members))
    return exchange


async def test_as_much_output_is_expected_as_answers_had(tmp_path):
    fleet = Fleet(tmp_path, settings=Settings(expected_output_tokens=100))
    assert (await ask(fleet)).output_tokens == 100
    for _ in range(300):
        await ask(fleet)
    exchange = await ask(fleet)
    assert OUTPUT <= exchange.output_tokens <= OUTPUT + 2
    assert exchange.placement.output_tokens == exchange.output_tokens
    assert (await ask(fleet, max_tokens=1)).output_tokens == 1


async def test_answers_of_another_operation_are_another_matter(tmp_path):
    fleet = Fleet(tmp_path, settings=Settings(expected_output_tokens=100))
    for _ in range(50):
        await ask(fleet)
    fleet.client.answers = [Answer([WHOLE])]
    exchange, *_ = await request(fleet, b'{"model":"m","input":"x"}', path="/v1/embeddings")
    assert exchange.output_tokens == 100


async def test_a_failed_request_says_nothing_of_answers(tmp_path):
    fleet = Fleet(tmp_path, settings=Settings(expected_output_tokens=100))
    for _ in range(20):
        fleet.client.answers = [Answer([WHOLE], status=400)]
        await request(fleet)
    assert (await ask(fleet)).output_tokens == 100


class TestSharedLimit:
    @pytest.fixture
    def fleet(self, tmp_path):
        limit = Limit("l", "requests", 10.0, 1.0, 10.0, store="redis:6379")
        return Fleet(tmp_path, routes=[route(limits=(limit,))])

    @staticmethod
    def bucket(fleet):
        keeper = LeasedBuckets(TokenBuckets(fleet.memory))
        ((place, identity, *_, wanted),) = keeper.changed()
        return keeper, place, identity, wanted

    async def test_a_request_waits_for_the_lease_that_it_asks_for(self, fleet):
        fleet.client.answers = [Answer([WHOLE])]
        asking = asyncio.ensure_future(request(fleet))
        await asyncio.sleep(0.02)
        keeper, place, identity, wanted = self.bucket(fleet)
        assert wanted >= 1
        assert not asking.done()
        keeper.grant(place, identity, 1)
        _, status, *_ = await asking
        assert status == 200

    async def test_it_is_refused_at_once_when_the_store_is_known_to_have_nothing(self, fleet):
        keeper, place, identity, _ = self.bucket(fleet)
        keeper.tell(place, identity, 1, 1 << 62, 0.0, 1.0)
        exchange, status, _, text = await request(fleet)
        assert (status, error(text)["code"], exchange.lease_turns) == (429, "rate_limit_exceeded", 0)

    async def test_it_is_refused_in_the_end_when_nobody_leases(self, fleet, monkeypatch):
        started = asyncio.get_running_loop().time()
        exchange, status, *_ = await request(fleet)
        assert (status, exchange.lease_turns) == (429, 300)
        assert asyncio.get_running_loop().time() - started < 10
        assert fleet.limiter._journal.in_use == 0

    async def test_a_client_that_leaves_while_it_waits_holds_nothing(self, fleet):
        asking = asyncio.ensure_future(request(fleet))
        await asyncio.sleep(0.02)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert fleet.pipeline.in_flight == 0
        assert fleet.limiter._journal.in_use == 0

    async def test_a_request_that_waits_while_its_route_changes_is_held_to_the_new_limits(self, tmp_path):
        old = Limit("l", "requests", 10.0, 1.0, 10.0, key="tenant", store="redis:6379")
        fleet = Fleet(tmp_path, routes=[route(limits=(old,))])
        asking = asyncio.ensure_future(request(fleet))
        await asyncio.sleep(0.02)
        new = Limit("l", "requests", 3.0, 60.0, 3.0, key="tenant")
        fleet.serve([route(limits=(new,))], [Server(SERVER)], [fleet.endpoint(0)])
        fleet.client.answers = [Answer([WHOLE]) for _ in range(9)]
        _, status, headers, _ = await asyncio.wait_for(asking, 5)
        assert (status, dict(headers)["x-ratelimit-limit-requests"]) == (200, "3")
        assert [(await request(fleet))[1] for _ in range(3)] == [200, 200, 429]
