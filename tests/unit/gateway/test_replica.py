"""The replica in cases that chance seldom makes; the rest is tests/property/test_replica.py."""

import pytest

from gateway.datastore.model import Endpoint, Route, Rule, Server, Target
from gateway.datastore.replica import LONGEST_BACKLOG, PIECE, Next, Replica, load
from gateway.datastore.wire import Change, Counts, Frame, Kind, decode, whole

SERVERS = (Server("default/s"),)


class Compiler:
    """Makes texts, and breaks when it is told to."""

    def __init__(self):
        self.live = []
        self.broken = set()

    def endpoint(self, endpoint):
        if endpoint.name in self.broken:
            raise ValueError(endpoint.name)
        made = f"{endpoint.key}@{endpoint.port}"
        self.live.append(made)
        return made

    def retire(self, made):
        self.live.remove(made)

    def server(self, server, endpoints):
        return (server.name, *endpoints)

    def route(self, route):
        return route.name


def endpoint(number, port=1):
    return Endpoint(f"default/e{number}", "default/s", str(number), "h", port)


def frames(epoch, sequence, endpoints=(), routes=(), servers=SERVERS):
    return [decode(*one) for one in whole(epoch, sequence, routes, servers, endpoints)]


def feed(replica, frame):
    steps = replica.feed(frame)
    yields = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, yields
        yields += 1


@pytest.fixture
def compiler():
    return Compiler()


@pytest.fixture
def replica(compiler):
    return Replica(compiler)


def test_before_anything_came_the_world_is_empty_and_waits(replica):
    assert (replica.world.epoch, replica.world.sequence, replica.waiting) == (0, 0, True)


def test_an_empty_world_needs_an_end_mark_that_counts_nothing(replica):
    load(replica, iter(frames(1, 5, [endpoint(1)])))
    assert feed(replica, Frame(Kind.PART, 1, 6, 0, change=Change()))[0] is Next.NOTHING
    assert replica.world.endpoints
    assert feed(replica, Frame(Kind.END, 1, 6, 0, counts=Counts(0, 0, 0, 0)))[0] is Next.APPLIED
    assert (replica.world.sequence, replica.world.endpoints, replica.world.servers) == (6, {}, {})


@pytest.mark.parametrize("counts", [Counts(2, 0, 1, 1), Counts(1, 0, 1, 1), Counts(2, 1, 1, 1), Counts(2, 0, 1, 2)])
def test_a_whole_whose_end_counts_otherwise_is_not_applied(replica, counts):
    *parts, _ = frames(1, 1, [endpoint(1)])
    assert len(parts) == 2
    for part in parts:
        feed(replica, part)
    fits = counts == Counts(2, 0, 1, 1)
    assert feed(replica, Frame(Kind.END, 1, 1, 2, counts=counts))[0] is (Next.APPLIED if fits else Next.ASK)
    assert bool(replica.world.endpoints) is fits


def test_an_end_without_parts_that_counts_some_is_not_applied(replica):
    assert feed(replica, Frame(Kind.END, 1, 1, 2, counts=Counts(2, 0, 1, 1)))[0] is Next.ASK
    assert replica.world.epoch == 0


def test_a_whole_that_begins_in_the_middle_is_asked_for_again(replica):
    parts = frames(1, 1, [endpoint(1)])
    assert feed(replica, parts[1])[0] is Next.ASK


def test_many_endpoints_are_compiled_in_pieces(replica):
    parts = frames(1, 1, [endpoint(number) for number in range(10 * PIECE)])
    for part in parts[:-1]:
        assert feed(replica, part) == (Next.NOTHING, 0)
    outcome, yields = feed(replica, parts[-1])
    assert outcome is Next.APPLIED
    assert yields >= 10
    assert len(replica.world.endpoints) == 10 * PIECE


def test_between_the_pieces_the_old_world_stands_untouched(replica, compiler):
    load(replica, iter(frames(1, 1, [endpoint(1)])))
    before, contents = replica.world, dict(replica.world.endpoints)
    parts = frames(1, 2, [endpoint(number, port=2) for number in range(3 * PIECE)])
    load(replica, iter(parts[:-1]))
    for _ in replica.feed(parts[-1]):
        if replica.world is before:
            assert "default/s#default/e1@1" in compiler.live
        assert before.endpoints == contents
    assert replica.world is not before
    assert "default/s#default/e1@1" not in compiler.live


