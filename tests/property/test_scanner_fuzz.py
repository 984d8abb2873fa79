"""Realistic bodies, spoiled in every way: what passes the scanner means the same to two strict parsers, and it takes what they take."""

import json
import re
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath.scanner import Forbidden, Scan, ScanError, scan
from _fastpath.splice import splice, with_usage
from tests.property.bodies import FORBIDDEN, FRAGMENTS, Writer, mutate
from tests.reference import scanner as twin
from tests.support.examples import examples

FORBID = Forbidden(FORBIDDEN)
TEXT = 'She said "use the gate", so we did.\nThe café was open, 漢字 and 😀 too, as ever.\n'
CHAT = {
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "messages": [
        {"role": "system", "content": "You are a careful assistant."},
        {"role": "user", "content": [{"type": "text", "text": TEXT * 3}, {"type": "image_url", "image_url": {"url": "data:,"}}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"a":[1,2.5e-3]}'}}]},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
    "stream": True, "stream_options": {"include_usage": False, "chunk": [1, {"include_usage": True}]}, "max_tokens": 256,
    "temperature": 0.7, "top_p": 1, "n": 2, "stop": ["\n", "\\"], "logit_bias": {"50256": -100}, "user": "élève", "seed": 1234567890,
    "kv_transfer_params": {"do_remote_prefill": True}, "bootstrap_room": 17,
}  # fmt: skip
COMPLETION = {
    "model": "m",
    "prompt": list(range(0, 99000, 2999)),
    "max_tokens": 16,
    "stream": False,
    "logprobs": None,
    "echo": True,
}
EMBEDDING = {"input": [TEXT, "漢字" * 60], "model": "e", "encoding_format": "float", "prompt_cache_key": "k" * 70}
RERANK = {"query": TEXT, "documents": ["a", "b"], "model": "r", "max_output_tokens": 1e3, "bootstrap_host": "10.0.0.1"}
REQUESTS = [CHAT, COMPLETION, EMBEDDING, RERANK]
SPELLINGS: list[dict[str, Any]] = [
    {"ensure_ascii": False, "separators": (",", ":")}, {}, {"indent": 2}, {"indent": "\t", "ensure_ascii": False},
]  # fmt: skip
BODIES = [json.dumps(request, **spelling).encode() for request in REQUESTS for spelling in SPELLINGS]
BODIES += [
    Writer(seed).body(json.loads(body, object_pairs_hook=twin.Members, parse_int=twin.Number, parse_float=twin.Number))
    for seed in range(1, 5) for body in BODIES[:: len(SPELLINGS)]
]  # fmt: skip
_SURROGATE = re.compile("[\ud800-\udfff]")


def refuse(name: str) -> None:
    raise ValueError(name)


def strict(body: bytes) -> Any:
    """As the standard library reads it, without what it allows beyond JSON. Raises ValueError."""
    value = json.loads(body.decode(), parse_constant=refuse)
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str) and _SURROGATE.search(one):
            raise ValueError("half of a surrogate pair")
        waiting.extend([*one, *one.values()] if isinstance(one, dict) else one if isinstance(one, list) else ())
    return value


def read(parse: Any, body: bytes) -> Any:
    """What a parser makes of a body: an object, or None."""
    try:
        value = parse(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def is_infinite(value: Any) -> bool:
    """Numbers beyond a double's range: JSON allows them, orjson does not."""
    return "Infinity" in json.dumps(value)


def assert_agrees(body: bytes, found: Scan, value: dict[str, Any]) -> None:
    """What the scanner says is what a parser reads."""
    assert (found.model, found.user) == (value.get("model"), value.get("user"))
    assert found.prompt_cache_key == value.get("prompt_cache_key")
    assert found.stream == (value.get("stream") is True)
    assert found.include_usage == ((value.get("stream_options") or {}).get("include_usage") is True)
    for name in twin.NAMES:
        span = found.span(name)
        assert (span is not None) == (name in value)
        if span is not None and not is_infinite(value[name]):
            assert orjson.loads(body[slice(*span)]) == value[name] == orjson.loads(orjson.dumps(value[name]))


def check(body: bytes) -> None:
    """The whole promise, for one body."""
    plain, quick = read(strict, body), read(orjson.loads, body)
    assert (plain is None) == (quick is None) or (plain is not None and is_infinite(plain))
    try:
        found = scan(body, forbidden=FORBID)
    except ScanError as error:
        assert plain is None or error.code != "invalid_json", error.message
        return
    assert plain is not None
    assert_agrees(body, found, plain)
    spliced = splice(body, found, {"stream_options": with_usage(body, found), "user": None})
    again = scan(spliced, forbidden=FORBID)
    assert (again.forbidden, again.include_usage, again.user) == (0, True, None)
    expected = {
        name: one for name, one in plain.items() if name != "user" and not twin.Forbidden(FORBIDDEN).covers(name)
    }
    expected["stream_options"] = (expected.get("stream_options") or {}) | {"include_usage": True}
    assert list(strict(spliced).items()) == list(expected.items())


PIECES = [
    *FRAGMENTS,
    b'"bootstrap_room":1,',
    b'"user":null',
    b',"stream":true',
    b"\\u0062ootstrap_",
    b"1e999",
    b"-",
    b"}",
    b"]}",
    b"\\",
]


def spoil(seed: int) -> bytes:
    """A realistic body after a few accidents: bytes flipped, put in, taken out, doubled or cut off, slices moved."""
    random = Random(seed)
    body = random.choice(BODIES)
    for _ in range(random.choice((0, 1, 1, 1, 2, 3, 5))):
        if random.random() < 0.15:
            # a slice of it, or of another, once more and somewhere else; commas make for slices that fit
            other = random.choice(BODIES)
            commas = [at for at, byte in enumerate(other) if byte == 44]
            start, end = sorted(random.choices(commas, k=2))
            at = random.choice([place for place, byte in enumerate(body) if byte == 44] or [0])
            body = body[:at] + other[start:end] + body[at:]
        else:
            body = mutate(body, random, random.choice(PIECES))
    return body


@pytest.mark.parametrize("body", BODIES)
def test_realistic_bodies_pass(body: bytes) -> None:
    assert read(strict, body) is not None
    check(body)


@settings(deadline=None, max_examples=examples(400))
@given(st.integers(0, 2**32))
def test_spoiled_bodies(seed: int) -> None:
    check(spoil(seed))


def test_the_accidents_leave_some_bodies_whole() -> None:
    """Else the tests beside this one would look at refusals alone."""
    whole = sum(read(strict, spoil(seed)) is not None for seed in range(300))
    assert 60 < whole < 240


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(deadline=None, max_examples=200_000)
@given(st.integers(0, 2**48))
def test_many_spoiled_bodies(seed: int) -> None:
    check(spoil(seed))


def test_every_truncation() -> None:
    for body in BODIES[:4]:
        for end in range(len(body)):
            check(body[:end])


def test_every_byte_flipped() -> None:
    body = BODIES[8]
    for at in range(len(body)):
        for bit in range(8):
            check(body[:at] + bytes([body[at] ^ 1 << bit]) + body[at + 1 :])
