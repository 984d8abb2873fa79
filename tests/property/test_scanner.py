"""The body scanner against its plain-Python twin, orjson and json: the same bodies taken, the same members found."""

import json
from fractions import Fraction
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath import scanner
from _fastpath.scanner import ScanError, scan
from tests.property.bodies import (
    FORBIDDEN,
    FORBIDDEN_NAMES,
    FRAGMENTS,
    MEMBERS,
    NUMBERS,
    OPTION,
    SEEDS,
    STRINGS,
    UNUSUAL,
    VALUES,
    Writer,
    bodies,
    member,
    mutated,
)  # fmt: skip
from tests.reference import scanner as twin
from tests.support.examples import examples

FAST = settings(deadline=None, max_examples=examples(130))
FASTER = settings(deadline=None, max_examples=examples(80))

LIMITS = st.fixed_dictionaries(
    {}, optional={"depth": st.integers(1, 6), "members": st.integers(0, 8), "digits": st.integers(1, 40)}
)

# -- comparisons --------------------------------------------------------------------------------------------------

FIELDS = (
    "model", "stream", "include_usage", "max_tokens", "choices", "user", "prompt_cache_key", "prompt_start", "prompt_end",
    "prompt_is_tokens", "prompt_tokens", "forbidden",
)  # fmt: skip


def outcome(function: Any, body: bytes, **limits: Any) -> dict[str, Any] | Exception:
    try:
        found = function(body, **limits)
    except (ScanError, twin.ScanError) as error:
        return error
    return {name: getattr(found, name) for name in FIELDS} | {
        f"span of {name}": found.span(name) for name in twin.NAMES
    }


def assert_same(body: bytes, **limits: int) -> dict[str, Any] | Exception:
    compiled, expected = outcome(scan, body, **limits), outcome(twin.scan, body, **limits)
    if isinstance(compiled, ScanError) and isinstance(expected, twin.ScanError):
        # with several faults in one body, which comes first is of no interest; a valid body has one order
        if {compiled.code, expected.code} <= {"invalid_type", "invalid_value"}:
            assert (compiled.code, compiled.field) == (expected.code, expected.field)
        assert 0 <= compiled.position <= len(body)
        assert compiled.field is None or compiled.field in twin.NAMES
    else:
        assert compiled == expected
    return compiled


def is_object(parse: Any, body: bytes) -> bool:
    try:
        return isinstance(parse(body), dict)
    except ValueError as error:
        # orjson refuses 1e400 as well, which is valid JSON
        return "infinity" in str(error)


@FAST
@given(bodies())
def test_finds_what_the_twin_finds(body: bytes) -> None:
    assert_same(body)


@FAST
@given(bodies())
def test_spans_hold_the_values(body: bytes) -> None:
    found = outcome(scan, body)
    if isinstance(found, Exception):
        assert (found.code, found.field) == ("duplicate_parameter", "stream_options") or found.code in (
            "invalid_type", "invalid_value", "json_number_too_long",
        )  # fmt: skip
        return
    values = json.loads(body)
    for name in twin.NAMES:
        span = found[f"span of {name}"]
        assert (span is not None) == (name in values)
        if span is not None:
            text = body[slice(*span)]
            assert text == text.strip(b" \t\r\n")
            assert repr(json.loads(text)) == repr(values[name])
    for name in ("model", "user", "prompt_cache_key"):
        assert found[name] == values.get(name)


@FAST
@given(mutated())
def test_takes_exactly_what_the_twin_takes(body: bytes) -> None:
    assert_same(body)


@FAST
@given(mutated() | st.lists(st.sampled_from(FRAGMENTS), max_size=12).map(b"".join).map(b'{"a":'.__add__))
def test_invalid_is_what_orjson_cannot_parse(body: bytes) -> None:
    found = outcome(scan, body)
    if isinstance(found, ScanError) and found.code == "invalid_json":
        assert not is_object(orjson.loads, body) or b"e" in body.lower()
        assert not isinstance(outcome(twin.scan, body), dict)
    elif not isinstance(found, ScanError):
        assert is_object(orjson.loads, body)
        assert is_object(json.loads, body)


@FAST
@given(bodies(unique=False) | mutated(), LIMITS)
def test_limits_are_the_twins(body: bytes, limits: dict[str, int]) -> None:
    assert_same(body, **limits)


@FASTER
@given(SEEDS, st.sampled_from(twin.NAMES), st.lists(member("a"), max_size=3), st.tuples(VALUES, VALUES), st.data())
def test_a_looked_for_member_twice_is_refused(
    seed: int, name: str, members: list[tuple[str, Any]], values: tuple[Any, Any], data: st.DataObject
) -> None:
    for value in values:
        members.insert(data.draw(st.integers(0, len(members))), (name, value))
    found = outcome(scan, Writer(seed).body(members))
    assert isinstance(found, ScanError)
    assert (found.code, found.field) == ("duplicate_parameter", name)


