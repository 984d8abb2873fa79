"""KV events in every encoding: arrays and maps, with fields of years ago and of tomorrow."""

import msgspec
import pytest

from controllers.network.kv_events.events import CPU, GPU, OTHER, Batch, Cleared, Removed, Stored, decode
from controllers.network.kv_events.messages import is_end, read_live, read_replayed
from controllers.network.kv_events.sequence import Sequence, Verdict
from gateway.datastore.token_seed import extra_bytes

DIGEST = bytes(range(32))
HERE = Stored(names=[1, 2], parent=None, tokens=[5, 6, 7, 8], block_tokens=2)


def one(row, **more):
    found = decode(msgspec.msgpack.encode([1.5, [row], 0]))
    assert (found.time, found.rank, found.dropped, found.unknown) == (1.5, 0, 0, 0)
    return found.events[0]


ARRAY = ["BlockStored", [1, 2], None, [5, 6, 7, 8], 2]
MAP = {
    "type": "BlockStored",
    "block_hashes": [1, 2],
    "parent_block_hash": None,
    "token_ids": [5, 6, 7, 8],
    "block_size": 2,
}


@pytest.mark.parametrize(
    "row",
    [
        ARRAY,
        [*ARRAY, None],
        [*ARRAY, None, "GPU"],
        [*ARRAY, None, "GPU", None, None, 0, "full_attention", None],
        [*ARRAY, None, "GPU", None, None, 0, "full_attention", None, "LOCAL", None, "session", {"to": "come"}],
        MAP,
        MAP | {"lora_id": None, "medium": "GPU", "lora_name": None},
        MAP | {"extra_keys": [None, None], "group_idx": 0, "kv_cache_spec_kind": "mla_attention"},
        MAP | {"locality": "LOCAL", "session_id": "s", "event_version": 3, "whatever": [1, {2: 3}]},
    ],
)
def test_a_stored_block_is_read_in_all_encodings(row):
    assert one(row) == HERE


def test_hashes_are_numbers_or_bytes():
    found = one(["BlockStored", [DIGEST, b"x" * 32], b"p" * 32, [1, 2, 3, 4], 2])
    assert (found.names, found.parent) == ([DIGEST, b"x" * 32], b"p" * 32)
    assert one(["BlockStored", [(1 << 64) - 1, -5], -7, [1, 2, 3, 4], 2]).names == [(1 << 64) - 1, -5]


@pytest.mark.parametrize(
    "row",
    [
        ["BlockRemoved", [1, 2]],
        ["BlockRemoved", [1, 2], "GPU", 0],
        {"type": "BlockRemoved", "block_hashes": [1, 2]},
        {"type": "BlockRemoved", "block_hashes": [1, 2], "medium": "GPU", "locality": "LOCAL", "ownership": None},
    ],
)
def test_a_removed_block_is_read_in_all_encodings(row):
    assert one(row) == Removed([1, 2])


@pytest.mark.parametrize(
    "row", [["AllBlocksCleared"], {"type": "AllBlocksCleared"}, {"type": "AllBlocksCleared", "x": 1}]
)
def test_a_cleared_cache_is_read_in_all_encodings(row):
    assert one(row) == Cleared()


@pytest.mark.parametrize(
    ("medium", "tier"),
    [(None, GPU), ("GPU", GPU), ("gpu", GPU), ("CPU", CPU), ("cpu_pinned", CPU), ("DISK", OTHER), (7, OTHER)],
)
def test_media_are_tiers(medium, tier):
    assert one(MAP | {"medium": medium}).tier == one(["BlockRemoved", [1], medium]).tier == tier


@pytest.mark.parametrize(
    "content",
    [
        [1.5, [ARRAY], None],
        [1.5, [ARRAY]],
        [1.5, [ARRAY], 3, "more"],
        {"ts": 1.5, "events": [ARRAY]},
        {"ts": 1.5, "events": [MAP], "data_parallel_rank": 3, "more": 1},
        {"type": "KVEventBatch", "ts": 1.5, "events": [MAP]},
    ],
)
def test_batches_are_arrays_or_maps(content):
    found = decode(msgspec.msgpack.encode(content))
    assert (found.time, found.events) == (1.5, (HERE,))
    assert found.rank in (0, 3)


