"""Whatever of an engine's messages is lost and whenever it restarts, what is matched in the end is what it holds."""

import asyncio

import zmq.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controllers.network.kv_events.events import Batch, decode
from controllers.network.kv_events.sequence import Sequence, Verdict
from tests.support.examples import examples
from tests.unit.controllers.kv_publisher import batch, stored
from tests.unit.controllers.test_kv_follower import Place

STEP = st.one_of(
    st.tuples(st.just("store"), st.booleans()),
    st.tuples(st.just("remove"), st.booleans()),
    st.tuples(st.just("clear"), st.booleans()),
    st.tuples(st.just("restart"), st.just(False)),
)


async def play(directory, steps, keeps, old_framing):
    context = zmq.asyncio.Context()
    place = Place(directory, context)
    publisher = await place.publisher(keeps=keeps, old_framing=old_framing)
    held, time = 0, 1.0
    try:
        await place.follow(publisher)
        for step, is_lost in [*steps, ("store", False)]:
            time += 1
            if step == "restart":
                # the engine counts from the start on the same connection, as behind a proxy
                publisher.number, publisher.kept, held = 0, {}, 0
                step, is_lost = "store", False
            if step == "store":
                event, held = stored([held + 1], held or None, 4 * held), held + 1
            elif step == "remove" and held:
                event, held = {"type": "BlockRemoved", "block_hashes": [held], "medium": "GPU"}, held - 1
            else:
                event, held = {"type": "AllBlocksCleared"}, 0
            await publisher.publish(event, time=time, is_lost=is_lost)
        # after a restart the last number may be one that was heard before it: so both, and in the end
        await place.until(
            lambda: (
                place.follower.report()["sequence"] == publisher.number - 1
                and place.matched(held + 2) <= held  # nothing that is gone is matched
            )
        )
        # all is told again, so that what was never heard of is known too: from here on nothing may differ
        await publisher.publish({"type": "AllBlocksCleared"}, stored(list(range(1, held + 1))), time=time + 1)
        await place.matches(held, held + 2)
    finally:
        await place.end()
        await publisher.stop()
        context.destroy(linger=0)


@settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, max_size=12), keeps=st.sampled_from([1, 3, 1000]), old_framing=st.booleans())
def test_any_losses_and_restarts_end_in_what_the_engine_holds(tmp_path_factory, steps, keeps, old_framing):
    asyncio.run(play(tmp_path_factory.mktemp("place"), steps, keeps, old_framing))


@settings(max_examples=examples(300), deadline=None)
@given(lost=st.sets(st.integers(0, 30)), replayed=st.integers(0, 30))
def test_each_number_is_applied_once_or_a_gap_is_seen(lost, replayed):
    sequence, applied = Sequence(), []

    def apply(number):
        applied.append(number)
        sequence.apply(number, float(number))

    for number in range(replayed):
        apply(number)
    for number in (one for one in range(31) if one not in lost):
        verdict = sequence.live(number, float(number))
        if verdict is Verdict.GAP:
            assert number - 1 in lost
            while sequence.wanted < number:
                apply(sequence.wanted)
        assert verdict is not Verdict.RESTARTED
        if number > sequence.applied:
            apply(number)
    assert applied == list(range(len(applied)))


@settings(max_examples=examples(100), deadline=None)
@given(names=st.lists(st.integers(0, (1 << 64) - 1), max_size=5), time=st.floats(0, 1e10), rank=st.integers(0, 8))
def test_what_the_test_publisher_says_is_what_is_read(names, time, rank):
    found = decode(batch(stored(names), time=time, rank=rank))
    assert isinstance(found, Batch)
    assert (found.time, found.rank, found.events[0].names) == (time, rank, names)
