"""Association: by identity, with a key, through a weak reference."""

from __future__ import annotations

import gc
import os
import socket
import threading
import weakref

import pytest
from support.net import SystemPeer, tcp_pair
from support.system import LIMIT, POLLOUT, WINDOWS, scaled


def test_the_key_of_the_association(port, net):
    a, peer = net.pair()
    port.associate(a, "key")
    op = port.recv(a, 10)
    assert op.key == "key"
    peer.send(b"x")
    net.finish(op)
    assert port.stats()["handles"] >= 1


def test_using_a_handle_associates_it(port, net):
    a, peer = net.pair()
    op = port.recv(a, 10)
    assert op.key is None
    peer.send(b"x")
    net.finish(op)


def test_associating_again_sets_the_key(port, net):
    a, peer = net.pair()
    port.associate(a, "first")
    first = port.recv(a, 1)
    port.associate(a, key="second")
    second = port.recv(a, 1)
    peer.send(b"xy")
    net.finish(first, second)
    assert second.key == "second"
    port.associate(a)
    third = port.recv(a, 1)
    peer.send(b"z")
    net.finish(third)
    assert third.key is None


@pytest.mark.system
def test_association_makes_a_socket_non_blocking(port, net):
    for use in (port.associate, lambda sock: port.poll(sock, POLLOUT)):
        a, b = tcp_pair()
        net.keep(b)
        net.keep(a)
        assert a.getblocking()
        use(a)
        assert not a.getblocking()
        assert a.gettimeout() == 0
    net.take(1)


@pytest.mark.system
def test_dissociate(port, net):
    a, peer = net.pair()
    port.associate(a, "key")
    handles = port.stats()["handles"]
    port.dissociate(a)
    assert port.stats()["handles"] == handles - 1
    with pytest.raises(ValueError, match="handle"):
        port.dissociate(a)
    op = port.recv(a, 10)
    assert op.key is None
    peer.send(b"back")
    assert net.result(op) == b"back"


def test_dissociate_with_work_in_flight(port, net):
    a, peer = net.pair()
    op = port.recv(a, 10)
    with pytest.raises(ValueError, match="flight"):
        port.dissociate(a)
    peer.send(b"x")
    net.finish(op)
    port.dissociate(a)


@pytest.mark.system
@pytest.mark.skipif(WINDOWS, reason="on Windows a handle stays with its port for life")
def test_from_port_to_port(make_port, make_net):
    one, two = make_port(), make_port()
    net = make_net(two)
    a, peer = net.pair()
    one.associate(a)
    with pytest.raises(ValueError, match="port"):
        two.associate(a)
    one.dissociate(a)
    op = two.recv(a, 10)
    peer.send(b"moved")
    assert net.result(op) == b"moved"


@pytest.mark.system
@pytest.mark.skipif(WINDOWS, reason="on Windows a handle stays with its port for life")
def test_two_ports_and_one_number(make_port, make_net):
    """Whether it is given as an object or as an integer."""
    one, two = make_port(), make_port()
    net = make_net(two)
    a, _ = net.pair()
    one.associate(a)
    with pytest.raises(ValueError, match="sock is associated with another port"):
        two.recv(a.fileno(), 5)
    one.dissociate(a)
    two.associate(a.fileno())
    with pytest.raises(ValueError, match="sock is associated with another port"):
        one.recv(a, 5)
    with pytest.raises(ValueError, match="handle is associated with another port"):
        one.associate(a.fileno())
    two.dissociate(a.fileno())
    one.associate(a)
    number = a.detach()
    net.disown(a)
    two.associate(number)  # the object that the other port knows is closed
    two.close_handle(number)


@pytest.mark.system
@pytest.mark.skipif(WINDOWS, reason="on Windows a handle stays with its port for life")
def test_two_ports_at_once(make_port, net, port):
    """The other port gets to know the handle while this one is about to."""
    other = make_port()

    class Meanwhile:
        def __init__(self, sock):
            self.sock = sock
            self.others = False

        def fileno(self):
            return self.sock.fileno()

        def setblocking(self, blocking):
            self.sock.setblocking(blocking)
            if not self.others:
                self.others = True
                other.associate(self)

    a, peer = net.pair()
    wanted = Meanwhile(a)
    handles = port.stats()["handles"]
    with pytest.raises(ValueError, match="handle is associated with another port"):
        port.associate(wanted)
    assert port.stats()["handles"] == handles
    other.dissociate(wanted)
    op = port.recv(wanted, 10)
    peer.send(b"x")
    assert net.result(op) == b"x"


