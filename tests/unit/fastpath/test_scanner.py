"""The body scanner by named behaviour: what it takes, what it refuses and why, and what it finds."""

import re
import time
from typing import Any

import orjson
import pytest

from _fastpath.scanner import Forbidden, Scan, ScanError, scan

JSON = "invalid_json"

# Each: name, body. All of them are one strict JSON object.
GOOD = [
    ("empty object", b"{}"),
    ("space everywhere", b" \t\r\n{ \t\r\n} \t\r\n"),
    ("space between all tokens", b'{ "a" : [ 1 , 2 ] , "b" : { "c" : null } }'),
    ("empty name", b'{"":1}'),
    ("empty string", b'{"a":""}'),
    ("empty array", b'{"a":[]}'),
    ("empty array with space", b'{"a":[ ]}'),
    ("empty object inside", b'{"a":{}}'),
    ("all words", b'{"a":true,"b":false,"c":null}'),
    ("zero", b'{"a":0}'),
    ("minus zero", b'{"a":-0}'),
    ("fraction", b'{"a":-0.5}'),
    ("exponent", b'{"a":1e5}'),
    ("exponent with plus", b'{"a":1E+5}'),
    ("exponent with minus and leading zero", b'{"a":1.5e-05}'),
    ("zero with exponent", b'{"a":0e1}'),
    ("forty digits", b'{"a":' + b"1" * 40 + b"}"),
    ("every short escape", rb'{"a":"\"\\\/\b\f\n\r\t"}'),
    ("unicode escape in both cases", rb'{"a":"\u00e9\u00E9"}'),
    ("escaped zero character", rb'{"a":"\u0000"}'),
    ("surrogate pair", rb'{"a":"\ud83d\ude00"}'),
    ("largest surrogate pair", rb'{"a":"\uDBFF\uDFFF"}'),
    ("pair, then a character of its own", rb'{"a":"\ud83d\ude00\u0041"}'),
    ("escaped backslash before u", rb'{"a":"\\ud83d"}'),
    ("two bytes", '{"a":"é"}'.encode()),
    ("three bytes", '{"a":"漢"}'.encode()),
    ("four bytes", '{"a":"😀"}'.encode()),
    ("last before the surrogates", b'{"a":"\xed\x9f\xbf"}'),
    ("first after the surrogates", b'{"a":"\xee\x80\x80"}'),
    ("largest character", b'{"a":"\xf4\x8f\xbf\xbf"}'),
    ("noncharacter", b'{"a":"\xef\xbf\xbf"}'),
    ("byte order mark inside a string", b'{"a":"\xef\xbb\xbf"}'),
    ("delete character", b'{"a":"\x7f"}'),
    ("sixteen plain bytes and a quote", b'{"a":"0123456789abcdef"}'),
    ("structure inside a string", b'{"a":"}]{[,:"}'),
    ("a member that nobody looks for, twice", b'{"a":1,"a":2}'),
    ("a looked-for member twice, but deeper", b'{"a":{"model":1,"model":2}}'),
    ("a looked-for name as a value", b'{"a":"model","b":"model"}'),
    ("a looked-for name in another case", b'{"model":"m","Model":"x","MODEL":"y"}'),
    ("a looked-for name with a character more", b'{"model":"m","models":"x","mode":"y"}'),
    ("a looked-for name with a zero character", rb'{"model":"m","model\u0000":"x"}'),
    ("as deep as allowed", b'{"a":' + b"[" * 63 + b"]" * 63 + b"}"),
    ("as deep as allowed, objects", b'{"a":' * 64 + b"1" + b"}" * 64),
    ("another option of the stream twice", b'{"stream_options":{"a":1,"a":2}}'),
    ("include_usage twice, but deeper", b'{"stream_options":{"a":{"include_usage":true,"include_usage":true}}}'),
    (
        "include_usage and a longer name",
        rb'{"stream_options":{"include_usage":true,"include_usages":1,"include_usag\u00e9":1}}',
    ),
    (
        "include_usage beside the options",
        b'{"include_usage":1,"include_usage":2,"stream_options":{"include_usage":true}}',
    ),
    (
        "nulls for everything",
        b'{"model":null,"stream":null,"n":null,"max_tokens":null,"stream_options":null,"user":null}',
    ),
]