@pytest.mark.parametrize("content", [None, 5, [], [1.0], [1.0, None], {}, {"events": 5}, "text"])
def test_what_is_no_batch_is_none(content):
    assert decode(msgspec.msgpack.encode(content)) is None


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x93", b"\x91" * 5000, b"\xdd\xff\xff\xff\xff", b"{}"])
def test_what_is_no_msgpack_is_none(payload):
    assert decode(payload) is None


@pytest.mark.parametrize(
    "row",
    [
        5, None, [], {}, [5], ["BlockStored"], ["BlockStored", 1, None, [1], 1], ["BlockStored", [1], None, 7, 1],
        ["BlockStored", [1], None, [1], "1"], ["BlockStored", [1], None, [1], True], ["BlockStored", [1], None, [1], 0],
        ["BlockStored", [1], [2], [1], 1], ["BlockRemoved"], ["BlockRemoved", 5], {"type": "BlockRemoved"}, {"type": 5},
        MAP | {"extra_keys": 5}, MAP | {"extra_keys": [None]}, MAP | {"extra_keys": [None, "salt"]},
    ],
)  # fmt: skip
def test_an_event_that_cannot_be_read_is_counted_and_the_others_are_kept(row):
    found = decode(msgspec.msgpack.encode([1.0, [row, ARRAY, row, ["AllBlocksCleared"]]]))
    assert (found.events, found.dropped, found.unknown) == ((HERE, Cleared()), 2, 0)


def test_events_of_other_kinds_are_counted_apart():
    assert decode(msgspec.msgpack.encode([1.0, [["BlockMoved", 5], {"type": "Later"}]])) == Batch(1.0, unknown=2)


def test_an_adapter_is_its_name_and_an_id_alone_is_nobodys():
    assert one(MAP | {"lora_name": "sql", "lora_id": 3}).adapter == "sql"
    assert one(MAP | {"lora_id": 3}).adapter == "\0003"


@pytest.mark.parametrize(
    ("keys", "left"),
    [
        ([["sql"], ["sql"]], None),
        ([[["lora", "sql", "/path"]], [["lora", "sql"]]], None),
        ([["sql", "salt"], ["sql"]], [["salt"], None]),
        ([["sql", ["cache_salt", "salt"]], None], [["salt"], None]),
        ([None, ["sql", ["image", 3]]], [None, [["image", 3]]]),
        ([["other"], [b"digest"]], [["other"], [b"digest"]]),
        ([[], []], None),
    ],
)
def test_extra_keys_are_what_is_left_without_the_adapter(keys, left):
    found = one(MAP | {"lora_name": "sql", "extra_keys": keys}).extras
    assert found == (None if left is None else [None if each is None else extra_bytes(each) for each in left])


@pytest.mark.parametrize(
    "kind", ["sliding_window", "sliding_window_mla", "mamba", "chunked_local_attention", "new_kind", 5]
)
def test_blocks_of_windows_and_states_are_not_whole(kind):
    assert not one(MAP | {"kv_cache_spec_kind": kind, "group_idx": 2}).is_whole
    assert one(MAP | {"group_idx": 2}).group == 2


# -- framing

NUMBER = (258).to_bytes(8, "big")


def test_live_messages_have_three_frames():
    assert read_live([b"kv@pod:1@model", NUMBER, b"x"]) == (258, b"x")
    for frames in ([], [NUMBER, b"x"], [b"", b"short", b"x"], [b"", NUMBER, b"x", b""]):
        assert read_live(frames) is None


def test_replayed_messages_have_a_topic_or_none():
    assert read_replayed([b"", NUMBER, b"x"]) == read_replayed([b"", b"topic", NUMBER, b"x"]) == (258, b"x")
    for frames in ([], [NUMBER], [b"", b"12", b"x"], [b"", b"", NUMBER, b"", b""]):
        assert read_replayed(frames) is None


def test_a_replay_ends_with_a_mark_in_either_framing():
    assert is_end([b"", b"\xff" * 8, b""])
    assert is_end([b"", b"", b"\xff" * 8, b""])
    assert not is_end([b"", NUMBER, b""])


# -- numbers


