"""Splicing by named behaviour: what goes, what comes, where the commas are, and that nothing else is touched."""

import json
import tracemalloc
from collections.abc import Iterator, Mapping

import pytest

from _fastpath.scanner import Forbidden, scan
from _fastpath.splice import splice, with_usage

RULES = Forbidden(["r", "bootstrap_*"])


def spliced(body: bytes, changes: Mapping[str, bytes | None] | None = None) -> bytes:
    return splice(body, scan(body, forbidden=RULES), changes or {})


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"r":1}', b"{}"),
        (b'{ "r" : 1 }', b"{ }"),
        (b' \n{ "r" : 1 } \n', b" \n{ } \n"),
        (b'{"r":1,"r":2}', b"{}"),
        (b'{ "r":1 , "bootstrap_a":2 , "r":[{"r":3}] }', b"{ }"),
        (b'{"r":1,"a":2}', b'{"a":2}'),
        (b'{"r":1, "a":2}', b'{ "a":2}'),
        (b'{ "r":1 ,\n"a":2}', b'{ \n"a":2}'),
        (b'{"a":1,"r":2}', b'{"a":1}'),
        (b'{"a":1, "r":2 }', b'{"a":1 }'),
        (b'{"a":1 , "r":2}', b'{"a":1 }'),
        (b'{"a":1,"r":2,"b":3}', b'{"a":1,"b":3}'),
        (b'{"a":1, "r":2, "b":3}', b'{"a":1,  "b":3}'),
        (b'{"a":1,"r":2,"r":3,"b":4}', b'{"a":1,"b":4}'),
        (b'{"a":1, "r":2 , "r":3}', b'{"a":1}'),
        (b'{"r":0,"a":1,"r":2,"b":3,"r":4}', b'{"a":1,"b":3}'),
        (b'{"a":"r","r":"}","b":"\\",\\"r\\":1"}', b'{"a":"r","b":"\\",\\"r\\":1"}'),
        (b'{"a":{"r":1},"r":{"a":[1,{"b":"},"}]}}', b'{"a":{"r":1}}'),
        (rb'{"\u0072":1,"a":2}', b'{"a":2}'),
        (b'{"a":",","r":1}', b'{"a":","}'),
    ],
)
def test_forbidden_members_go(body: bytes, expected: bytes) -> None:
    assert spliced(body) == expected


@pytest.mark.parametrize(
    ("body", "changes", "expected"),
    [
        (b'{"model":"a"}', {"model": b'"b"'}, b'{"model":"b"}'),
        (b'{ "model" : "a" , "x":1}', {"model": b'"longer"'}, b'{ "model" : "longer" , "x":1}'),
        (rb'{"\u006dodel":"a"}', {"model": b"null"}, rb'{"\u006dodel":null}'),
        (b'{"x":1,"model":"a"}', {"model": b'"b"', "n": b"2"}, b'{"x":1,"model":"b","n":2}'),
        (b"{}", {"model": b'"b"'}, b'{"model":"b"}'),
        (b" { \n } ", {"model": b'"b"'}, b' {"model":"b" \n } '),
        (b'{"x":1\n}\n', {"y": b"2", "z": b"[3]"}, b'{"x":1,"y":2,"z":[3]\n}\n'),
        (b'{"x":1}', {"x": b"2"}, b'{"x":1,"x":2}'),
        (b'{"r":1}', {"r": b"2"}, b'{"r":2}'),
        (b'{"r":1,"a":1}', {"r": b"2"}, b'{"a":1,"r":2}'),
        (b'{ "a":1, "r":1 }', {"r": b"2"}, b'{ "a":1,"r":2 }'),
        (b'{"model":"a","n":1}', {"model": None}, b'{"n":1}'),
        (b'{"model":"a","n":1}', {"n": None}, b'{"model":"a"}'),
        (b'{"model":"a","n":1}', {"n": None, "model": None}, b"{}"),
        (b'{"model":"a","n":1}', {"n": None, "model": b'"b"'}, b'{"model":"b"}'),
        (b'{"n":1,"r":2,"user":"u"}', {"user": None, "n": b"2"}, b'{"n":2}'),
        (b'{"n":1,"r":2,"user":"u"}', {"n": None, "user": None, "x": b"1"}, b'{"x":1}'),
        (b'{"a":1}', {"": b"1", 'q"\\\n': b"2", "\u00e9": b"3"}, '{"a":1,"":1,"q\\"\\\\\\n":2,"\u00e9":3}'.encode()),
        (b'{"a":1}', {"model": None, "x": b"1"}, b'{"a":1,"x":1}'),
    ],
)
def test_changes(body: bytes, changes: dict[str, bytes | None], expected: bytes) -> None:
    assert spliced(body, changes) == expected
    json.loads(expected)


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        (b"{}", {}),
        (b'{"a":1, "model":"m" }', {}),
        (b'{"a":1, "model":"m" }', {"n": None, "user": None}),
        (b'{"a":1, "model":"m" }', {"model": b'"m"'}),
    ],
)
def test_what_changes_nothing_gives_the_same_object(body: bytes, changes: dict[str, bytes | None]) -> None:
    assert spliced(body, changes) is body


