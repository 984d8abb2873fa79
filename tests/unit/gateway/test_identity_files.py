"""The files of API keys and tenants, and the settings of identity: what they mean, and every fault of them at once."""

import json
from hashlib import sha256

import pytest

from gateway.identity.directory import Directory, Tenant, parse_keys, parse_secret, parse_tenants
from gateway.identity.faults import FileFaults
from gateway.settings import Settings, SettingsError, load
from tests.support.issuer import AUDIENCE, ISSUER, SigningKey, document

DIGEST = sha256(b"key").hexdigest()
OTHER = sha256(b"other").hexdigest()


def faults(parse, text):
    with pytest.raises(FileFaults) as raised:
        parse(text.encode())
    return raised.value.faults


def callers(keys="", tenants="", secret=b""):
    directory = Directory(parse_keys(keys.encode()), *parse_tenants(tenants.encode()), secret)
    return [key.caller for key in directory.keys], directory.caller_of


def test_a_key_stands_for_the_tenant_of_its_name():
    (a, again), _ = callers(f"keys: [{{name: a, sha256: {DIGEST}}}, {{name: a, sha256: {OTHER.upper()}}}]")
    assert (a.tenant, again.tenant) == ("a", "a")
    assert a.may_use("anything")


def test_a_tenant_has_what_is_said_of_it_and_others_what_is_said_of_others():
    tenants = "tenants: {a: {models: [m, n-*], weight: 3, priority: 10}}\nothers: {models: [m], priority: 1}"
    (a, b), caller_of = callers(
        f"keys: [{{name: a, sha256: {DIGEST}, models: [m, x], priority: 4}}, {{name: b, sha256: {OTHER}, priority: 50}}]",
        tenants,
    )
    assert [model for model in ("m", "n-1", "x") if a.may_use(model)] == ["m"]
    assert (a.weight, a.priority) == (3.0, 4)
    assert (b.may_use("m"), b.may_use("x"), b.priority) == (True, False, 1)
    assert [model for model in ("m", "n-1", "x") if caller_of("a").may_use(model)] == ["m", "n-1"]
    assert (caller_of("a").priority, caller_of("c").priority) == (10, 1)


def test_salts_are_a_tenant_s_own_and_the_same_wherever_the_secret_is():
    (a,), caller_of = callers(f"keys: [{{name: a, sha256: {DIGEST}}}]", secret=b"s" * 16)
    _, elsewhere = callers(secret=b"s" * 16)
    _, otherwise = callers(secret=b"t" * 16)
    assert a.cache_salt == caller_of("a").cache_salt == elsewhere("a").cache_salt
    assert len({a.cache_salt, caller_of("b").cache_salt, otherwise("a").cache_salt}) == 3
    assert len(json.loads(a.cache_salt)) == 44
    assert callers()[1]("a").cache_salt == b""


@pytest.mark.parametrize("text", ["", "# later\n", "keys:\n", "keys: []"])
def test_a_file_without_keys_has_none(text):
    assert parse_keys(text.encode()) == []


