"""JSON bodies in every spelling, and what a wire, a fool or an attacker makes of them."""

import json
from random import Random
from typing import Any

from hypothesis import strategies as st

from tests.reference import scanner as twin

SHORT = {'"': '\\"', "\\": "\\\\", "/": "\\/", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escaped(character: str) -> str:
    """As \\u escapes: one, or two for what lies beyond the basic plane."""
    return "".join(f"\\u{unit:04x}" for unit in memoryview(character.encode("utf-16-le")).cast("H"))


class Writer:
    """Writes values as JSON text, each time with other spaces and escapes; with seed 0 plainly."""

    def __init__(self, seed: int) -> None:
        self.plain = seed == 0
        self.random = Random(seed)

    def space(self) -> str:
        return "" if self.plain else "".join(self.random.choices(" \t\r\n", k=self.random.choice((0, 0, 0, 1, 2))))

    def character(self, character: str, way: str) -> str:
        if way == "u":
            return escaped(character)
        if way == "U":
            return escaped(character).upper().replace("\\U", "\\u")
        if character in '"\\' or character < " " or way == "s":
            return SHORT.get(character) or escaped(character)
        return character

    def string(self, text: str) -> str:
        ways = "p" * len(text) if self.plain else self.random.choices("ppppsuU", k=len(text))
        return '"' + "".join(map(self.character, text, ways)) + '"'

    def value(self, value: Any) -> str:
        if isinstance(value, twin.Number):
            return value
        if isinstance(value, str):
            return self.string(value)
        if isinstance(value, twin.Members):
            return self.joined("{", [self.member(*pair) for pair in value], "}")
        if isinstance(value, list):
            return self.joined("[", [self.value(item) for item in value], "]")
        return json.dumps(value)

    def member(self, name: str, value: Any) -> str:
        return self.string(name) + self.space() + ":" + self.space() + self.value(value)

    def joined(self, opening: str, items: list[str], closing: str) -> str:
        return opening + ",".join(self.space() + item + self.space() for item in items) + self.space() + closing

    def body(self, members: list[tuple[str, Any]]) -> bytes:
        return (self.space() + self.value(twin.Members(members)) + self.space()).encode()


# -- bodies -------------------------------------------------------------------------------------------------------

STRINGS = st.text(max_size=8) | st.sampled_from(["model", "n", "\u00e9\u6f22\U0001f600", "a/b", '"', "\\"])
NUMBERS = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["-0", "0", "1e3", "1E+05", "10.0", "-0.5e-7", "9" * 18, "9" * 19, "9" * 40, "1e400"]),
).map(twin.Number)
UNUSUAL = st.sampled_from(
    ["1e3", "10.0", "1.5", "15e-1", "0.1e1", "0.0", "1e-400", "1e400", "9" * 18, "1" + "0" * 18, "9" * 19, str(2**62 - 1), str(2**62),
     str(2**62 + 1), str(2**63), "4611686018427387904.0", "4.7e18", "9" * 40]
).map(twin.Number)  # fmt: skip
COUNTS = st.integers(0, 10**6).map(str).map(twin.Number) | UNUSUAL
WORDS = st.sampled_from([None, True, False])
NONE = st.none()
VALUES = st.recursive(
    WORDS | NUMBERS | STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(STRINGS, inner), max_size=3).map(twin.Members),
    max_leaves=4,
)
TOKENS = st.lists(COUNTS, max_size=6)
OPTION = st.tuples(
    st.sampled_from(["include_usage", "include_usage", "include_usages", "chunk"]) | STRINGS, WORDS | WORDS | VALUES
)
OPTIONS = st.lists(OPTION, max_size=3).map(twin.Members)
MESSAGES = st.builds(lambda content: [twin.Members([("role", "user"), ("content", content)])], STRINGS)
LIKELY = {
    "model": STRINGS, "user": STRINGS, "prompt_cache_key": STRINGS, "stream": WORDS, "stream_options": OPTIONS, "n": COUNTS,
    "max_tokens": COUNTS, "max_completion_tokens": COUNTS, "max_output_tokens": COUNTS, "messages": MESSAGES | NONE,
    "prompt": STRINGS | TOKENS | NONE, "input": TOKENS | NONE, "query": STRINGS | NONE,
}  # fmt: skip
NEAR_MISSES = ["modell", "mode", "Model", "N", "", "stream_option", "max_completion_tokens_", "model\x00", "\uff4dodel"]


def member(name: str) -> st.SearchStrategy[tuple[str, Any]]:
    likely = LIKELY.get(name, VALUES)
    return st.tuples(st.just(name), st.one_of(*[likely] * 7, VALUES))


MEMBERS = st.one_of(
    *[member(name) for name in twin.NAMES],
    st.tuples(st.sampled_from(NEAR_MISSES) | STRINGS.filter(lambda name: name not in twin.NAMES), VALUES),
)
SEEDS = st.integers(0, 2**16)


def bodies(unique: bool = True) -> st.SearchStrategy[bytes]:
    unique_by = (lambda pair: pair[0]) if unique else None
    return st.builds(
        lambda seed, members: Writer(seed).body(members), SEEDS, st.lists(MEMBERS, max_size=6, unique_by=unique_by)
    )


FRAGMENTS = [
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\u", b"\\ud83d", b"\\ude00", b"\\u0000", b"\\/", b"0", b"-", b"1",
    b".", b"e", b"E+", b"true", b"nul", b"NaN", b"Infinity", b" ", b"\n", b"\x00", b"\x1f", b"\x7f", b"\x80", b"\xc0\xaf",
    b"\xed\xa0\x80", b"\xe2\x82\xac", b"\xf0\x9f\x98\x80", b"\xf4\x90\x80\x80", b"\xff", b"\xef\xbb\xbf", b"/**/", b"'",
    b'"model"', b'"n":1', b'{"a":', b"[[", b"]]",
]  # fmt: skip


def mutate(body: bytes, random: Random, piece: bytes) -> bytes:
    """The body with a few bytes exchanged, left out, put in, doubled or cut off, anywhere."""
    start = random.randint(0, len(body))
    end = min(len(body), start + random.choice((1, 1, 1, 2, 8)))
    change = random.choice(("replace", "insert", "insert", "delete", "double", "flip", "cut"))
    if change == "cut":
        return body[:start]
    if change == "flip":
        piece = bytes(byte ^ 1 << random.randrange(8) for byte in body[start:end])
    if change in ("delete", "double"):
        piece = body[start:end] * (2 if change == "double" else 0)
    return body[:start] + piece + body[start if change == "insert" else end :]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    body = draw(bodies(unique=False))
    for piece in draw(st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=2), min_size=1, max_size=2)):
        body = mutate(body, Random(draw(SEEDS)), piece)
    return body


FORBIDDEN = (
    "kv_transfer_params",
    "bootstrap_*",
    "do_remote*",
    "\u00e9\u6f22*",
    "a/b",
    '"',
    "\\",
    "x" * 128,
    "y" * 100 + "*",
    "\U0001f600",
)
"""Names that the gateway might forbid, and some that it hardly would."""
FORBIDDEN_NAMES = st.sampled_from(
    [name.rstrip("*") + tail for name in FORBIDDEN for tail in ("", "", "1", "_room", "\u00e9" * 40)]
)
