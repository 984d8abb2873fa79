"""A request's head to an engine, beside formatted strings."""

from collections.abc import Callable
from typing import Any

import pytest

from _fastpath.request_head import passed_on, request_head
from tests.reference.request_head import passed_on as plain_passed_on
from tests.reference.request_head import request_head as plain_request_head

ID = "req_0123456789abcdef00000001"
SENT = {"accept": "application/json", "user-agent": "OpenAI/Python 1.99.0", "host": "gateway"}
START = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 10.0.0.1:8000\r\n"

pytestmark = pytest.mark.benchmark(max_time=0.3)


def test_request_head(benchmark: Callable[..., Any]) -> None:
    benchmark(lambda: request_head(START, passed_on(ID, SENT.get, False), 1200))


def test_request_head_twin(benchmark: Callable[..., Any]) -> None:
    benchmark(lambda: plain_request_head(START, plain_passed_on(ID, SENT.get, False), 1200))