@pytest.mark.parametrize("text", ["", "tenants:\n", "tenants: {}\nothers: {}", "others:\n"])
def test_a_file_without_tenants_bounds_nobody(text):
    assert parse_tenants(text.encode()) == ({}, Tenant())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[", ["while parsing"]),
        ("5", ["must hold a mapping with `keys`"]),
        ("keys: {}", []),
        ("keys: 5", ["`keys` must be a list"]),
        ("kyes: []", ["unknown field `kyes`"]),
        ("keys: [5]", ["`keys[0]`: expected `object`"]),
        (f"keys: [{{sha256: {DIGEST}}}]", ["`keys[0]`: object missing required field `name`"]),
        ("keys: [{name: a}]", ["`keys[0]`: object missing required field `sha256`"]),
        (f"keys: [{{name: 5, sha256: {DIGEST}}}]", ["`keys[0].name`: expected `str`"]),
        (f"keys: [{{name: '', sha256: {DIGEST}}}]", ["`keys[0].name` must be 1 to 256 printable"]),
        (f'keys: [{{name: "a\\tb", sha256: {DIGEST}}}]', ["`keys[0].name` must be 1 to 256 printable"]),
        ("keys: [{name: a, sha256: key}]", ["`keys[0].sha256` must be 64 hexadecimal digits"]),
        (f"keys: [{{name: a, sha256: {DIGEST}, key: plain}}]", ["`keys[0]`: object contains unknown field `key`"]),
        (f"keys: [{{name: a, sha256: {DIGEST}, models: m}}]", ["`keys[0].models`: expected `array | null`"]),
        (f"keys: [{{name: a, sha256: {DIGEST}, models: ['a*b']}}]", ["`keys[0].models[0]` must be a name"]),
        (f"keys: [{{name: a, sha256: {DIGEST}, models: ['']}}]", ["`keys[0].models[0]` must be a name"]),
        (
            f"keys: [{{name: a, sha256: {DIGEST}}}, {{name: b, sha256: {DIGEST.upper()}}}]",
            ["`keys[1].sha256` stands twice: `a` has it already"],
        ),
        (
            f"keys: [{{name: a, sha256: {DIGEST}, limits: [{{name: l}}]}}]",
            ["`keys[0].limits[0]` give at least one of `inputTokens`"],
        ),
        (f"keys: [{{name: a, sha256: {DIGEST}, limits: [{{requests: 1}}]}}]", ["`keys[0].limits[0]`: object missing"]),
        ("keys: [5, {name: '', sha256: x}]", ["`keys[0]`", "`keys[1].name`", "`keys[1].sha256`"]),
    ],
)
def test_every_fault_of_a_file_of_keys_is_named(text, wanted):
    if not wanted:
        assert parse_keys(text.encode()) == []
        return
    found = faults(parse_keys, text)
    assert len(found) == len(wanted)
    assert all(fault.startswith(start) for fault, start in zip(found, wanted, strict=True)), found


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("\xff", ["must hold a mapping with `others` and `tenants`"]),
        ("tenants: [a]", ["`tenants` must be a mapping"]),
        ("tenants: {5: {}}", ["`tenants.5`: the name of a tenant must be text"]),
        ("tenants: {a: 5}", ["`tenants.a`: expected `object`"]),
        ("tenants: {a: {weight: 0}}", ["`tenants.a.weight` must be above 0"]),
        ("tenants: {a: {weight: .nan}}", ["`tenants.a.weight` must be above 0"]),
        ("tenants: {a: {priority: high}}", ["`tenants.a.priority`: expected `int`"]),
        ("tenants: {a: {limits: 5}}", ["`tenants.a.limits`: expected `array`"]),
        ("tenants: {a: {limits: [{name: l, requests: 0}]}}", ["`tenants.a.limits[0].requests` must be 1 to"]),
        ("others: {limits: [{name: l, inputTokens: 1.5}]}", ["`others.limits[0].inputTokens`: expected `int | null`"]),
        ("others: {limits: [{name: l, unit: week, requests: 1}]}", ["`others.limits[0].unit`: invalid enum value"]),
        (
            "others: {limits: [{name: l, requests: 1, key: {type: header}}]}",
            ["`others.limits[0]`: object contains unknown field `key`"],
        ),
        (
            "tenants: {a: {limits: [{name: l, requests: 1, unit: month, burst: 1000}, {name: l, requests: 1}]}}",
            [
                "`tenants.a.limits[0].burst` 1000 take more than four years",
                "`tenants.a.limits[1].name` `l` stands twice",
            ],
        ),
        (
            "others: {limits: [{name: l, requests: 1, inputTokens: 1, outputTokens: 1}, "
            "{name: k, requests: 1, inputTokens: 1}]}",
            ["`others.limits` holds a request to 5 limits, at most 4 are kept"],
        ),
        ("others: {models: ['*b', c, '']}", ["`others.models[0]`", "`others.models[2]`"]),
        (
            "others: {limit: 5}\ntenant: {}",
            ["unknown field `tenant`", "`others`: object contains unknown field `limit`"],
        ),
    ],
)
def test_every_fault_of_a_file_of_tenants_is_named(text, wanted):
    found = faults(parse_tenants, text)
    assert len(found) == len(wanted)
    assert all(fault.startswith(start) for fault, start in zip(found, wanted, strict=True)), found


def test_a_file_that_is_no_text_is_a_fault():
    with pytest.raises(FileFaults):
        parse_keys(b"\xff\xfe\x00")


def test_a_secret_has_sixteen_bytes():
    assert parse_secret(b" sixteen bytes ok\n") == b"sixteen bytes ok"
    assert faults(parse_secret, "short\n") == ["holds 5 bytes: a secret must have at least 16"]


