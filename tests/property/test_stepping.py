"""Moving coroutines on, against the twin: whatever they wait for, return or raise."""

import types

from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath import stepping
from tests.reference import stepping as plain
from tests.support.examples import examples

OUTCOME = st.one_of(st.none(), st.integers(), st.text(max_size=5), st.builds(ValueError, st.text(max_size=5)))


@types.coroutine
def wait_for(said):
    yield said


async def works(waits, outcome):
    for one in waits:
        await wait_for(one)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def moved(module, waits, outcome):
    coroutine, seen = works(waits, outcome), []
    try:
        while not module.is_end(said := module.step(coroutine)):
            seen.append(said)
    except ValueError as error:
        seen.append(error)
    return seen


@settings(max_examples=examples(200), deadline=None)
@given(waits=st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=5)), max_size=6), outcome=OUTCOME)
def test_a_coroutine_is_moved_on_as_python_moves_it(waits, outcome):
    assert moved(stepping, waits, outcome) == moved(plain, waits, outcome)