@pytest.mark.system
@pytest.mark.stress
@pytest.mark.skipif(WINDOWS, reason="on Windows a handle stays with its port for life")
def test_two_threads_with_two_ports(make_port, net, port):
    """At most one of them gets the handle."""
    ports = [port, make_port()]
    a, _ = net.pair()
    together = threading.Barrier(2)
    gained = [[], []]

    def associate(index):
        for _ in range(scaled(500)):
            together.wait(LIMIT)
            try:
                ports[index].associate(a)
                gained[index].append(True)
            except ValueError:
                gained[index].append(False)
            together.wait(LIMIT)
            if gained[index][-1]:
                ports[index].dissociate(a)

    threads = [threading.Thread(target=associate, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert len(gained[0]) == len(gained[1]) == scaled(500)
    assert (True, True) not in zip(*gained, strict=True)


@pytest.mark.system
def test_the_key_lives_as_long_as_the_association(port):
    class Key:
        pass

    def watched(sock):
        key = Key()
        port.associate(sock, key)
        return weakref.ref(key)

    a, b = tcp_pair()
    watch = watched(a)
    gc.collect()
    assert watch() is not None
    port.associate(a, None)
    gc.collect()
    assert watch() is None
    watch = watched(a)
    port.dissociate(a)
    gc.collect()
    assert watch() is None
    watch = watched(a)
    a.close()
    del a
    gc.collect()
    assert watch() is None
    b.close()


@pytest.mark.system
def test_the_port_holds_no_socket(port):
    a, b = tcp_pair()
    port.associate(a)
    handles = port.stats()["handles"]
    watch = weakref.ref(a)
    a.close()
    del a
    gc.collect()
    assert watch() is None
    port.post()
    assert port.get(LIMIT)
    assert port.stats()["handles"] == handles - 1
    b.close()


@pytest.mark.system
def test_an_operation_holds_its_socket(port, net):
    """Nobody else does: it must not be closed under the operation."""
    a, b = tcp_pair()
    peer = SystemPeer(net, net.keep(b))
    op = port.recv(a, 10)
    watch = weakref.ref(a)
    del a
    gc.collect()
    assert watch() is not None
    peer.send(b"held")
    assert net.result(op) == b"held"
    op.handle.close()


@pytest.mark.system
def test_a_new_socket_with_an_old_number(port, net):
    """It is another handle, without the old one's key."""
    a, b = tcp_pair()
    port.associate(a, "old")
    number = a.fileno()
    a.close()
    b.close()
    for _ in range(20):
        a, b = tcp_pair()
        net.keep(a)
        net.keep(b)
        if number in (a.fileno(), b.fileno()):
            break
    near, far = (a, b) if a.fileno() == number else (b, a)
    peer = SystemPeer(net, far)
    op = port.recv(near, 10)
    assert op.key is None
    peer.send(b"new")
    assert net.result(op) == b"new"


@pytest.mark.system
def test_integer_handles(port, net):
    a, peer = net.pair()
    number = a.fileno()
    a.setblocking(False)
    port.associate(number, "by number")
    op = port.recv(number, 10)
    assert (op.key, op.handle) == ("by number", number)
    peer.send(b"x")
    assert net.result(op) == b"x"
    assert net.result(port.send(number, b"y")) == 1
    assert peer.recv(1) == b"y"
    waiting = port.recv(number, 10)
    with pytest.raises(ValueError, match="flight"):
        port.dissociate(number)
    waiting.cancel()
    net.finish(waiting)
    port.dissociate(number)
    with pytest.raises(ValueError, match="handle"):
        port.dissociate(number)


@pytest.mark.system
@pytest.mark.skipif(WINDOWS, reason="Windows file numbers are no handles")
def test_integer_files(port, net, tmp_path):
    number = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    assert net.result(port.write(number, b"data", 0)) == 4
    assert net.result(port.read(number, 10, 1)) == b"ata"
    port.dissociate(number)
    os.close(number)


@pytest.mark.system
def test_close_handle_of_a_number(port, net):
    """The port closes it, as there is no object to do so."""
    a, peer = net.pair()
    number = a.detach()
    net.disown(a)
    op = port.recv(number, 10)
    port.close_handle(number)
    net.finish(op)
    assert op.cancelled
    assert peer.recv(1) == b""


@pytest.mark.system
@pytest.mark.skipif(WINDOWS, reason="on Windows two objects of one handle need one association")
def test_two_objects_of_one_descriptor(port, net):
    """Each by its identity; the numbers differ, the connection is one."""
    a, peer = net.pair()
    again = net.keep(socket.socket(fileno=os.dup(a.fileno())))
    port.associate(a, "one")
    port.associate(again, "two")
    op = port.recv(again, 10)
    assert op.key == "two"
    peer.send(b"x")
    assert net.result(op) == b"x"


@pytest.mark.system
def test_a_subclass_and_an_object_with_fileno(port, net):
    class Wrapper:
        def __init__(self, sock):
            self.sock = sock

        def fileno(self):
            return self.sock.fileno()

    class Slotted:
        __slots__ = ("sock",)
        fileno = Wrapper.fileno

    a, peer = net.pair()
    if not WINDOWS:
        wrapper = Wrapper(a)
        op = port.recv(wrapper, 10)
        assert op.handle is wrapper
        peer.send(b"x")
        assert net.result(op) == b"x"
        port.dissociate(wrapper)
    slotted = Slotted()
    slotted.sock = net.file(b"x")
    with pytest.raises(TypeError, match=r"file must .* weak references, not Slotted"):
        port.read(slotted, 10, 0)
