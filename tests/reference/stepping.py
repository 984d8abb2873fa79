"""Moving a coroutine on."""

from __future__ import annotations

ENDED = object()


def step(coroutine):
    """What it waits for next, or ENDED."""
    try:
        return coroutine.send(None)
    except StopIteration:
        return ENDED


def is_end(said):
    """Whether it is over."""
    return said is ENDED
