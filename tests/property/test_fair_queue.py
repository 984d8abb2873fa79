"""Fair queueing: shares by tokens and weight, strict priorities, bounded, and nobody is lost."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.scheduling.fair_queue import FairQueue, Waiter
from tests.reference.fair_share import FairShare
from tests.reference.shared_memory import SharedMemory
from tests.support.examples import examples

FAST = settings(deadline=None, max_examples=examples(150))
TENANTS = ("a", "b", "c")


NOW = 1.0


def make_queue(longest=10**6, memory=None, worker=0, credit=0.0):
    return FairQueue(longest, FairShare(memory or SharedMemory(workers=2), worker), "s", credit)


def waiter(tenant="a", priority=0, tokens=1.0, deadline=1e9, answered=0.0):
    return Waiter(tenant, priority, tokens, deadline, lambda is_owed: None, answered)


def drain(queue, most=10**6):
    """Whom it serves, in order."""
    found = []
    while len(found) < most and (one := queue.next()) is not None:
        queue.serve(one, NOW)
        found.append(one)
    return found


WAITERS = st.builds(
    waiter,
    st.sampled_from(TENANTS),
    st.integers(-1, 1),
    st.sampled_from([0.5, 1.0, 3.0, 100.0]),
    st.floats(0, 10),
)


@FAST
@given(costs=st.dictionaries(st.sampled_from(TENANTS), st.floats(0.1, 50), min_size=2), served=st.integers(1, 120))
def test_tenants_that_always_wait_get_equal_shares_whatever_one_request_costs(costs, served):
    queue = make_queue()
    for tenant, cost in costs.items():
        for _ in range(int(served * max(costs.values()) / cost) + 1):
            queue.join(waiter(tenant, tokens=cost), NOW)
    paid = Counter()
    for one in drain(queue, served):
        paid[one.tenant] += one.tokens
    shares = [paid[tenant] for tenant in costs]
    # Goyal, Vin, Cheng 1996, theorem 1: never further apart than the largest request of each of the two
    assert max(shares) - min(shares) <= 2 * max(costs.values()) + 1e-6


@FAST
@given(flood=st.integers(1, 300), late=st.integers(0, 50))
def test_who_comes_after_a_flood_is_next_but_one(flood, late):
    queue = make_queue()
    for _ in range(flood):
        queue.join(waiter("flood"), NOW)
    drain(queue, late)
    queue.join(waiter("victim"), NOW)
    order = [one.tenant for one in drain(queue)]
    assert "victim" in order[:2]


@FAST
@given(waiters=st.lists(WAITERS, max_size=60))
def test_a_higher_priority_goes_before_whatever_it_costs_and_within_a_tenant_nobody_overtakes(waiters):
    queue = make_queue(1000)
    for one in waiters:
        assert queue.join(one, NOW) is None
    order = drain(queue)
    assert sorted(map(id, order)) == sorted(map(id, waiters))
    assert [one.priority for one in order] == sorted((one.priority for one in waiters), reverse=True)
    for tenant in TENANTS:
        for priority in (-1, 0, 1):
            mine = [one for one in waiters if (one.tenant, one.priority) == (tenant, priority)]
            assert [one for one in order if (one.tenant, one.priority) == (tenant, priority)] == mine
    assert len(queue) == 0


@FAST
@given(
    steps=st.lists(st.one_of(WAITERS, st.sampled_from(["serve", "leave", "late"])), max_size=80),
    longest=st.integers(1, 6),
    data=st.data(),
)
def test_it_is_bounded_and_whoever_came_in_goes_out_once(steps, longest, data):
    queue = make_queue(longest)
    there = []
    for step in steps:
        if step == "serve" and there:
            one = queue.next()
            assert one in there
            assert one.priority == max(other.priority for other in there)
            queue.serve(one, NOW)
            there.remove(one)
        elif step == "leave" and there:
            one = data.draw(st.sampled_from(there))
            queue.leave(one, NOW)
            queue.leave(one, NOW)
            there.remove(one)
        elif step == "late":
            assert set(map(id, queue.late(5.0))) == {id(one) for one in there if one.deadline <= 5.0}
        elif isinstance(step, Waiter):
            crowded_out = queue.join(step, NOW)
            there.append(step)
            if crowded_out is not None:
                assert len(there) == longest + 1
                there.remove(crowded_out)
        assert len(queue) == len(there) <= longest
        assert [one.is_waiting for one in there] == [True] * len(there)
        assert all(queue.position(one) < len(there) for one in there)
    assert len(drain(queue)) == len(there)
    assert queue.next() is None


@FAST
@given(mine=st.integers(0, 8), flood=st.integers(1, 200))
def test_a_full_queue_makes_room_at_the_cost_of_who_has_most_waiting(mine, flood):
    queue = make_queue(20)
    for _ in range(flood):
        queue.join(waiter("flood"), NOW)
    for _ in range(mine):
        assert queue.join(waiter("victim"), NOW) is None or flood >= 20 - mine
    counts = Counter(one.tenant for one in drain(queue))
    assert counts["victim"] == mine


def test_a_full_queue_refuses_the_newcomer_of_the_largest_tenant_and_of_a_lower_priority():
    queue = make_queue(2)
    first, second = waiter("a"), waiter("b")
    assert [queue.join(first, NOW), queue.join(second, NOW)] == [None, None]
    third = waiter("a")
    assert queue.join(third, NOW) is third
    low = waiter("c", priority=-1)
    assert queue.join(low, NOW) is low
    high = waiter("c", priority=1)
    assert queue.join(high, NOW) in (first, second)
    assert queue.next() is high


def test_who_gives_way_has_paid_nothing():
    queue = make_queue(2)
    first, second = waiter("a", tokens=8.0), waiter("a", tokens=64.0)
    assert [queue.join(one, NOW) for one in (first, second)] == [None, None]
    assert queue.join(waiter("b"), NOW) is second
    queue.serve(first, NOW)
    again = waiter("a")
    queue.join(again, NOW)
    assert again.tag == 8.0


@pytest.mark.parametrize("tenants", [5000])
def test_of_tenants_that_are_gone_little_is_kept(tenants):
    queue = make_queue()
    queue.join(waiter("stays", priority=-5), NOW)
    for number in range(tenants):
        queue.join(waiter(f"t{number}"), NOW)
        queue.serve(queue.next(), NOW)
    assert len(queue._line) == 1
    assert list(queue._counts) == [-5]


@FAST
@given(
    waiters=st.lists(st.tuples(WAITERS, st.integers(0, 1)), min_size=1, max_size=40),
    order=st.randoms(use_true_random=False),
)
def test_the_first_of_all_workers_is_whom_one_queue_would_serve(waiters, order):
    """Two workers, each with some of the waiters, serve in the order of one that has them all."""
    alone, memory = make_queue(), SharedMemory(workers=2)
    both = [make_queue(memory=memory, worker=worker) for worker in range(2)]
    for number, (one, worker) in enumerate(waiters):
        twin = waiter(one.tenant, one.priority, one.tokens)
        one.place = twin.place = lambda _=False, number=number: number
        alone.join(twin, NOW)
        both[worker].join(one, NOW)
    expected, found = [one.place() for one in drain(alone)], []
    while any(map(len, both)):
        first = [queue for queue in both if len(queue) and queue.is_first(NOW)]
        assert first  # or nobody would ever be let in
        queue = order.choice(first)
        found.append(queue.next().place())
        queue.serve(queue.next(), NOW)
    key = {number: (-one.priority, one.tag) for number, (one, _) in enumerate(waiters)}
    assert [key[number] for number in found] == [key[number] for number in expected]


@FAST
@given(
    mine=st.lists(
        st.tuples(st.sampled_from([0.0, 1.0, 2.0, 3.0]), st.sampled_from([1.0, 5.0])), min_size=1, max_size=12
    ),
    others=st.integers(0, 12),
)
def test_a_conversation_goes_before_others_of_its_tenant_and_before_nobody_else(mine, others):
    plain, boosted = make_queue(), make_queue()
    for number in range(max(len(mine), others)):
        for queue in (plain, boosted):
            if number < len(mine):
                answered, tokens = mine[number]
                queue.join(waiter("a", tokens=tokens, answered=answered if queue is boosted else 0.0), NOW)
            if number < others:
                queue.join(waiter("b"), NOW)
    expected, found = drain(plain), drain(boosted)
    assert [one.tenant for one in found] == [one.tenant for one in expected]
    ranks = [one.answered for one in found if one.tenant == "a"]
    assert ranks == sorted(ranks, reverse=True)


@FAST
@given(flood=st.integers(20, 60), credit=st.integers(0, 8), burst=st.integers(1, 8))
def test_a_burst_within_what_a_tenant_left_unused_goes_before_the_flood(flood, credit, burst):
    queue = make_queue(credit=float(credit))
    for _ in range(flood + 20):
        queue.join(waiter("flood"), NOW)
    drain(queue, flood)
    for _ in range(burst):
        queue.join(waiter("victim"), NOW)
    order = [one.tenant for one in drain(queue)]
    first = min(burst, credit)
    assert order[:first] == ["victim"] * first
    # beyond its credit it has its turn after each of the flood's
    assert order[: first + 2 * (burst - first)].count("victim") >= burst - 1


@FAST
@given(
    waiters=st.lists(st.tuples(WAITERS, st.booleans()), max_size=40),
    credit=st.sampled_from([0.0, 50.0]),
    order=st.randoms(use_true_random=False),
)
def test_who_leaves_unserved_is_as_if_it_had_never_come(waiters, credit, order):
    with_them, without = make_queue(credit=credit), make_queue(credit=credit)
    for queue in (with_them, without):
        queue.join(waiter("z"), NOW)  # somebody waits all the time
    twins, gone = {}, []
    for one, leaves in waiters:
        one.tokens = {0.5: 0.5, 1.0: 1.0, 3.0: 3.0}.get(one.tokens, 128.0)  # sums of them are exact
        if leaves:
            gone.append(one)
        else:
            twins[id(one)] = waiter(one.tenant, one.priority, one.tokens)
            without.join(twins[id(one)], NOW)
        with_them.join(one, NOW)
    order.shuffle(gone)
    for one in gone:
        with_them.leave(one, NOW)
    assert {key: one.tag for key, one in twins.items()} == {id(one): one.tag for one, leaves in waiters if not leaves}
    for tenant in (*TENANTS, "z"):
        late = [waiter(tenant), waiter(tenant)]
        for queue, one in zip((with_them, without), late, strict=True):
            queue.join(one, NOW)
        assert late[0].tag == late[1].tag
    assert [(one.tenant, one.tag) for one in drain(with_them)] == [(one.tenant, one.tag) for one in drain(without)]


def test_who_has_paid_most_is_owed_nothing_and_who_comes_behind_is() -> None:
    queue = make_queue(credit=10.0)
    flood = [waiter("a", tokens=5.0) for _ in range(6)]
    for one in flood:
        queue.join(one, NOW)
    assert queue.is_owed(flood[0])  # nobody has had anything yet
    for one in flood[:3]:
        queue.serve(one, NOW)
    assert not queue.is_owed(flood[3])
    late = waiter("b", tokens=5.0)
    queue.join(late, NOW)
    assert queue.is_owed(late)
    assert queue.next() is late
