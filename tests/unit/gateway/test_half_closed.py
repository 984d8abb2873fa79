"""Clients that closed their side, as the kernel tells."""

import socket
import time

import pytest

from gateway.downstream.half_closed import half_closed_clients
from tests.unit.gateway.test_listeners import needs_ipv6


class Connections:
    def __init__(self, host):
        self.host = host
        self.listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.port = self.listener.getsockname()[1]
        self.all = []

    def open(self):
        client = socket.create_connection((self.host, self.port))
        server, _ = self.listener.accept()
        self.all += [client, server]
        return client, server

    def close(self):
        for one in (*self.all, self.listener):
            one.close()


def address(client):
    host, port = client.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def wait_for(host, port, wanted):
    for _ in range(100):
        found = half_closed_clients(host, port)
        if found == wanted:
            break
        time.sleep(0.01)
    return found


@pytest.fixture
def connections():
    found = Connections("127.0.0.1")
    yield found
    found.close()


def test_only_clients_that_closed_their_side_are_named(connections):
    leaving, _ = connections.open()
    connections.open()
    closing, _ = connections.open()
    gone = address(closing)
    assert half_closed_clients("127.0.0.1", connections.port) == set()
    leaving.shutdown(socket.SHUT_WR)
    closing.close()
    wanted = {address(leaving), gone}
    assert wait_for("127.0.0.1", connections.port, wanted) == wanted


def test_clients_of_other_ports_are_not_named(connections):
    other = Connections("127.0.0.1")
    leaving, _ = other.open()
    leaving.shutdown(socket.SHUT_WR)
    assert wait_for("127.0.0.1", other.port, {address(leaving)}) == {address(leaving)}
    assert half_closed_clients("127.0.0.1", connections.port) == set()
    other.close()


def test_a_client_that_was_answered_and_closed_is_named_no_more(connections):
    leaving, server = connections.open()
    leaving.shutdown(socket.SHUT_WR)
    assert wait_for("127.0.0.1", connections.port, {address(leaving)})
    server.close()
    assert wait_for("127.0.0.1", connections.port, set()) == set()


def test_many_are_all_named(connections):
    connections.listener.listen(300)
    clients = [connections.open()[0] for _ in range(300)]
    for client in clients:
        client.shutdown(socket.SHUT_WR)
    wanted = {address(client) for client in clients}
    assert wait_for("127.0.0.1", connections.port, wanted) == wanted


@needs_ipv6
def test_clients_over_ipv6_are_named_as_rsgi_does():
    connections = Connections("::1")
    leaving, _ = connections.open()
    leaving.shutdown(socket.SHUT_WR)
    wanted = {f"[::1]:{leaving.getsockname()[1]}"}
    assert wait_for("::1", connections.port, wanted) == wanted
    connections.close()


def test_where_the_kernel_does_not_tell_nobody_is_named(monkeypatch):
    def refused(*_):
        raise OSError("no netlink here")

    monkeypatch.setattr("gateway.downstream.half_closed.socket.socket", refused)
    assert half_closed_clients("127.0.0.1", 1) == set()
