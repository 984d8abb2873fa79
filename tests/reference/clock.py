"""The time, from a clock that was passed in."""

from __future__ import annotations


def seconds(clock):
    """What the clock says."""
    said = clock()
    if isinstance(said, str | bytes):
        raise TypeError("a clock says a number")
    return float(said)