# Each: name, body, code, field.
BAD = [
    ("empty body", b"", JSON, None),
    ("space alone", b"  \n", JSON, None),
    ("byte order mark", b"\xef\xbb\xbf{}", JSON, None),
    ("byte order mark of UTF-16", b"\xff\xfe{\x00}\x00", JSON, None),
    ("UTF-16", '{"a":1}'.encode("utf-16-le"), JSON, None),
    ("array", b"[]", JSON, None),
    ("array of an object", b"[{}]", JSON, None),
    ("string", b'"a"', JSON, None),
    ("number", b"1", JSON, None),
    ("word", b"null", JSON, None),
    ("bare word", b"hello", JSON, None),
    ("zero byte before", b"\x00{}", JSON, None),
    ("zero byte after", b"{}\x00", JSON, None),
    ("open object", b"{", JSON, None),
    ("open object after a member", b'{"a":1', JSON, None),
    ("open object after a comma", b'{"a":1,', JSON, None),
    ("open object after a name", b'{"a"', JSON, None),
    ("open object after a colon", b'{"a":', JSON, None),
    ("open array", b'{"a":[', JSON, None),
    ("open array after a comma", b'{"a":[1,', JSON, None),
    ("open string", b'{"a":"b', JSON, None),
    ("open name", b'{"a', JSON, None),
    ("open escape", b'{"a":"\\', JSON, None),
    ("open unicode escape", b'{"a":"\\u12', JSON, None),
    ("open surrogate pair", b'{"a":"\\ud83d', JSON, None),
    ("closed twice", b"{}}", JSON, None),
    ("two objects", b"{}{}", JSON, None),
    ("two objects on two lines", b'{"a":1}\n{"a":2}', JSON, None),
    ("word after the object", b"{}x", JSON, None),
    ("comma after the object", b"{},", JSON, None),
    ("wrong bracket", b'{"a":[1}', JSON, None),
    ("wrong brace", b'{"a":{"b":1]}', JSON, None),
    ("trailing comma in the object", b'{"a":1,}', JSON, None),
    ("trailing comma in an object inside", b'{"a":{"b":1,}}', JSON, None),
    ("trailing comma in an array", b'{"a":[1,]}', JSON, None),
    ("leading comma in the object", b'{,"a":1}', JSON, None),
    ("leading comma in an object inside", b'{"a":{,"b":1}}', JSON, None),
    ("leading comma in an array", b'{"a":[,1]}', JSON, None),
    ("comma alone", b'{"a":[,]}', JSON, None),
    ("two commas in the object", b'{"a":1,,"b":2}', JSON, None),
    ("two commas in an array", b'{"a":[1,,2]}', JSON, None),
    ("no comma between members", b'{"a":1 "b":2}', JSON, None),
    ("no comma between items", b'{"a":[1 2]}', JSON, None),
    ("no comma between arrays", b'{"a":[[][]]}', JSON, None),
    ("no colon", b'{"a" 1}', JSON, None),
    ("two colons", b'{"a"::1}', JSON, None),
    ("equals sign", b'{"a"=1}', JSON, None),
    ("colon in an array", b'{"a":["b":1]}', JSON, None),
    ("no value", b'{"a":}', JSON, None),
    ("no value inside", b'{"a":{"b":}}', JSON, None),
    ("no name", b"{:1}", JSON, None),
    ("name without quotes", b"{a:1}", JSON, None),
    ("name without quotes inside", b'{"a":{b:1}}', JSON, None),
    ("name with single quotes", b"{'a':1}", JSON, None),
    ("name is a number", b"{1:1}", JSON, None),
    ("name is null", b"{null:1}", JSON, None),
    ("value with single quotes", b"{\"a\":'b'}", JSON, None),
    ("comment", b'{"a":1/* b */}', JSON, None),
    ("line comment", b'{"a":1}//b', JSON, None),
    ("vertical tab as space", b'{"a":\x0b1}', JSON, None),
    ("form feed as space", b'\x0c{"a":1}', JSON, None),
    ("no-break space as space", b'{"a":\xc2\xa01}', JSON, None),
    ("capital word", b'{"a":True}', JSON, None),
    ("half a word", b'{"a":tru}', JSON, None),
    ("half a word at the end", b'{"a":tru', JSON, None),
    ("word too long", b'{"a":nullx}', JSON, None),
    ("undefined", b'{"a":undefined}', JSON, None),
    ("NaN", b'{"a":NaN}', JSON, None),
    ("nan", b'{"a":nan}', JSON, None),
    ("Infinity", b'{"a":Infinity}', JSON, None),
    ("minus Infinity", b'{"a":-Infinity}', JSON, None),
    ("leading zero", b'{"a":01}', JSON, None),
    ("two zeros", b'{"a":00}', JSON, None),
    ("leading zero after minus", b'{"a":-01}', JSON, None),
    ("plus", b'{"a":+1}', JSON, None),
    ("two minuses", b'{"a":--1}', JSON, None),
    ("minus alone", b'{"a":-}', JSON, None),
    ("minus at the end", b'{"a":-', JSON, None),
    ("point before", b'{"a":.5}', JSON, None),
    ("point after", b'{"a":1.}', JSON, None),
    ("point, then exponent", b'{"a":1.e5}', JSON, None),
    ("two points", b'{"a":1.2.3}', JSON, None),
    ("exponent without digits", b'{"a":1e}', JSON, None),
    ("exponent with sign alone", b'{"a":1e+}', JSON, None),
    ("exponent with a point", b'{"a":1e5.5}', JSON, None),
    ("hexadecimal", b'{"a":0x1F}', JSON, None),
    ("underscore in a number", b'{"a":1_000}', JSON, None),
    ("letter after a number", b'{"a":1a}', JSON, None),
    ("full-width digit", '{"a":\uff11}'.encode(), JSON, None),
    ("line feed in a string", b'{"a":"b\nc"}', JSON, None),
    ("tab in a string", b'{"a":"\t"}', JSON, None),
    ("zero byte in a string", b'{"a":"\x00"}', JSON, None),
    ("control character after sixteen plain bytes", b'{"a":"0123456789abcdef\x1f"}', JSON, None),
    ("control character in a name", b'{"a\x01":1}', JSON, None),
    ("unknown escape", rb'{"a":"\x41"}', JSON, None),
    ("escaped single quote", rb'{"a":"\'"}', JSON, None),
    ("escaped line feed", b'{"a":"\\\n"}', JSON, None),
    ("capital unicode escape", rb'{"a":"\U0041"}', JSON, None),
    ("unicode escape too short", rb'{"a":"\u004"}', JSON, None),
    ("unicode escape with a sign", rb'{"a":"\u+041"}', JSON, None),
    ("unicode escape with an underscore", rb'{"a":"\u0_41"}', JSON, None),
    ("unicode escape that is not hexadecimal", rb'{"a":"\u00g0"}', JSON, None),
    ("bad escape in a name", rb'{"\a":1}', JSON, None),
    ("lone high surrogate", rb'{"a":"\ud83d"}', JSON, None),
    ("lone low surrogate", rb'{"a":"\ude00"}', JSON, None),
    ("high surrogate, then text", rb'{"a":"\ud83dx"}', JSON, None),
    ("high surrogate, then an escape", rb'{"a":"\ud83d\n"}', JSON, None),
    ("high surrogate, then a character", rb'{"a":"\ud83d\u0041"}', JSON, None),
    ("high surrogate, then a character above the surrogates", rb'{"a":"\ud83d\ue000"}', JSON, None),
    ("high surrogate twice", rb'{"a":"\ud83d\ud83d"}', JSON, None),
    ("high surrogate, then an escaped backslash", rb'{"a":"\ud83d\\ude00"}', JSON, None),
    ("surrogates the wrong way round", rb'{"a":"\ude00\ud83d"}', JSON, None),
    ("lone surrogate in a name", rb'{"\ud83d":1}', JSON, None),
    ("lone surrogate in a name inside", rb'{"a":{"\ude00":1}}', JSON, None),
    ("continuation byte alone", b'{"a":"\x80"}', JSON, None),
    ("overlong slash", b'{"a":"\xc0\xaf"}', JSON, None),
    ("overlong zero", b'{"a":"\xc0\x80"}', JSON, None),
    ("overlong, largest of two bytes", b'{"a":"\xc1\xbf"}', JSON, None),
    ("overlong in three bytes", b'{"a":"\xe0\x80\xaf"}', JSON, None),
    ("overlong in four bytes", b'{"a":"\xf0\x80\x80\xaf"}', JSON, None),
    ("surrogate in UTF-8", b'{"a":"\xed\xa0\xbd\xed\xb8\x80"}', JSON, None),
    ("beyond the largest character", b'{"a":"\xf4\x90\x80\x80"}', JSON, None),
    ("five-byte sequence", b'{"a":"\xf8\x88\x80\x80\x80"}', JSON, None),
    ("byte 0xFF", b'{"a":"\xff"}', JSON, None),
    ("half a character", b'{"a":"\xf0\x9f\x98"}', JSON, None),
    ("half a character at the end", b'{"a":"\xe6\xbc', JSON, None),
    ("Latin-1", '{"a":"é"}'.encode("latin-1"), JSON, None),
    ("bad UTF-8 in a name", b'{"\xff":1}', JSON, None),
    ("bad UTF-8 outside a string", b'{"a":1\xff}', JSON, None),
    ("a level too deep, arrays", b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "json_too_deep", None),
    ("a level too deep, objects", b'{"a":' * 65 + b"1" + b"}" * 65, "json_too_deep", None),
    ("far too deep", b'{"a":' + b"[" * 100_000, "json_too_deep", None),
    ("far too deep in a known member", b'{"messages":' + b"[" * 100_000, "json_too_deep", "messages"),
    ("too wide", b"{" + b",".join(b'"%d":1' % i for i in range(10_001)) + b"}", "json_too_wide", None),
    (
        "too wide inside",
        b'{"tools":{' + b",".join(b'"%d":1' % i for i in range(10_001)) + b"}}",
        "json_too_wide",
        "tools",
    ),
    ("array too wide", b'{"prompt":[' + b"1," * 1_000_000 + b"1]}", "json_too_wide", "prompt"),
    ("forty-one digits", b'{"a":' + b"1" * 41 + b"}", "json_number_too_long", None),
    ("forty-one digits in a known member", b'{"max_tokens":' + b"1" * 41 + b"}", "json_number_too_long", "max_tokens"),
    ("many digits after the point", b'{"a":0.' + b"1" * 60 + b"}", "json_number_too_long", None),
    ("many digits in the exponent", b'{"a":1e' + b"0" * 60 + b"}", "json_number_too_long", None),
    ("model twice", b'{"model":"a","model":"a"}', "duplicate_parameter", "model"),
    ("model twice, once escaped", rb'{"model":"a","\u006dodel":"b"}', "duplicate_parameter", "model"),
    ("model twice, first null", b'{"model":null,"model":"b"}', "duplicate_parameter", "model"),
    ("n twice, once escaped", rb'{"\u006E":1,"n":2}', "duplicate_parameter", "n"),
    (
        "include_usage twice",
        b'{"stream_options":{"include_usage":true,"include_usage":true}}',
        "duplicate_parameter",
        "stream_options",
    ),
    (
        "include_usage twice, once escaped",
        rb'{"stream_options":{"include_usage":false,"include\u005fusage":true}}',
        "duplicate_parameter",
        "stream_options",
    ),
    (
        "include_usage twice, first null",
        b'{"stream_options":{ "include_usage" : null , "a":[{}], "include_usage" : 1 } }',
        "duplicate_parameter",
        "stream_options",
    ),
    ("model is a number", b'{"model":1}', "invalid_type", "model"),
    ("model is an array", b'{"model":["a"]}', "invalid_type", "model"),
    ("model is false", b'{"model":false}', "invalid_type", "model"),
    ("model too long", b'{"model":"' + b"a" * 511 + b'"}', "invalid_value", "model"),
    ("user is a number", b'{"user":1}', "invalid_type", "user"),
    ("user too long", b'{"user":"' + b"a" * 1023 + b'"}', "invalid_value", "user"),
    ("prompt_cache_key is an object", b'{"prompt_cache_key":{}}', "invalid_type", "prompt_cache_key"),
    ("stream is a string", b'{"stream":"true"}', "invalid_type", "stream"),
    ("stream is a number", b'{"stream":1}', "invalid_type", "stream"),
    ("stream_options is an array", b'{"stream_options":[]}', "invalid_type", "stream_options"),
    ("stream_options is true", b'{"stream_options":true}', "invalid_type", "stream_options"),
    ("n is a string", b'{"n":"1"}', "invalid_type", "n"),
    ("n is negative", b'{"n":-1}', "invalid_type", "n"),
    ("n is true", b'{"n":true}', "invalid_type", "n"),
    ("max_tokens is a string", b'{"max_tokens":"5"}', "invalid_type", "max_tokens"),
    ("max_tokens is negative", b'{"max_tokens":-5}', "invalid_type", "max_tokens"),
    ("max_completion_tokens is an array", b'{"max_completion_tokens":[5]}', "invalid_type", "max_completion_tokens"),
    ("max_output_tokens is an object", b'{"max_output_tokens":{}}', "invalid_type", "max_output_tokens"),
]

