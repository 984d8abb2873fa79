"""Estimates of output: bounded, never beyond what a request allows, and of no effect on what is charged in the end."""

from contextlib import contextmanager

from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath.token_bucket import Journal, LimitSet, TokenBuckets
from gateway.admission.output_estimates import LONGEST, OutputEstimates
from gateway.routing.kinds import Kind
from tests.property.pairs import pair
from tests.support.examples import examples

NOW = 10**15


@contextmanager
def learner(prior):
    with pair() as both:
        yield OutputEstimates(both.compiled, prior)


KIND = ("default/r", "m", "chat")
ANSWERS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(-1, 10**5), st.integers(1, 8)), max_size=60)


@settings(max_examples=examples(200), deadline=None)
@given(prior=st.integers(1, 10**4), answers=ANSWERS, most=st.integers(-1, 10**5), choices=st.integers(1, 128))
def test_an_estimate_lies_between_what_was_seen_and_what_the_request_allows(prior, answers, most, choices):
    kind = Kind(*KIND)
    with learner(prior) as estimates:
        for tokens, allowed, several in answers:
            estimates.learn(kind, tokens, allowed, several, 1.0)
        each = estimates.expected(kind, most, choices) / choices
    assert each <= max([prior, *(min(tokens / several, LONGEST) + 1 for tokens, _, several in answers)])
    assert most < 0 or each <= most
    assert each >= min(1, max(most, 0)) if most >= 0 else each >= 1


@settings(max_examples=examples(200), deadline=None)
@given(
    requests=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 5000)), max_size=40),
    later=st.integers(0, 10**10),
)
def test_settling_makes_an_estimate_a_matter_of_timing_alone(requests, later):
    """Whatever was reserved, in the end the bucket has lost what was used."""
    with pair(buckets=2, journal_records=128) as both:
        buckets, journal = TokenBuckets(both.compiled), Journal(both.compiled, 0)
        sets = []
        for identity in (1000, 2000):
            bucket = buckets.open(identity, NOW)
            buckets.configure(bucket, 1, 1000, 1, 10**6, NOW)
            sets.append(LimitSet([(bucket, identity, "output")]))
        held = [
            (journal.take(sets[0], 0, one, NOW), journal.take(sets[1], 0, other, NOW)) for one, other, _ in requests
        ]
        for (one, other), (_, _, used) in zip(held, requests, strict=True):
            journal.settle(sets[0], one, 0, used, NOW)
            journal.settle(sets[1], other, 0, used, NOW)
        left = [buckets.available(place, NOW + later) for place in (0, 1)]
    assert abs(left[0] - left[1]) < 1e-3


@settings(max_examples=examples(100), deadline=None)
@given(prior=st.integers(1, 5000), length=st.integers(1, 5000), choices=st.integers(1, 4))
def test_answers_of_one_length_are_expected_soon(prior, length, choices):
    kind = Kind(*KIND)
    with learner(prior) as estimates:
        for _ in range(400):
            estimates.learn(kind, length * choices, -1, choices, 1.0)
        assert abs(estimates.expected(kind, -1, 1) - length) <= 1 + 0.01 * abs(prior - length)


@settings(max_examples=examples(100), deadline=None)
@given(most=st.integers(1, 99), count=st.integers(1, 200))
def test_answers_that_were_cut_short_say_nothing_of_those_that_are_not(most, count):
    kind = Kind(*KIND)
    with learner(100) as estimates:
        for _ in range(count):
            estimates.learn(kind, most, most, 1, 1.0)
        assert estimates.expected(kind, -1, 1) == 100


@settings(max_examples=examples(50), deadline=None)
@given(answers=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5000)), min_size=1, max_size=40))
def test_workers_learn_together_what_one_would_learn_alone(answers):
    with pair(workers=3) as both, learner(256) as alone:
        workers = [OutputEstimates(both.attach(), 256) for _ in range(3)]
        for worker, tokens in answers:
            # each keeps its own kinds, and what it knows one by is of its memory
            workers[worker].learn(Kind(*KIND), tokens, -1, 1, 1.0)
            alone.learn(Kind(*KIND), tokens, -1, 1, 1.0)
            assert {one.expected(Kind(*KIND), -1, 1) for one in workers} == {alone.expected(Kind(*KIND), -1, 1)}
        assert workers[0].expected(Kind("default/r", "m", "text_completion"), -1, 1) == 256
