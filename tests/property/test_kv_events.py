"""Whatever an engine publishes: decoding never raises and counts what it drops, and the index ends up with what the engine holds."""

from array import array

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath.hashing import Hasher
from _fastpath.prefix_index import PrefixIndex
from controllers.network.kv_events.apply import Applier, Counts
from controllers.network.kv_events.events import Cleared, Removed, Stored, decode
from gateway.datastore.token_seed import token_seed
from tests.property.pairs import pair
from tests.support.examples import examples

LEAF = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(),
    st.text(max_size=4),
    st.binary(max_size=4),
    st.sampled_from(["BlockStored", "BlockRemoved", "AllBlocksCleared", "type", "sql", "GPU"]),
)
ANYTHING = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), inner, max_size=4)
    ),
    max_leaves=12,
)
HASHES = st.one_of(ANYTHING, st.lists(st.one_of(st.integers(0, 20), st.binary(min_size=32, max_size=32)), max_size=4))
TOKENS = st.one_of(ANYTHING, st.lists(st.integers(0, 9), max_size=8))
FIELDS = {
    "block_hashes": HASHES,
    "parent_block_hash": st.one_of(st.none(), st.integers(0, 20), ANYTHING),
    "token_ids": TOKENS,
    "block_size": st.one_of(st.integers(1, 3), ANYTHING),
    "lora_id": ANYTHING,
    "medium": st.one_of(st.sampled_from(["GPU", "CPU", None]), ANYTHING),
    "lora_name": ANYTHING,
    "extra_keys": st.one_of(st.none(), st.lists(st.one_of(st.none(), st.lists(ANYTHING, max_size=2)), max_size=4)),
    "group_idx": ANYTHING,
    "kv_cache_spec_kind": ANYTHING,
}
STORED_MAP = st.fixed_dictionaries({"type": st.just("BlockStored")}, optional=FIELDS)
STORED_ARRAY = st.tuples(st.just("BlockStored"), *FIELDS.values()).flatmap(
    lambda row: st.integers(1, len(row)).map(lambda length: list(row[:length]))
)
REMOVED = st.one_of(
    st.fixed_dictionaries({"type": st.just("BlockRemoved"), "block_hashes": HASHES}),
    st.tuples(st.just("BlockRemoved"), HASHES, ANYTHING, ANYTHING).map(list),
)
EVENTS = st.lists(st.one_of(STORED_MAP, STORED_ARRAY, REMOVED, st.just(["AllBlocksCleared"]), ANYTHING), max_size=6)


def packed(content):
    try:
        return msgspec.msgpack.encode(content)
    except (TypeError, ValueError, OverflowError):
        return b""


@settings(max_examples=examples(600), deadline=None)
@given(
    events=EVENTS,
    time=ANYTHING,
    rank=ANYTHING,
    is_map=st.booleans(),
    cut=st.integers(0, 40),
    spoil=st.integers(0, 1 << 30),
)
def test_nothing_that_is_published_raises_and_all_events_are_accounted_for(events, time, rank, is_map, cut, spoil):
    payload = packed({"ts": time, "events": events, "data_parallel_rank": rank} if is_map else [time, events, rank])
    found = decode(payload)
    if payload:
        assert len(found.events) + found.dropped + found.unknown == len(events)
    spoiled = bytearray(payload)
    if spoiled:
        spoiled[spoil % len(spoiled)] = spoil >> 8 & 255
    decode(bytes(spoiled))
    decode(payload[:cut])
    with pair(slots=64, prefix_bytes=1 << 16) as both:
        applier = Applier(both.compiled, "default/e", 5, 2, Counts())
        for event in found.events if found is not None else ():
            if isinstance(event, Stored):
                applier.store(event, 1.0)
            elif isinstance(event, Removed):
                applier.remove(event)
            else:
                assert isinstance(event, Cleared)
                applier.clear()
                applier.forget_slot()
        assert len(applier) <= PrefixIndex(both.compiled).statistics()["entries"] + 2 * len(events) * 4


@settings(max_examples=examples(300), deadline=None)
@given(payload=st.binary(max_size=60))
def test_bytes_that_are_no_batch_are_none_or_a_batch(payload):
    decode(payload)


PROMPTS = st.lists(st.integers(0, 1), min_size=2, max_size=12)


class Model:
    """An engine that keeps blocks of two tokens by their whole prefix, and what it published."""

    def __init__(self):
        self.held = set()

    def run(self, prompt):
        """Events of a request."""
        events, parent = [], None
        for end in range(2, len(prompt) + 1, 2):
            name = name_of(prompt[:end])
            if name not in self.held:
                events.append(["BlockStored", [name], parent, prompt[end - 2 : end], 2, None, "GPU"])
                self.held.add(name)
            parent = name
        return events

    def evict(self, position):
        """The leaf at this place goes."""
        leaves = sorted(
            one for one in self.held if not any(other != one and other.startswith(one) for other in self.held)
        )
        if not leaves:
            return []
        gone = leaves[position % len(leaves)]
        self.held.discard(gone)
        return [["BlockRemoved", [gone], "GPU"]]


def name_of(prefix):
    return bytes([97 + token for token in prefix])


@settings(max_examples=examples(150), deadline=None)
@given(steps=st.lists(st.one_of(PROMPTS, st.integers(0, 50)), max_size=30), asked=st.lists(PROMPTS, max_size=10))
def test_the_index_says_of_any_prompt_what_the_engine_holds(steps, asked):
    engine = Model()
    with pair(slots=64, prefix_bytes=1 << 18) as both:
        applier, index, hasher = (
            Applier(both.compiled, "e", 5, 2, Counts()),
            PrefixIndex(both.compiled),
            Hasher(both.compiled.hash_key),
        )
        for step in steps:
            events = engine.evict(step) if isinstance(step, int) else engine.run(step)
            for event in decode(msgspec.msgpack.encode([1.0, events, 0])).events:
                applier.store(event, 1.0) if isinstance(event, Stored) else applier.remove(event)
        for prompt in [*asked, *[step for step in steps if not isinstance(step, int)]]:
            ends = range(2, len(prompt) + 1, 2)
            held = next((i for i, end in enumerate(ends) if name_of(prompt[:end]) not in engine.held), len(ends))
            hashes = hasher.hash_tokens(array("I", prompt), 2, token_seed(hasher, ""))
            assert index.match(hashes, [5]) == [held]
        assert applier.counts.orphaned == 0
        assert len(applier) == len(engine.held)


@pytest.mark.parametrize("depth", [10, 1000, 100_000])
def test_deep_nesting_is_no_batch(depth):
    assert decode(b"\x93\x00" + b"\x91" * depth) is None
