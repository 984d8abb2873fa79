"""Data-parallel ranks of one engine, each with a publisher of its own, over real ZeroMQ: what any of them holds is in the index."""

import asyncio
from array import array

import pytest
import zmq.asyncio

from _fastpath.chain_ranks import ChainRanks
from _fastpath.shared_memory import SharedMemory
from controllers.network.kv_events.apply import Applier, Counts
from controllers.network.kv_events.events import Stored
from controllers.network.kv_events.follower import Target
from controllers.network.kv_events.followers import targets
from controllers.network.kv_events.ranks import RankFollowers
from gateway.datastore.model import Endpoint
from tests.support.engines import neighbouring_ports
from tests.unit.controllers.kv_publisher import CLEARED, Publisher, removed, stored
from tests.unit.controllers.test_kv_follower import SIZE, SLOT, Place, desired

RANKS = 3


class Engine:
    """An engine of several ranks, followed at a place."""

    def __init__(self, place, first):
        self.place, self.first = place, first
        self.ranks, self.task = [], None

    async def start(self, rank):
        """A rank that begins anew, with its ports."""
        ports = self.first[0] + rank, self.first[1] + rank
        publisher = Publisher(self.place.context, ports=ports)
        publisher.answering = asyncio.create_task(publisher.answer())
        self.ranks[rank:] = [publisher, *self.ranks[rank + 1 :]]

    async def stop(self, rank):
        publisher = self.ranks[rank]
        publisher.answering.cancel()
        await asyncio.gather(publisher.answering, return_exceptions=True)
        publisher.close()

    async def follow(self):
        live, replay = (f"tcp://127.0.0.1:{port}" for port in self.first)
        self.followers = RankFollowers(
            self.place.context, Target("default/e", "e:1", live, replay, SIZE, RANKS), self.place.memory, SLOT
        )
        self.task = asyncio.create_task(self.followers.run())
        await self.place.until(lambda: all(row["connected"] for row in self.rows()))
        await asyncio.sleep(0.1)  # subscriptions reach the publishers a moment after the connections stand

    def rows(self):
        return self.followers.reports()

    async def end(self):
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        for rank in range(RANKS):
            await self.stop(rank)


@pytest.fixture
async def engine(tmp_path):
    context = zmq.asyncio.Context()
    place = Place(tmp_path, context)
    first = neighbouring_ports(2 * RANKS)
    made = Engine(place, (first, first + RANKS))
    for rank in range(RANKS):
        await made.start(rank)
    yield made
    await made.end()
    context.destroy(linger=0)


async def test_every_rank_is_followed_and_what_any_holds_is_matched(engine):
    await engine.ranks[1].publish(stored([1, 2]))  # before anybody follows: by replay
    await engine.follow()
    await engine.place.matches(2)
    await engine.ranks[0].publish(stored([7]))
    await engine.ranks[2].publish(stored([1, 2, 3]))
    await engine.place.matches(3)
    await engine.place.until(lambda: [row["blocks"] for row in engine.rows()] == [1, 2, 3])
    assert [(row["endpoint"], row["rank"]) for row in engine.rows()] == [("default/e", rank) for rank in range(RANKS)]
    assert [row["replayed"] for row in engine.rows()] == [0, 1, 0]


async def test_what_one_rank_evicts_another_holds_still(engine):
    await engine.follow()
    await engine.ranks[0].publish(stored([1, 2, 3]))
    await engine.ranks[1].publish(stored([b"a" * 32, b"b" * 32]))  # the same tokens by names of its own
    await engine.place.until(lambda: sum(row["stored"] for row in engine.rows()) == 5)
    await engine.ranks[0].publish(removed(1, 2, 3))
    await engine.place.matches(2)
    await engine.ranks[1].publish(removed(b"b" * 32))
    await engine.place.matches(1)
    await engine.ranks[1].publish(removed(b"a" * 32))
    await engine.place.matches(0)


@pytest.mark.parametrize("begins_anew", ["cleared", "counts from the start", "lost connection"])
async def test_a_rank_that_begins_anew_takes_its_own_blocks_alone(engine, begins_anew):
    await engine.follow()
    await engine.ranks[0].publish(stored([1, 2, 3, 4]))
    await engine.ranks[2].publish(stored([1, 2]))
    await engine.place.until(lambda: sum(row["stored"] for row in engine.rows()) == 6)
    assert engine.place.matched(4) == 4
    if begins_anew == "cleared":
        await engine.ranks[0].publish(CLEARED)
    elif begins_anew == "counts from the start":
        engine.ranks[0].number, engine.ranks[0].kept = 0, {}
        await engine.ranks[0].publish(stored([99], first=1000), time=5.0)
    else:
        await engine.stop(0)
    await engine.place.matches(2)
    if begins_anew == "lost connection":
        await engine.start(0)
        await engine.ranks[0].publish(stored([1, 2, 3]))
        await engine.place.matches(3)
    assert [row["restarts"] for row in engine.rows()] == [begins_anew != "cleared", 0, 0]
    assert [row["blocks"] for row in engine.rows()][2] == 2


async def test_what_was_known_of_the_endpoint_before_is_forgotten(engine):
    place = engine.place
    place.index.learn(place.hasher.hash_tokens(array("I", range(SIZE)), SIZE, 0), SLOT, 1.0)
    before = place.index.statistics()["entries"]
    await engine.follow()
    assert (before, place.index.statistics()["entries"]) == (1, 0)


def test_an_endpoints_ranks_are_part_of_what_is_followed():
    one = Endpoint("default/a", "default/s", "a:1", "10.0.0.1", 1, events_port=5, replay_port=15, events_ranks=4)
    (target,) = targets(desired(one)).values()
    assert target.ranks == 4
    third = target.of_rank(2)
    assert (third.events, third.replay, third.ranks) == ("tcp://10.0.0.1:7", "tcp://10.0.0.1:17", 1)
    assert target.of_rank(0).events == target.events
    mute = Target("a", "a", "tcp://[fd00::1]:5", "", SIZE, 2).of_rank(1)
    assert (mute.events, mute.replay) == ("tcp://[fd00::1]:6", "")


def test_a_rank_whose_forgetting_was_given_up_midway_is_forgotten_whole_the_next_time(tmp_path, monkeypatch):
    monkeypatch.setattr("controllers.network.kv_events.apply.RELEASED_PLACES", 1)
    memory = SharedMemory.create(str(tmp_path / "memory"), workers=1, slots=64, prefix_bytes=1 << 16)
    ranks = ChainRanks()
    applier = Applier(memory, "default/a", 3, 4, Counts(), ranks, 0)
    applier.store(Stored([bytes([n]) * 32 for n in range(20)], None, list(range(80)), 4), 1.0)
    assert len(ranks) == 20
    pieces = applier.release()
    next(pieces)
    pieces.close()
    assert len(ranks) > 0
    for _ in applier.release():
        pass
    assert (len(ranks), len(applier)) == (0, 0)
