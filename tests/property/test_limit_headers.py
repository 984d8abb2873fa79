"""Rate-limit headers against their twin, whatever was taken from the buckets and whatever time it is."""

from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath.limit_headers import limit_headers
from _fastpath.token_bucket import LimitSet, TokenBuckets
from tests.property.pairs import Pair
from tests.reference import token_bucket as reference
from tests.reference.limit_headers import limit_headers as plain_headers
from tests.support.examples import examples

START = 10**15
LIMIT = st.tuples(
    st.sampled_from(("input", "output", "requests")),
    st.integers(10, 10**6),
    st.integers(1, 3600),
    st.integers(1, 10**5),
)
TAKEN = st.integers(0, 10**6)


@settings(max_examples=examples(100), deadline=None)
@given(
    limits=st.lists(st.tuples(LIMIT, TAKEN, st.booleans(), st.booleans()), max_size=5),
    later=st.integers(0, 10**12),
)
def test_headers_are_the_twins(limits, later):
    with_memory = Pair(workers=1, buckets=8, journal_records=1)
    try:
        compiled, plain = TokenBuckets(with_memory.attach()), reference.TokenBuckets(with_memory.plain)
        sets = []
        for identity, ((kind, tokens, seconds, burst), taken, is_configured, is_stale) in enumerate(limits, start=100):
            for buckets in (compiled, plain):
                place = buckets.open(identity, START)
                if is_configured:
                    buckets.configure(place, 1, tokens, seconds, burst, START)
                    buckets.settle(place, 0, taken, START)
            sets.append((place, identity + 1000 * is_stale, kind))
        held_to = LimitSet(sets)  # it keeps what was told last
        for now in (START + later, START + later, START + 2 * later):
            found = limit_headers(compiled, held_to, now)
            assert found == plain_headers(plain, reference.LimitSet(sets), now)
    finally:
        with_memory.close()
