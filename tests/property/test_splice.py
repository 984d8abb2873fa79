"""Splicing against its plain-Python twin, and against a dictionary edited in Python, on objects in every spelling."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath.scanner import Forbidden, Scan, ScanError, scan
from _fastpath.splice import splice, with_usage
from tests.property.bodies import (
    COUNTS,
    FORBIDDEN,
    FORBIDDEN_NAMES,
    LIKELY,
    MEMBERS,
    OPTION,
    SEEDS,
    STRINGS,
    VALUES,
    Writer,
)  # fmt: skip
from tests.reference import scanner as plain
from tests.reference import splice as twin
from tests.support.examples import examples

FAST = settings(deadline=None, max_examples=examples(300))
COMPILED, PLAIN = Forbidden(FORBIDDEN), plain.Forbidden(FORBIDDEN)
Pairs = list[tuple[str, Any]]

FORBIDDEN_MEMBERS = st.tuples(FORBIDDEN_NAMES, VALUES)
FINE = st.sampled_from(sorted(LIKELY)).flatmap(lambda name: st.tuples(st.just(name), LIKELY[name]))
OTHER = st.tuples(STRINGS.filter(lambda name: name not in plain.NAMES), VALUES)


def once(members: Pairs) -> Pairs:
    """Members that route may stand once only; all others as often as they like."""
    first = {name: at for at, (name, _value) in reversed(list(enumerate(members)))}
    return [pair for at, pair in enumerate(members) if pair[0] not in plain.NAMES or first[pair[0]] == at]


PAIRS = st.lists(FINE | OTHER | FORBIDDEN_MEMBERS | MEMBERS, max_size=7).map(once)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "model": STRINGS, "stream": st.booleans(), "max_tokens": COUNTS, "messages": VALUES, "prompt": st.none() | VALUES,
        "kv_transfer_params": VALUES, "x": VALUES, 'quote " and \\ and \u00e9': VALUES,
    },
)  # fmt: skip
REMOVED = st.sets(
    st.sampled_from(["user", "n", "model", "stream", "prompt_cache_key", "messages", "tools"]), max_size=3
)


def read(text: bytes) -> Pairs:
    pairs = json.loads(text, object_pairs_hook=plain.Members)
    assert isinstance(pairs, plain.Members)
    return pairs


def scans(body: bytes) -> tuple[Scan, plain.Scan] | None:
    try:
        return scan(body, forbidden=COMPILED), plain.scan(body, forbidden=PLAIN)
    except ScanError:
        return None


def edited(pairs: Pairs, changes: dict[str, Any]) -> Pairs:
    """The members as a list, edited in Python."""
    kept = [(name, value) for name, value in pairs if not PLAIN.covers(name)]
    known = {name for name, _value in kept if name in plain.NAMES}
    kept = [(name, changes.get(name, value) if name in known else value) for name, value in kept]
    return [*kept, *((name, value) for name, value in changes.items() if name not in known)]


@FAST
@given(SEEDS, SEEDS, PAIRS, CHANGES, REMOVED)
def test_is_the_object_edited_in_python(
    seed: int, other: int, pairs: Pairs, values: dict[str, Any], removed: set[str]
) -> None:
    body = Writer(seed).body(pairs)
    found = scans(body)
    if found is None:
        return
    writer = Writer(other)
    changes: dict[str, bytes | None] = {name: writer.value(value).encode() for name, value in values.items()}
    changes |= dict.fromkeys(sorted(removed))
    spliced = splice(body, found[0], changes)
    assert spliced == twin.splice(body, found[1], changes)
    edits = {
        name: json.loads(text, object_pairs_hook=plain.Members) for name, text in changes.items() if text is not None
    }
    kept = [pair for pair in read(body) if pair[0] not in removed or pair[0] in edits]
    assert repr(read(spliced)) == repr(edited(kept, edits))
    if repr(read(spliced)) == repr(read(body)) and not changes:
        assert spliced is body


@FAST
@given(SEEDS, PAIRS)
def test_nothing_forbidden_is_left(seed: int, pairs: Pairs) -> None:
    body = Writer(seed).body(pairs)
    found = scans(body)
    if found is None:
        return
    forbidden = sum(PLAIN.covers(name) for name, _value in read(body))
    assert (found[0].forbidden, found[1].forbidden) == (forbidden, forbidden)
    spliced = splice(body, found[0], {})
    again = scan(spliced, forbidden=COMPILED)
    assert again.forbidden == 0
    assert (spliced is body) == (forbidden == 0)
    assert splice(spliced, again, {}) is spliced


@FAST
@given(SEEDS, PAIRS)
def test_a_value_that_is_the_same_changes_nothing(seed: int, pairs: Pairs) -> None:
    body = Writer(seed).body([pair for pair in pairs if not PLAIN.covers(pair[0])])
    found = scans(body)
    if found is None:
        return
    spans = [(name, found[0].span(name)) for name in plain.NAMES]
    changes = {name: body[slice(*span)] if span is not None else None for name, span in spans}
    assert splice(body, found[0], changes) is body


@FAST
@given(SEEDS, st.none() | st.lists(OPTION, max_size=4).map(plain.Members), PAIRS, st.data())
def test_with_usage_is_the_clients_object_and_one_option(
    seed: int, options: plain.Members | None, pairs: Pairs, data: st.DataObject
) -> None:
    pairs = [pair for pair in pairs if pair[0] != "stream_options"]
    if data.draw(st.booleans()):
        pairs.insert(data.draw(st.integers(0, len(pairs))), ("stream_options", options))
    body = Writer(seed).body(pairs)
    found = scans(body)
    if found is None:
        return
    value = with_usage(body, found[0])
    assert value == twin.with_usage(body, found[1])
    before = dict(read(body)).get("stream_options")
    after = json.loads(value, object_pairs_hook=plain.Members)
    expected = [(name, True if name == "include_usage" else one) for name, one in before or []]
    if not any(name == "include_usage" for name, _one in expected):
        expected.append(("include_usage", True))
    assert repr(list(after)) == repr(expected)
    assert scan(splice(body, found[0], {"stream_options": value})).include_usage
