"""An operation: submitted, handed out once, done; its result, its error, its attributes."""

from __future__ import annotations

import gc
import selectors
import weakref

import iocpcore
import pytest


def test_a_receive_and_a_send(port, net):
    a, peer = net.pair()
    receive = port.recv(a, 100)
    peer.send(b"hello")
    assert net.result(receive) == b"hello"
    send = port.send(a, b"world!")
    assert net.result(send) == 6
    assert peer.recv(6) == b"world!"
    net.nothing_more()


def test_not_done_before_it_is_handed_out(port, net):
    a, peer = net.pair()
    op = port.recv(a, 100)
    assert not op.done
    with pytest.raises(iocpcore.InvalidStateError):
        op.result()
    peer.send(b"x")
    # The bytes are there, perhaps the kernel has them in the buffer: nobody took it yet.
    fresh = port.send(a, b"y")
    assert not fresh.done
    with pytest.raises(iocpcore.InvalidStateError):
        fresh.result()
    net.finish(op, fresh)
    assert op.done
    assert fresh.done
    assert op.error is None
    assert not op.cancelled


def test_result_can_be_asked_again(port, net):
    a, peer = net.pair()
    op = port.recv(a, 100)
    peer.send(b"again")
    assert net.result(op) == b"again"
    assert op.result() == b"again"


def test_get_returns_the_object_that_was_submitted(port, net):
    a, peer = net.pair()
    op = port.recv(a, 1)
    peer.send(b"x")
    assert net.take(1)[-1].done
    assert op.done
    posted = object()
    port.post(posted)
    taken = port.get(10)
    assert taken is not op
    assert taken.result() is posted


def test_in_flight_counts_what_was_not_handed_out(port, net):
    a, peer = net.pair()
    assert port.in_flight == 0
    op = port.recv(a, 1)
    assert port.in_flight == 1
    port.post()
    port.timer(0)
    assert port.in_flight == 3
    peer.send(b"x")
    net.finish(op)
    while port.in_flight:
        net.pump(1)
    assert port.in_flight == 0


def test_get_at_its_deadline(port):
    assert port.get(0) is None
    assert port.get(timeout=0.01) is None
    assert port.get_many(10, 0) == []
    assert port.get_many(timeout=0.01) == []


def test_get_many_takes_no_more_than_asked(port):
    for value in range(10):
        port.post(value)
    first = port.get_many(4, 1)
    assert [op.result() for op in first] == [0, 1, 2, 3]
    rest = port.get_many(timeout=1)
    assert [op.result() for op in rest] == [4, 5, 6, 7, 8, 9]


def test_kind_key_handle_and_callback(port, net):
    a, peer = net.pair()
    key = object()
    port.associate(a, key)

    def callback(op):
        raise AssertionError("get() calls no callbacks")

    op = port.recv(a, 10, callback=callback)
    assert (op.kind, op.key, op.handle, op.callback) == ("recv", key, a, callback)
    peer.send(b"x")
    assert net.result(op) == b"x"
    assert (op.kind, op.key, op.handle) == ("recv", key, a)


def test_attributes_are_read_only(port, net):
    """An operation tells what happens; it is not told."""
    op = port.timer(0)
    assert op.callback is None
    for name in ("kind", "key", "handle", "callback", "done", "cancelled", "error"):
        with pytest.raises(AttributeError):
            setattr(op, name, None)
    net.finish(op)


def test_kinds(port, net):
    """`kind` is the name of the method."""
    a, peer = net.pair()
    udp, address = net.datagram()
    file = net.file(b"0123456789")
    listener, listening = net.listener()
    ops = {
        "recv": port.recv(a, 4),
        "recv_into": port.recv_into(a, bytearray(4)),
        "send": port.send(a, b"abc"),
        "recv_from": port.recv_from(udp, 10),
        "send_to": port.send_to(udp, b"datagram", address),
        "accept": port.accept(listener),
        "connect": port.connect(net.stream(), listening),
        "read": port.read(file, 10, 0),
        "read_into": port.read_into(file, bytearray(10), 0),
        "write": port.write(file, b"x", 10),
        "sync": port.sync(file),
        "poll": port.poll(a, selectors.EVENT_WRITE),
        "timer": port.timer(0),
    }
    peer.send(b"12345678")
    net.finish(*ops.values())
    assert {kind: op.kind for kind, op in ops.items()} == {kind: kind for kind in ops}
    net.taken(ops["accept"].result()[0])


def test_stats_add_up(port, net):
    before = port.stats()
    a, peer = net.pair()
    cancelled = port.recv(a, 1)
    cancelled.cancel()
    net.finish(cancelled)
    completed = port.recv(a, 1)
    peer.send(b"x")
    net.finish(completed)
    failed = port.connect(net.stream(), ("127.0.0.1", 1))
    net.finish(failed)
    if isinstance(failed.error, OSError):
        stats = port.stats()
        assert stats["cancelled"] - before["cancelled"] == 1
        assert stats["failed"] - before["failed"] == 1
        assert stats["completed"] - before["completed"] >= 1
        ends = stats["completed"] + stats["failed"] + stats["cancelled"]
        assert stats["submitted"] == ends
    assert stats["in_flight"] == 0
    assert stats["handles"] >= 2
    assert stats["workers"] == 0
    for name in ("waits", "wakes", "handovers"):
        assert stats[name] >= 0


def test_nothing_keeps_what_is_over(port, net):
    """Keys, callbacks, values and results go when the operation goes."""

    class Thing:
        def __call__(self, op):
            pass

    things = [Thing(), Thing(), Thing()]
    watches = [weakref.ref(thing) for thing in things]
    a, peer = net.pair()
    port.associate(a, things[0])
    op = port.recv(a, 10, callback=things[1])
    peer.send(b"x")
    net.finish(op)
    port.post(things[2])
    taken = net.take(1)
    while taken[-1].kind != "post":
        taken = net.take(1)
    watch = weakref.ref(op) if type(op).__weakrefoffset__ else None
    port.associate(a, None)
    del op, taken, things
    net.forget()
    gc.collect()
    assert [ref() for ref in watches] == [None, None, None]
    assert watch is None or watch() is None


def test_an_operation_lives_without_its_owner(port, net):
    """Who forgets the operation still gets it from get()."""
    a, peer = net.pair()
    port.recv(a, 10)
    gc.collect()
    peer.send(b"kept")
    ops = net.take(1)
    assert b"kept" in [op.result() for op in ops]


def test_a_cycle_through_an_operation_is_collected(port, net):
    class Thing:
        def callback(self, op):
            pass

    thing = Thing()
    watch = weakref.ref(thing)
    thing.op = port.timer(0, callback=thing.callback)
    net.finish(thing.op)
    net.forget()
    del thing
    gc.collect()
    assert watch() is None


def test_repr_says_what_it_is(port, net):
    a, peer = net.pair()
    op = port.recv(a, 10)
    assert "recv" in repr(op)
    peer.send(b"x")
    net.finish(op)
    assert "recv" in repr(op)
    assert port.backend in repr(port)


def test_operations_are_not_made_by_hand():
    with pytest.raises(TypeError):
        iocpcore.Operation()
