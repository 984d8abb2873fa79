"""Who asks: API keys and tokens at a real gateway, their files and their issuer, and a bucket for each tenant."""

import json
import os
import signal
from hashlib import sha256
from time import time

import pytest

from tests.support import config
from tests.support.client import CHAT, chat, get, request_bytes
from tests.support.engines import Engines, ScriptedEngine, answer, completion
from tests.support.gateway import Gateway, run
from tests.support.issuer import AUDIENCE, ISSUER, KeyServer, SigningKey, bad_tokens, document, token
from tests.support.waiting import wait_until

KEYS = {"team-a": "key-of-a", "team-b": "key-of-b"}


def key_entry(name, text, **more):
    return {"name": name, "sha256": sha256(text.encode()).hexdigest(), **more}


def keys_file(directory, *entries):
    path = directory / "keys.yaml"
    draft = directory / "keys.new"
    draft.write_text(json.dumps({"keys": list(entries or [key_entry(*one) for one in KEYS.items()])}))
    draft.replace(path)
    return path


def bearer(text):
    return {"authorization": f"Bearer {text}"}


def status(gateway, headers=None, **body):
    return gateway.ask(chat(**{"max_tokens": 1} | body), headers=headers).status


def each_worker(gateway, headers, wanted, seconds=15.0):
    """Wait until every worker answers with this status."""

    def all_answer():
        found = []
        for number in range(2):
            with gateway.connect_to(number) as connection:
                found.append(connection.ask(chat(max_tokens=1), headers=headers).status)
        return found == [wanted, wanted]

    wait_until(all_answer, seconds, message=lambda: f"not {wanted} everywhere:\n{gateway.stderr}")


@pytest.fixture(scope="module")
def engines():
    with Engines(1, speed=50, adapters=("demo-sql",)) as started:
        yield started


@pytest.fixture(scope="module")
def key():
    return SigningKey()


@pytest.fixture(scope="module")
def stranger():
    return SigningKey(name="key-2")


def issuer_settings(address):
    return {"identity.jwks_url": address, "identity.jwt_issuer": ISSUER, "identity.jwt_audiences": AUDIENCE}


def demo(engines):
    return {"demo.yaml": config.server("demo", engines.ports) + config.route("demo", loraAdapters=["demo-sql"])}


@pytest.fixture(scope="module")
def gateway(engines, key, tmp_path_factory):
    """API keys and an issuer together."""
    directory = tmp_path_factory.mktemp("gw")
    with KeyServer(document(key)) as server:
        settings = issuer_settings(server.address) | {"identity.keys_file": keys_file(directory)}
        with Gateway(directory, demo(engines), **settings) as started:
            yield started