LOOKED_FOR = (
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "user",
    "prompt_cache_key",
    "messages",
    "prompt",
    "input",
    "tools",
    "system",
    "instructions",
    "query",
    "documents",
)


def refusal(body: bytes, **limits: Any) -> ScanError:
    with pytest.raises(ScanError) as raised:
        scan(body, **limits)
    return raised.value


@pytest.mark.parametrize("body", [body for _name, body in GOOD], ids=[name for name, _body in GOOD])
def test_takes(body: bytes) -> None:
    assert isinstance(scan(body), Scan)
    assert isinstance(orjson.loads(body), dict), "the table itself must be right"


@pytest.mark.parametrize(("body", "code", "field"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_refuses(body: bytes, code: str, field: str | None) -> None:
    error = refusal(body)
    assert (error.code, error.field) == (code, field)
    assert 0 <= error.position <= len(body)
    assert f"at byte {error.position}" in error.message or code.startswith("invalid_")
    assert str(error) == error.message


@pytest.mark.parametrize(
    "body", [row[1] for row in BAD if row[2] == JSON], ids=[row[0] for row in BAD if row[2] == JSON]
)
def test_refuses_as_orjson_does(body: bytes) -> None:
    try:
        assert not isinstance(orjson.loads(body), dict)
    except orjson.JSONDecodeError:
        pass


@pytest.mark.parametrize(
    ("body", "position"),
    [
        (b"", 0),
        (b"  [1]", 2),
        (b'{"a":1,}', 7),
        (b"{} x", 3),
        (b'{"a":01}', 6),
        (b'{"a":1.}', 5),
        (b'{"a":"bc\x01"}', 8),
        (b'{"a":"bc\xff"}', 8),
        (rb'{"a":"bc\q"}', 8),
        (rb'{"a":"bc\ud800"}', 8),
        (b'{"model":"a", "model":"b"}', 14),
        (b'{"a":1, "stream":"x"}', 17),
    ],
)
def test_error_names_the_byte(body: bytes, position: int) -> None:
    assert refusal(body).position == position


def test_error_names_the_member_in_whose_value_it_is() -> None:
    error = refusal(b'{"messages":[{"role":"user","content":"\x01"}]}')
    assert (error.code, error.field) == (JSON, "messages")
    assert "messages" in error.message


def test_every_looked_for_member_is_refused_twice() -> None:
    for name in LOOKED_FOR:
        escaped = "".join(f"\\u{ord(character):04x}" for character in name)
        for first, second in ((name, name), (name, escaped), (escaped, name), (escaped, escaped)):
            error = refusal(f'{{"{first}":null,"x":1,"{second}":null}}'.encode())
            assert (error.code, error.field) == ("duplicate_parameter", name)


def test_members_without_a_body_are_absent() -> None:
    found = scan(b"{}")
    assert (found.model, found.user, found.prompt_cache_key) == (None, None, None)
    assert (found.stream, found.include_usage, found.prompt_is_tokens) == (False, False, False)
    assert (found.max_tokens, found.choices, found.prompt_tokens) == (-1, 1, 0)
    assert (found.prompt_start, found.prompt_end) == (0, 0)
    assert not any(found.has(name) or found.span(name) for name in LOOKED_FOR)


def test_a_scan_starts_afresh_after_others() -> None:
    """Scan objects are kept on a free list: nothing of an earlier body may show."""
    for _ in range(200):
        full = scan(
            b'{"model":"m","user":"u","stream":true,"n":3,"max_tokens":7,"prompt":[1,2],"prompt_cache_key":"k"}'
        )
        assert (full.model, full.choices, full.prompt_tokens, full.prompt_is_tokens) == ("m", 3, 2, True)
        del full
        test_members_without_a_body_are_absent()


def test_reads_the_members() -> None:
    body = (
        b'{"model":"m","stream":true,"stream_options":{"include_usage":true},"max_tokens":9,"n":2,'
        b'"user":"u","prompt_cache_key":"k","messages":[{"role":"user","content":"hello"}]}'
    )
    found = scan(body)
    assert (found.model, found.user, found.prompt_cache_key) == ("m", "u", "k")
    assert (found.stream, found.include_usage, found.max_tokens, found.choices) == (True, True, 9, 2)
    assert body[found.prompt_start : found.prompt_end] == b'[{"role":"user","content":"hello"}]'
    assert found.span("messages") == (found.prompt_start, found.prompt_end)
    assert found.has("messages")
    assert not found.has("prompt")


def test_text_is_decoded() -> None:
    found = scan(r'{"model":"é\u00e9\ud83d\ude00\"\\\/\n","user":"漢字"}'.encode())
    assert found.model == 'éé😀"\\/\n'
    assert found.user == "漢字"


def test_name_is_decoded() -> None:
    assert scan(rb'{"\u006d\u006F\u0064el":"m"}').model == "m"
    assert scan(rb'{"max_completion\u005ftokens":5}').max_tokens == 5


@pytest.mark.parametrize(
    "name",
    [b"modell", b"mode", rb"model\u0000", rb"model\n", b"mod\xc3\xa9l", rb"mod\/el", b"model" * 20, rb"\u016dodel"],
)
def test_another_name_is_not_taken_for_model(name: bytes) -> None:
    assert scan(b'{"' + name + b'":"x"}').model is None


def test_longest_name_is_found_and_longer_is_not() -> None:
    assert scan(b'{"max_completion_tokens":5}').max_tokens == 5
    assert scan(b'{"max_completion_tokens_":5}').max_tokens == -1
    assert scan(b'{"max_completion_tokens' + b"x" * 500 + b'":5}').max_tokens == -1


def test_longest_allowed_model() -> None:
    assert scan(b'{"model":"' + b"a" * 510 + b'"}').model == "a" * 510


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"max_tokens":5}', 5),
        (b'{"max_tokens":0}', 0),
        (b'{"max_tokens":5,"max_completion_tokens":3}', 3),
        (b'{"max_tokens":5,"max_completion_tokens":7}', 5),
        (b'{"max_output_tokens":4,"max_tokens":9}', 4),
        (b'{"max_tokens":null,"max_output_tokens":4}', 4),
        (b'{"max_tokens":null}', -1),
        (b'{"max_tokens":999999999999999999}', 999_999_999_999_999_999),
    ],
)
def test_smallest_token_limit(body: bytes, expected: int) -> None:
    assert scan(body).max_tokens == expected


