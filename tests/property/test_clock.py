"""Reading a clock against its twin, whatever the clock says."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath.clock import nanoseconds, seconds
from tests.property.pairs import outcome
from tests.reference.clock import nanoseconds as plain_nanoseconds
from tests.reference.clock import seconds as plain_seconds
from tests.support.examples import examples


@settings(max_examples=examples(200), deadline=None)
@given(said=st.one_of(st.floats(), st.integers(-(2**53), 2**53), st.booleans()))
def test_what_a_clock_says_is_what_is_read(said):
    read, plain = seconds(lambda: said), plain_seconds(lambda: said)
    assert read == plain or (math.isnan(read) and math.isnan(plain))


@settings(max_examples=examples(200), deadline=None)
@given(said=st.integers(-(2**65), 2**65))
def test_nanoseconds_are_what_is_said(said):
    assert outcome(nanoseconds, lambda: said) == outcome(plain_nanoseconds, lambda: said)
