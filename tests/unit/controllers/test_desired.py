"""The desired state, and what changed of it."""

import random

import pytest

from controllers.network.desired import DesiredState
from gateway.datastore.model import Endpoint, Route, Server
from gateway.datastore.wire import Change


def route(name, model="m"):
    return Route(name, model, ())


def endpoint(name, server="s", port=1):
    return Endpoint(name, server, f"h:{port}", "h", port)


@pytest.fixture
def desired():
    return DesiredState()


def test_nothing_changed_is_no_change(desired):
    assert desired.take_change() is None


def test_what_is_put_is_a_change_once(desired):
    desired.put_route(route("r"))
    desired.put_server(Server("s"), [endpoint("e")])
    assert desired.take_change() == Change(routes=(route("r"),), servers=(Server("s"),), endpoints=(endpoint("e"),))
    assert desired.take_change() is None


def test_what_is_put_again_as_it_was_is_no_change(desired):
    desired.put_route(route("r"))
    desired.put_server(Server("s"), [endpoint("e")])
    desired.take_change()
    desired.put_route(route("r"))
    desired.put_server(Server("s"), [endpoint("e")])
    assert desired.take_change() is None


def test_only_what_differs_is_in_the_change(desired):
    desired.put_server(Server("s"), [endpoint("a"), endpoint("b"), endpoint("c")])
    desired.take_change()
    desired.put_server(Server("s"), [endpoint("a"), endpoint("b", port=2), endpoint("d")])
    assert desired.take_change() == Change(endpoints=(endpoint("b", port=2), endpoint("d")), gone_endpoints=("s#c",))


def test_what_is_dropped_is_gone(desired):
    desired.put_route(route("r"))
    desired.put_server(Server("s"), [endpoint("e")])
    desired.take_change()
    desired.drop_route("r")
    desired.drop_server("s")
    assert desired.take_change() == Change(gone_routes=("r",), gone_servers=("s",), gone_endpoints=("s#e",))


def test_dropping_what_is_not_there_is_no_change(desired):
    desired.drop_route("r")
    desired.drop_server("s")
    assert desired.take_change() is None


def test_dropping_a_server_leaves_the_endpoints_of_others(desired):
    desired.put_server(Server("s"), [endpoint("e", "s")])
    desired.put_server(Server("t"), [endpoint("e", "t")])
    desired.drop_server("s")
    assert list(desired.endpoints) == ["t#e"]


def test_of_several_changes_to_one_object_the_last_counts(desired):
    desired.put_route(route("r", "one"))
    desired.put_route(route("r", "two"))
    desired.put_route(route("q"))
    desired.drop_route("q")
    assert desired.take_change() == Change(routes=(route("r", "two"),), gone_routes=("q",))


def test_following_the_changes_leads_to_the_state(desired):
    random_numbers = random.Random(3)
    routes, servers, endpoints = {}, {}, {}
    names = "abcd"
    for _ in range(300):
        for _ in range(random_numbers.randrange(4)):
            name = random_numbers.choice(names)
            match random_numbers.randrange(4):
                case 0:
                    desired.put_route(route(name, random_numbers.choice("xy")))
                case 1:
                    desired.drop_route(name)
                case 2:
                    wanted = random_numbers.sample(names, random_numbers.randrange(5))
                    port = random_numbers.randint(1, 2)
                    desired.put_server(Server(name), [endpoint(one, name, port) for one in wanted])
                case 3:
                    desired.drop_server(name)
        change = desired.take_change() or Change()
        for known, put, gone in (
            (routes, {one.name: one for one in change.routes}, change.gone_routes),
            (servers, {one.name: one for one in change.servers}, change.gone_servers),
            (endpoints, {one.key: one for one in change.endpoints}, change.gone_endpoints),
        ):
            assert not put.keys() & set(gone)
            for key in gone:
                known.pop(key, None)
            known |= put
        assert (routes, servers, endpoints) == (desired.routes, desired.servers, desired.endpoints)
