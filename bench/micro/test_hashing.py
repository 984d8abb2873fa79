"""Hashing a prompt, beside its plain-Python twin. Target: 32 KiB in less than 3 us."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from _fastpath.hashing import Hasher
from bench.micro.ratio import times_faster
from tests.reference import hashing as reference

KEY = (0x0123456789ABCDEF, 0xFEDCBA9876543210)
PROMPT = Random(1).randbytes(32 << 10)
PARTS = ("llama-3-70b", "adapter", "tenant", b"tools" * 20)

pytestmark = pytest.mark.benchmark(max_time=0.5)


def test_hash_prompt_32_kib(benchmark: Callable[..., Any]) -> None:
    assert len(benchmark(Hasher(KEY).hash_text, PROMPT)) == 512


def test_hash_prompt_32_kib_twin(benchmark: Callable[..., Any]) -> None:
    assert len(benchmark(reference.Hasher(KEY).hash_text, PROMPT)) == 512


def test_hash_seed(benchmark: Callable[..., Any]) -> None:
    assert benchmark(Hasher(KEY).seed, *PARTS)


def test_hash_seed_twin(benchmark: Callable[..., Any]) -> None:
    assert benchmark(reference.Hasher(KEY).seed, *PARTS)


def test_hashing_is_50_times_faster_than_its_twin() -> None:
    compiled, plain = Hasher(KEY), reference.Hasher(KEY)
    assert list(compiled.hash_text(PROMPT)) == list(plain.hash_text(PROMPT))
    assert times_faster(lambda: compiled.hash_text(PROMPT), lambda: plain.hash_text(PROMPT)) > 50
