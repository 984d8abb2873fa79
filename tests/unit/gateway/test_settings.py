"""Settings: four sources in their order, every fault at once, and what a run directory must be."""

import os
import stat

import pytest

from gateway.settings import Requests, Settings, SettingsError, fields, load, run_directory
from gateway.settings_check import is_loopback
from tests.support.certificates import Authority

NOTHING = {}


def faults(**sources):
    with pytest.raises(SettingsError) as raised:
        load(**{"environment": NOTHING, **sources})
    assert str(raised.value) == "\n".join(raised.value.faults)
    return raised.value.faults


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return path

    return write


def test_without_any_source_the_defaults_stand():
    assert load(environment=NOTHING) == Settings()


def test_a_flag_wins_over_the_environment_the_environment_over_the_file_the_file_over_the_default(file):
    path = file("port: 1111\nadmin_port: 1112\nworkers: 3\nheader_seconds: 5\n")
    environment = {"PENSTOCK_PORT": "2221", "PENSTOCK_ADMIN_PORT": "2222", "PENSTOCK_WORKERS": "4"}
    found = load({"port": "3331", "admin_port": 3332}, environment, path)
    assert (found.port, found.admin_port, found.workers, found.header_seconds) == (3331, 3332, 4, 5.0)
    assert found.host == "127.0.0.1"


def test_a_flag_that_was_not_given_says_nothing(file):
    assert load({"port": None}, NOTHING, file("port: 1111")).port == 1111


def test_a_nested_setting_has_one_name_in_every_source(file):
    assert load(file=file("shared_memory:\n  slots: 100\n"), environment=NOTHING).shared_memory.slots == 100
    assert load(environment={"PENSTOCK_SHARED_MEMORY_SLOTS": "200"}).shared_memory.slots == 200
    assert load({"shared_memory.slots": "300"}, NOTHING).shared_memory.slots == 300
    assert load({"shared_memory.slots": "300"}, NOTHING).shared_memory.buckets == 4096


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("1", True), ("false", False), ("0", False), ("TRUE", True)]
)
def test_texts_become_what_the_setting_is(text, value):
    assert load(environment={"PENSTOCK_ACCESS_LOG": text}).access_log is value


def test_every_setting_can_be_set_from_the_environment():
    kinds = {int: "7", float: "7.5", bool: "true", str: "seven"}
    for name, kind in fields(Settings):
        if name in (
            "upstream_ca_file",
            "redis.ca_file",
            "redis.password_file",
            "access_log_decisions",
            "scheduling_plugins",
        ):
            continue  # files that are read, and bounds of their own: see below and test_decision.py
        if name.startswith("identity."):
            continue  # see test_identity_settings.py
        kinds[float] = "0.05" if name == "streams.coalesce_seconds" else "7.5"
        kinds[int] = "4096" if name.startswith("shared_memory.") else "7"
        environment = {"PENSTOCK_" + name.replace(".", "_").upper(): kinds[kind], "PENSTOCK_INSECURE_NO_AUTH": "1"}
        found = load(environment=environment)
        group, _, rest = name.partition(".")
        value = getattr(getattr(found, group), rest) if rest else getattr(found, name)
        assert value == {int: int(kinds[int]), float: float(kinds[float]), bool: True, str: "seven"}[kind], name


def test_the_authorities_of_engines_can_be_set_in_every_source(file, tmp_path):
    name = str(Authority(tmp_path).file)
    assert load({"upstream_ca_file": name}, NOTHING).upstream_ca_file == name
    assert load(environment={"PENSTOCK_UPSTREAM_CA_FILE": name}).upstream_ca_file == name
    assert load(file=file(f"upstream_ca_file: {name}\n"), environment=NOTHING).upstream_ca_file == name


@pytest.mark.parametrize(
    "text", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"]
)
def test_authorities_that_are_no_certificates_are_a_fault_beside_the_others(tmp_path, text):
    path = tmp_path / "authorities.pem"
    path.write_text(text)
    found = faults(flags={"upstream_ca_file": str(path), "workers": 0})
    assert [fault for fault in found if fault.startswith(f"`upstream_ca_file`: {path} must hold certificates in PEM")]
    assert len(found) == 2


