"""Following an engine's KV events over real ZeroMQ: what it holds is in the index, whatever was missed and however it restarts."""

import asyncio
import contextlib
from array import array

import msgspec
import pytest
import zmq.asyncio

from _fastpath.hashing import Hasher
from _fastpath.prefix_index import PrefixIndex
from _fastpath.shared_memory import SharedMemory
from _fastpath.slots import Slots
from controllers.network.desired import DesiredState
from controllers.network.kv_events import follower as follower_module
from controllers.network.kv_events import messages
from controllers.network.kv_events.follower import Follower, Target
from controllers.network.kv_events.followers import Followers, targets
from gateway.datastore.model import Endpoint, PrefixCache, Server
from gateway.datastore.token_seed import salted_seed, token_seed
from tests.unit.controllers.kv_publisher import CLEARED, Publisher, batch, removed, stored

SIZE = 4
SLOT = 7


class Place:
    """Index, publisher and follower of one test."""

    def __init__(self, directory, context):
        self.context = context
        self.memory = SharedMemory.create(str(directory / "memory"), workers=1, slots=64, prefix_bytes=1 << 18)
        self.index = PrefixIndex(self.memory)
        self.hasher = Hasher(self.memory.hash_key)
        self.follower = None
        self._open = contextlib.AsyncExitStack()

    async def publisher(self, **options):
        made = Publisher(self.context, **options)
        answering = asyncio.create_task(made.answer())

        async def close():
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            made.close()

        made.stop = close
        return made

    async def follow(self, publisher, with_replay=True):
        live, replay = (f"tcp://127.0.0.1:{port}" for port in publisher.ports)
        target = Target("default/e", "e:1", live, replay if with_replay else "", SIZE)
        self.follower = Follower(self.context, target, self.memory, SLOT)
        self.task = asyncio.create_task(self.follower.run())
        await self.until(lambda: self.follower.is_connected)
        await asyncio.sleep(0.1)  # the subscription reaches the publisher a moment after the connection stands

    async def until(self, condition):
        try:
            async with asyncio.timeout(8):
                while not condition():
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(self.follower.report() if self.follower else "no follower") from None

    def matched(self, blocks, first=0, adapter="", salt=""):
        ids = array("I", range(first, first + SIZE * blocks))
        seed = salted_seed(self.hasher, adapter, salt) if salt else token_seed(self.hasher, adapter)
        return self.index.match(self.hasher.hash_tokens(ids, SIZE, seed), [SLOT])[0]

    async def matches(self, wanted, blocks=10):
        await self.until(lambda: self.matched(blocks) == wanted)

    async def end(self):
        if self.follower is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def place(tmp_path):
    context = zmq.asyncio.Context()
    made = Place(tmp_path, context)
    yield made
    await made.end()
    context.destroy(linger=0)


@pytest.mark.parametrize("names", [[1, 2, 3], [b"a" * 32, b"b" * 32, b"c" * 32]])
async def test_live_events_are_in_the_index_and_out_of_it(place, names):
    publisher = await place.publisher()
    await place.follow(publisher)
    await publisher.publish(stored(names[:2]))
    await publisher.publish(stored(names[2:], names[1], 8), removed(99))
    await place.matches(3)
    await publisher.publish(removed(names[2]))
    await place.matches(2)
    await publisher.publish(CLEARED)
    await place.matches(0)
    await publisher.publish(stored(names[:1]))
    await place.matches(1)
    await publisher.stop()


@pytest.mark.parametrize("old_framing", [False, True])
async def test_what_was_published_before_comes_by_replay_in_either_framing(place, old_framing):
    publisher = await place.publisher(old_framing=old_framing)
    await publisher.publish(stored([1, 2]))
    await publisher.publish(stored([3], 2, 8))
    await place.follow(publisher)
    await place.matches(3)
    await publisher.publish(stored([4], 3, 12))
    await place.matches(4)
    counts = place.follower.counts
    assert (counts.replayed, counts.batches, counts.gaps, counts.orphaned) == (2, 3, 0, 0)
    await publisher.stop()


