"""Who asks, on the way of a request: refused before its body is read, bounded in its models, counted in its own bucket."""

import asyncio
import json
from hashlib import sha256

import pytest

from gateway.app import App
from gateway.datastore.model import Limit, Server
from gateway.errors import IdentityUnavailable
from gateway.identity.caller_limits import CallerLimit, CallerLimits
from gateway.identity.gate import ApiKey, Caller, Gate, Models
from gateway.identity.settings import Identity
from gateway.observability.exposition import render
from gateway.settings import Settings
from tests.unit.gateway.fakes import Answer, Protocol, Scope, chat, make_exchange
from tests.unit.gateway.fleet import SERVER, Fleet, route

WHOLE = json.dumps({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}}).encode()
SALT = b'"c2FsdA=="'


@pytest.fixture(autouse=True)
def without_sockets(monkeypatch):
    monkeypatch.setattr("gateway.downstream.client_socket.ClientSocket.cut", lambda self: None)


def key(text, *arguments, **more):
    return ApiKey(sha256(text.encode()).digest(), Caller(*arguments, **more))


class Issuer:
    """Has its keys once ``here`` is set."""

    def __init__(self):
        self.here = asyncio.Event()
        self.fault = None

    @property
    def is_waiting(self):
        return not self.here.is_set()

    async def wait(self):
        await self.here.wait()

    def verify(self, token, now):
        if self.fault is not None:
            raise self.fault
        return token.split(".")[1], now + 60


@pytest.fixture
def issuer():
    return Issuer()


@pytest.fixture
def gate(issuer):
    made = Gate(issuer, frozenset(["/tokenize"]), 8192, 100, lambda: 0.0)
    made.replace(
        [key("a", "team-a", cache_salt=SALT), key("b", "team-b"), key("n", "narrow", (Models(frozenset(["n"]), ()),))],
        Caller,
    )
    return made


@pytest.fixture
def make(tmp_path, gate):
    def made(identity=None, limits=()):
        routes = [route(limits=limits), route(name="default/n", model="n")]
        settings = Settings(identity=identity or Identity())
        return Fleet(tmp_path, settings=settings, routes=routes, server=Server(SERVER), gate=gate)

    return made


async def request(fleet, credential, body=None, path="/v1/chat/completions", **headers):
    body = chat() if body is None else body
    fleet.client.answers.append(Answer([WHOLE], length=len(WHOLE)))
    protocol = Protocol(body)
    named = {
        "content-length": str(len(body)),
        **({"authorization": f"Bearer {credential}"} if credential else {}),
        **headers,
    }
    exchange = make_exchange(protocol, path=path, started=asyncio.get_running_loop().time(), headers=named)
    await asyncio.ensure_future(fleet.pipeline.handle(exchange))
    ((status, found, text),) = protocol.answers
    return exchange, status, found, json.loads(text).get("error")


async def test_a_caller_is_noted_and_served(make):
    fleet = make()
    exchange, status, _, _ = await request(fleet, "a")
    assert (exchange.tenant, status, exchange.refusal) == ("team-a", 200, "")


async def test_a_stranger_is_refused_before_the_body_is_read(make):
    fleet = make()
    exchange, status, headers, error = await request(fleet, "x")
    assert (status, error["code"], headers["www-authenticate"]) == (401, "invalid_api_key", "Bearer")
    assert (exchange.refusal, exchange.tenant, exchange.bytes_in) == ("unknown_api_key", "", 0)
    assert fleet.client.sent == []
    assert fleet.pipeline._bodies.held == 0


async def test_a_public_path_asks_nobody(make):
    fleet = make()
    exchange, status, _, _ = await request(fleet, None, path="/tokenize")
    assert (status, exchange.caller) == (200, None)


async def test_a_token_waits_for_the_issuer_s_first_keys(make, issuer):
    fleet = make()
    asked = asyncio.ensure_future(request(fleet, "a.me.c"))
    await asyncio.sleep(0.05)
    assert not asked.done()
    issuer.here.set()
    exchange, status, _, _ = await asked
    assert (exchange.tenant, status) == ("me", 200)
    assert (await request(fleet, "a.me.c"))[1] == 200


async def test_without_them_it_is_told_to_come_again(make, issuer):
    issuer.here.set()
    issuer.fault = IdentityUnavailable("x", retry_after=5.0)
    exchange, status, headers, error = await request(make(), "a.me.c")
    assert (status, error["code"], headers["retry-after"]) == (503, "identity_unavailable", "5")
    assert exchange.refusal == ""


@pytest.mark.parametrize("model", ["m", "nothing"])
async def test_a_model_of_others_is_forbidden_whether_it_exists_or_not(make, model):
    fleet = make()
    _, status, _, error = await request(fleet, "n", json.dumps({"model": model, "messages": []}).encode())
    assert (status, error["code"], error["type"]) == (403, "model_not_allowed", "permission_error")
    assert fleet.client.sent == []


async def test_near_names_are_those_that_the_caller_may_use(make, gate):
    fleet = make()
    gate.replace([key("n", "narrow", (Models(frozenset(), ("n",)),)), key("a", "team-a")], Caller)
    asked = json.dumps({"model": "nm", "messages": []}).encode()
    assert "`m`" not in (await request(fleet, "n", asked))[3]["message"]
    assert "`m`" in (await request(fleet, "a", asked))[3]["message"]


async def test_each_tenant_has_a_bucket_of_its_own(make):
    fleet = make(limits=(Limit("l", "requests", 2.0, 3600.0, 2.0, key="tenant"),))
    found = {name: [(await request(fleet, name))[1] for _ in range(3)] for name in ("a", "b")}
    assert found == {"a": [200, 200, 429], "b": [200, 200, 429]}