def test_deltas_that_came_before_the_whole_are_applied_after_it(replica):
    for sequence in (4, 3):
        change = Change(endpoints=(endpoint(sequence),))
        assert feed(replica, Frame(Kind.DELTA, 1, sequence, change=change))[0] is Next.ASK
    assert replica.waiting
    load(replica, iter(frames(1, 2, [endpoint(2)])))
    assert (replica.world.sequence, replica.waiting) == (4, False)
    assert sorted(replica.world.endpoints) == [f"default/s#default/e{number}" for number in (2, 3, 4)]


def test_a_gap_among_the_deltas_kept_is_asked_for(replica):
    for sequence in (3, 5):
        feed(replica, Frame(Kind.DELTA, 1, sequence, change=Change(endpoints=(endpoint(sequence),))))
    *parts, end = frames(1, 2)
    load(replica, iter(parts))
    assert feed(replica, end)[0] is Next.ASK
    assert (replica.world.sequence, replica.waiting) == (3, True)


def test_no_more_deltas_are_kept_than_the_longest_backlog(replica):
    for sequence in range(3, LONGEST_BACKLOG + 103):
        assert feed(replica, Frame(Kind.DELTA, 1, sequence, change=Change()))[0] is Next.ASK
    load(replica, iter(frames(1, 2)))
    assert replica.world.sequence == LONGEST_BACKLOG + 2


def test_frames_of_a_publisher_that_was_replaced_say_nothing_any_more(replica):
    load(replica, iter(frames(9, 1, [endpoint(1)])))
    load(replica, iter(frames(8, 1, [endpoint(2)])))  # its clock went back
    world = replica.world
    for late in (*frames(9, 7), Frame(Kind.DELTA, 9, 2, change=Change()), Frame(Kind.HEARTBEAT, 9, 2)):
        assert feed(replica, late)[0] is Next.NOTHING
    assert replica.world is world


@pytest.mark.parametrize(
    ("epoch", "sequence", "outcome"),
    [(1, 3, Next.NOTHING), (1, 2, Next.NOTHING), (1, 4, Next.ASK), (2, 1, Next.ASK), (2, 3, Next.ASK)],
)
def test_a_heartbeat_from_elsewhere_is_a_reason_to_ask(replica, epoch, sequence, outcome):
    load(replica, iter(frames(1, 3)))
    assert feed(replica, Frame(Kind.HEARTBEAT, epoch, sequence))[0] is outcome
    assert replica.waiting is (outcome is Next.ASK)


def test_an_endpoint_of_a_server_that_is_gone_stays_known_and_is_in_no_pool(replica, compiler):
    load(replica, iter(frames(1, 1, [endpoint(1)])))
    change = Change(gone_servers=("default/s",))
    assert feed(replica, Frame(Kind.DELTA, 1, 2, change=change))[0] is Next.APPLIED
    assert replica.world.servers == {}
    assert compiler.live == ["default/s#default/e1@1"]
    change = Change(servers=(Server("default/s"),))
    feed(replica, Frame(Kind.DELTA, 1, 3, change=change))
    assert replica.world.servers == {"default/s": ("default/s", "default/s#default/e1@1")}


def test_a_change_touches_no_other_server(replica):
    servers = [Server("default/s"), Server("default/t")]
    load(replica, iter(frames(1, 1, [endpoint(1)], servers=servers)))
    before = replica.world
    feed(replica, Frame(Kind.DELTA, 1, 2, change=Change(endpoints=(endpoint(1, port=2),))))
    assert replica.world.servers["default/t"] is before.servers["default/t"]
    assert replica.world.servers["default/s"] == ("default/s", "default/s#default/e1@2")


def test_routes_of_a_model_come_oldest_first_then_by_name(replica):
    rules = (Rule((Target("default/s"),)),)
    routes = [
        Route("default/c", "m", rules, created="2"),
        Route("default/b", "m", rules, created="2"),
        Route("default/z", "m", rules, created="1"),
        Route("default/a", "", rules, adapters=("m", "x"), created="0"),
    ]
    load(replica, iter(frames(1, 1, routes=routes)))
    assert replica.world.by_model == {"m": ("default/z", "default/b", "default/c")}
    assert replica.world.by_adapter == {"m": ("default/a",), "x": ("default/a",)}


