"""Queues of several workers, against the twin, and the share that a tenant has over all of them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath.fair_share import FairShare
from tests.property.pairs import outcome, pair
from tests.reference import fair_share as reference
from tests.support.examples import examples

WORKERS = 3
SERVER = st.sampled_from([1, 2, 257, (1 << 64) - 1])  # 1 and 257 meet in one place
TENANT = st.integers(0, 3)
SESSION = st.sampled_from([5, 5 + (1 << 40), (1 << 63) + 5, 6])  # the first ones meet in one word
TOKENS = st.sampled_from([0.0, 0.5, 1.0, 100.0, -1.0])
PRIORITY = st.integers(-2, 2)
# sixteenths of a second are whole binary fractions, and one of them is longer than a head counts
STEP = st.sampled_from([0.0, 1 / 64, 1 / 16, 50.0])
STEPS = st.one_of(
    st.tuples(st.just("join"), SERVER, TENANT, TOKENS, st.sampled_from([0.0, 3.0, -1.0])),
    st.tuples(
        st.just("leave"), SERVER, TENANT, st.sampled_from([0.0, 1.0, 50.5]), TOKENS, st.sampled_from([0.0, 3.0, -1.0])
    ),
    st.tuples(st.just("served"), SERVER, st.sampled_from([0.0, 1.0, 50.5])),
    st.tuples(st.just("show"), SERVER, PRIORITY, st.sampled_from([0.0, 1.0, 2.0])),
    st.tuples(st.just("hide"), SERVER),
    st.tuples(st.just("is_waited"), SERVER),
    st.tuples(st.just("is_first"), SERVER, PRIORITY, st.sampled_from([0.0, 1.0, 2.0])),
    st.tuples(st.just("virtual_time"), SERVER),
    st.tuples(st.just("paid"), SERVER, TENANT),
    st.tuples(st.just("answered"), SERVER, SESSION),
    st.tuples(st.just("note"), SERVER, TENANT),
    st.tuples(st.just("is_contested"), SERVER),
    st.tuples(st.just("last_answer"), SERVER, SESSION),
)
TIMED = ("join", "show", "is_waited", "is_first", "answered", "note", "is_contested")


@settings(max_examples=examples(200), deadline=None)
@given(steps=st.lists(st.tuples(st.integers(-1, WORKERS - 1), STEP, STEPS), max_size=60))
def test_it_agrees_with_its_twin(steps):
    with pair(workers=WORKERS) as both:
        owners = (*range(WORKERS), -1)  # the last one looks on
        compiled = [FairShare(both.attach(), worker) for worker in owners]
        plain = [reference.FairShare(both.plain, worker) for worker in owners]
        now = 100.0
        for worker, seconds, (name, *arguments) in steps:
            now += seconds
            arguments += [now] if name in TIMED else []
            expected = outcome(getattr(plain[worker], name), *arguments)
            assert outcome(getattr(compiled[worker], name), *arguments) == expected, (name, arguments)


@settings(max_examples=examples(100), deadline=None)
@given(
    costs=st.lists(st.sampled_from([1.0, 3.0, 10.0]), min_size=2, max_size=3),
    spread=st.lists(st.integers(0, WORKERS - 1), min_size=12, max_size=12),
    served=st.integers(5, 60),
)
def test_a_tenant_has_its_share_once_in_however_many_workers_it_waits(costs, spread, served):
    """Tenant 0 waits in one worker, the others in whichever; always the smallest tag of all is served."""
    with pair(workers=WORKERS) as both:
        workers = [FairShare(both.attach(), worker) for worker in range(WORKERS)]
        waiting, paid = [], [0.0] * len(costs)
        for turn in range(served):
            for tenant, cost in enumerate(costs):
                for more in range(2):
                    worker = 0 if tenant == 0 else spread[(turn + more) % len(spread)]
                    waiting.append((workers[worker].join(1, tenant, cost, 0.0, 1.0), tenant, worker))
                    workers[worker].show(1, 0, min(waiting)[0], 1.0)
            first = min(waiting)
            waiting.remove(first)
            workers[first[2]].served(1, first[0])
            paid[first[1]] += costs[first[1]]
        assert max(paid) - min(paid) <= 2 * max(costs)


CREDIT = 4.0


@settings(max_examples=examples(200), deadline=None)
@given(
    others=st.lists(
        st.tuples(st.sampled_from([1.0, 2.0, 8.0]), st.sampled_from([0.0, 0.0, 1.0, 5.0, 30.0])), max_size=8
    ),
    at=st.integers(0, 8),
    tokens=st.sampled_from([1.0, 10.0, 100.0]),
)
def test_who_left_has_paid_nothing_and_no_tenant_gains_by_leaving(others, at, tokens):
    """A tenant's next tag after one of its requests came and left, and without that one; virtual time moves in between."""
    with pair(workers=WORKERS) as one, pair(workers=WORKERS) as other:
        left, never = FairShare(one.attach(), 0), FairShare(other.attach(), 0)
        for share in (left, never):
            share.show(1, 0, 0.0, 1.0)  # somebody waits all the time, or every debt is forgiven
        now, has_moved, tag = 1.0, False, None
        for number, (cost, served) in enumerate([*others, (1.0, 0.0)]):
            if number == min(at, len(others)):
                tag = left.join(1, 7, tokens, CREDIT, 1.0)
            now += served
            has_moved = has_moved or (served > 0 and tag is not None)
            for share in (left, never):
                share.served(1, now)
                share.join(1, 7, cost, CREDIT, 1.0)
        returned = left.leave(1, 7, tag, tokens, CREDIT)
        assert 0 <= returned <= tokens
        found, expected = (share.join(1, 7, 1.0, CREDIT, 1.0) for share in (left, never))
        assert found >= expected
        assert found == expected or has_moved
