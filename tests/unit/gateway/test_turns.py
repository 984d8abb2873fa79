"""What an explanation says of requests that would wait: for others that do, or since the places that are left are kept."""

import time

import pytest

from _fastpath.fair_share import FairShare
from _fastpath.slots import endpoint_identity
from gateway.admin.explain import Explainer
from gateway.datastore.model import Server, Traffic
from gateway.identity.gate import Caller
from gateway.scheduling.pool import Reserved
from gateway.settings import Queue, Settings
from tests.unit.gateway.fakes import CHAT, chat
from tests.unit.gateway.fleet import SERVER, Fleet

QUEUE = Queue(reserved_percent=25.0, reserved_prefill_seconds=1.0)
NAME = endpoint_identity(SERVER)
FLOOD, SELDOM = endpoint_identity("flood"), endpoint_identity("seldom")


class Asked:
    """A fleet whose endpoints may have four requests each, of which one place is kept; and what is asked of it."""

    def __init__(self, directory, queue=QUEUE, bound=4):
        traffic = Traffic(maximum_in_flight=bound)
        kept = Reserved(queue.reserved_percent, queue.reserved_prefill_seconds)
        self.fleet = Fleet(directory, server=Server(SERVER, traffic=traffic), reserved=kept)
        self.share = FairShare(self.fleet.memory, 1)
        self._first = None
        self._explainer = Explainer(self.fleet.memory, Settings(queue=queue), Caller)

    def contest(self):
        """Two tenants ask, one after the other."""
        for tenant in (FLOOD, SELDOM):
            self.share.note(NAME, tenant, time.monotonic())

    def wait(self, tenant=FLOOD, tokens=1000.0):
        """A request of a tenant waits in a worker, where one more of the same was served."""
        now = time.monotonic()
        for _ in range(2):
            self._first = self.share.join(NAME, tenant, tokens, 0.0, now)
            self.share.show(NAME, 0, self._first, now)

    def hold(self, count, prompt_tokens=0):
        """So many requests run, one after the other at either endpoint."""
        server = self.fleet.replica.world.servers[SERVER]
        for number in range(count):
            self.fleet.placer.place(server, None, prompt_tokens, 0, (number % 2,))

    def explain(self, tenant="flood"):
        if self._first is not None:
            self.share.show(NAME, 0, self._first, time.monotonic())  # as a worker does again and again
        (found,) = self._explainer.explain(self.fleet.replica.world, chat(), CHAT, {}, tenant)["servers"]
        return found


@pytest.fixture
def asked(tmp_path):
    return Asked(tmp_path)


def filtered(found):
    return {one["filtered"] for one in found["candidates"]}


def test_a_server_that_one_tenant_asks_keeps_nothing(asked):
    asked.hold(6)
    found = asked.explain()
    assert found["choice"] is not None
    assert found["turn"] == {
        "waited": False,
        "contested": False,
        "owed": True,
        "kept_places": 1,
        "kept_prefill_seconds": 1.0,
        "held_back": False,
    }


def test_with_room_beside_the_kept_places_nobody_is_held_back(asked):
    asked.contest()
    asked.wait()
    asked.hold(5)
    found = asked.explain()
    assert (found["choice"] is None, found["turn"]["held_back"]) == (False, False)
    assert sorted(one["filtered"] for one in found["candidates"]) == ["", "kept"]


def test_a_tenant_that_had_its_share_is_held_back_from_the_last_places(asked):
    asked.contest()
    asked.wait()
    asked.hold(6)
    found = asked.explain("flood")
    assert (found["choice"], filtered(found)) == (None, {"kept"})
    turn = found["turn"]
    assert (turn["held_back"], turn["waited"], turn["contested"], turn["owed"]) == (True, True, True, False)


def test_a_tenant_that_had_less_than_its_share_is_not(asked):
    asked.contest()
    asked.wait()
    asked.hold(6)
    found = asked.explain("seldom")
    assert found["choice"] is not None
    assert (found["turn"]["owed"], found["turn"]["held_back"]) == (True, False)


def test_while_nobody_waits_every_tenant_may_have_them(asked):
    asked.contest()
    asked.hold(6)
    found = asked.explain("flood")
    assert (found["choice"] is None, found["turn"]["owed"]) == (False, True)


def test_endpoints_without_any_place_are_full_and_nobody_is_held_back(asked):
    asked.contest()
    asked.wait()
    asked.hold(8)
    found = asked.explain("flood")
    assert (found["choice"], filtered(found), found["turn"]["held_back"]) == (None, {"full"}, False)


def test_places_are_kept_sooner_where_long_prompts_are_computed(asked):
    asked.contest()
    asked.wait()
    asked.hold(4, prompt_tokens=100_000)
    assert asked.explain("flood")["turn"]["held_back"]
    assert asked.explain("seldom")["choice"] is not None


@pytest.mark.parametrize(("queue", "bound"), [(Queue(seconds=0.0), 4), (Queue(reserved_percent=0.0), 4), (QUEUE, 3)])
def test_where_nothing_is_kept_nothing_is_said_to_be(tmp_path, queue, bound):
    asked = Asked(tmp_path, queue, bound)
    asked.contest()
    asked.wait()
    asked.hold(2 * bound - 1)
    found = asked.explain("flood")
    assert found["choice"] is not None
    assert (found["turn"]["kept_places"], found["turn"]["held_back"]) == (0, False)


def test_looking_on_changes_nothing(asked):
    asked.contest()
    asked.wait()
    before = asked.share.paid(NAME, FLOOD), asked.share.virtual_time(NAME)
    for tenant in ("flood", "seldom", "third"):
        asked.explain(tenant)
    assert (asked.share.paid(NAME, FLOOD), asked.share.virtual_time(NAME)) == before
    assert not asked.share.is_waited(NAME, time.monotonic())  # but by the own worker