@pytest.mark.parametrize(
    ("number", "count"),
    [
        (b"1e3", 1000),
        (b"1E+3", 1000),
        (b"10.0", 10),
        (b"0.0", 0),
        (b"0e5", 0),
        (b"1500e-2", 15),
        (b"0.25e2", 25),
        (b"1000000000000000000", 10**18),
        (b"4611686018427387904", 2**62),
        (b"4611686018427387904.0", 2**62),
        (b"4611686018427387905", 2**62),
        (b"9223372036854775808", 2**62),
        (b"9" * 40, 2**62),
        (b"1e30", 2**62),
        (b"1e400", 2**62),
    ],
)
def test_whole_numbers_in_any_spelling(number: bytes, count: int) -> None:
    for name in (b"max_tokens", b"max_completion_tokens", b"max_output_tokens"):
        found = scan(b'{"' + name + b'":' + number + b',"n":' + number + b"}")
        assert (found.max_tokens, found.choices) == (count, count)


@pytest.mark.parametrize("number", [b"1.5", b"0.5", b"1e-3", b"15e-1", b"1000000.25"])
def test_numbers_that_are_not_whole_are_left_to_the_engine(number: bytes) -> None:
    found = scan(b'{"max_tokens":' + number + b',"n":' + number + b"}")
    assert (found.max_tokens, found.choices) == (-1, 1)


