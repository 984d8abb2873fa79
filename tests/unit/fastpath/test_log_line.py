"""What a line of the access log looks like, byte by byte."""

import json

import pytest

from _fastpath.log_line import request_line

LINE = (
    "2023-11-14T22:13:20.000+00:00", "req_1", "/v1/completions", 200, "text_completion", "m", "d/r", "d/s", "d/p", True,
    1.5, 0.25, 0.0004, 1, 100, 200, 0.5, (9, 4, 3), 7, 8, False, "", "", "", "", "", 0.0,
)  # fmt: skip
PLACES = {"status": 3, "route": 6, "duration": 10, "first": 11, "overhead": 12, "ratio": 16, "usage": 17, "prompt": 18, "tenant": 24,
          "refusal": 25, "waited": 26}  # fmt: skip


def line(**changes):
    arguments = list(LINE)
    for name, value in changes.items():
        arguments[PLACES[name]] = value
    return request_line(*arguments)


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
