"""The time, from a clock that was passed in."""

from __future__ import annotations


def seconds(clock):
    """What the clock says."""
    said = clock()
    if isinstance(said, str | bytes):
        raise TypeError("a clock says a number")
    return float(said)


def nanoseconds(clock):
    """What the clock says."""
    said = clock()
    if not 0 <= said < 2**64:
        raise OverflowError(said)
    return said
