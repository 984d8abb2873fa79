"""The time, from a clock that was passed in: a request looks at it a dozen times."""

from collections.abc import Callable

def seconds(clock: Callable[[], float]) -> float:
    """What ``clock`` says, in its seconds. ``time.monotonic`` is read without a call of Python's, any other clock is called.

    Raises what it raises, and TypeError for a clock that says no number.
    """