async def test_a_gap_is_filled_by_replay(place):
    publisher = await place.publisher()
    await place.follow(publisher)
    await publisher.publish(stored([1]))
    await place.matches(1)
    await publisher.publish(stored([2], 1, 4), is_lost=True)
    await publisher.publish(removed(1), stored([1]), is_lost=True)
    await publisher.publish(stored([3], 2, 8))
    await place.matches(3)
    assert publisher.questions == [0, 1]
    assert (place.follower.counts.gaps, place.follower.counts.restarts) == (1, 0)
    await publisher.stop()


async def test_a_hole_in_a_replay_is_asked_for_again(place):
    publisher = await place.publisher()
    for number in range(6):
        await publisher.publish(stored([number + 1], number or None, 4 * number))
    publisher.holes = {2, 3}
    await place.follow(publisher)
    await place.matches(6)
    assert publisher.questions == [0, 2]
    await publisher.stop()


async def test_an_engine_that_has_not_kept_its_beginning_is_followed_from_there(place):
    publisher = await place.publisher(keeps=2)
    for number in range(5):
        await publisher.publish(stored([number + 1], number or None, 4 * number))
    await place.follow(publisher)
    await place.until(lambda: place.follower.counts.orphaned == 2)
    await publisher.publish(stored([1, 2]))  # a request stores the beginning anew
    await place.matches(2)
    await publisher.stop()


async def test_a_gap_that_no_replay_brings_forgets_what_was_known(place):
    publisher = await place.publisher()
    await place.follow(publisher, with_replay=False)
    await publisher.publish(stored([1, 2]))
    await place.matches(2)
    await publisher.publish(removed(2), is_lost=True)
    await publisher.publish(stored([50], None, 1000))
    await place.matches(0)
    await place.until(lambda: place.matched(1, 1000) == 1)
    await publisher.stop()


async def test_a_restarted_engine_holds_what_it_says_since_then(place):
    publisher = await place.publisher()
    await place.follow(publisher)
    await publisher.publish(stored([1, 2, 3]))
    await place.matches(3)
    await publisher.stop()
    await place.matches(0)
    again = await place.publisher(ports=publisher.ports)
    await again.publish(stored([7]), time=2.0)
    await place.matches(1)
    assert place.follower.counts.restarts == 1
    await again.stop()


async def test_numbers_that_go_back_on_one_connection_are_a_restart(place):
    publisher = await place.publisher()
    await place.follow(publisher)
    for number in range(3):
        await publisher.publish(stored([number + 1], number or None, 4 * number))
    await place.matches(3)
    publisher.number, publisher.kept = 0, {}
    await publisher.publish(stored([9]), time=5.0)
    await place.matches(1)
    assert place.follower.counts.restarts == 1
    await publisher.stop()


async def test_a_mute_replay_port_delays_what_comes_live_and_no_more(place, monkeypatch):
    monkeypatch.setattr(messages, "REPLAY_SECONDS", 0.3)
    publisher = await place.publisher()
    publisher.is_mute = True
    await publisher.publish(stored([1]))
    await place.follow(publisher)
    await publisher.publish(stored([2], 1, 4), stored([3]))
    await place.until(lambda: place.follower.counts.stored == 1)
    assert place.follower.counts.orphaned == 1
    await publisher.stop()


async def test_an_engine_that_comes_later_is_found(place):
    first = await place.publisher()
    ports = first.ports
    await first.stop()
    live, replay = (f"tcp://127.0.0.1:{port}" for port in ports)
    place.follower = Follower(place.context, Target("default/e", "e:1", live, replay, SIZE), place.memory, SLOT)
    place.task = asyncio.create_task(place.follower.run())
    await asyncio.sleep(0.3)
    assert not place.follower.is_connected
    publisher = await place.publisher(ports=ports)
    await publisher.publish(stored([1]))
    await place.matches(1)
    await publisher.stop()


