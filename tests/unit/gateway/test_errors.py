"""What a client is told of an error: OpenAI's object, and headers that steer its retries."""

import json
import math

import pytest

from gateway import errors
from gateway.errors import ClientError, Draining, PenstockError, RateLimited, UpstreamError, UpstreamTimeout


def kinds(root=PenstockError):
    for kind in root.__subclasses__():
        yield kind
        yield from kinds(kind)


def test_a_body_has_all_four_members_of_openais_error():
    error = ClientError("no `model`", code="missing_required_parameter", parameter="model")
    assert json.loads(errors.body(error)) == {
        "error": {
            "message": "no `model`",
            "type": "invalid_request_error",
            "param": "model",
            "code": "missing_required_parameter",
        }
    }
    assert json.loads(errors.body(UpstreamError("x")))["error"] == {
        "message": "x",
        "type": "server_error",
        "param": None,
        "code": "upstream_error",
    }


@pytest.mark.parametrize("kind", [PenstockError, *kinds()], ids=lambda kind: kind.__name__)
def test_every_kind_has_a_status_of_an_error_and_a_code_of_its_own(kind):
    error = kind("x")
    assert 400 <= error.status <= 599
    assert error.code == kind.code
    assert error.source in ("client", "gateway", "upstream")
    assert (error.source == "client") == (issubclass(kind, ClientError))
    assert dict(errors.headers(error))["x-should-retry"] == ("true" if error.retryable else "false")


def test_no_two_kinds_share_a_code():
    codes = [kind.code for kind in (PenstockError, *kinds())]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize(
    ("wait", "seconds", "milliseconds"),
    [
        (0.0, "1", "1"),
        (0.0001, "1", "1"),
        (0.25, "1", "250"),
        (1.0, "1", "1000"),
        (1.0004, "2", "1001"),
        (90, "90", "90000"),
    ],
)
def test_a_wait_is_told_in_seconds_and_milliseconds_never_too_short(wait, seconds, milliseconds):
    found = dict(errors.headers(RateLimited("x", retry_after=wait)))
    assert (found["retry-after"], found["retry-after-ms"]) == (seconds, milliseconds)


@pytest.mark.parametrize("wait", [None, math.inf])
def test_without_an_end_no_wait_is_told(wait):
    assert [name for name, _ in errors.headers(RateLimited("x", retry_after=wait)) if name.startswith("retry")] == []


def test_extra_headers_come_last():
    assert errors.headers(Draining("x", extra_headers=(("connection", "close"),)))[-1] == ("connection", "close")


def test_a_retry_is_advised_where_another_try_may_help():
    assert [kind.retryable for kind in (Draining, RateLimited, UpstreamError)] == [True] * 3
    assert [kind.retryable for kind in (ClientError, UpstreamTimeout, PenstockError)] == [False] * 3


def test_a_stream_ends_with_an_event_called_error():
    event = errors.stream_event(UpstreamError("broke\noff"))
    name, data, *rest = event.split(b"\n")
    assert (name, rest) == (b"event: error", [b"", b""])
    content = json.loads(data.removeprefix(b"data: "))
    assert content["error"]["message"] == "broke\noff"


def test_a_message_with_anything_in_it_is_json():
    text = 'a"b\\c\n\x00\x1b</script>\u2028é'
    assert json.loads(errors.body(ClientError(text)))["error"]["message"] == text