@FASTER
@given(SEEDS, st.lists(OPTION, max_size=4).map(twin.Members), st.lists(member("n"), max_size=1))
def test_stream_options(seed: int, options: twin.Members, more: list[tuple[str, Any]]) -> None:
    found = assert_same(Writer(seed).body([("stream_options", options), *more]))
    times = sum(name == "include_usage" for name, _value in options)
    if times > 1:
        assert isinstance(found, ScanError)
        assert (found.code, found.field) == ("duplicate_parameter", "stream_options")
    elif isinstance(found, dict):
        assert found["include_usage"] is (dict(options).get("include_usage") is True)


@FASTER
@given(
    UNUSUAL | NUMBERS | st.floats(0, allow_infinity=False).map(repr).map(twin.Number),
    st.sampled_from(["n", *twin.TOKEN_LIMITS]),
)
def test_counts_in_any_spelling(number: twin.Number, name: str) -> None:
    found = assert_same(f'{{"{name}":{number}}}'.encode())
    if isinstance(found, dict):
        value = found["choices"] if name == "n" else found["max_tokens"]
        exact = Fraction(number)
        if exact >= 2**62:
            assert value == 2**62
        elif exact.denominator == 1:
            # from 19 digits on with the precision of a float
            assert value == exact if exact <= 2**53 else value == pytest.approx(int(exact), rel=2**-53)


@FAST
@given(
    st.binary(max_size=64)
    | st.binary(max_size=64).map(b'{"model":"'.__add__)
    | st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=3), max_size=20).map(b"".join)
    | st.text(max_size=40).map(lambda text: b'{"user":"' + text.encode("utf-8", "surrogatepass") + b'"}')
)
def test_arbitrary_bytes_raise_nothing_else(body: bytes) -> None:
    found = assert_same(body)
    assert isinstance(found, dict | ScanError)


@FASTER
@given(st.text(max_size=40), st.integers(0, 40))
def test_strings_at_every_offset(text: str, offset: int) -> None:
    """Sixteen bytes are looked at at once: a special one may lie anywhere among them."""
    value = "x" * offset + text
    for ascii_only in (True, False):
        assert scan(json.dumps({"model": value}, ensure_ascii=ascii_only).encode()).model == value


@FASTER
@given(st.integers(0, 40), st.binary(min_size=1, max_size=4), st.integers(0, 20))
def test_bad_bytes_at_every_offset(before: int, piece: bytes, after: int) -> None:
    assert_same(b'{"model":"' + b"x" * before + piece + b"y" * after + b'"}')


def test_every_byte_in_every_context() -> None:
    contexts = (b"%b{}", b"{}%b", b"{%b}", b'{"a"%b:1}', b'{"a":%b}', b'{"a":1%b}', b'{"a":"%b"}', b'{"a":"\\%b"}', b'{"%b":1}',
                b'{"a":[%b]}', b'{"a":[1%b]}', b'{"a":"\\u00%b0"}', b'{"a":"\xe1%b\xbf"}', b'{"a":-%b}', b'{"a":1e%b}')  # fmt: skip
    for context in contexts:
        for byte in range(256):
            assert_same(context.replace(b"%b", bytes([byte])))


def test_every_pair_of_bytes_as_a_character() -> None:
    for first in range(0x80, 0x100):
        for second in range(0x100):
            for tail in (b"", b"\x80", b"\x80\x80"):
                body = b'{"a":"' + bytes([first, second]) + tail + b'"}'
                accepted = isinstance(outcome(scan, body), dict)
                assert accepted == is_object(orjson.loads, body)


# -- forbidden members --------------------------------------------------------------------------------------------

ENTRIES = st.one_of(
    STRINGS,
    STRINGS.map(lambda name: name + "*"),
    st.sampled_from(
        [*FORBIDDEN, *twin.NAMES, "", "*", "m*", "n*", "max_*", "models", "modelx*", "z" * 129, "z" * 129 + "*"]
    ),
)


def both_forbid(names: list[str]) -> tuple[scanner.Forbidden, twin.Forbidden] | None:
    try:
        plain = twin.Forbidden(names)
    except ValueError:
        with pytest.raises(ValueError, match="forbidden"):
            scanner.Forbidden(names)
        return None
    return scanner.Forbidden(names), plain


@FAST
@given(st.lists(ENTRIES, max_size=5))
def test_names_that_can_be_forbidden_are_the_twins(names: list[str]) -> None:
    both = both_forbid(names)
    assert both is None or both[0].names == both[1].names


