"""The inference port's paths: an exact list, everything else is answered here."""

import json

import pytest

from gateway.app import App
from gateway.datastore.replica import World
from gateway.exchange import OPERATIONS
from gateway.pipeline import Pipeline
from tests.unit.gateway.fakes import Protocol, Scope
from tests.unit.gateway.fleet import Fleet, route


class Recorder(Pipeline):
    """A pipeline that keeps what it is given."""

    def __init__(self):  # of what it inherits it needs nothing
        self.exchanges = []
        self.elsewhere = []

    def answered_elsewhere(self, status, code):
        self.elsewhere.append((status, code))

    async def handle(self, exchange):
        self.exchanges.append(exchange)


@pytest.fixture
def pipeline():
    return Recorder()


@pytest.fixture
def app(pipeline, tmp_path):
    fleet = Fleet(tmp_path, routes=[route(adapters=("m-sql", "a/b")), route(name="default/q", model="n")])
    return App(pipeline, lambda: fleet.replica.world, lambda: (True, "ready"), clock=lambda: 5.0)


async def ask(app, method, path, headers=None):
    protocol = Protocol()
    await app.__rsgi__(Scope(method, path, headers), protocol)
    ((status, found, body),) = protocol.answers
    return status, found, body


@pytest.mark.parametrize("path", OPERATIONS)
async def test_every_operation_goes_through_the_pipeline(app, pipeline, path):
    protocol = Protocol()
    await app.__rsgi__(Scope("POST", path, {"x-request-id": "mine", "x-a": "b"}), protocol)
    (exchange,) = pipeline.exchanges
    assert (exchange.path, exchange.operation, exchange.request_id) == (path, OPERATIONS[path], "mine")
    assert (exchange.started, exchange.header("x-a"), exchange.protocol) == (5.0, "b", protocol)
    assert protocol.answers == []


@pytest.mark.parametrize("path", OPERATIONS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "X" * 100])
async def test_an_operation_takes_nothing_but_post(app, pipeline, path, method):
    status, headers, body = await ask(app, method, path)
    assert (status, headers["allow"]) == (405, "POST")
    assert json.loads(body)["error"]["code"] == "method_not_allowed"
    assert pipeline.exchanges == []


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/m", "/healthz", "/readyz"])
async def test_what_is_read_takes_get_and_head(app, path):
    assert [(await ask(app, method, path))[0] for method in ("GET", "HEAD", "POST", "DELETE")] == [200, 200, 405, 405]
    assert (await ask(app, "POST", path))[1]["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "path",
    ["/", "", "/v1", "/v1/", "/v1/chat", "/v1/chat/completions/", "//v1/chat/completions", "/V1/chat/completions",
     "/metrics", "/debug/state", "/v1/modelsx", "/v1/chat/completions/../embeddings", "/health", "/sim/faults"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_nothing_else_is_served(app, pipeline, method, path):
    status, headers, body = await ask(app, method, path)
    assert (status, json.loads(body)["error"]["code"]) == (404, "unknown_url")
    assert headers["content-type"] == "application/json"
    assert pipeline.exchanges == []


async def test_a_long_path_is_not_repeated_whole(app):
    assert len((await ask(app, "GET", "/" + "x" * 10_000))[2]) < 1000


async def test_models_and_adapters_are_listed_as_openai_does(app):
    status, _, body = await ask(app, "GET", "/v1/models")
    document = json.loads(body)
    assert (status, document["object"]) == (200, "list")
    assert [one["id"] for one in document["data"]] == ["a/b", "m", "m-sql", "n"]
    assert all(
        one["object"] == "model" and isinstance(one["created"], int) and one["owned_by"] for one in document["data"]
    )


@pytest.mark.parametrize("name", ["m", "m-sql", "a/b"])
async def test_one_model_can_be_asked_for(app, name):
    status, _, body = await ask(app, "GET", f"/v1/models/{name}")
    assert (status, json.loads(body)["id"]) == (200, name)


@pytest.mark.parametrize("name", ["x", "", "M", "m/"])
async def test_a_model_that_is_not_served_is_not_found(app, name):
    status, _, body = await ask(app, "GET", f"/v1/models/{name}")
    assert (status, json.loads(body)["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(("ready", "status"), [((True, "ready"), 200), ((False, "no snapshot yet"), 503)])
async def test_readiness_is_told_with_its_reason(pipeline, ready, status):
    app = App(pipeline, World, lambda: ready)
    assert (await ask(app, "GET", "/readyz"))[::2] == (status, ready[1].encode() + b"\n")
    assert (await ask(app, "GET", "/healthz"))[::2] == (200, b"ok\n")


@pytest.mark.parametrize(("sent", "kept"), [("mine-1", True), ("bad id\r\nx: y", False), (None, False)])
async def test_every_answer_has_the_requests_id(app, sent, kept):
    headers = {} if sent is None else {"x-request-id": sent}
    found = (await ask(app, "GET", "/nothing", headers))[1]["x-request-id"]
    assert (found == sent) is kept
    assert "\n" not in found


async def test_a_client_that_is_gone_disturbs_nothing(app):
    protocol = Protocol()
    protocol.is_gone = True
    await app.__rsgi__(Scope("GET", "/healthz"), protocol)


async def test_a_websocket_is_closed(app):
    closed = []

    class Websocket:
        def close(self, status):
            closed.append(status)

    scope = Scope()
    scope.proto = "ws"
    await app.__rsgi__(scope, Websocket())
    assert closed == [None]