@pytest.mark.parametrize("number", [b"-0", b"-1", b"-0.0", b"-1e3", b"-1.5", b"-1e400"])
def test_negative_numbers_are_refused_in_any_spelling(number: bytes) -> None:
    for name in ("n", "max_tokens"):
        error = refusal(f'{{"{name}":'.encode() + number + b"}")
        assert (error.code, error.field) == ("invalid_type", name)


def test_the_largest_number_does_not_win_over_a_smaller() -> None:
    assert scan(b'{"max_tokens":1e30,"max_output_tokens":7.0}').max_tokens == 7
    assert scan(b'{"max_tokens":1.5,"max_output_tokens":1e30}').max_tokens == 2**62


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (b'{"include_usage":true}', True),
        (b'{"include_usage":false}', False),
        (b'{"include_usage":1}', False),
        (b'{"include_usage":"true"}', False),
        (b'{"include_usage":null}', False),
        (b'{"other":true}', False),
        (b'{"a":{"include_usage":true}}', False),
        (rb'{"\u0069nclude_usage":true}', True),
        (b"{}", False),
        (b"{ \n }", False),
        (b"null", False),
        (b'{"a":1,"include_usage":true}', True),
        (b'{"include_usage":true,"a":[1,{"b":"}"}],"c":{}}', True),
        (b'{"a":{"include_usage":true},"include_usage":false}', False),
        (b'{"a":{"include_usage":false},"include_usage":true}', True),
        (b'{"a":"include_usage","b":"\\"include_usage\\":true"}', False),
        (b' { "include_usage" :\t true , "a" : 1 } ', True),
        (b'{"include_usage":"t"}', False),
        (b'{"include_usages":true,"include_usag":true,"Include_usage":true}', False),
        (rb'{"include_usage\u0000":true}', False),
        (b'{"a":' + b"[" * 62 + b"]" * 62 + b',"include_usage":true}', True),
    ],
)
def test_include_usage(options: bytes, expected: bool) -> None:
    assert scan(b'{"stream_options":' + options + b"}").include_usage is expected


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        (b"[1,2,3]", 3),
        (b"[ 1 ,\n2,\t3 ]", 3),
        (b"[0]", 1),
        (b"[10,200,3000]", 3),
        (b"[]", 0),
        (b"[ ]", 0),
        (b"[-1]", 0),
        (b"[1.5]", 0),
        (b"[1e3]", 0),
        (b"[[1,2],[3]]", 0),
        (b'["1"]', 0),
        (b'[1,"2"]', 0),
        (b"[1,null]", 0),
        (b"[1,true]", 0),
        (b"[{}]", 0),
        (b"5", 0),
        (b'"1,2,3"', 0),
        (b'{"1":2}', 0),
    ],
)
def test_prompt_of_token_ids(prompt: bytes, tokens: int) -> None:
    found = scan(b'{"prompt":' + prompt + b"}")
    assert (found.prompt_is_tokens, found.prompt_tokens) == (tokens > 0, tokens)