@FAST
@given(
    SEEDS,
    st.lists(ENTRIES, max_size=5),
    st.lists(MEMBERS | st.tuples(FORBIDDEN_NAMES, VALUES), max_size=6),
    st.booleans(),
)
def test_forbidden_members_are_the_twins(
    seed: int, names: list[str], members: list[tuple[str, Any]], likely: bool
) -> None:
    both = both_forbid(list(FORBIDDEN) if likely else names)
    if both is None:
        return
    body = Writer(seed).body(members)
    compiled = outcome(scan, body, forbidden=both[0])
    expected = outcome(twin.scan, body, forbidden=both[1])
    if isinstance(compiled, ScanError):
        assert isinstance(expected, twin.ScanError)
    else:
        assert compiled == expected


@FAST
@given(st.integers(1, 2**16), FORBIDDEN_NAMES | st.text(max_size=4), st.integers(0, 3), st.booleans())
def test_a_name_is_matched_in_every_spelling(seed: int, name: str, cut: int, prefix: bool) -> None:
    """Names that are nearly equal as well: cut short, or longer than what is forbidden."""
    both = both_forbid([name[: len(name) - cut] + "*" * prefix])
    if both is not None:
        for spelled in (name, name + "x", name[:-1], name[1:]):
            body = Writer(seed).body([(spelled, 1)])
            assert scan(body, forbidden=both[0]).forbidden == both[1].covers(spelled)


@FASTER
@given(SEEDS, st.integers(30, 35), st.integers(0, 3))
def test_more_than_32_forbidden_members_are_refused(seed: int, count: int, others: int) -> None:
    body = Writer(seed).body([("a", None)] * others + [("bootstrap_room", None)] * count)
    compiled = outcome(scan, body, forbidden=scanner.Forbidden(FORBIDDEN))
    expected = outcome(twin.scan, body, forbidden=twin.Forbidden(FORBIDDEN))
    if count > 32:
        assert isinstance(compiled, ScanError)
        assert isinstance(expected, twin.ScanError)
        assert (compiled.code, compiled.field) == (expected.code, expected.field) == ("json_too_wide", None)
    else:
        assert compiled == expected


# -- long texts, with AVX2 and without ----------------------------------------------------------------------------

CHARACTERS = st.sampled_from(
    ["a", " ", "\u00e9", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff"]
)
LONG = st.lists(st.tuples(CHARACTERS, st.integers(1, 90)), max_size=6).map(lambda runs: "".join(c * n for c, n in runs))
SPOILED = st.sampled_from(
    [b"", b"\x80", b"\xbf", b"\xc0\x80", b"\xc2", b"\xe0\x80\x80", b"\xe2\x82", b"\xed\xa0\x80", b"\xf0\x80\x80\x80", b"\xf0\x9f\x98",
     b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xff", b"\x1f", b"\\n", b"\\x", b"\n", b'"']
)  # fmt: skip


def both_ways(body: bytes) -> list[Any]:
    found = []
    try:
        for wanted in (True, False):
            scanner._use_avx2(wanted)
            one = outcome(scan, body)
            found.append((one.code, one.field, one.position) if isinstance(one, ScanError) else one)
    finally:
        scanner._use_avx2(True)
    return found


@FAST
@given(LONG, SPOILED, LONG, st.integers(0, 40))
def test_long_texts_are_taken_as_orjson_takes_them(before: str, piece: bytes, after: str, offset: int) -> None:
    body = b'{"a":"' + b"x" * offset + before.encode() + piece + after.encode() + b'"}'
    wide, narrow = both_ways(body)
    assert wide == narrow
    assert isinstance(wide, dict) == is_object(orjson.loads, body)


@FAST
@given(LONG, SPOILED.filter(len), LONG)
def test_a_fault_in_a_long_text_is_found_where_it_is(before: str, piece: bytes, after: str) -> None:
    text = before.encode() + piece + after.encode()
    try:
        text.decode()
    except UnicodeDecodeError as error:
        for found in both_ways(b'{"a":"' + text + b'"}'):
            assert found == ("invalid_json", None, 6 + error.start)


@FAST
@given(mutated())
def test_both_ways_find_the_same(body: bytes) -> None:
    wide, narrow = both_ways(body)
    assert wide == narrow


@FASTER
@given(
    st.integers(0, 200),
    st.text("0123456789", max_size=24),
    st.sampled_from(["", ",", "]", " ", ":", "/", "e5", ".5", "x"]),
)
def test_digits_at_every_offset(offset: int, digits: str, after: str) -> None:
    assert_same(b'{"a":"' + b"x" * offset + b'","prompt":[' + digits.encode() + after.encode() + b"]}")
