"""Waiting for something to become true, with a deadline."""

from time import monotonic, sleep


def wait_until(condition, seconds=10.0, pause=0.02, message="it did not happen"):
    """The first true value of ``condition()``; an AssertionError with the last value after ``seconds``."""
    deadline = monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if monotonic() > deadline:
            shown = message() if callable(message) else message
            raise AssertionError(f"not within {seconds:g} s: {shown} (last: {value!r})")
        sleep(pause)