def test_a_prompt_that_is_null_is_absent() -> None:
    """It is there for :meth:`Scan.has`, but the next one is the prompt."""
    names = ["messages", "prompt", "input", "query"]
    for count in range(4):
        nulls = ",".join(f'"{name}":null' for name in names[:count])
        body = f'{{{nulls}{"," * (count > 0)}"{names[count]}":[1,2]}}'.encode()
        found = scan(body)
        assert body[found.prompt_start : found.prompt_end] == b"[1,2]"
        assert (found.prompt_is_tokens, found.prompt_tokens) == (True, 2)
        assert all(found.has(name) for name in names[:count])
    found = scan(b'{"messages":null,"prompt":null,"input":null,"query":null}')
    assert (found.prompt_start, found.prompt_end, found.prompt_is_tokens, found.prompt_tokens) == (0, 0, False, 0)


@pytest.mark.parametrize("value", [b"[]", b'""', b"{}", b"false", b"0", b'"null"'])
def test_an_empty_prompt_is_there(value: bytes) -> None:
    body = b'{"messages":' + value + b',"prompt":"x"}'
    found = scan(body)
    assert body[found.prompt_start : found.prompt_end] == value


def test_prompt_is_the_first_that_is_there() -> None:
    names = ["query", "input", "prompt", "messages"]
    for count in range(1, 5):
        body = ("{" + ",".join(f'"{name}":"{name}"' for name in names[:count]) + "}").encode()
        found = scan(body)
        assert body[found.prompt_start : found.prompt_end] == f'"{names[count - 1]}"'.encode()


