"""The listening sockets: many on one port, with the options that accepted connections need."""

import os
import socket
import struct
from pathlib import Path

import pytest

from gateway.supervisor.listeners import BACKLOG, PortInUse, open_listeners, port_owner


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.fixture
def opened():
    found = []
    yield found
    for one in found:
        one.close()


def listeners(opened, host="127.0.0.1", port=0, count=1):
    found = open_listeners(host, port, count)
    opened += found
    return found


def accepted(listener, opened):
    client = socket.create_connection(listener.getsockname()[:2])
    listener.settimeout(5)
    server, _ = listener.accept()
    opened += [client, server]
    return server


def test_all_sockets_share_one_port(opened):
    found = listeners(opened, count=3)
    assert len({one.getsockname() for one in found}) == 1
    assert len({one.fileno() for one in found}) == 3
    assert found[0].getsockname()[1] > 0


def test_each_socket_gets_connections_of_its_own(opened):
    found = listeners(opened, count=2)
    clients = [socket.create_connection(found[0].getsockname()) for _ in range(64)]
    opened += clients
    taken = [0, 0]
    for place, listener in enumerate(found):
        while True:
            try:
                opened.append(listener.accept()[0])
            except BlockingIOError:
                break
            taken[place] += 1
    assert sum(taken) == 64
    assert min(taken) > 0


@pytest.mark.parametrize(
    ("level", "option", "wanted"),
    [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
        (socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * (128 << 10)),  # the kernel doubles it
    ],
)
def test_accepted_connections_inherit_their_options(opened, level, option, wanted):
    (listener,) = listeners(opened)
    server = accepted(listener, opened)
    value = server.getsockopt(level, option)
    assert bool(value) if wanted == 1 else value == wanted


def test_the_queue_is_as_long_as_the_kernel_lets_it_be(opened):
    (listener,) = listeners(opened)
    information = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    # for a listening socket tcpi_sacked holds the length of its queue (linux/tcp.h)
    assert struct.unpack_from("=I", information, 28)[0] == min(BACKLOG, most)


def test_the_sockets_do_not_block(opened):
    (listener,) = listeners(opened)
    with pytest.raises(BlockingIOError):
        listener.accept()


@needs_ipv6
def test_ipv6_addresses_are_served(opened):
    found = listeners(opened, host="::1")
    assert accepted(found[0], opened).getpeername()[0] == "::1"


def test_a_port_that_is_taken_is_refused_with_who_has_it(opened):
    taken = socket.create_server(("127.0.0.1", 0))
    opened.append(taken)
    port = taken.getsockname()[1]
    with pytest.raises(PortInUse) as raised:
        open_listeners("127.0.0.1", port, 2)
    assert (raised.value.host, raised.value.port) == ("127.0.0.1", port)
    assert f"(pid {os.getpid()})" in raised.value.owner
    assert str(raised.value) == f"port {port} is in use by {raised.value.owner}"


def test_a_second_gateway_of_the_same_user_does_not_take_half_of_the_connections(opened):
    (first,) = listeners(opened)
    with pytest.raises(PortInUse):
        open_listeners("127.0.0.1", first.getsockname()[1], 1)


def test_a_port_that_was_closed_can_be_taken_again_at_once(opened):
    (first,) = listeners(opened)
    port = first.getsockname()[1]
    server = accepted(first, opened)
    server.close()  # leaves a connection in TIME_WAIT
    first.close()
    assert listeners(opened, port=port)[0].getsockname()[1] == port


@pytest.mark.parametrize("host", ["192.0.2.1", "host.invalid"])
def test_an_address_that_is_not_ours_is_not_called_a_port_in_use(host):
    with pytest.raises(OSError) as raised:
        open_listeners(host, 18_080, 1)
    assert not isinstance(raised.value, PortInUse)
    assert host in str(raised.value)


def test_an_address_that_is_not_ours_is_refused_with_a_chosen_port_too():
    with pytest.raises(OSError):
        open_listeners("192.0.2.1", 0, 1)


def test_the_owner_of_a_port_is_named_by_program_and_process(opened):
    (listener,) = listeners(opened)
    name = Path("/proc/self/comm").read_text().strip()
    assert port_owner(listener.getsockname()[1]) == f"`{name}` (pid {os.getpid()})"


@needs_ipv6
def test_the_owner_of_a_port_over_ipv6_is_found(opened):
    (listener,) = listeners(opened, host="::1")
    assert f"(pid {os.getpid()})" in port_owner(listener.getsockname()[1])


def test_a_port_that_nobody_listens_on_has_no_owner(opened):
    (listener,) = listeners(opened)
    port = listener.getsockname()[1]
    listener.close()
    assert port_owner(port) is None


def test_a_connection_is_no_owner_of_the_port(opened):
    (listener,) = listeners(opened)
    server = accepted(listener, opened)
    port = listener.getsockname()[1]
    listener.close()
    assert server.getsockname()[1] == port
    assert port_owner(port) is None