def test_authorities_that_break_off_are_a_fault(tmp_path):
    path = Authority(tmp_path).file
    whole = path.read_text()
    path.write_text(whole + whole[: len(whole) // 2])
    (fault,) = faults(flags={"upstream_ca_file": str(path)})
    assert "must hold certificates in PEM" in fault


def test_authorities_that_cannot_be_read_are_a_fault_with_the_reason(tmp_path):
    (missing,) = faults(flags={"upstream_ca_file": str(tmp_path / "none.pem")})
    assert missing == f"`upstream_ca_file`: {tmp_path}/none.pem cannot be read: No such file or directory"
    (directory,) = faults(flags={"upstream_ca_file": str(tmp_path)})
    assert directory.endswith("cannot be read: Is a directory")


def test_what_kubernetes_says_of_a_service_called_penstock_is_not_a_setting():
    environment = {
        "PENSTOCK_PORT": "tcp://10.0.0.1:8080",
        "PENSTOCK_SERVICE_HOST": "10.0.0.1",
        "PENSTOCK_SERVICE_PORT": "8080",
        "PENSTOCK_PORT_8080_TCP": "tcp://10.0.0.1:8080",
    }
    assert load(environment=environment) == Settings()


def test_every_fault_of_every_source_is_reported_at_once(file):
    path = file("prot: 1\nworkers: [2]\nrequests:\n  body_bites: 5\n  json_depth: deep\n")
    found = faults(
        flags={"port": "x", "header_seconds": "61"},
        environment={"PENSTOCK_DRAIN_SECONDS": "soon", "PENSTOCK_HOST": "0.0.0.0"},
        file=path,
    )
    wanted = [
        f"{path}: unknown setting `prot`: did you mean `port`?",
        f"{path}: unknown setting `requests.body_bites`: did you mean `requests.body_bytes`?",
        f"{path}: `workers` must be a whole number, not [2]",
        f"{path}: `requests.json_depth` must be a whole number, not 'deep'",
        "flag --port: `port` must be a whole number, not 'x'",
        "environment PENSTOCK_DRAIN_SECONDS: `drain_seconds` must be a number, not 'soon'",
        "`header_seconds` must be 1 to 60",
        "`host` is 0.0.0.0, beyond loopback",
    ]
    for start in wanted:
        assert [fault for fault in found if fault.startswith(start)], (start, found)
    assert len(found) == len(wanted)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"port": 65536}, "`port` must be 0 to 65535, not 65536"),
        ({"port": -1}, "`port` must be 0 to 65535, not -1"),
        ({"admin_port": 8080}, "`port` and `admin_port` are both 8080"),
        ({"workers": 0}, "`workers` must be 1 to 63, not 0"),
        ({"workers": 64}, "`workers` must be 1 to 63, not 64"),
        ({"header_seconds": 0.5}, "`header_seconds` must be 1 to 60"),
        ({"streams.check_bytes": -1}, "`streams.check_bytes` must not be negative, not -1"),
        ({"drain_seconds": -0.1}, "`drain_seconds` must not be negative, not -0.1"),
        ({"identity.limits_redis": "redis"}, "`identity.limits_redis`: `redis` must name a host and a port"),
        ({"streams.coalesce_seconds": 1.0}, "`streams.coalesce_seconds` must be at most 0.05"),
        ({"queue.reserved_percent": 60.0}, "`queue.reserved_percent` must be at most 50, not 60"),
    ],
)
def test_values_out_of_bounds_are_named(values, wanted):
    assert any(fault.startswith(wanted) for fault in faults(flags=values))