def test_an_endpoint_that_cannot_be_compiled_leaves_the_old_world_and_nothing_held(replica, compiler):
    load(replica, iter(frames(1, 1, [endpoint(1)])))
    before = replica.world
    compiler.broken = {"default/e3"}
    with pytest.raises(ValueError, match="e3"):
        load(replica, iter(frames(1, 2, [endpoint(1), endpoint(2), endpoint(3)])))
    assert replica.world is before
    assert compiler.live == ["default/s#default/e1@1"]
    compiler.broken = set()
    load(replica, iter(frames(1, 2, [endpoint(1), endpoint(2), endpoint(3)])))
    assert replica.world.sequence == 2
    assert sorted(compiler.live) == sorted(replica.world.endpoints.values())


def test_a_whole_that_cannot_be_served_does_not_retire_the_publisher_before(replica, compiler):
    load(replica, iter(frames(1, 1, [endpoint(1)])))
    compiler.broken = {"default/e2"}
    for _ in range(20):
        with pytest.raises(ValueError, match="e2"):
            load(replica, iter(frames(2, 1, [endpoint(2)])))
    assert feed(replica, Frame(Kind.DELTA, 1, 2, change=Change(endpoints=(endpoint(3),))))[0] is Next.APPLIED


def test_many_routes_are_compiled_indexed_and_told_in_pieces(replica):
    heard = []
    replica.on_route(lambda before, after: heard.append(after.name))
    rules = (Rule((Target("default/s"),)),)
    routes = [Route(f"default/r{number}", f"m{number % 7}", rules, ("x",)) for number in range(20 * PIECE)]
    *parts, end = frames(1, 1, routes=routes)
    load(replica, iter(parts))
    outcome, yields = feed(replica, end)
    assert outcome is Next.APPLIED
    assert yields >= 40  # compiling and telling, a piece each
    assert len(replica.world.routes) == len(heard) == len(set(heard)) == 20 * PIECE
    assert len(replica.world.by_adapter["x"]) == 20 * PIECE


def test_no_stretch_of_work_grows_with_the_world(replica):
    """Between two yields at most so many objects are compiled, told of or retired."""
    work = [0]
    compiler = replica._compiler
    for name in ("endpoint", "retire", "route"):
        plain = getattr(compiler, name)
        setattr(compiler, name, lambda one, plain=plain: (work.append(work.pop() + 1), plain(one))[1])
    replica.on_route(lambda before, after: work.append(work.pop() + 1))
    rules = (Rule((Target("default/s"),)),)
    for sequence in (1, 2):
        endpoints = [endpoint(number, port=sequence) for number in range(12 * PIECE)]
        routes = [Route(f"default/r{number}", "m", rules, created=str(sequence)) for number in range(12 * PIECE)]
        for frame in frames(1, sequence, endpoints, routes):
            for _ in replica.feed(frame):
                assert work[0] <= PIECE
                work[0] = 0
        assert replica.world.sequence == sequence


def test_routes_that_did_not_change_are_not_indexed_again(replica):
    route = Route("default/r", "m", (Rule((Target("default/s"),)),))
    load(replica, iter(frames(1, 1, [endpoint(1)], [route])))
    before = replica.world
    feed(replica, Frame(Kind.DELTA, 1, 2, change=Change(endpoints=(endpoint(2),))))
    assert replica.world.by_model is before.by_model
    feed(replica, Frame(Kind.DELTA, 1, 3, change=Change(gone_routes=("default/r",))))
    assert replica.world.by_model == {}


def test_a_listener_that_fails_keeps_nothing_from_being_told_and_retired(replica, compiler, caplog):
    heard = []

    def fail(before, after):
        raise ValueError("listener")

    replica.on_route(fail)
    replica.on_route(lambda before, after: heard.append(after.name))
    rules = (Rule((Target("default/s"),)),)
    load(replica, iter(frames(1, 1, [endpoint(1)], [Route("default/a", "m", rules)])))
    load(
        replica,
        iter(frames(1, 2, [endpoint(1, port=2)], [Route("default/b", "m", rules), Route("default/a", "m", rules)])),
    )
    assert heard == ["default/a", "default/b"]
    assert compiler.live == ["default/s#default/e1@2"]
    assert caplog.text.count("a listener failed") == 2
