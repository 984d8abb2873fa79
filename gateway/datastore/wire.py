"""How snapshots travel: frames with epoch, sequence and checksum, JSON inside. Never pickle.

A publisher that starts takes a new epoch and counts its changes from 1. A *delta* carries the changes of one sequence number; a *whole*
is many *part* frames, cut at one sequence number, and an *end* that counts them; a *heartbeat* repeats where the publisher stands.
Each frame travels as two ZeroMQ message parts, header and body, and as both after a length each in a file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from enum import IntEnum

import msgspec
from msgspec import Struct

from gateway.datastore.model import Endpoint, Route, Server

PROTOCOL = b"PSN1"
PART_BYTES = 60_000
"""A part closes once its body has grown beyond this; one object more fits into 64 KB."""
LARGEST_BODY = 1 << 20
WHOLE_REQUEST = b"whole"
_HEADER = struct.Struct(">4sBQQII")
_LENGTHS = struct.Struct(">II")


class Kind(IntEnum):
    """What a frame is."""

    HEARTBEAT = 0
    DELTA = 1
    PART = 2
    END = 3


class WireError(Exception):
    """A frame that is damaged, of another version, or not what its header says."""


class Change(Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="change"):
    """Objects that are new or different, and the names (endpoints: keys) of those that are gone."""

    routes: tuple[Route, ...] = ()
    servers: tuple[Server, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    gone_routes: tuple[str, ...] = ()
    gone_servers: tuple[str, ...] = ()
    gone_endpoints: tuple[str, ...] = ()


class Counts(Struct, frozen=True):
    """What a whole snapshot holds: the end mark's body."""

    parts: int
    routes: int
    servers: int
    endpoints: int


class Frame(Struct, frozen=True):
    """One frame, decoded. ``number`` is a part's place, 0 elsewhere."""

    kind: Kind
    epoch: int
    sequence: int
    number: int = 0
    change: Change | None = None
    counts: Counts | None = None


_encoder = msgspec.json.Encoder()
_change_decoder = msgspec.json.Decoder(Change)
_counts_decoder = msgspec.json.Decoder(Counts)


def encode(frame: Frame) -> tuple[bytes, bytes]:
    """Header and body of a frame."""
    body = b""
    if frame.change is not None:
        body = _encoder.encode(frame.change)
    elif frame.counts is not None:
        body = _encoder.encode(frame.counts)
    if len(body) > LARGEST_BODY:
        raise WireError(f"a frame of {len(body)} bytes: the largest is {LARGEST_BODY}")
    plain = _HEADER.pack(PROTOCOL, frame.kind, frame.epoch, frame.sequence, frame.number, 0)
    return _HEADER.pack(PROTOCOL, frame.kind, frame.epoch, frame.sequence, frame.number, _checksum(plain, body)), body


def decode(header: bytes, body: bytes) -> Frame:
    """The frame of a header and a body. Raises WireError."""
    try:
        protocol, kind, epoch, sequence, number, checksum = _HEADER.unpack(header)
        plain = _HEADER.pack(protocol, kind, epoch, sequence, number, 0)
        if protocol != PROTOCOL:
            raise WireError(f"protocol {protocol!r}, this process speaks {PROTOCOL!r}")
        if checksum != _checksum(plain, body):
            raise WireError("checksum does not match")
        kind = Kind(kind)
        change = _change_decoder.decode(body) if kind in (Kind.DELTA, Kind.PART) else None
        counts = _counts_decoder.decode(body) if kind is Kind.END else None
    except (struct.error, ValueError, msgspec.MsgspecError) as error:
        raise WireError(f"undecodable frame: {error}") from error
    return Frame(kind, epoch, sequence, number, change, counts)


def whole(
    epoch: int, sequence: int, routes: Iterable[Route], servers: Iterable[Server], endpoints: Iterable[Endpoint]
) -> Iterator[tuple[bytes, bytes]]:
    """The frames of a whole snapshot: parts, then the end mark."""
    counts = {"routes": 0, "servers": 0, "endpoints": 0}
    number = 0
    for kind, objects in (("servers", servers), ("endpoints", endpoints), ("routes", routes)):
        for batch in _batches(objects):
            change = Change(**{kind: batch})  # type: ignore[arg-type]
            yield encode(Frame(Kind.PART, epoch, sequence, number, change))
            counts[kind] += len(batch)
            number += 1
    yield encode(Frame(Kind.END, epoch, sequence, number, counts=Counts(parts=number, **counts)))


def to_bytes(frames: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Frames as they lie in a file."""
    return b"".join(_LENGTHS.pack(len(header), len(body)) + header + body for header, body in frames)


def from_bytes(data: bytes) -> Iterator[Frame]:
    """The frames of a file. Raises WireError where it is damaged or ends early."""
    at = 0
    while at < len(data):
        try:
            header_length, body_length = _LENGTHS.unpack_from(data, at)
        except struct.error as error:
            raise WireError("the file ends in the middle of a frame") from error
        at += _LENGTHS.size
        middle, end = at + header_length, at + header_length + body_length
        if end > len(data):
            raise WireError("the file ends in the middle of a frame")
        yield decode(data[at:middle], data[middle:end])
        at = end


def _batches(objects: Iterable[Route | Server | Endpoint]) -> Iterator[tuple[Route | Server | Endpoint, ...]]:
    batch: list[Route | Server | Endpoint] = []
    size = 0
    for item in objects:
        length = len(_encoder.encode(item))
        if batch and size + length > PART_BYTES:
            yield tuple(batch)
            batch, size = [], 0
        batch.append(item)
        size += length
    if batch:
        yield tuple(batch)


def _checksum(header: bytes, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(header))