@pytest.mark.parametrize("name", ["header_seconds", "drain_seconds", "requests.body_seconds"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_number_of_seconds_is_finite(name, value):
    assert any(name in fault for fault in faults(flags={name: value}))


def test_both_ports_may_be_chosen_by_the_system():
    assert load({"port": 0, "admin_port": 0}, NOTHING).port == 0


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("- port\n", "must hold a mapping"),
        ("port: [\n", "while parsing"),
        ("port: 1.5\n", "`port` must be a whole number, not 1.5"),
        ("access_log: 1\n", "`access_log` must be true or false, not 1"),
        ("host: 5\n", "`host` must be text, not 5"),
        ("requests: 5\n", "unknown setting `requests`"),
        ("5: 6\n", "unknown setting `5`"),
        ("zzzzzz: 6\n", "unknown setting `zzzzzz`"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_what_is_wrong(file, text, wanted):
    path = file(text)
    (fault,) = faults(file=path)
    assert fault.startswith(f"{path}: ")
    assert wanted in fault


def test_a_file_that_is_not_there_is_a_fault(tmp_path):
    (fault,) = faults(file=tmp_path / "none.yaml")
    assert "none.yaml" in fault


def test_a_file_that_is_no_text_is_a_fault(tmp_path):
    (tmp_path / "f").write_bytes(b"\xff\xfe\x00")
    assert len(faults(file=tmp_path / "f")) == 1


def test_an_empty_file_says_nothing(file):
    assert load(file=file("# later\n"), environment=NOTHING) == Settings()


def test_the_short_name_of_the_run_directory_counts():
    assert load(environment={"PENSTOCK_RUN_DIR": "/x"}).run_directory == "/x"
    assert load({"run_directory": "/y"}, {"PENSTOCK_RUN_DIR": "/x"}).run_directory == "/y"


@pytest.mark.parametrize("name", ["host", "admin_host"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", "127.0.0.1.example.com", ""])
def test_a_port_beyond_loopback_needs_the_word_for_it(name, host):
    assert any(fault.startswith(f"`{name}` is {host}, beyond loopback") for fault in faults(flags={name: host}))
    assert getattr(load({name: host, "insecure_no_auth": "true"}, NOTHING), name) == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_word(host):
    assert is_loopback(host)
    assert load({"host": host, "admin_host": host}, NOTHING).host == host


def test_settings_are_named_with_their_types():
    known = dict(fields(Settings))
    assert known["port"] is int
    assert known["requests.body_seconds"] is float
    assert known["insecure_no_auth"] is bool
    assert "requests" not in known
    assert next(name for name, _ in fields(Requests)) == "body_bytes"


def test_a_run_directory_is_made_for_its_user_alone(tmp_path):
    path = tmp_path / "deep" / "run"
    assert run_directory(Settings(run_directory=str(path)), NOTHING) == path
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_run_directory_that_was_open_to_others_is_closed(tmp_path):
    path = tmp_path / "run"
    path.mkdir(mode=0o777)
    path.chmod(0o777)
    run_directory(Settings(run_directory=str(path)), NOTHING)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_without_a_setting_the_run_directory_is_the_users_own(tmp_path, monkeypatch):
    found = run_directory(Settings(), {"XDG_RUNTIME_DIR": str(tmp_path)})
    assert found == tmp_path / "penstock"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run_directory(Settings(), NOTHING) == tmp_path / f"penstock-{os.getuid()}"


def test_a_relative_run_directory_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_directory(Settings(run_directory="run"), NOTHING) == tmp_path / "run"


def test_a_run_directory_with_too_long_a_path_for_a_socket_is_refused_before_it_is_made(tmp_path):
    room = 107 - len("/snapshots") - len(str(tmp_path)) - 1
    fits, too_long = tmp_path / ("x" * room), tmp_path / ("x" * (room + 1))
    assert run_directory(Settings(run_directory=str(fits)), NOTHING) == fits
    with pytest.raises(SettingsError, match="108 bytes, and the system allows 107"):
        run_directory(Settings(run_directory=str(too_long)), NOTHING)
    assert not too_long.exists()


def test_the_length_of_a_socket_path_is_counted_in_bytes(tmp_path):
    room = (107 - len("/snapshots") - len(str(tmp_path)) - 1) // 2
    with pytest.raises(SettingsError, match="bytes"):
        run_directory(Settings(run_directory=str(tmp_path / ("ä" * (room + 1)))), NOTHING)


def test_a_run_directory_of_somebody_else_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "run"
    path.mkdir()
    monkeypatch.setattr("gateway.settings.os.getuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(SettingsError, match="belongs to user"):
        run_directory(Settings(run_directory=str(path)), NOTHING)


def test_a_member_that_the_gateway_itself_reads_cannot_be_stripped():
    with pytest.raises(SettingsError) as failed:
        load(flags={"requests.stripped_members": "kv_transfer_params mod*"}, environment={})
    (fault,) = failed.value.faults
    assert fault.startswith("`requests.stripped_members`: ")
    assert "mod*" in fault


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("redis.gateways", 0, "`redis.gateways` must be 1 or more, not 0"),
        ("redis.timeout_seconds", 0, "`redis.timeout_seconds` must be 0.01 to 10, not 0.0"),
        ("redis.password_file", "/none", "`redis.password_file`: /none cannot be read"),
    ],
)
def test_what_is_said_of_redis_is_checked(name, value, message):
    assert message in faults(flags={name: value})