def test_as_many_edits_as_there_can_be() -> None:
    names = ["model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "user",
             "prompt_cache_key", "messages", "prompt", "input", "tools", "system", "instructions", "query", "documents"]  # fmt: skip
    members = [f'"{name}":null' for name in names] + [f'"bootstrap_{number}":{number}' for number in range(32)]
    for order in (members, members[::-1], members[::2] + members[1::2]):
        body = f"{{{', '.join(order)}}}".encode()
        assert spliced(body, dict.fromkeys(names)) == b"{}"
        assert json.loads(spliced(body, dict.fromkeys(names, b"0"))) == dict.fromkeys(names, 0)


def test_the_result_is_the_one_large_allocation() -> None:
    body = b'{"r":1,"a":"' + b"x" * 1_000_000 + b'","model":"m"}'
    found = scan(body, forbidden=RULES)
    tracemalloc.start()
    try:
        result = splice(body, found, {"model": b'"n"', "x": b"1"})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.endswith(b'","model":"n","x":1}')
    assert peak < 1_010_000


@pytest.mark.parametrize("body", [b"{}", b'{"a":1}', b'{"r":1,"model":"x"} ', b""])
def test_a_scan_of_another_body_is_refused(body: bytes) -> None:
    found = scan(b'{"r":1,"model":"m"}', forbidden=RULES)
    with pytest.raises(ValueError, match="another body"):
        splice(body, found, {})
    with pytest.raises(ValueError, match="another body"):
        with_usage(body, found)


def test_a_scan_of_another_body_of_the_same_size_does_no_harm() -> None:
    found = scan(b'{"r":1,"model":"m","bootstrap_a":1}', forbidden=RULES)
    for byte in b" ,}{\0x":
        body = bytes([byte]) * 35
        try:
            result = splice(body, found, {"model": b'"longer than it was"', "n": b"1"})
        except ValueError:
            continue
        assert len(result) < 100


def test_none_for_a_member_that_is_not_looked_for() -> None:
    with pytest.raises(ValueError, match="`temperature` cannot be taken out: the scanner does not look for it"):
        spliced(b'{"temperature":1}', {"temperature": None})


@pytest.mark.parametrize(
    "changes", [{"model": '"m"'}, {"x": "1"}, {"x": 1}, {1: b"1"}, {None: b"1"}, [("model", b"1")], None]
)
def test_changes_are_names_and_bytes(changes: object) -> None:
    body = b'{"model":"a"}'
    with pytest.raises((TypeError, AttributeError)):
        splice(body, scan(body), changes)  # type: ignore[arg-type]


class Repeated(Mapping[str, bytes | None]):
    """A mapping that does not keep its word."""

    def __getitem__(self, name: str) -> bytes | None:
        return b"null"

    def __iter__(self) -> Iterator[str]:
        return iter(["model"] * 100)

    def __len__(self) -> int:
        return 100


def test_any_mapping_will_do() -> None:
    class Changes(Mapping[str, bytes | None]):
        def __getitem__(self, name: str) -> bytes | None:
            return b'"' + name.encode() + b'"'

        def __iter__(self) -> Iterator[str]:
            return iter(["model", "user"])

        def __len__(self) -> int:
            return 2

    assert spliced(b'{"model":"a"}', Changes()) == b'{"model":"model","user":"user"}'
    with pytest.raises(ValueError, match="twice"):
        spliced(b'{"model":"a"}', Repeated())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (None, b'{"include_usage":true}'),
        (b"null", b'{"include_usage":true}'),
        (b"{}", b'{"include_usage":true}'),
        (b"{ \n}", b'{"include_usage":true \n}'),
        (b'{"include_usage":true}', b'{"include_usage":true}'),
        (b'{ "include_usage" : false }', b'{ "include_usage" : true }'),
        (b'{"include_usage":null,"a":1}', b'{"include_usage":true,"a":1}'),
        (
            b'{"a":{"include_usage":false},"include_usage":[{}] }',
            b'{"a":{"include_usage":false},"include_usage":true }',
        ),
        (b'{"a":{"include_usage":true}}', b'{"a":{"include_usage":true},"include_usage":true}'),
        (rb'{"include\u005fusage":0}', rb'{"include\u005fusage":true}'),
        (b'{"a":1, "a":2 }', b'{"a":1, "a":2,"include_usage":true }'),
        (b'{"a":"{"}', b'{"a":"{","include_usage":true}'),
    ],
)
def test_with_usage(options: bytes | None, expected: bytes) -> None:
    body = b'{"model":"m"}' if options is None else b'{"model":"m", "stream_options": ' + options + b' ,"stream":true}'
    found = scan(body)
    assert with_usage(body, found) == expected
    assert scan(splice(body, found, {"stream_options": expected})).include_usage
