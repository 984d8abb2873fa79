"""Fair queueing: shares by tokens and weight, strict priorities, bounded, and nobody is lost."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.scheduling.fair_queue import FairQueue, Waiter
from tests.support.examples import examples

FAST = settings(deadline=None, max_examples=examples(150))
TENANTS = ("a", "b", "c")


def waiter(tenant="a", priority=0, tokens=1.0, deadline=1e9):
    return Waiter(tenant, priority, tokens, deadline, lambda: None)


def drain(queue, most=10**6):
    """Whom it serves, in order."""
    found = []
    while len(found) < most and (one := queue.next()) is not None:
        queue.serve(one)
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
    queue = FairQueue(10**6)
    for tenant, cost in costs.items():
        for _ in range(int(served * max(costs.values()) / cost) + 1):
            queue.join(waiter(tenant, tokens=cost))
    paid = Counter()
    for one in drain(queue, served):
        paid[one.tenant] += one.tokens
    shares = [paid[tenant] for tenant in costs]
    # Goyal, Vin, Cheng 1996, theorem 1: never further apart than the largest request of each of the two
    assert max(shares) - min(shares) <= 2 * max(costs.values()) + 1e-6


@FAST
@given(flood=st.integers(1, 300), late=st.integers(0, 50))
def test_who_comes_after_a_flood_is_next_but_one(flood, late):
    queue = FairQueue(10**6)
    for _ in range(flood):
        queue.join(waiter("flood"))
    drain(queue, late)
    queue.join(waiter("victim"))
    order = [one.tenant for one in drain(queue)]
    assert "victim" in order[:2]


@FAST
@given(waiters=st.lists(WAITERS, max_size=60))
def test_a_higher_priority_goes_before_whatever_it_costs_and_within_a_tenant_nobody_overtakes(waiters):
    queue = FairQueue(1000)
    for one in waiters:
        assert queue.join(one) is None
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
    queue = FairQueue(longest)
    there = []
    for step in steps:
        if step == "serve" and there:
            one = queue.next()
            assert one in there
            assert one.priority == max(other.priority for other in there)
            queue.serve(one)
            there.remove(one)
        elif step == "leave" and there:
            one = data.draw(st.sampled_from(there))
            queue.leave(one)
            queue.leave(one)
            there.remove(one)
        elif step == "late":
            assert set(map(id, queue.late(5.0))) == {id(one) for one in there if one.deadline <= 5.0}
        elif isinstance(step, Waiter):
            crowded_out = queue.join(step)
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
    queue = FairQueue(20)
    for _ in range(flood):
        queue.join(waiter("flood"))
    for _ in range(mine):
        assert queue.join(waiter("victim")) is None or flood >= 20 - mine
    counts = Counter(one.tenant for one in drain(queue))
    assert counts["victim"] == mine


def test_a_full_queue_refuses_the_newcomer_of_the_largest_tenant_and_of_a_lower_priority():
    queue = FairQueue(2)
    first, second = waiter("a"), waiter("b")
    assert [queue.join(first), queue.join(second)] == [None, None]
    third = waiter("a")
    assert queue.join(third) is third
    low = waiter("c", priority=-1)
    assert queue.join(low) is low
    high = waiter("c", priority=1)
    assert queue.join(high) in (first, second)
    assert queue.next() is high


@pytest.mark.parametrize("tenants", [5000])
def test_of_tenants_that_are_gone_little_is_kept(tenants):
    queue = FairQueue(10**6)
    queue.join(waiter("stays", priority=-5))
    for number in range(tenants):
        queue.join(waiter(f"t{number}"))
        queue.serve(queue.next())
    assert len(queue._paid) < 1100
    assert len(queue._heap) < 40