class TestCredentials:
    def test_an_api_key_counts_and_its_name_is_the_tenant(self, gateway):
        reply = gateway.ask(chat(max_tokens=1), headers=bearer("key-of-a"))
        assert reply.status == 200
        line = gateway.log_line(reply.header("x-request-id"))
        assert (line["tenant"], line["status_code"]) == ("team-a", 200)
        assert "auth.reason" not in line

    def test_also_as_clients_of_messages_send_it(self, gateway):
        assert status(gateway, {"x-api-key": "key-of-b"}) == 200
        assert status(gateway, {"authorization": "bearer key-of-b"}) == 200

    def test_a_token_counts_and_its_subject_is_the_tenant(self, gateway, key):
        for _ in range(3):
            reply = gateway.ask(chat(max_tokens=1), headers=bearer(token(key, sub="somebody")))
            assert reply.status == 200
            assert gateway.log_line(reply.header("x-request-id"))["tenant"] == "somebody"

    def test_the_openai_package_is_understood(self, gateway):
        import openai

        client = gateway.openai(max_retries=2).with_options(api_key="key-of-a")
        assert client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "x"}]).choices
        assert [one.id for one in client.models.list()] == ["demo", "demo-sql"]
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="none").models.list()

    @pytest.mark.parametrize(
        ("headers", "reason"),
        [
            ({}, "missing"),
            ({"authorization": ""}, "missing"),
            ({"authorization": "Bearer "}, "unknown_scheme"),
            ({"authorization": "Basic a2V5LW9mLWE="}, "unknown_scheme"),
            ({"authorization": "key-of-a"}, "unknown_scheme"),
            (bearer("key-of-"), "unknown_api_key"),
            (bearer("key-of-a2"), "unknown_api_key"),
            (bearer(sha256(b"key-of-a").hexdigest()), "unknown_api_key"),
            (bearer("x" * 9_000), "too_long"),
            ({"x-api-key": "key-of-c"}, "unknown_api_key"),
            ({"authorization": "Bearer none", "x-api-key": "key-of-a"}, "unknown_api_key"),
        ],
    )
    def test_without_one_that_counts_the_client_learns_nothing_and_the_log_says_why(self, gateway, headers, reason):
        reply = gateway.ask(chat(max_tokens=1), headers=headers)
        assert (reply.status, reply.header("www-authenticate")) == (401, "Bearer")
        assert (reply.error["type"], reply.error["code"]) == ("authentication_error", "invalid_api_key")
        assert reply.header("x-should-retry") == "false"
        assert reason not in reply.body.decode()
        line = gateway.log_line(reply.header("x-request-id"))
        assert (line["auth.reason"], line["status_code"], line.get("tenant")) == (reason, 401, None)

    def test_no_bad_token_counts(self, gateway, key, stranger):
        tried, answers, requests = 0, set(), set()
        for name, text in bad_tokens(key, stranger):
            reply = gateway.ask(chat(max_tokens=1), headers=bearer(text))
            assert reply.status == 401, name
            tried += 1
            answers.add(bytes(reply.body))
            requests.add(reply.header("x-request-id"))
        assert tried >= 200
        assert len(answers) == 1  # nothing of the reason
        lines = wait_until(lambda: logged(gateway, requests, tried))
        assert all(one["auth.reason"] for one in lines)
        assert status(gateway, bearer(token(key))) == 200
        assert "Traceback" not in gateway.stderr

    def test_a_stranger_s_body_is_not_read(self, gateway):
        with gateway.connect_to(0) as connection:
            connection.send(request_bytes(b"", headers={"content-length": "1000000"}))
            assert connection.read().status == 401
            assert connection.is_closed()

    def test_health_is_public_and_models_are_not(self, gateway):
        assert [get(gateway.port, path).status for path in ("/healthz", "/readyz")] == [200, 200]
        for path in ("/v1/models", "/v1/models/demo"):
            assert get(gateway.port, path).status == 401
            assert get(gateway.port, path, bearer("key-of-a")).status == 200
        assert json.loads(gateway.admin("/debug/state"))["routes"]

    def test_every_path_that_reaches_an_engine_asks(self, gateway):
        for path in ("/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages", "/tokenize", "/v1/score"):
            assert gateway.ask(chat(), path).status == 401


def logged(gateway, requests, count):
    found = [one for one in gateway.log_lines() if one["request_id"] in requests]
    return found if len(found) == count else None


class TestEngines:
    @pytest.mark.parametrize("forwards", [False, True])
    def test_are_told_the_credential_only_where_that_is_set(self, tmp_path, forwards):
        def script(connection, received):
            connection.sendall(answer(200, completion()))

        with ScriptedEngine(script) as engine:
            files = {"demo.yaml": config.simple("demo", [engine.port])}
            settings = {"identity.keys_file": keys_file(tmp_path), "identity.forward_authorization": forwards}
            with Gateway(tmp_path, files, workers=1, **settings) as gateway:
                assert status(gateway, bearer("key-of-a") | {"cookie": "a=b"}) == 200
                assert status(gateway, {"x-api-key": "key-of-a"}) == 200
        first, second = engine.received
        assert first.header("authorization") == ("Bearer key-of-a" if forwards else None)
        assert b"key-of-a" not in second.head
        assert first.header("cookie") is None

    def test_are_told_a_salt_of_the_tenant_and_clients_own_are_refused(self, tmp_path):
        def script(connection, received):
            connection.sendall(answer(200, completion()))

        (tmp_path / "secret").write_text("a secret of some length\n")
        with ScriptedEngine(script) as engine:
            files = {"demo.yaml": config.simple("demo", [engine.port])}
            settings = {"identity.keys_file": keys_file(tmp_path), "identity.cache_salt_file": tmp_path / "secret"}
            with Gateway(tmp_path, files, workers=2, **settings) as gateway:
                for name in ("key-of-a", "key-of-b", "key-of-a"):
                    assert status(gateway, bearer(name)) == 200
                refused = gateway.ask(chat(cache_salt="mine"), headers=bearer("key-of-a"))
                assert (refused.status, refused.error["param"]) == (400, "cache_salt")
        first, second, third = (one.json["cache_salt"] for one in engine.received)
        assert first == third != second