def test_numbers_in_order_come_next_and_later_ones_show_a_gap():
    sequence = Sequence()
    assert sequence.live(0, 1.0) is Verdict.NEXT
    sequence.apply(0, 1.0)
    assert sequence.live(1, 1.1) is Verdict.NEXT
    sequence.apply(1, 1.1)
    assert sequence.live(3, 1.3) is Verdict.GAP


def test_what_a_replay_brought_is_known_when_it_comes_live_too():
    sequence = Sequence()
    for number in range(5):
        sequence.apply(number, 1.0 + number)
    assert [sequence.live(number, 1.0 + number) for number in (3, 4, 5)] == [Verdict.KNOWN, Verdict.KNOWN, Verdict.NEXT]


@pytest.mark.parametrize(("number", "time"), [(4, 5.0), (0, 5.0), (3, 9.0), (2, 9.0)])
def test_numbers_that_go_back_are_a_restart(number, time):
    sequence = Sequence()
    for old in range(5):
        sequence.apply(old, 1.0 + old)
    sequence.live(4, 5.0)
    assert sequence.live(number, time) is Verdict.RESTARTED


def test_a_restart_shows_by_its_time_when_nothing_came_live_before():
    sequence = Sequence()
    for old in range(5):
        sequence.apply(old, 1.0 + old)
    assert sequence.live(0, 9.0) is Verdict.RESTARTED


# -- SGLang, as its source says (mem_cache/events.py, disaggregation/kv_events.py): arrays of 7, of 8 with metadata, and maps

SGLANG = ["BlockStored", [-5, 6], None, [1, 2, 3, 4], 2, None, "GPU"]
SGLANG_MAP = {
    "type": "BlockStored", "block_hashes": [-5, 6], "parent_block_hash": None, "token_ids": [1, 2, 3, 4], "block_size": 2,
    "lora_id": None, "medium": "GPU",
}  # fmt: skip
SALTED = [extra_bytes(["pepper"]), None]


def test_blocks_of_sglang_are_read():
    wanted = Stored([-5, 6], None, [1, 2, 3, 4], 2)
    assert one(SGLANG) == one(SGLANG[:6]) == one(SGLANG_MAP) == wanted
    assert one(["BlockStored", [7], -5, [5, 6], 2, None, "CPU_PINNED"]) == Stored([7], -5, [5, 6], 2, tier=CPU)
    assert one(["BlockRemoved", [-5, 6], "GPU"]) == Removed([-5, 6])
    batch = decode(msgspec.msgpack.encode([1.5, [SGLANG, ["AllBlocksCleared"]], 3]))
    assert (batch.time, batch.rank, batch.events) == (1.5, 3, (wanted, Cleared()))
    assert decode(msgspec.msgpack.encode({"ts": 1.5, "events": [SGLANG_MAP], "attn_dp_rank": 3})).rank == 3


@pytest.mark.parametrize(
    "row",
    [
        [*SGLANG, {"cache_salt": "pepper"}],
        [*SGLANG, {"cache_salt": "pepper", "session_id": "s"}],
        SGLANG_MAP | {"cache_salt": "pepper", "session_id": "s"},
        SGLANG_MAP | {"metadata": {"cache_salt": "pepper"}},
    ],
)
def test_a_salt_of_sglang_is_of_the_first_block_of_a_chain(row):
    found = one(row)
    assert (found.adapter, found.extras) == ("", SALTED)
    later = [*row[:2], 9, *row[3:]] if isinstance(row, list) else row | {"parent_block_hash": 9}
    assert (one(later).parent, one(later).extras) == (9, None)


@pytest.mark.parametrize(
    "metadata", [{}, {"session_id": "s"}, {"cache_salt": None}, {"cache_salt": ""}, {"cache_salt": 5}]
)
def test_metadata_without_a_salt_says_nothing(metadata):
    found = one([*SGLANG, metadata])
    assert (found.adapter, found.extras) == ("", None)


def test_an_adapter_that_sglang_names_is_told():
    assert one(SGLANG_MAP | {"lora_name": "sql", "cache_salt": "pepper"}) == Stored(
        [-5, 6], None, [1, 2, 3, 4], 2, "sql", extras=SALTED
    )
