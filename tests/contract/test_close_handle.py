"""Closing handles: with close_handle, and behind the port's back."""

from __future__ import annotations

import os
import socket

import pytest
from support.net import SystemPeer, tcp_pair
from support.system import LIMIT, WINDOWS, wait_until

pytestmark = pytest.mark.system


def test_cancels_and_closes(port, net):
    a, peer = net.pair()
    op = port.recv(a, 10)
    number = a.fileno()
    port.close_handle(a)
    assert a.fileno() == -1
    net.finish(op)
    assert op.cancelled
    assert peer.recv(1) == b""
    if not WINDOWS:
        wait_until(lambda: not is_socket(number), "the close of the descriptor")


def is_socket(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def test_an_idle_one(port, net):
    a, peer = net.pair()
    port.associate(a, "key")
    port.close_handle(a)
    assert a.fileno() == -1
    assert peer.recv(1) == b""


def test_one_that_was_never_used(port, net):
    a, peer = net.pair()
    port.close_handle(a)
    assert a.fileno() == -1
    assert peer.recv(1) == b""


def test_waits_for_nothing(port, net):
    """With everything in flight on it; all of it ends once."""
    a, peer = net.pair()
    net.fill(a)
    ops = [port.recv(a, 10) for _ in range(5)]
    ops += [port.send(a, bytes(100_000)) for _ in range(3)]
    ops.append(port.poll(a, 1))
    port.close_handle(a)
    assert a.fileno() == -1
    net.finish(*ops)
    assert all(op.cancelled for op in ops)
    while peer.recv_some(1 << 20):
        pass
    net.nothing_more()


def test_a_listener(port, net):
    listener, address = net.listener()
    ops = [port.accept(listener) for _ in range(3)]
    port.close_handle(listener)
    net.finish(*ops)
    assert all(op.cancelled for op in ops)
    with socket.socket() as sock:
        sock.settimeout(LIMIT)
        with pytest.raises(ConnectionRefusedError):
            sock.connect(address)


def test_a_file_object_is_not_for_it(port, net):
    """Its buffer would be lost: files are closed by their owner."""
    file = net.file(b"x")
    with pytest.raises(TypeError, match="sock"):
        port.close_handle(file)
    assert net.result(port.read(file, 1, 0)) == b"x"


def test_in_a_callback(port, net):
    """The usual place: the end of a stream closes its socket."""
    a, peer = net.pair()

    def callback(op) -> None:
        port.close_handle(op.handle)
        port.stop()

    port.recv(a, 10, callback=callback)
    peer.end()
    port.run()
    assert a.fileno() == -1
    assert peer.recv(1) == b""


def test_use_after_close_handle(port, net):
    a, _ = net.pair()
    op = port.recv(a, 10)
    port.close_handle(a)
    with pytest.raises((ValueError, OSError)):
        port.recv(a, 10)
    net.finish(op)
    assert op.handle is a


def test_its_number_can_be_used_again(port, net):
    """The next sockets get the number while the old operations are still on their way out."""
    for round_ in range(30):
        a, b = tcp_pair()
        ops = [port.recv(a, 10), port.recv(a, 10)]
        port.close_handle(a)
        c, peer = net.pair()
        receive = port.recv(c, 10)
        peer.send(b"%d" % round_)
        assert net.result(receive) == b"%d" % round_
        net.finish(*ops)
        assert all(op.cancelled for op in ops)
        b.close()


def close_and_reuse(net, old):
    """Closes the socket; a new pair whose first one has its number."""
    number = old.fileno()
    listener, address = net.listener()
    old.close()
    for _ in range(10):
        near = net.keep(socket.socket())
        if near.fileno() == number:
            break
    assert near.fileno() == number, "the system does not give the number out again"
    near.settimeout(LIMIT)
    near.connect(address)
    return near, net.keep(listener.accept()[0])


@pytest.mark.parametrize("kind", ["recv", "send", "poll", "accept"])
def test_behind_the_ports_back(make_port, make_net, kind):
    """A socket is closed with an operation in flight and its number comes back: the new socket is
    not touched by the old one's operation, works with the port, and the port closes in time."""
    port = make_port()
    net = make_net(port)
    if kind == "accept":
        a, _ = net.listener()
        op = port.accept(a)
    else:
        a, old_peer = net.pair()
        if kind == "recv":
            op = port.recv(a, 10)
        elif kind == "poll":
            op = port.poll(a, 1)
        else:
            net.fill(a)
            op = port.send(a, b"old" * 1_000_000)
            old_peer.close()
    net.pump()
    c, d = close_and_reuse(net, a)
    peer = SystemPeer(net, d)
    peer.send(b"for the new one")
    receive = port.recv(c, 15)
    assert net.result(receive) == b"for the new one"
    assert net.result(port.send(c, b"from the new one")) == 16
    assert peer.recv(16) == b"from the new one"
    waiting = port.recv(c, 10)
    port.close()
    assert op.done
    assert waiting.cancelled
    net.pumping = False
    c.setblocking(True)
    c.sendall(b"still mine")
    assert peer.recv(10) == b"still mine"
    assert d.fileno() >= 0


def test_behind_the_ports_back_without_a_successor(make_port, make_net):
    port = make_port()
    net = make_net(port)
    ops = []
    for _ in range(10):
        a, _ = net.pair()
        ops.append(port.recv(a, 10))
        a.close()
    port.close()
    assert all(op.done for op in ops)


def test_behind_the_ports_back_while_idle(port, net):
    """Closed between operations: that is allowed."""
    for number in range(20):
        a, b = tcp_pair()
        peer = SystemPeer(net, b)
        receive = port.recv(a, 10)
        peer.send(b"%d" % number)
        assert net.result(receive) == b"%d" % number
        a.close()
        b.close()
    net.nothing_more()


def test_what_is_forgotten_is_closed(port):
    """A socket that nobody holds, idle: the port does not keep it."""
    a, b = tcp_pair()
    port.associate(a, "key")
    b.settimeout(LIMIT)
    with pytest.warns(ResourceWarning):
        del a
    assert b.recv(1) == b""
    b.close()
