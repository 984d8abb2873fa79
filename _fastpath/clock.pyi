"""The time, from a clock that was passed in: a request looks at it a dozen times."""

from collections.abc import Callable

def seconds(clock: Callable[[], float]) -> float:
    """What ``clock`` says, in its seconds. ``time.monotonic`` and ``time.time`` are read without a call in Python, any other is called.

    Raises what it raises, and TypeError for a clock that says no number.
    """

def nanoseconds(clock: Callable[[], int]) -> int:
    """The same in nanoseconds; ``time.monotonic_ns`` is read without a call. Raises OverflowError for a time below 0."""
