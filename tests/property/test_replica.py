"""The replica against a model publisher, over a line that drops, duplicates, reorders and damages what it carries.

Within an epoch frames arrive in any order, and old epochs' frames may arrive late. One thing the line keeps, as ZeroMQ does: answers
to questions (parts and ends) of an earlier publisher do not arrive after those of a later one.
"""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.datastore.model import Endpoint, Route, Rule, Server, Target
from gateway.datastore.replica import Next, Replica
from gateway.datastore.wire import Change, Frame, Kind, WireError, decode, encode, whole
from tests.support.examples import examples

NAMES = [f"default/{letter}" for letter in "abcd"]
ROUTES = st.builds(
    Route,
    name=st.sampled_from(NAMES),
    model_name=st.sampled_from(("", "m", "n")),
    rules=st.just((Rule((Target("default/a"),)),)),
    adapters=st.lists(st.sampled_from(("x", "m")), max_size=2, unique=True).map(tuple),
    created=st.sampled_from(("1", "2")),
)
SERVERS = st.builds(Server, name=st.sampled_from(NAMES), model=st.sampled_from((None, "m")))
ENDPOINTS = st.builds(
    Endpoint,
    name=st.sampled_from(NAMES),
    server=st.sampled_from(NAMES),
    identity=st.sampled_from("12"),
    address=st.just("127.0.0.1"),
    port=st.integers(1, 3),
)
KINDS = st.sampled_from(("routes", "servers", "endpoints"))


class Made:
    """What the compiler made of an object: equal to nothing but itself."""

    def __init__(self, decided, members=()):
        self.decided = decided
        self.members = members

    def __repr__(self):
        return f"<{self.decided}>"


class Recorder:
    """A compiler that knows which endpoints live."""

    def __init__(self):
        self.live = set()

    def endpoint(self, endpoint):
        made = Made(endpoint)
        self.live.add(made)
        return made

    def retire(self, made):
        self.live.remove(made)  # KeyError: retired twice, or never made

    def server(self, server, endpoints):
        assert self.live.issuperset(endpoints)
        return Made(server, endpoints)

    def route(self, route):
        return Made(route)


class State:
    """Decided objects by name."""

    def __init__(self, routes=None, servers=None, endpoints=None):
        self.routes, self.servers, self.endpoints = dict(routes or {}), dict(servers or {}), dict(endpoints or {})

    def copy(self):
        return State(self.routes, self.servers, self.endpoints)


class Publisher:
    """Counts changes within its epoch and remembers what stood at each."""

    def __init__(self, epoch, state):
        self.epoch = epoch
        self.sequence = 1
        self.state = state
        self.history = {1: state.copy()}

    def put(self, kind, item):
        getattr(self.state, kind)[item.key if kind == "endpoints" else item.name] = item

    def publish(self, change):
        self.sequence += 1
        self.history[self.sequence] = self.state.copy()
        return encode(Frame(Kind.DELTA, self.epoch, self.sequence, change=change))

    def heartbeat(self):
        return encode(Frame(Kind.HEARTBEAT, self.epoch, self.sequence))

    def whole(self):
        state = self.state
        return list(
            whole(self.epoch, self.sequence, state.routes.values(), state.servers.values(), state.endpoints.values())
        )


def decided(compiled):
    return {name: made.decided for name, made in compiled.items()}


def expected_index(routes, compiled, names_of):
    found = {}
    for route in sorted(routes.values(), key=lambda one: (one.created, one.name)):
        for name in names_of(route):
            found[name] = (*found.get(name, ()), compiled[route.name])
    return found


class ReplicaMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.compiler = Recorder()
        self.replica = Replica(self.compiler)
        self.replica.on_route(self.heard_first)
        self.replica.on_route(lambda before, after: self.heard_second.append((before, after)))
        self.heard = {}
        self.heard_count = 0
        self.heard_second = []
        self.publishers = []
        self.line = []
        self.asked = False
        self.kept_worlds = []

    # -- what is checked whenever anything may have changed

    def heard_first(self, before, after):
        assert before is not None or after is not None
        name = (after or before).name
        assert self.heard.get(name) == before
        assert before != after
        standing = self.replica.world.routes.get(name)
        assert (standing.decided if standing is not None else None) == after, "called before the swap"
        self.heard_count += 1
        if after is None:
            del self.heard[name]
        else:
            self.heard[name] = after

    def order(self, epoch):
        return [publisher.epoch for publisher in self.publishers].index(epoch)

    def position(self):
        world = self.replica.world
        return (-1, 0) if world.epoch == 0 else (self.order(world.epoch), world.sequence)

    def check_world(self):
        world = self.replica.world
        state = State() if world.epoch == 0 else self.publishers[self.order(world.epoch)].history[world.sequence]
        assert decided(world.routes) == state.routes
        assert decided(world.servers) == state.servers
        assert decided(world.endpoints) == state.endpoints
        for name, made in world.servers.items():
            members = {id(one) for one in made.members}
            assert len(members) == len(made.members)
            assert members == {id(one) for one in world.endpoints.values() if one.decided.server == name}
        assert world.by_model == expected_index(
            state.routes, world.routes, lambda route: [route.model_name] if route.model_name else []
        )
        assert world.by_adapter == expected_index(state.routes, world.routes, lambda route: route.adapters)

    def check_shared(self, before, after):
        for kind in ("endpoints", "routes"):
            old, new = getattr(before, kind), getattr(after, kind)
            for name in old.keys() & new.keys():
                assert (old[name] is new[name]) == (old[name].decided == new[name].decided), (kind, name)
        for name in before.servers.keys() & after.servers.keys():
            old, new = before.servers[name], after.servers[name]
            same = old.decided == new.decided and [*map(id, old.members)] == [*map(id, new.members)]
            assert not same or old is new, name

    def feed(self, frame):
        before, position = self.replica.world, self.position()
        steps = self.replica.feed(frame)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                outcome = end.value
                break
            self.check_world()  # a request that comes in between finds one world, whole
            assert self.compiler.live.issuperset(self.replica.world.endpoints.values())
        assert isinstance(outcome, Next)
        after = self.replica.world
        assert self.position() >= position, "the world went back"
        if outcome is Next.NOTHING:
            assert after is before
        if outcome is Next.APPLIED:
            assert after is not before
        if outcome is Next.ASK:
            self.asked = True
        if after.epoch == before.epoch and after.sequence <= before.sequence + 1:
            self.check_shared(before, after)
        if after.epoch != before.epoch:
            self.purge_earlier_answers()
        return outcome

    def purge_earlier_answers(self):
        order = self.order(self.replica.world.epoch)
        self.line = [
            (is_answer, epoch, frame)
            for is_answer, epoch, frame in self.line
            if not is_answer or self.order(epoch) >= order
        ]

    # -- the publisher

    @property
    def publisher(self):
        return self.publishers[-1]

    @initialize(routes=st.lists(ROUTES), servers=st.lists(SERVERS), endpoints=st.lists(ENDPOINTS))
    def start(self, routes, servers, endpoints):
        state = State(
            {one.name: one for one in routes},
            {one.name: one for one in servers},
            {one.key: one for one in endpoints},
        )
        self.publishers.append(Publisher(1000, state))

    @rule(
        routes=st.lists(ROUTES, max_size=2),
        servers=st.lists(SERVERS, max_size=2),
        endpoints=st.lists(ENDPOINTS, max_size=3),
        gone=st.lists(st.tuples(KINDS, st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=3),
        is_gap=st.booleans(),
    )
    def change(self, routes, servers, endpoints, gone, is_gap):
        publisher, state = self.publisher, self.publisher.state
        names = {"routes": set(), "servers": set(), "endpoints": set()}
        for kind, name, server in gone:
            key = f"{server}#{name}" if kind == "endpoints" else name
            getattr(state, kind).pop(key, None)
            names[kind].add(key)
        for kind, items in (("routes", routes), ("servers", servers), ("endpoints", endpoints)):
            for item in items:
                publisher.put(kind, item)
                names[kind].add(item.key if kind == "endpoints" else item.name)
        frame = publisher.publish(
            Change(
                **{kind: tuple(getattr(state, kind)[n] for n in sorted(names[kind]) if n in getattr(state, kind))
                   for kind in names},
                **{f"gone_{kind}": tuple(n for n in sorted(names[kind]) if n not in getattr(state, kind))
                   for kind in names},
            )
        )  # fmt: skip
        # a change too large for a frame is a heartbeat alone
        self.line.append((False, publisher.epoch, publisher.heartbeat() if is_gap else frame))

    @rule()
    def beat(self):
        self.line.append((False, self.publisher.epoch, self.publisher.heartbeat()))

    @precondition(lambda self: self.asked)
    @rule()
    def answer(self):
        self.asked = False
        self.line += [(True, self.publisher.epoch, frame) for frame in self.publisher.whole()]

    @rule(step=st.integers(-500, 500), keeps=st.booleans())
    def restart(self, step, keeps):
        epoch = self.publisher.epoch + step  # clocks may go back
        if epoch > 0 and epoch not in [one.epoch for one in self.publishers] and len(self.publishers) < 12:
            self.publishers.append(Publisher(epoch, self.publisher.state.copy() if keeps else State()))

    # -- the line

    @precondition(lambda self: self.line)
    @rule(data=st.data(), first=st.booleans(), twice=st.booleans())
    def deliver(self, data, first, twice):
        place = 0 if first else data.draw(st.integers(0, len(self.line) - 1))
        frame = self.line[place][2]
        if not twice:
            del self.line[place]
        self.feed(decode(*frame))

    @precondition(lambda self: self.line)
    @rule(count=st.integers(1, 20))
    def deliver_in_order(self, count):
        while count and self.line:
            count -= 1
            self.feed(decode(*self.line.pop(0)[2]))

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def lose(self, data):
        del self.line[data.draw(st.integers(0, len(self.line) - 1))]

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def damage(self, data):
        place = data.draw(st.integers(0, len(self.line) - 1))
        header, body = self.line.pop(place)[2]
        bit = data.draw(st.integers(0, 8 * (len(header) + len(body)) - 1))
        text = bytearray(header + body)
        text[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireError):
            decode(bytes(text[: len(header)]), bytes(text[len(header) :]))

    @rule()
    def rest(self):
        """A heartbeat arrives, and the question that follows from it is answered, in order and whole."""
        outcome = self.feed(decode(*self.publisher.heartbeat()))
        if outcome is Next.ASK:
            for frame in self.publisher.whole():
                outcome = self.feed(decode(*frame))
            assert outcome is Next.APPLIED
        world = self.replica.world
        assert (world.epoch, world.sequence) == (self.publisher.epoch, self.publisher.sequence)
        self.check_world()
        assert not self.replica.waiting
        routes, servers, endpoints = self.replica.whole()
        state = self.publisher.state
        assert {one.name: one for one in routes} == state.routes
        assert {one.name: one for one in servers} == state.servers
        assert {one.key: one for one in endpoints} == state.endpoints

    @rule()
    def keep_the_world(self):
        """A long request reads its world to the end, whatever comes meanwhile."""
        world = self.replica.world
        self.kept_worlds = [
            *self.kept_worlds[-2:],
            (world, [dict(world.routes), dict(world.servers), dict(world.endpoints)]),
        ]

    @invariant()
    def all_is_well(self):
        self.check_world()
        assert self.compiler.live == set(self.replica.world.endpoints.values())
        assert len(self.compiler.live) == len(self.replica.world.endpoints)
        assert self.heard == decided(self.replica.world.routes)
        assert len(self.heard_second) == self.heard_count
        for world, contents in self.kept_worlds:
            assert [world.routes, world.servers, world.endpoints] == contents


ReplicaMachine.TestCase.settings = settings(max_examples=examples(150), stateful_step_count=50, deadline=None)
TestReplica = ReplicaMachine.TestCase