def test_span_is_the_value_alone() -> None:
    body = b'{ "tools" : [ 1 , 2 ] , "system" :"s", "documents":{"a":1} }'
    found = scan(body)
    assert [body[slice(*found.span(name))] for name in ("tools", "system", "documents")] == [
        b"[ 1 , 2 ]",
        b'"s"',
        b'{"a":1}',
    ]


def test_null_member_is_there() -> None:
    found = scan(b'{"model":null}')
    assert found.model is None
    assert found.has("model")
    assert found.span("model") == (9, 13)


def test_unknown_member_is_a_mistake_of_the_caller() -> None:
    found = scan(b'{"temperature":1}')
    with pytest.raises(KeyError):
        found.span("temperature")
    with pytest.raises(KeyError):
        found.has("temperature")


def test_only_bytes_are_scanned() -> None:
    for body in ("{}", bytearray(b"{}"), memoryview(b"{}"), None):
        with pytest.raises(TypeError):
            scan(body)  # type: ignore[arg-type]


def test_scan_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        scan(b"{}").model = "m"


def nested(levels: int) -> bytes:
    return b'{"a":' * levels + b"0" + b"}" * levels


def test_depth_limit() -> None:
    for depth in (1, 2, 10, 250):
        scan(nested(depth), depth=depth)
        assert refusal(nested(depth + 1), depth=depth).code == "json_too_deep"


def test_depth_limit_is_bounded_by_the_stack() -> None:
    scan(nested(250), depth=100_000)
    assert refusal(nested(251), depth=100_000).code == "json_too_deep"


def test_siblings_do_not_add_to_the_depth() -> None:
    scan(b'{"a":[[],[],{}],"b":[[[]]],"c":{}}', depth=4)
    assert refusal(b'{"a":[[],[],{}],"b":[[[]]],"c":{}}', depth=3).code == "json_too_deep"


def test_width_limit() -> None:
    three = b'{"a":1,"b":2,"c":3}'
    scan(three, members=3)
    assert refusal(three, members=2).code == "json_too_wide"
    scan(b'{"x":' + three + b"}", members=3)
    assert refusal(b'{"x":' + three + b"}", members=2).code == "json_too_wide"


def test_an_array_may_be_a_hundred_times_as_wide() -> None:
    scan(b'{"a":[' + b"1," * 299 + b"1]}", members=3)
    assert refusal(b'{"a":[' + b"1," * 300 + b"1]}", members=3).code == "json_too_wide"
    scan(b'{"prompt":[' + b"1," * 999_999 + b"1]}")


def test_digit_limit() -> None:
    """Of the characters of a number: sign, point and exponent count as well."""
    for number in (b"12345", b"1.234", b"1e-05", b"-1234"):
        scan(b'{"a":' + number + b"}", digits=5)
        assert refusal(b'{"a":' + number + b"}", digits=4).code == "json_number_too_long"


def test_digits_in_strings_do_not_count() -> None:
    scan(b'{"a":"' + b"1" * 1000 + b'"}', digits=1)


def test_negative_limits_are_refused() -> None:
    with pytest.raises(OverflowError):
        scan(b"{}", depth=-1)


def test_huge_limits_are_no_limits() -> None:
    scan(b'{"a":[1],"b":{"c":1}}', members=2**62, digits=2**62)


def test_long_number_in_stream_options() -> None:
    assert scan(b'{"stream_options":{"a":' + b"1" * 5000 + b"}}", digits=6000).include_usage is False


def quickest(body: bytes, times: int = 3) -> float:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        with pytest.raises(ScanError):
            scan(body)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def test_object_with_400000_names_is_refused_quickly() -> None:
    body = b"{" + b",".join(b'"%d":1' % i for i in range(400_000)) + b"}"
    assert refusal(body).code == "json_too_wide"
    assert quickest(body) < 0.05


def test_deep_and_unclosed_bodies_are_refused_quickly() -> None:
    for body in (b'{"a":' * 400_000, b'{"a":' + b"[" * 2_000_000, b'{"a":"' + b"\\\\" * 2_000_000):
        assert quickest(body) < 0.05


# -- forbidden members --------------------------------------------------------------------------------------------

RULES = Forbidden(["kv_transfer_params", "bootstrap_*", "caf\u00e9", "a/b", "tab\tbed", "\U0001f600*", "x" * 128])


