"""Splicing beside its plain-Python twin: a forbidden member, another model, usage asked for."""

from collections.abc import Callable
from typing import Any

import pytest

from _fastpath.scanner import Forbidden, scan
from _fastpath.splice import splice, with_usage
from bench.micro.ratio import times_faster
from bench.micro.test_scanner import FORBIDDEN, LARGE, SMALL
from tests.reference import scanner as plain_scanner
from tests.reference import splice as twin

Benchmark = Callable[..., Any]


def spoiled(body: bytes) -> bytes:
    """With a member that no client may send."""
    return body[:-1] + b', "bootstrap_room": 17}'


SMALL_SPOILED, LARGE_SPOILED = spoiled(SMALL), spoiled(LARGE)
RULES, PLAIN_RULES = Forbidden(FORBIDDEN), plain_scanner.Forbidden(FORBIDDEN)
CHANGES: dict[str, bytes | None] = {"model": b'"served"', "stream_options": b'{"include_usage":true}'}


def of_compiled(body: bytes) -> bytes:
    """As a request is forwarded, once it is scanned."""
    return splice(body, scan(body, forbidden=RULES), CHANGES)


def of_twin(body: bytes) -> bytes:
    """The same in plain Python."""
    return twin.splice(body, plain_scanner.scan(body, forbidden=PLAIN_RULES), CHANGES)


@pytest.mark.parametrize("body", [SMALL_SPOILED, LARGE_SPOILED], ids=["1 KiB", "200 KiB"])
def test_both_give_the_same(body: bytes) -> None:
    assert of_compiled(body) == of_twin(body)
    assert b"bootstrap" not in of_compiled(body)


def test_splice_1_kib_body(benchmark: Benchmark) -> None:
    benchmark(splice, SMALL_SPOILED, scan(SMALL_SPOILED, forbidden=RULES), CHANGES)


def test_splice_1_kib_body_twin(benchmark: Benchmark) -> None:
    benchmark(twin.splice, SMALL_SPOILED, plain_scanner.scan(SMALL_SPOILED, forbidden=PLAIN_RULES), CHANGES)


def test_splice_200_kib_body(benchmark: Benchmark) -> None:
    benchmark(splice, LARGE_SPOILED, scan(LARGE_SPOILED, forbidden=RULES), CHANGES)


def test_splice_200_kib_body_twin(benchmark: Benchmark) -> None:
    benchmark(twin.splice, LARGE_SPOILED, plain_scanner.scan(LARGE_SPOILED, forbidden=PLAIN_RULES), CHANGES)


def test_splice_without_a_change(benchmark: Benchmark) -> None:
    assert benchmark(splice, SMALL, scan(SMALL, forbidden=RULES), {}) is SMALL


def test_with_usage(benchmark: Benchmark) -> None:
    body = SMALL.replace(b'"include_usage": true', b'"include_usage": false')
    assert benchmark(with_usage, body, scan(body)) == b'{"include_usage": true}'


def test_splice_is_at_least_five_times_as_fast() -> None:
    compiled, plain = scan(SMALL_SPOILED, forbidden=RULES), plain_scanner.scan(SMALL_SPOILED, forbidden=PLAIN_RULES)
    assert (
        times_faster(
            lambda: splice(SMALL_SPOILED, compiled, CHANGES), lambda: twin.splice(SMALL_SPOILED, plain, CHANGES)
        )
        > 5
    )
