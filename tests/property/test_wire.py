"""The wire format: whatever is encoded comes back, and nothing that was damaged on the way does."""

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.datastore.model import (
    Endpoint,
    Limit,
    Match,
    PrefixCache,
    Route,
    Rule,
    Scheduling,
    Server,
    StringMatch,
    Target,
    Traffic,
)
from gateway.datastore.wire import Change, Counts, Frame, Kind, WireError, decode, encode, from_bytes, to_bytes, whole
from tests.support.examples import examples

LARGEST_PART = 64 << 10
HEADER = struct.Struct(">4sBQQII")

TEXT = st.text(max_size=20)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
WORD64 = st.integers(0, (1 << 64) - 1)
WORD32 = st.integers(0, (1 << 32) - 1)


def several(strategy, most=3):
    return st.lists(strategy, max_size=most).map(tuple)


TEXT_MATCHES = st.builds(StringMatch, st.none() | TEXT, st.none() | TEXT, st.none() | TEXT)
MATCHES = st.builds(
    Match,
    headers=st.dictionaries(TEXT, TEXT_MATCHES, max_size=3),
    path=st.none() | TEXT_MATCHES,
    model=st.none() | TEXT,
)
RULES = st.builds(
    Rule,
    targets=several(st.builds(Target, TEXT, st.integers(0, 100))),
    name=TEXT,
    match=st.none() | MATCHES,
)
LIMITS = st.builds(
    Limit,
    name=TEXT,
    kind=st.sampled_from(("input", "output", "requests")),
    amount=NUMBER,
    seconds=NUMBER,
    burst=NUMBER,
    key=st.sampled_from(("route", "tenant", "header")),
    header=TEXT,
)
ROUTES = st.builds(
    Route,
    name=TEXT,
    model_name=TEXT,
    rules=several(RULES),
    adapters=several(TEXT),
    limits=several(LIMITS),
    created=TEXT,
)
SERVERS = st.builds(
    Server,
    name=TEXT,
    engine=st.sampled_from(("vLLM", "SGLang")),
    model=st.none() | TEXT,
    scheduling=st.builds(
        Scheduling,
        policy=st.sampled_from(("cost", "weighted")),
        weights=st.dictionaries(TEXT, NUMBER, max_size=3),
        maximum_waiting=NUMBER,
        adapter_filter=st.booleans(),
    ),
    prefix_cache=st.builds(PrefixCache, mode=st.sampled_from(("text", "off")), block_size=st.integers(8, 65536)),
    traffic=st.builds(Traffic, NUMBER, NUMBER, NUMBER, st.integers(0, 11), st.integers(0, 1 << 40)),
)
ENDPOINTS = st.builds(
    Endpoint,
    name=TEXT,
    server=TEXT,
    identity=TEXT,
    address=TEXT,
    port=st.integers(1, 65535),
    scheme=st.sampled_from(("http", "https")),
    role=st.sampled_from(("both", "prefill", "decode")),
    group=TEXT,
)
CHANGES = st.builds(
    Change,
    routes=several(ROUTES),
    servers=several(SERVERS),
    endpoints=several(ENDPOINTS),
    gone_routes=several(TEXT),
    gone_servers=several(TEXT),
    gone_endpoints=several(TEXT),
)
COUNTS = st.builds(Counts, WORD32, WORD32, WORD32, WORD32)
FRAMES = st.one_of(
    st.builds(Frame, st.just(Kind.HEARTBEAT), WORD64, WORD64, WORD32),
    st.builds(Frame, st.sampled_from((Kind.DELTA, Kind.PART)), WORD64, WORD64, WORD32, change=CHANGES),
    st.builds(Frame, st.just(Kind.END), WORD64, WORD64, WORD32, counts=COUNTS),
)


def flipped(data, bit):
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


@given(FRAMES)
def test_a_frame_comes_back_as_it_was(frame):
    assert decode(*encode(frame)) == frame


@given(FRAMES, st.data())
def test_any_flipped_bit_is_found(frame, data):
    header, body = encode(frame)
    bit = data.draw(st.integers(0, 8 * (len(header) + len(body)) - 1))
    if bit < 8 * len(header):
        header = flipped(header, bit)
    else:
        body = flipped(body, bit - 8 * len(header))
    with pytest.raises(WireError):
        decode(header, body)