class TestTenants:
    @pytest.fixture(scope="class")
    @staticmethod
    def limited(engines, tmp_path_factory):
        directory = tmp_path_factory.mktemp("tenants")
        limits = [{"name": "each", "unit": "hour", "requests": 5, "key": {"type": "tenant"}}]
        text = config.server("demo", engines.ports) + config.route(
            "demo", loraAdapters=["demo-sql"], rateLimit={"limits": limits}
        )
        keys = keys_file(directory, *(key_entry(*one) for one in KEYS.items()), key_entry("guest", "key-of-guest"),
                         key_entry("team-b", "key-for-sql", models=["demo-s*"]))  # fmt: skip
        tenants = directory / "tenants.yaml"
        tenants.write_text("tenants: {guest: {models: [demo-sql]}, team-a: {weight: 2}}\n")
        settings = {"identity.keys_file": keys, "identity.tenants_file": tenants}
        with Gateway(directory, {"demo.yaml": text}, **settings) as started:
            yield started

    def test_each_has_a_bucket_of_its_own_across_workers(self, limited):
        found = {}
        for name, text in KEYS.items():
            with limited.connect_to(0) as first, limited.connect_to(1) as second:
                replies = [
                    (first, second)[number % 2].ask(chat(max_tokens=1), headers=bearer(text)) for number in range(8)
                ]
                found[name] = [reply.status for reply in replies]
        assert found == {"team-a": [200] * 5 + [429] * 3, "team-b": [200] * 5 + [429] * 3}

    def test_a_model_that_is_not_the_tenant_s_is_refused_whether_it_exists_or_not(self, limited):
        for model in ("demo", "nothing"):
            reply = limited.ask(chat(model=model), headers=bearer("key-of-guest"))
            assert reply.status == 403
            assert (reply.error["type"], reply.error["code"], reply.error["param"]) == (
                "permission_error", "model_not_allowed", "model",
            )  # fmt: skip
        assert limited.ask(chat(model="demo-sql", max_tokens=1), headers=bearer("key-of-guest")).status == 200
        near = limited.ask(chat(model="demo-sqll"), headers=bearer("key-of-a"))
        assert (near.status, near.error["code"]) == (404, "model_not_found")

    def test_a_key_narrows_what_its_tenant_may(self, limited):
        assert limited.ask(chat(), headers=bearer("key-for-sql")).status == 403

    def test_the_list_of_models_is_the_tenant_s(self, limited):
        listed = {
            name: [one["id"] for one in get(limited.port, "/v1/models", bearer(name)).json["data"]]
            for name in ("key-of-guest", "key-of-a", "key-for-sql")
        }
        assert listed == {"key-of-guest": ["demo-sql"], "key-of-a": ["demo", "demo-sql"], "key-for-sql": ["demo-sql"]}
        assert get(limited.port, "/v1/models/demo", bearer("key-of-guest")).status == 404