async def test_what_is_no_message_or_batch_is_counted_and_the_rest_goes_on(place):
    publisher = await place.publisher()
    await place.follow(publisher)
    for payload in (b"", b"\xc1", batch(["BlockStored"]), batch(["Nonsense"], 7), batch()):
        await publisher.publish(payload=payload)
    await publisher._pub.send_multipart([b"topic", b"short", b""])
    await publisher._pub.send_multipart([b"alone"])
    await publisher.publish(stored([1]))
    await place.matches(1)
    counts = place.follower.counts
    assert (counts.unreadable, counts.unknown, counts.gaps) == (6, 1, 0)
    await publisher.stop()


async def test_adapters_salts_and_images_are_told_apart(place):
    publisher = await place.publisher()
    await place.follow(publisher)
    await publisher.publish(
        stored([1, 2], lora_name="sql", lora_id=1, extra_keys=[["sql"], ["sql"]]),
        stored([3, 4], extra_keys=[["pepper"], None]),
        stored(
            [5, 6], lora_name="sql", lora_id=1, extra_keys=[[["lora", "sql", "/path"], ["cache_salt", "both"]], ["sql"]]
        ),
        stored([7], extra_keys=[[["image-1", 3]]]),
        stored([8], 7, 4),
        stored([9], lora_id=3),
    )
    await place.until(lambda: place.follower.counts.stored == 9)
    assert place.matched(2, adapter="sql") == 2
    assert place.matched(2, salt="pepper") == 2
    assert place.matched(2, adapter="sql", salt="both") == 2
    assert place.matched(2) == place.matched(2, salt="other") == place.matched(2, adapter="other") == 0
    await publisher.stop()


async def test_sglang_is_followed_with_its_salts_and_the_memories_that_hold_a_block(place):
    """As its source says: arrays, hashes of 64 bits with a sign, the salt in metadata at every event of a chain."""
    publisher = await place.publisher(old_framing=True)
    await publisher.publish(payload=msgspec.msgpack.encode([1.0, [sglang([-8], None, 0)], 0]))
    await place.follow(publisher)
    await publisher.publish(
        payload=msgspec.msgpack.encode(
            [
                2.0,
                [
                    sglang([9, -10], -8, 4),
                    sglang([20], None, 0, cache_salt="pepper"),
                    sglang([21, 22], 20, 4, cache_salt="pepper"),
                    sglang([9], -8, 4, "CPU_PINNED"),
                    ["BlockRemoved", [9, -10], "GPU"],
                ],
                0,
            ]
        )
    )
    await place.until(lambda: place.follower.counts.removed == 2)
    assert place.matched(3) == 2  # of which the second is in main memory alone
    assert place.matched(3, salt="pepper") == 3
    assert place.follower.counts.unreadable == place.follower.counts.orphaned == 0
    await publisher.stop()


async def test_pairs_of_tokens_are_counted_and_not_followed(place):
    """Of speculative decoding: what stands before and after such an event is."""
    publisher = await place.publisher()
    await place.follow(publisher)
    pairs = ["BlockStored", [5], None, [[number, number + 1] for number in range(SIZE)], SIZE, None, "GPU"]
    await publisher.publish(payload=msgspec.msgpack.encode([1.0, [pairs, sglang([1, 2], None, 0)]]))
    await place.matches(2)
    assert place.follower.counts.unreadable == 1
    await publisher.stop()


def sglang(names, parent, first, medium="GPU", **metadata):
    """A stored event of SGLang: blocks of the ids that count on from ``first``."""
    ids = list(range(first, first + SIZE * len(names)))
    event = ["BlockStored", names, parent, ids, SIZE, None, medium]
    return [*event, metadata] if metadata else event


async def test_blocks_of_other_sizes_and_of_windows_are_counted_and_not_matched(place, caplog):
    publisher = await place.publisher()
    await place.follow(publisher)
    await publisher.publish(
        stored([1], size=8),
        stored([2], kv_cache_spec_kind="sliding_window", group_idx=1),
        stored([4], kv_cache_spec_kind="full_attention", group_idx=0),
        removed(4, group_idx=1),
    )
    await place.matches(1)
    counts = place.follower.counts
    assert (counts.other_size, counts.partial, counts.stored, counts.removed) == (1, 2, 1, 0)
    assert "set prefixCache.blockSize to 8" in caplog.text
    await publisher.stop()