@pytest.mark.parametrize(
    ("members", "count"),
    [
        (b"", 0),
        (b'"kv_transfer_params":{}', 1),
        (b'"kv_transfer_params":1,"model":"m","kv_transfer_params":2', 2),
        (b'"kv_transfer_param":1,"kv_transfer_params_":1,"KV_transfer_params":1', 0),
        (rb'"\u006bv_transfer\u005Fparams":1', 1),
        (b'"bootstrap_":1,"bootstrap_host":2,"bootstrap":3,"bootstrap_host":4', 3),
        (rb'"\u0062ootstrap_\u00e9":1', 1),
        (b'"bootstrap_' + b"y" * 5000 + b'":1', 1),
        (rb'"bootstra\u0070_' + b"y" * 5000 + b'":1', 1),
        (rb'"bootstra\u0070_' + rb"\u00e9" * 5000 + b'":1', 1),
        ('"caf\u00e9":1'.encode(), 1),
        (rb'"caf\u00e9":1,"caf\u00E9":1', 2),
        (rb'"a/b":1,"a\/b":1,"a\u002fb":1', 3),
        (rb'"tab\tbed":1,"tab\u0009bed":1,"tab\nbed":1', 2),
        ('"\U0001f600":1,"\U0001f600 and more":1'.encode(), 2),
        (rb'"\ud83d\ude00":1,"\uD83D\uDE01":1', 1),
        (b'"' + b"x" * 128 + b'":1', 1),
        (b'"' + b"x" * 129 + b'":1', 0),
        (rb'"\u0078' + b"x" * 127 + b'":1', 1),
        (rb'"\u0078' + b"x" * 128 + b'":1', 0),
        (b'"":1', 0),
        (b'"a":{"kv_transfer_params":1}', 0),
        (b'"a":"kv_transfer_params"', 0),
    ],
)
def test_forbidden_members_are_counted(members: bytes, count: int) -> None:
    assert scan(b"{" + members + b"}", forbidden=RULES).forbidden == count
    assert scan(b"{" + members + b"}").forbidden == 0


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("model", "`model` cannot be forbidden: the gateway reads it"),
        ("stream_options", "`stream_options` cannot be forbidden"),
        ("mod*", "`mod*` cannot be forbidden: `model` is among these names"),
        ("model*", "`model*` cannot be forbidden: `model`"),
        ("*", "cannot be forbidden: `model` is among these names"),
        ("", "a forbidden name is empty"),
        ("y" * 129, "`yyyyyyyyyyyyyyyyyyyy...` cannot be forbidden: the name has more than 128 bytes"),
        ("\u00e9" * 65, "more than 128 bytes"),
        ("y" * 129 + "*", "more than 128 bytes"),
        ("\ud800", "surrogates not allowed"),
    ],
)
def test_names_that_cannot_be_forbidden(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        Forbidden(["kv_transfer_params", name])


def test_forbidden_names_are_strings() -> None:
    for names in ([b"a"], [1], [None], 5, None):
        with pytest.raises(TypeError):
            Forbidden(names)  # type: ignore[arg-type]


def test_forbidden_names_are_kept_once() -> None:
    assert Forbidden(iter(["b", "a*", "b"])).names == ("b", "a*")
    assert Forbidden([]).names == ()
    assert Forbidden(["models", "n_best", "a*b"]).names == ("models", "n_best", "a*b")


def test_a_star_inside_a_name_is_a_star() -> None:
    rules = Forbidden(["a*b", "c**"])
    assert scan(b'{"a*b":1,"ab":1,"axb":1,"c*":1,"c*d":1,"cd":1}', forbidden=rules).forbidden == 3


def test_many_names_may_be_forbidden() -> None:
    names = [f"name_{number}_{'x' * (number % 100)}" for number in range(1000)]
    rules = Forbidden(names)
    for number in (0, 63, 64, 500, 999):
        assert scan(f'{{"{names[number]}":1,"{names[number]}y":1}}'.encode(), forbidden=rules).forbidden == 1


def test_more_than_32_forbidden_members_are_too_many() -> None:
    at_most = b"{" + b",".join(b'"bootstrap_%d":1' % number for number in range(32)) + b"}"
    assert scan(at_most, forbidden=RULES).forbidden == 32
    body = at_most[:-1] + b',"kv_transfer_params":1}'
    error = refusal(body, forbidden=RULES)
    assert (error.code, error.field, error.position) == ("json_too_wide", None, body.index(b'"kv'))
    assert error.message == f"the body has more than 32 members that the gateway takes out, at byte {error.position}"


def test_a_body_full_of_escaped_names_is_scanned_quickly() -> None:
    """Each of them is compared with what is forbidden."""
    rules = Forbidden(f"bootstrap_{number}" for number in range(100))
    names = (rb'"bootstra\u0070_%d%d":1' % (number, 1000 + number) for number in range(9000))
    body = b"{" + b",".join(names) + b"}"
    started = time.perf_counter()
    assert scan(body, forbidden=rules).forbidden == 0
    assert time.perf_counter() - started < 0.25
