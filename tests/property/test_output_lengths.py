"""Lengths of answers in several workers, against the twin; and what a mean is good for."""

from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath.output_lengths import OutputLengths
from tests.property.pairs import outcome, pair
from tests.reference import output_lengths as reference
from tests.support.examples import examples

WORKERS = 2
# of two sets, with more marks than a set has cells; some differ only in bits that neither set nor mark has
KIND = st.builds(
    lambda mark, between, place: mark << 44 | between << 20 | place,
    st.one_of(st.integers(0, 12), st.just((1 << 20) - 1)),
    st.integers(0, 1),
    st.sampled_from([0, 511]),
)
TOKENS = st.one_of(st.sampled_from([0.0, 1.0, 1e9, -1.0]), st.floats(0, 3e5))
STEP = st.sampled_from([0.0, 1.0, 64.0, 5000.0, 3e5])


@settings(max_examples=examples(200), deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, WORKERS - 1), STEP, st.booleans(), KIND, TOKENS, st.sampled_from([1.0, 256.0, -1.0])),
        max_size=80,
    )
)
def test_it_agrees_with_its_twin(steps):
    with pair(workers=WORKERS) as both:
        compiled = [OutputLengths(both.attach()) for _ in range(WORKERS)]
        plain = reference.OutputLengths(both.plain)
        now = 1000.0
        for worker, seconds, learns, kind, tokens, prior in steps:
            now += seconds
            name, arguments = ("learn", (kind, tokens, prior, now)) if learns else ("mean", (kind,))
            expected = outcome(getattr(plain, name), *arguments)
            assert outcome(getattr(compiled[worker], name), *arguments) == expected, (name, arguments)
        for step in steps:
            assert compiled[0].mean(step[3]) == plain.mean(step[3])
            assert compiled[0].expected(step[3], 7) == plain.expected(step[3], 7)


@settings(max_examples=examples(200), deadline=None)
@given(prior=st.floats(1, 1e4), answers=st.lists(st.floats(0, 1e5), min_size=1, max_size=200))
def test_a_mean_is_the_one_of_exact_arithmetic_to_a_few_parts_of_256(prior, answers):
    with pair() as both:
        lengths = OutputLengths(both.compiled)
        exact = prior
        for number, tokens in enumerate(answers, 1):
            lengths.learn(5, tokens, prior, 0.0)
            exact += max(1 / 64, 1 / (number + 8)) * (tokens - exact)
        # each step rounds by half a part, and keeps 63 of 64 parts of what was rounded before at most
        assert abs(lengths.mean(5) - exact) <= 64 * 0.5 / 256


@settings(max_examples=examples(50), deadline=None)
@given(others=st.lists(st.integers(1, (1 << 20) - 2), min_size=8, max_size=40, unique=True))
def test_a_kind_that_is_answered_again_and_again_is_kept_whatever_else_comes(others):
    with pair() as both:
        lengths = OutputLengths(both.compiled)
        kept = (1 << 20) - 1 << 44
        for number, mark in enumerate(others):
            lengths.learn(kept, 100.0, 100.0, 64.0 * number)
            lengths.learn(mark << 44, 7.0, 7.0, 64.0 * number)
        assert lengths.mean(kept) == 100.0
        assert [lengths.mean(mark << 44) for mark in others[-7:]] == [7.0] * 7
        assert sum(lengths.mean(mark << 44) >= 0 for mark in others) == 7
