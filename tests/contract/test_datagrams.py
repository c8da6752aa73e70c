"""Datagrams."""

from __future__ import annotations

import socket

import pytest
from support.net import SystemPeer
from support.system import LIMIT


def test_there_and_back(port, net):
    a, a_address = net.datagram()
    b, b_address = net.datagram()
    receive = port.recv_from(b, 100)
    assert net.result(port.send_to(a, b"ping", b_address)) == 4
    assert net.result(receive) == (b"ping", a_address)
    receive = port.recv_from(a, 100)
    assert net.result(port.send_to(b, [b"po", b"ng"], a_address)) == 4
    assert net.result(receive) == (b"pong", b_address)


def test_what_does_not_fit_is_cut_off(port, net):
    """And the rest of it is not mistaken for the next datagram."""
    a, a_address = net.datagram()
    b, b_address = net.datagram()
    pending = port.recv_from(b, 4)
    net.finish(port.send_to(a, b"0123456789", b_address))
    assert net.result(pending) == (b"0123", a_address)
    net.finish(port.send_to(a, b"abcdefghij", b_address))
    net.finish(port.send_to(a, b"next", b_address))
    assert net.result(port.recv_from(b, 4)) == (b"abcd", a_address)
    assert net.result(port.recv_from(b, 100)) == (b"next", a_address)


def test_an_empty_datagram(port, net):
    """It is a datagram like any other, not the end of anything."""
    a, a_address = net.datagram()
    b, b_address = net.datagram()
    receive = port.recv_from(b, 10)
    assert net.result(port.send_to(a, b"", b_address)) == 0
    assert net.result(receive) == (b"", a_address)
    receive = port.recv_from(b, 10)
    assert net.result(port.send_to(a, b"more", b_address)) == 4
    assert net.result(receive) == (b"more", a_address)


def test_datagrams_keep_their_bounds_and_order(port, net):
    a, a_address = net.datagram()
    b, b_address = net.datagram()
    receives = [port.recv_from(b, 100) for _ in range(20)]
    messages = [b"%d" % number * (number + 1) for number in range(20)]
    for message in messages:
        net.finish(port.send_to(a, message, b_address))
    assert [net.result(op) for op in receives] == [(message, a_address) for message in messages]


def test_a_large_datagram(port, net):
    a, a_address = net.datagram()
    b, b_address = net.datagram()
    message = bytes(range(256)) * 128
    receive = port.recv_from(b, 65536)
    assert net.result(port.send_to(a, message, b_address)) == len(message)
    assert net.result(receive) == (message, a_address)


@pytest.mark.system
def test_too_large_a_datagram_fails(port, net):
    a, _ = net.datagram()
    _, b_address = net.datagram()
    error = net.error(port.send_to(a, bytes(70_000), b_address))
    assert isinstance(error, OSError)
    assert "send_to" in str(error)


@pytest.mark.system
def test_a_port_that_is_not_there_does_not_end_a_receive(port, net):
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        nobody = sock.getsockname()
    a, a_address = net.datagram()
    b, b_address = net.datagram()
    receive = port.recv_from(a, 100)
    for _ in range(3):
        assert net.result(port.send_to(a, b"anybody?", nobody)) == 8
    net.finish(port.send_to(b, b"me", a_address))
    assert net.result(receive) == (b"me", b_address)


@pytest.mark.system
def test_a_connected_datagram_socket(port, net):
    a, a_address = net.datagram()
    b, b_address = net.datagram()
    a.connect(b_address)
    receive = port.recv_from(b, 100)
    assert net.result(port.send(a, b"no address")) == 10
    assert net.result(receive) == (b"no address", a_address)
    receive = port.recv(a, 100)
    buffer = bytearray(10)
    assert net.result(port.send_to(b, b"answer", a_address)) == 6
    assert net.result(receive) == b"answer"
    receive = port.recv_into(a, buffer)
    assert net.result(port.send_to(b, b"again", a_address)) == 5
    assert net.result(receive) == 5
    assert buffer[:5] == b"again"


@pytest.mark.system
def test_connect_of_a_datagram_socket(port, net):
    a, a_address = net.datagram()
    b, b_address = net.datagram()
    assert net.result(port.connect(a, b_address)) is None
    assert net.result(port.send(a, b"hello")) == 5
    assert net.result(port.recv_from(b, 10)) == (b"hello", a_address)


@pytest.mark.system
def test_ipv6(port, net):
    a, b = (net.keep(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) for _ in range(2))
    try:
        a.bind(("::1", 0))
        b.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6: {error}")
    receive = port.recv_from(b, 100)
    assert net.result(port.send_to(a, b"six", b.getsockname()[:2])) == 3
    assert net.result(receive) == (b"six", a.getsockname())


@pytest.mark.system
def test_the_bytes_come_from_outside_too(port, net):
    a, address = net.datagram()
    other = net.keep(socket.socket(type=socket.SOCK_DGRAM))
    other.bind(("127.0.0.1", 0))
    other.sendto(b"early", address)
    data, sender = net.result(port.recv_from(a, 100))
    assert (data, sender) == (b"early", other.getsockname())
    peer = SystemPeer(net, other)
    net.finish(port.send_to(a, b"back", sender), limit=LIMIT)
    assert peer.recv_some(100) == b"back"