async def test_a_tenant_s_own_limit_holds_over_all_routes_and_is_counted_as_its(make, gate):
    own = (CallerLimit("tenant", "team-a", Limit("own", "requests", 3.0, 3600.0, 3.0)),)
    gate.replace([key("a", "team-a", limits=CallerLimits("team-a", 1, own)), key("b", "team-b")], Caller)
    fleet = make(limits=(Limit("l", "requests", 9.0, 3600.0, 9.0),))
    bodies = [json.dumps({"model": model, "messages": []}).encode() for model in ("m", "n", "m", "n")]
    found = [await request(fleet, "a", body) for body in bodies]
    assert [status for _, status, *_ in found] == [200, 200, 200, 429]
    assert [headers["x-ratelimit-remaining-requests"] for _, _, headers, _ in found] == ["2", "1", "0", "0"]
    assert "`own` of tenant `team-a`" in found[-1][3]["message"]
    assert [(await request(fleet, "b", body))[1] for body in bodies] == [200] * 4
    page = render(fleet.memory, 1, ())
    labels = 'route="default/n",scope="tenant",limit="own",decision="refused"'
    assert f"penstock_ratelimit_decisions_total{{{labels}}} 1" in page


async def test_a_tenant_s_tokens_are_what_the_engine_counted(make, gate):
    own = (CallerLimit("tenant", "team-a", Limit("own", "output", 300.0, 3600.0, 300.0)),)
    gate.replace([key("a", "team-a", limits=CallerLimits("team-a", 1, own))], Caller)
    fleet = make()
    left = [(await request(fleet, "a"))[2]["x-ratelimit-remaining-tokens"] for _ in range(2)]
    assert int(left[0]) - int(left[1]) <= 4 + 1  # of 256 that were held at first


@pytest.mark.parametrize("forwards", [False, True])
async def test_an_engine_is_told_the_credential_only_where_that_is_set(make, forwards):
    fleet = make(Identity(forward_authorization=forwards))
    await request(fleet, "a", cookie="a=b")
    ((_, _, headers, _),) = fleet.client.sent
    assert ("authorization: Bearer a\r\n" in headers) is forwards
    assert "cookie" not in headers


class TestSalt:
    @pytest.fixture
    def salted(self, make):
        return make(Identity(cache_salt_file="secret"))

    async def test_is_the_tenant_s(self, salted):
        await request(salted, "a", chat())
        await request(salted, "b", chat())
        first, second = (json.loads(body) for *_, body in salted.client.sent)
        assert first["cache_salt"] == "c2FsdA=="
        assert "cache_salt" not in second

    @pytest.mark.parametrize("name", ["a", "b"])
    async def test_of_a_client_is_refused_by_its_name(self, salted, name):
        exchange = (await request(salted, name, chat(cache_salt="mine")))[0]
        assert (exchange.status, exchange.error_code) == (400, "unsupported_parameter")
        assert "`cache_salt`" in exchange.error_message
        assert salted.client.sent == []

    async def test_other_members_that_are_ours_are_taken_out_as_ever(self, salted):
        await request(salted, "a", chat(bootstrap_room=1))
        ((*_, body),) = salted.client.sent
        assert "bootstrap_room" not in json.loads(body)

    async def test_keeps_prompts_apart_in_the_gateway_too(self, salted, gate):
        gate.replace([key("a", "a", cache_salt=SALT), key("b", "b", cache_salt=b'"other"')], Caller)
        body = chat("a long prompt " * 100)
        ratios = [(await request(salted, name, body))[0].placement.matched_blocks for name in ("a", "b", "a", "b")]
        assert ratios[:2] == [0, 0]
        assert min(ratios[2:]) > 0

    async def test_is_for_operations_that_know_it(self, salted):
        await request(salted, "a", b'{"model": "m", "input": "x"}', path="/v1/embeddings")
        ((*_, body),) = salted.client.sent
        assert "cache_salt" not in json.loads(body)

    async def test_of_a_client_goes_on_where_none_is_set(self, make):
        fleet = make()
        await request(fleet, "b", chat(cache_salt="mine"))
        ((*_, body),) = fleet.client.sent
        assert json.loads(body)["cache_salt"] == "mine"


class TestModels:
    @pytest.fixture
    def app(self, make, gate):
        fleet = make()
        return App(fleet.pipeline, lambda: fleet.replica.world, lambda: (True, "ready"), gate=gate)

    async def ask(self, app, path, **headers):
        protocol = Protocol()
        await app.__rsgi__(Scope("GET", path, headers), protocol)
        ((status, found, text),) = protocol.answers
        return status, found, text

    async def test_are_listed_to_those_who_may_use_them(self, app):
        listed = {}
        for name in ("a", "n"):
            _, _, text = await self.ask(app, "/v1/models", authorization=f"Bearer {name}")
            listed[name] = [one["id"] for one in json.loads(text)["data"]]
        assert listed == {"a": ["m", "n"], "n": ["n"]}
        assert (await self.ask(app, "/v1/models/m", authorization="Bearer n"))[0] == 404
        assert (await self.ask(app, "/v1/models/m", authorization="Bearer a"))[0] == 200

    async def test_and_to_no_stranger(self, app):
        for path in ("/v1/models", "/v1/models/m", "/v1/models/nothing"):
            status, headers, _ = await self.ask(app, path)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")

    async def test_health_is_public(self, app):
        assert [(await self.ask(app, path))[0] for path in ("/healthz", "/readyz")] == [200, 200]