@given(FRAMES, st.data())
def test_a_part_cut_short_or_drawn_out_is_found(frame, data):
    header, body = encode(frame)
    cut = data.draw(st.integers(0, len(header) + len(body) - 1))
    with pytest.raises(WireError):
        decode(header[:cut], body[: max(0, cut - len(header))])
    with pytest.raises(WireError):
        decode(header, body + data.draw(st.binary(min_size=1, max_size=4)))


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_noise_is_no_frame(header, body):
    with pytest.raises(WireError):
        decode(header, body)


@given(st.integers(0, 255), st.one_of(st.binary(max_size=60), st.just(b"{}"), st.just(b'{"kind":"change"}')))
def test_a_body_that_is_not_what_its_header_says_is_found_although_the_checksum_fits(kind, body):
    plain = HEADER.pack(b"PSN1", kind, 1, 1, 0, 0)
    header = HEADER.pack(b"PSN1", kind, 1, 1, 0, zlib.crc32(body, zlib.crc32(plain)))
    try:
        frame = decode(header, body)
    except WireError:
        assert kind != Kind.HEARTBEAT
        return
    assert frame.kind == kind
    assert (frame.change is not None) == (kind in (Kind.DELTA, Kind.PART))
    assert (frame.counts is not None) == (kind == Kind.END)


@given(several(ROUTES, 8), several(SERVERS, 8), several(ENDPOINTS, 8), WORD64, WORD64)
def test_a_whole_is_numbered_parts_and_an_end_that_counts_them(routes, servers, endpoints, epoch, sequence):
    *parts, end = [decode(*frame) for frame in whole(epoch, sequence, routes, servers, endpoints)]
    assert all((one.kind, one.epoch, one.sequence) == (Kind.PART, epoch, sequence) for one in parts)
    assert [one.number for one in parts] == list(range(len(parts)))
    assert end == Frame(
        Kind.END, epoch, sequence, len(parts), counts=Counts(len(parts), len(routes), len(servers), len(endpoints))
    )
    assert sum((one.change.routes for one in parts), ()) == routes
    assert sum((one.change.servers for one in parts), ()) == servers
    assert sum((one.change.endpoints for one in parts), ()) == endpoints


@settings(max_examples=examples(40))
@given(st.lists(st.integers(0, 5000), max_size=150), st.integers(0, 1500))
def test_no_part_is_larger_than_64_kb(lengths, small):
    routes = [
        Route(f"default/{i}", "m", (Rule((Target("default/s"),), name="x" * length),))
        for i, length in enumerate(lengths)
    ]
    servers = [Server(f"{i}") for i in range(small)]
    frames = list(whole(1, 1, routes, servers, ()))
    assert all(len(header) + len(body) <= LARGEST_PART for header, body in frames)
    # and no more parts than the bytes need: a part closes only when the next object would not fit
    total = sum(len(body) for _, body in frames[:-1])
    assert len(frames) - 1 <= 2 + total // (LARGEST_PART - 16_384)


@given(several(FRAMES, 5))
def test_the_form_in_a_file_comes_back_as_it_was(frames):
    assert tuple(from_bytes(to_bytes(map(encode, frames)))) == frames


@given(several(ROUTES, 4), several(ENDPOINTS, 4), st.data())
def test_any_damage_to_a_file_is_found(routes, endpoints, data):
    good = to_bytes(whole(3, 7, routes, (), endpoints))
    bit = data.draw(st.integers(0, 8 * len(good) - 1), label="bit")
    with pytest.raises(WireError):
        list(from_bytes(flipped(good, bit)))
    with pytest.raises(WireError):
        list(from_bytes(good + data.draw(st.binary(min_size=1, max_size=40), label="more")))


@given(several(ROUTES, 4), several(ENDPOINTS, 4), st.data())
def test_a_file_that_was_cut_has_an_error_or_no_end_mark(routes, endpoints, data):
    good = to_bytes(whole(3, 7, routes, (), endpoints))
    cut = data.draw(st.integers(0, len(good) - 1))
    try:
        frames = list(from_bytes(good[:cut]))
    except WireError:
        return
    assert not frames or frames[-1].kind is not Kind.END
