"""Reading a clock: the monotonic one without a call, any other as it is."""

import time

import pytest

from _fastpath.clock import nanoseconds, seconds


def test_the_monotonic_clock_says_what_it_says_to_python():
    before = time.monotonic()
    read = seconds(time.monotonic)
    assert before <= read <= time.monotonic()


def test_it_does_not_go_backwards():
    read = [seconds(time.monotonic) for _ in range(10_000)]
    assert read == sorted(read)


def test_another_clock_is_called():
    assert seconds(lambda: 12.5) == 12.5
    assert seconds(lambda: -1.0) == -1.0


def test_a_clock_that_fails_is_heard():
    def broken() -> float:
        raise OSError("stopped")

    with pytest.raises(OSError, match="stopped"):
        seconds(broken)


def test_a_clock_that_says_no_number_is_refused():
    with pytest.raises(TypeError):
        seconds(lambda: "noon")  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(("read", "clock"), [(seconds, time.time), (nanoseconds, time.monotonic_ns)])
def test_the_other_clocks_of_the_system_say_what_they_say_to_python(read, clock):
    before = clock()
    found = read(clock)
    assert before <= found <= clock()


def test_nanoseconds_of_another_clock_are_whole_and_not_below_zero():
    assert nanoseconds(lambda: 2**63) == 2**63
    with pytest.raises(OverflowError):
        nanoseconds(lambda: -1)
