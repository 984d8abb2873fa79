"""The body scanner beside its plain-Python twin, on a small body and on large ones of several kinds."""

import json
from collections.abc import Callable
from timeit import repeat
from typing import Any

import pytest

from _fastpath.scanner import Forbidden, scan
from tests.reference import scanner as twin

Benchmark = Callable[..., Any]


def body(prompt_bytes: int) -> bytes:
    """A chat request: a system prompt, then turns of 500 characters with quotes, line ends and a few letters beyond ASCII."""
    turn = 'She said "use the gate", so we did.\nThe café was open, as ever.\n' * 8
    messages = [{"role": "system", "content": "You are a careful assistant."}]
    while len(json.dumps(messages, ensure_ascii=False).encode()) < prompt_bytes:
        messages.append({"role": ("user", "assistant")[len(messages) % 2], "content": turn[: prompt_bytes // 2]})
    return request(messages)


def request(messages: list[dict[str, str]]) -> bytes:
    """A chat request with the usual parameters."""
    parameters = {
        "model": "meta-llama/Llama-3.1-8B-Instruct", "messages": messages, "stream": True,
        "stream_options": {"include_usage": True}, "max_tokens": 256, "temperature": 0.7, "user": "somebody",
    }  # fmt: skip
    return json.dumps(parameters, ensure_ascii=False).encode()


SMALL, LARGE = body(600), body(200 * 1024)
PROSE = "a long document without a line end in it, ".ljust(64)
ONE_TEXT = request([{"role": "user", "content": PROSE * 3200}])
MANY_TEXTS = request([{"role": ("user", "assistant")[number % 2], "content": PROSE * 16} for number in range(190)])
HAN = request([{"role": "user", "content": "你好世界今天我们来谈谈网关的性能。" * 4000}])
CODE = request([{"role": "user", "content": 'def f(x):\n    return [x["a"], "b\\n"]\n\n\n' * 4300}])
TOKENS = json.dumps({"model": "m", "prompt": [number * 7919 % 128000 for number in range(28500)]}).encode()
FORBIDDEN = ("kv_transfer_params", "bootstrap_*", "remote_*", "cache_salt", "priority")
RULES = Forbidden(FORBIDDEN)


def test_sizes_and_answers() -> None:
    assert 900 < len(SMALL) < 1200
    assert 200 * 1024 < len(LARGE) < 202 * 1024
    for text in (SMALL, LARGE):
        compiled, plain = scan(text), twin.scan(text)
        assert compiled.include_usage
        assert (compiled.model, compiled.stream, compiled.max_tokens) == (plain.model, plain.stream, plain.max_tokens)
        assert (compiled.prompt_start, compiled.prompt_end) == (plain.prompt_start, plain.prompt_end)


def test_scan_1_kib_body(benchmark: Benchmark) -> None:
    assert benchmark(scan, SMALL).stream


def test_scan_1_kib_body_twin(benchmark: Benchmark) -> None:
    assert benchmark(twin.scan, SMALL).stream


def test_scan_1_kib_body_with_forbidden_names(benchmark: Benchmark) -> None:
    assert benchmark(scan, SMALL, 64, 10000, 40, RULES).forbidden == 0


def test_scan_200_kib_body(benchmark: Benchmark) -> None:
    assert benchmark(scan, LARGE).stream


def test_scan_200_kib_body_twin(benchmark: Benchmark) -> None:
    assert benchmark(twin.scan, LARGE).stream


@pytest.mark.parametrize(
    "text", [ONE_TEXT, MANY_TEXTS, HAN, CODE, TOKENS], ids=["one text", "many texts", "Chinese", "code", "token ids"]
)
def test_scan_200_kib_of(benchmark: Benchmark, text: bytes) -> None:
    assert 200_000 < len(text) < 220_000
    assert benchmark(scan, text).prompt_end > 200_000


@pytest.mark.parametrize(("text", "number"), [(SMALL, 200), (LARGE, 5)], ids=["1 KiB", "200 KiB"])
def test_scan_is_at_least_five_times_as_fast(text: bytes, number: int) -> None:
    compiled = min(repeat(lambda: scan(text), number=number, repeat=5))
    plain = min(repeat(lambda: twin.scan(text), number=number, repeat=5))
    assert plain > 5 * compiled