class TestSettings:
    @pytest.fixture(scope="class")
    @staticmethod
    def key():
        return SigningKey()

    @staticmethod
    def loaded(**identity):
        return load({f"identity.{name}": value for name, value in identity.items()}, {})

    def faults(self, **identity):
        with pytest.raises(SettingsError) as raised:
            self.loaded(**identity)
        return raised.value.faults

    def test_by_default_nobody_is_asked(self):
        assert load(environment={}) == Settings()

    @pytest.mark.parametrize(
        ("identity", "wanted"),
        [
            ({"jwt_leeway_seconds": 61}, ["`identity.jwt_leeway_seconds` must be at most 60"]),
            ({"token_bytes": 100}, ["`identity.token_bytes` must be 256 to 65536"]),
            ({"cached_tokens": 0}, ["`identity.cached_tokens` must be 1 to"]),
            ({"public_paths": "/v1/models healthz"}, ["`identity.public_paths`: `healthz` must begin with /"]),
            ({"limits_on_store_failure": "never"}, ["`identity.limits_on_store_failure` must be allow, deny, local"]),
            ({"limits_on_store_failure": "deny"}, ["`identity.limits_on_store_failure` has no effect without"]),
            ({"limits_redis": "redis:6379"}, ["`identity.limits_redis` is about tenants, and nobody is asked"]),
            ({"jwt_issuer": "x"}, ["`identity.jwt_issuer` is set, and no keys"]),
            ({"keys_file": "/nowhere"}, ["`identity.keys_file`: /nowhere cannot be read: No such file"]),
            ({"jwks_url": "https://x/"}, ["`identity.jwt_issuer` is missing", "`identity.jwt_audiences` is missing"]),
        ],
    )
    def test_faults(self, identity, wanted):
        found = self.faults(**identity)
        assert len(found) == len(wanted)
        assert all(fault.startswith(start) for fault, start in zip(found, wanted, strict=True)), found

    @pytest.mark.parametrize("what", ["tenants_file", "cache_salt_file"])
    def test_what_is_about_tenants_needs_somebody_who_is_one(self, tmp_path, what):
        file = tmp_path / "file"
        file.write_text("# a comment of more than sixteen bytes")
        (fault,) = self.faults(**{what: str(file)})
        assert "nobody is asked who they are" in fault

    @pytest.mark.parametrize(
        ("address", "why"),
        [
            ("http://issuer.example/keys", "whoever stands between"),
            ("http://127.0.0.1.example/keys", "whoever stands between"),
            ("ftp://issuer.example/keys", "must be an address with https://"),
            ("issuer.example/keys", "must be an address with https://"),
            ("https://", "must be an address with https://"),
            ("https://[x/", "is no address"),
            ("https://x:port/", "is no address"),
        ],
    )
    def test_an_address_of_keys_must_be_one_that_nobody_can_answer_for(self, address, why):
        (fault,) = self.faults(jwks_url=address, jwt_issuer=ISSUER, jwt_audiences=AUDIENCE)
        assert why in fault

    @pytest.mark.parametrize(
        "address", ["https://issuer.example/keys", "http://127.0.0.1:5/", "http://[::1]/", "http://localhost/"]
    )
    def test_addresses_that_are(self, address):
        assert self.loaded(jwks_url=address, jwt_issuer=ISSUER, jwt_audiences="a b").identity.jwks_url == address

    @pytest.mark.parametrize("algorithms", ["HS256", "none", "RS256 HS512", "", "rs256"])
    def test_no_algorithm_of_shared_secrets_can_be_configured(self, algorithms):
        (fault,) = self.faults(
            jwks_url="https://x/", jwt_issuer=ISSUER, jwt_audiences=AUDIENCE, jwt_algorithms=algorithms
        )
        assert fault.startswith("`identity.jwt_algorithms` must be of")

    def test_a_file_of_public_keys_is_read(self, tmp_path, key):
        file = tmp_path / "jwks.json"
        file.write_bytes(document(key))
        settings = {"jwks_file": str(file), "jwt_issuer": ISSUER, "jwt_audiences": AUDIENCE}
        assert self.loaded(**settings).identity.jwks_file == str(file)
        (fault,) = self.faults(**settings, jwt_algorithms="ES256")
        assert "holds no key that can be used" in fault
        (fault,) = self.faults(**settings, jwks_url="https://x/")
        assert "are both set" in fault
        file.unlink()
        (fault,) = self.faults(**settings)
        assert fault.endswith("cannot be read: No such file or directory")

    def test_without_the_extra_tokens_cannot_be_checked_and_keys_can(self, tmp_path, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        (fault,) = self.faults(jwks_url="https://x/", jwt_issuer=ISSUER, jwt_audiences=AUDIENCE)
        assert "pip install 'penstock[auth]'" in fault
        (tmp_path / "keys").write_text(f"keys: [{{name: a, sha256: {DIGEST}}}]")
        assert self.loaded(keys_file=str(tmp_path / "keys")).identity.keys_file

    def test_a_host_beyond_loopback_needs_identity_and_the_admin_port_the_word_for_it(self, tmp_path):
        (tmp_path / "keys").write_text(f"keys: [{{name: a, sha256: {DIGEST}}}]")
        flags = {"identity.keys_file": str(tmp_path / "keys"), "host": "0.0.0.0"}
        assert load(flags, {}).host == "0.0.0.0"
        with pytest.raises(SettingsError, match="`admin_host` is"):
            load({**flags, "admin_host": "0.0.0.0"}, {})
