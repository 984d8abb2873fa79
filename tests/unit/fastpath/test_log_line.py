"""What a line of the access log looks like, byte by byte, and how lines wait."""

import json

import pytest

from _fastpath.log_line import LogLines, is_plain

LINE = (
    1_700_000_000.0, "req_1", "/v1/completions", 200, "text_completion", "m", "d/r", "d/s", "d/p", True,
    1.5, 0.25, 0.0004, 1, 100, 200, 0.5, (9, 4, 3), 7, 8, False, "", "", "", "", "", 0.0,
)  # fmt: skip
PLACES = {"wall": 0, "id": 1, "status": 3, "route": 6, "duration": 10, "first": 11, "overhead": 12, "ratio": 16, "usage": 17,
          "prompt": 18, "tenant": 24, "refusal": 25, "waited": 26}  # fmt: skip


def line(**changes):
    arguments = list(LINE)
    for name, value in changes.items():
        arguments[PLACES[name]] = value
    lines = LogLines()
    lines.add(*arguments)
    return lines.take()


def test_a_whole_line():
    assert line() == (
        b'{"timestamp":"2023-11-14T22:13:20.000+00:00","level":"info","event":"request","request_id":"req_1","method":"POST",'
        b'"path":"/v1/completions","status_code":200,"operation":"text_completion","model_name":"m","model_route":"d/r",'
        b'"model_server":"d/s","selected_pod":"d/p","stream":true,"duration_ms":1500.000,"ttft_ms":250.000,"overhead_ms":0.400,'
        b'"upstream_attempts":1,"bytes_in":100,"bytes_out":200,"prefix_match_ratio":0.500,"input_tokens":9,"output_tokens":4,'
        b'"cached_tokens":3,"tokens_source":"engine"}\n'
    )


def test_what_did_not_happen_is_null_or_left_out():
    found = json.loads(line(first=-1.0, overhead=-1.0, ratio=-1.0, usage=None, prompt=0, route=None))
    assert (found["ttft_ms"], found["overhead_ms"], found["model_route"]) == (None, None, None)
    assert not {"prefix_match_ratio", "input_tokens", "tokens_source"} & set(found)


def test_who_asked_and_why_a_credential_did_not_count():
    found = json.loads(line(tenant='team "a"', refusal="expired"))
    assert (found["tenant"], found["auth.reason"]) == ('team "a"', "expired")
    assert not {"tenant", "auth.reason"} & set(json.loads(line()))


def test_what_a_request_waited_stands_before_its_attempts():
    assert b'"overhead_ms":0.400,"queue_ms":1250.000,"upstream_attempts":1,' in line(waited=1.25)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_a_time_that_is_no_number_does_not_break_the_line(value):
    assert json.loads(line(duration=value))["duration_ms"] is None


def test_a_failure_of_ours_is_an_error():
    assert json.loads(line(status=500))["level"] == "error"
    assert json.loads(line(status=499))["level"] == "info"


def test_half_of_a_surrogate_pair_is_refused():
    with pytest.raises(UnicodeEncodeError):
        line(route="\ud800")


@pytest.mark.parametrize(
    ("wall", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000"),
        (951_782_399.9994, "2000-02-28T23:59:59.999"),
        (951_782_399.9995, "2000-02-29T00:00:00.000"),
        (253_402_300_799.0, "9999-12-31T23:59:59.000"),
        (-1.0, "1970-01-01T00:00:00.000"),
        (float("nan"), "1970-01-01T00:00:00.000"),
    ],
)
def test_a_moment_is_rounded_to_milliseconds(wall, text):
    assert json.loads(line(wall=wall))["timestamp"] == text + "+00:00"


def test_a_line_that_fails_leaves_those_that_wait_as_they_are():
    lines = LogLines()
    lines.add(*LINE)
    with pytest.raises(UnicodeEncodeError):
        lines.add(*LINE[:6], "\ud800", *LINE[7:])
    with pytest.raises(ValueError, match="values to unpack"):
        lines.add(*LINE[:17], (1, 2), *LINE[18:])
    assert lines.count == 1
    assert lines.take() == line()


def test_lines_of_any_length_wait_and_nothing_is_left_of_them():
    lines = LogLines()
    for size in (0, 1, 10_000, 3_000_000, 5):
        lines.add(LINE[0], "\n" * size, *LINE[2:])
    assert lines.count == 5
    found = [len(json.loads(one)["request_id"]) for one in lines.take().splitlines()]
    assert found == [0, 1, 10_000, 3_000_000, 5]
    assert (lines.count, lines.take()) == (0, b"")
    lines.add(*LINE)
    assert lines.take() == line()


@pytest.mark.parametrize("length", range(20))
@pytest.mark.parametrize("special", ['"', "\\", "\x00", "\x1f", "\x7f"])
def test_what_is_special_is_escaped_wherever_it_stands(length, special):
    for place in range(length):
        text = "a" * place + special + "b" * (length - place - 1)
        assert special.encode() not in line(id=text).replace(b'"', b"").replace(b"\\", b"") or special in '"\\'
        assert json.loads(line(id=text))["request_id"] == text
        assert is_plain(text, 30) == (special in '"\\')


def test_a_text_is_plain_up_to_its_length():
    assert is_plain("abc", 3)
    assert not is_plain("abcd", 3)
    assert not is_plain("\u00e9", 3)
    with pytest.raises(TypeError):
        is_plain(None, 3)  # type: ignore[arg-type]