class TestLimits:
    """Of a tenant and of a key, over all routes and workers."""

    @staticmethod
    def files(directory, tenant, key, others=()):
        """Settings, with the limits of team-a, of one of its keys, and of whoever else asks."""
        keys_file(
            directory,
            *(key_entry(*one) for one in KEYS.items()),
            key_entry("team-a", "second", limits=key),
        )
        draft = directory / "tenants.new"
        draft.write_text(json.dumps({"tenants": {"team-a": {"limits": tenant}}, "others": {"limits": list(others)}}))
        draft.replace(directory / "tenants.yaml")
        return {"identity.keys_file": directory / "keys.yaml", "identity.tenants_file": directory / "tenants.yaml"}

    @staticmethod
    def calls(count, name="calls"):
        return {"name": name, "unit": "hour", "requests": count}

    @staticmethod
    def ask(gateway, text, count):
        """From both workers in turn, and of both routes."""
        with gateway.connect_to(0) as first, gateway.connect_to(1) as second:
            asked = [((first, second)[one % 2], ("demo", "other")[one // 2 % 2]) for one in range(count)]
            return [one.ask(chat(model=model, max_tokens=1), headers=bearer(text)) for one, model in asked]

    def told(self, gateway, text, count, what):
        return [one.header(f"x-ratelimit-{what}-requests") for one in self.ask(gateway, text, count)]

    def test_hold_over_routes_and_workers_and_keep_their_fill_when_they_change(self, engines, tmp_path):
        settings = self.files(tmp_path, [self.calls(10)], [self.calls(2, "few")], [self.calls(1000)])
        text = config.simple("demo", engines.ports, model="demo") + config.route("other", [config.rule("demo")])
        with Gateway(tmp_path, {"demo.yaml": text}, **settings) as gateway:
            assert self.told(gateway, "key-of-a", 4, "remaining") == ["9", "8", "7", "6"]
            replies = self.ask(gateway, "second", 3)
            assert [one.status for one in replies] == [200, 200, 429]
            assert "Limit `few` of this API key, 2 requests in 3600 s, is reached" in replies[-1].error["message"]
            assert self.told(gateway, "key-of-b", 1, "limit") == ["1000"]

            self.files(tmp_path, [self.calls(20)], [self.calls(50, "few")], [self.calls(2000)])
            # each worker reads them by itself
            wait_until(lambda: self.told(gateway, "key-of-b", 16, "limit") == ["2000"] * 16, 15.0)
            # six of ten were used, and of two both
            replies = self.ask(gateway, "key-of-a", 8)
            assert [one.status for one in replies] == [200] * 8
            assert [one.header("x-ratelimit-remaining-requests") for one in replies] == list("76543210")
            (refused,) = self.ask(gateway, "key-of-a", 1)
            assert "Limit `calls` of tenant `team-a`, 20 requests in 3600 s" in refused.error["message"]
            page = gateway.admin("/metrics").decode()
            assert 'scope="key",limit="few",decision="refused"} 1' in page
            assert 'scope="tenant",limit="calls",decision="refused"} 1' in page

            self.files(tmp_path, [], [])
            each_worker(gateway, bearer("second"), 200)
            assert self.told(gateway, "key-of-a", 2, "limit") == [None, None]

    def test_faults_of_them_keep_the_gateway_from_starting(self, tmp_path):
        files = self.files(tmp_path, [self.calls(0)], [{"name": "x"}])
        flags = [
            text for name, path in files.items() for text in (f"--{name.replace('.', '-').replace('_', '-')}", path)
        ]
        found, _, errors = run("gateway", *flags, "--run-directory", tmp_path / "run")
        assert found != 0
        assert "tenants.yaml: `tenants.team-a.limits[0].requests` must be 1 to" in errors
        assert "keys.yaml: `keys[2].limits[0]` give at least one of" in errors


@pytest.mark.thorough
class TestFiles:
    def test_are_read_again_when_they_change(self, engines, tmp_path):
        keys_file(tmp_path)
        tenants = tmp_path / "tenants.yaml"
        tenants.write_text("")
        settings = {"identity.keys_file": tmp_path / "keys.yaml", "identity.tenants_file": tenants}
        with Gateway(tmp_path, demo(engines), **settings) as gateway:
            each_worker(gateway, bearer("key-of-a"), 200)
            keys_file(tmp_path, key_entry("team-a", "another"))
            each_worker(gateway, bearer("another"), 200)
            each_worker(gateway, bearer("key-of-a"), 401)
            tenants.write_text("others: {models: []}\n")
            each_worker(gateway, bearer("another"), 403)
            (tmp_path / "keys.yaml").write_text("keys: [{name: team-a, sha256: short}, 5]\n")
            tenants.unlink()
            wait_until(lambda: gateway.stderr.count("what it said before goes on to count") >= 6)
            assert "`keys[0].sha256` must be 64 hexadecimal digits" in gateway.stderr
            assert "`keys[1]`: expected `object`" in gateway.stderr
            each_worker(gateway, bearer("another"), 403)
            # a worker that starts now serves what the others serve
            killed = gateway.worker_processes()[0]
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda: gateway.worker_processes()[0] not in (0, killed) and gateway.is_settled())
            each_worker(gateway, bearer("another"), 403)
            tenants.write_text("tenants: {}\n")
            each_worker(gateway, bearer("another"), 200)

    def test_of_public_keys_as_well(self, engines, key, tmp_path):
        other = SigningKey(name="key-3")
        file = tmp_path / "jwks.json"
        file.write_bytes(document(key))
        settings = issuer_settings("") | {"identity.jwks_file": file}
        del settings["identity.jwks_url"]
        with Gateway(tmp_path, demo(engines), **settings) as gateway:
            assert status(gateway, bearer(token(key))) == 200
            assert status(gateway, bearer(token(other))) == 401
            file.write_bytes(document(other))
            each_worker(gateway, bearer(token(other)), 200)
            each_worker(gateway, bearer(token(key)), 401)
            file.write_text("{}")
            wait_until(lambda: "what it said before goes on to count" in gateway.stderr)
            assert status(gateway, bearer(token(other))) == 200


@pytest.mark.thorough
class TestIssuer:
    def test_rotation_is_seen_at_the_first_token_of_an_unknown_key(self, engines, key, tmp_path):
        other = SigningKey(name="key-3")
        with (
            KeyServer(document(key)) as server,
            Gateway(tmp_path, demo(engines), **issuer_settings(server.address)) as gateway,
        ):
            each_worker(gateway, bearer(token(key)), 200)
            server.text = document(key, other)
            each_worker(gateway, bearer(token(other)), 200)
            assert status(gateway, bearer(token(key))) == 200
            fetched = server.fetches
            for number in range(60):
                assert status(gateway, bearer(token(other, header={"kid": f"flood-{number}"}))) == 401
            assert server.fetches == fetched  # once a minute at most

    def test_a_server_of_keys_that_dies_is_missed_by_nobody(self, engines, key, tmp_path):
        with KeyServer(document(key)) as server:
            settings = issuer_settings(server.address)
            with Gateway(tmp_path, demo(engines), **settings) as gateway:
                each_worker(gateway, bearer(token(key)), 200)
                server.stop()
                assert status(gateway, bearer(token(key, sub="new"))) == 200
            # a gateway that starts now has the keys of before
            with Gateway(tmp_path, **settings) as gateway:
                assert status(gateway, bearer(token(key, sub="newer"))) == 200
                wait_until(lambda: "the issuer's keys cannot be had, those of before count" in gateway.stderr)
                assert status(gateway, bearer("a.b.c")) == 401

    def test_one_that_is_away_at_first_is_said_to_be_and_found_when_it_comes(self, engines, key, tmp_path):
        with KeyServer(document(key)) as server:
            server.stop()
            settings = issuer_settings(server.address) | {"identity.keys_file": keys_file(tmp_path)}
            with Gateway(tmp_path, demo(engines), **settings) as gateway:
                reply = gateway.ask(chat(max_tokens=1), headers=bearer(token(key)))
                assert (reply.status, reply.error["code"]) == (503, "identity_unavailable")
                assert reply.header("retry-after")
                assert status(gateway, bearer("key-of-a")) == 200
                server.status = 500
                server.start()
                wait_until(lambda: "answered 500, not 200" in gateway.stderr)
                server.status = 200
                each_worker(gateway, bearer(token(key)), 200, seconds=25.0)

    def test_a_token_that_expires_is_refused_also_when_it_is_remembered(self, engines, key, tmp_path):
        with KeyServer(document(key)) as server:
            settings = issuer_settings(server.address) | {"identity.jwt_leeway_seconds": 0}
            with Gateway(tmp_path, demo(engines), workers=1, **settings) as gateway:
                short = token(key, exp=int(time()) + 3)
                assert status(gateway, bearer(short)) == 200
                wait_until(lambda: status(gateway, bearer(short)) == 401)


class TestBinding:
    def test_beyond_loopback_is_allowed_with_identity(self, engines, tmp_path):
        settings = {"identity.keys_file": keys_file(tmp_path), "host": "0.0.0.0"}
        with Gateway(tmp_path, demo(engines), **settings) as gateway:
            assert status(gateway, bearer("key-of-a")) == 200
            assert status(gateway) == 401

    def test_but_not_of_the_admin_port(self, tmp_path):
        found, _, errors = run("gateway", "--admin-host", "0.0.0.0", "--identity-keys-file", keys_file(tmp_path),
                               "--run-directory", tmp_path / "run")  # fmt: skip
        assert found == 1
        assert "`admin_host` is 0.0.0.0, beyond loopback" in errors

    def test_every_fault_of_the_files_is_said_at_once(self, tmp_path):
        (tmp_path / "keys.yaml").write_text("keys: [{name: a, sha256: b}, {nam: c}]\n")
        (tmp_path / "tenants.yaml").write_text("tenants: {a: {weight: 0}}\n")
        found, _, errors = run("gateway", "--identity-keys-file", tmp_path / "keys.yaml", "--identity-tenants-file",
                               tmp_path / "tenants.yaml", "--identity-jwks-url", "http://example.com/",
                               "--run-directory", tmp_path / "run")  # fmt: skip
        assert found == 1
        for wanted in ("keys[0].sha256", "keys[1]", "tenants.a.weight", "jwt_issuer", "jwt_audiences", "https://"):
            assert wanted in errors
        assert "Traceback" not in errors


def test_without_identity_nobody_is_asked(engines, tmp_path):
    with Gateway(tmp_path, demo(engines), workers=1) as gateway:
        reply = gateway.ask(chat(max_tokens=1), CHAT)
        assert reply.status == 200
        assert "tenant" not in gateway.log_line(reply.header("x-request-id"))
        assert get(gateway.port, "/v1/models").status == 200
