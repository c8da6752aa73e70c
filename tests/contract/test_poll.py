"""poll: readiness, for code that reads and writes itself."""

from __future__ import annotations

from selectors import EVENT_READ, EVENT_WRITE

import pytest
from support.system import POLLIN, POLLOUT


def test_writable_at_once(port, net):
    a, _ = net.pair()
    assert net.result(port.poll(a, EVENT_WRITE)) == EVENT_WRITE


def test_readable_when_something_comes(port, net):
    a, peer = net.pair()
    op = port.poll(a, EVENT_READ)
    net.pump()
    assert not op.done
    peer.send(b"x")
    assert net.result(op) == EVENT_READ
    # It is only told, not taken.
    assert net.result(port.recv(a, 10)) == b"x"


def test_readable_when_something_is_there(port, net):
    a, peer = net.pair()
    peer.send(b"x")
    assert net.result(port.poll(a, EVENT_READ)) == EVENT_READ
    assert net.result(port.poll(a, EVENT_READ)) == EVENT_READ
    net.finish(port.recv(a, 10))


def test_both(port, net):
    """Those that hold: no more, and one is enough."""
    a, peer = net.pair()
    assert net.result(port.poll(a, EVENT_READ | EVENT_WRITE)) == EVENT_WRITE
    peer.send(b"x")
    net.finish(port.poll(a, EVENT_READ))
    assert net.result(port.poll(a, EVENT_READ | EVENT_WRITE)) == EVENT_READ | EVENT_WRITE
    net.finish(port.recv(a, 10))


def test_the_numbers_of_select(port, net):
    """select.POLLOUT is not selectors.EVENT_WRITE, and means the same; who asks with it is
    answered with it."""
    a, peer = net.pair()
    peer.send(b"x")
    assert net.result(port.poll(a, POLLIN)) == POLLIN
    assert net.result(port.poll(a, POLLOUT)) == POLLOUT
    net.finish(port.recv(a, 10))


@pytest.mark.system
def test_writable_when_there_is_room_again(port, net):
    a, peer = net.pair()
    sent = net.fill(a)
    op = port.poll(a, EVENT_WRITE)
    net.pump()
    assert not op.done
    peer.recv(sent)
    assert net.result(op) == EVENT_WRITE


def test_the_end_is_readable(port, net):
    a, peer = net.pair()
    op = port.poll(a, EVENT_READ)
    peer.end()
    assert net.result(op) == EVENT_READ
    assert net.result(port.recv(a, 10)) == b""


@pytest.mark.system
def test_a_reset_is_readable(port, net):
    a, peer = net.pair()
    op = port.poll(a, EVENT_READ)
    peer.reset()
    assert net.result(op) == EVENT_READ
    assert isinstance(net.error(port.recv(a, 10)), ConnectionResetError)


@pytest.mark.system
def test_a_listener_is_readable(port, net):
    listener, address = net.listener()
    op = port.poll(listener, EVENT_READ)
    peer = net.dial(address)
    assert net.result(op) == EVENT_READ
    sock, _ = listener.accept()
    assert sock.getsockname() == peer.sock.getpeername()
    sock.close()


def test_several_of_one_socket(port, net):
    """Any number, beside receives and sends; each is told."""
    a, peer = net.pair()
    polls = [port.poll(a, EVENT_READ) for _ in range(5)]
    assert net.result(port.poll(a, EVENT_WRITE)) == EVENT_WRITE
    peer.send(b"x")
    net.finish(*polls)
    assert [op.result() for op in polls] == [EVENT_READ] * 5
    net.finish(port.recv(a, 10))


def test_beside_a_receive(port, net):
    a, peer = net.pair()
    receive = port.recv(a, 10)
    poll = port.poll(a, EVENT_WRITE)
    assert net.result(poll) == EVENT_WRITE
    peer.send(b"x")
    assert net.result(receive) == b"x"