async def test_blocks_in_main_memory_are_held_until_they_are_gone_there_too(place):
    publisher = await place.publisher()
    await place.follow(publisher)
    await publisher.publish(stored([1, 2]), stored([1, 2], medium="CPU", token_ids=[], block_size=SIZE))
    await publisher.publish(removed(1, 2))
    await place.until(lambda: place.follower.counts.removed == 2)
    assert place.matched(2) == 2
    await publisher.publish(removed(2, medium="CPU"))
    await place.matches(1)
    await publisher.stop()


async def test_a_burst_does_not_hold_the_loop(place):
    publisher = await place.publisher()
    for number in range(400):
        names = list(range(number * 64, number * 64 + 64))
        await publisher.publish(stored(names, number * 64 - 1 if number else None, number * 256))
    turns = 0

    async def watch():
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += place.follower is not None and 0 < place.follower.counts.batches < 400

    watching = asyncio.create_task(watch())
    await place.follow(publisher)
    await place.until(lambda: place.follower.counts.batches == 400)
    watching.cancel()
    assert turns > 2  # 25,600 blocks take tens of milliseconds, and it turns after each two
    await publisher.stop()


async def test_what_the_index_let_go_of_comes_back(place, monkeypatch):
    monkeypatch.setattr(follower_module, "REFRESH_SECONDS", 0.05)
    monkeypatch.setattr(follower_module, "REFRESH_ALL_SECONDS", 0.1)
    publisher = await place.publisher()
    await place.follow(publisher)
    await publisher.publish(stored([1, 2]))
    await place.matches(2)
    place.index.forget(SLOT)
    await place.matches(2)
    await publisher.stop()


# -- all of them


def desired(*endpoints, mode="tokens"):
    state = DesiredState()
    state.put_server(Server("default/s", prefix_cache=PrefixCache(mode, SIZE, "/t")), list(endpoints))
    return state


def endpoint(publisher, number=1, **more):
    ports = {"events_port": publisher.ports[0], "replay_port": publisher.ports[1]} if publisher else {}
    return Endpoint(f"default/e{number}", "default/s", f"e:{number}", "127.0.0.1", number, **ports | more)


def test_endpoints_of_servers_by_token_are_followed_once_each():
    state = desired(Endpoint("default/a", "default/s", "a:1", "fd00::1", 1, events_port=5, replay_port=6))
    state.put_server(
        Server("default/t", prefix_cache=PrefixCache("tokens", 8, "/t")),
        [Endpoint("default/b", "default/t", "a:1", "fd00::1", 1, events_port=5)],
    )
    assert targets(state) == {"a:1": Target("default/a", "a:1", "tcp://[fd00::1]:5", "tcp://[fd00::1]:6", SIZE)}
    assert targets(desired(Endpoint("default/a", "default/s", "a:1", "h", 1))) == {}
    assert targets(desired(Endpoint("default/a", "default/s", "a:1", "h", 1, events_port=5), mode="text")) == {}


async def test_followers_come_and_go_with_endpoints_and_begin_anew_in_another_memory(place, tmp_path):
    publisher = await place.publisher()
    await publisher.publish(stored([1, 2]))
    state, memory = desired(endpoint(publisher)), [place.memory]
    followers = Followers(lambda: targets(state), lambda: (memory[0], Slots(memory[0])) if memory else None)
    running = asyncio.create_task(followers.run())

    def blocks():
        return [one["blocks"] for one in followers.report()]

    await place.until(lambda: blocks() == [2])
    other = tmp_path / "other"
    memory[0] = SharedMemory.create(str(other), workers=1, slots=64, prefix_bytes=1 << 18)
    await place.until(lambda: PrefixIndex(memory[0]).statistics()["entries"] == 2)
    state.put_server(state.servers["default/s"], [])
    await place.until(lambda: blocks() == [])
    state.put_server(state.servers["default/s"], [endpoint(publisher)])
    await place.until(lambda: blocks() == [2])
    memory.clear()
    await place.until(lambda: blocks() == [])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await publisher.stop()
