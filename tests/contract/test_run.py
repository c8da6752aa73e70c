"""run and stop: the worker loop and its callbacks, in one thread."""

from __future__ import annotations

import threading

import pytest
from support.system import LIMIT, wait_until


def stopper(port):
    return lambda op: port.stop()


def test_callbacks_are_called(port, net):
    a, peer = net.pair()
    seen = []
    port.recv(a, 10, callback=lambda op: (seen.append((op.done, op.result())), port.stop()))
    peer.send(b"data")
    # A simulated peer sends through the port, and may have taken the receive out with it.
    if not net.kept:
        port.run()
        assert seen == [(True, b"data")]


def test_the_callback_gets_its_operation(port):
    seen = []
    op = port.timer(0, callback=seen.append)
    port.timer(0.001, callback=stopper(port))
    port.run()
    assert seen == [op]


def test_without_a_callback_it_merely_becomes_done(port):
    op = port.timer(0)
    port.post("no callback either")

    def stop_at_the_end(_):
        if port.in_flight == 0:
            port.stop()
        else:
            port.post(callback=stop_at_the_end)

    port.post(callback=stop_at_the_end)
    port.run()
    assert op.done
    assert op.result() is None
    assert port.in_flight == 0


def test_callbacks_in_the_order_of_completion(port):
    seen = []
    for number in range(100):
        port.timer(0, callback=lambda op, number=number: seen.append(number))
    port.timer(0.001, callback=stopper(port))
    port.run()
    assert seen == list(range(100))


def test_callbacks_submit_more(port, net):
    """A chain: each callback starts the next operation."""
    seen = []

    def callback(op) -> None:
        seen.append(op)
        if len(seen) == 200:
            port.stop()
        else:
            port.timer(0, callback=callback)

    port.timer(0, callback=callback)
    port.run()
    assert len(seen) == 200


def test_an_echo_conversation(port, net):
    """Receive, send back, receive, by callbacks alone."""
    a, peer = net.pair()
    b = peer.handle if net.simulated else peer.sock
    echoed = []

    def received(op) -> None:
        if data := op.result():
            port.send(op.handle, data, callback=lambda op: port.recv(a, 100, callback=received))

    def answered(op) -> None:
        echoed.append(op.result())
        if len(echoed) < 50:
            ask()
        else:
            port.stop()

    def ask() -> None:
        port.recv(b, 100, callback=answered)
        port.send(b, b"%d" % len(echoed))

    port.recv(a, 100, callback=received)
    ask()
    port.run()
    assert echoed == [b"%d" % number for number in range(50)]
    # The last callback of a send may still be outstanding, and one receive of ours is.
    while port.in_flight:
        op = port.get(0)
        if op is None:
            break
        if op.kind == "send":
            assert op.result()
    if port.in_flight:
        net.close(peer if net.simulated is False else peer.handle)
        while port.in_flight:
            assert port.get(LIMIT)


def test_an_exception_goes_to_the_hook(port, unraisable):
    """And the loop goes on."""
    seen = []

    def fail(op) -> None:
        raise ZeroDivisionError(op.kind)

    for _ in range(3):
        port.timer(0, callback=fail)
        port.timer(0, callback=seen.append)
    port.timer(0.001, callback=stopper(port))
    port.run()
    assert [type(error) for error in unraisable] == [ZeroDivisionError] * 3
    assert len(seen) == 3


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_those_that_leave_run(port, unraisable, kind):
    """Nothing is lost by it: the next run() goes on with the rest."""
    seen = []

    def leave(op) -> None:
        raise kind("out")

    port.timer(0, callback=leave)
    for _ in range(10):
        port.timer(0, callback=seen.append)
    with pytest.raises(kind):
        port.run()
    assert port.stats()["workers"] == 0
    port.timer(0.001, callback=stopper(port))
    port.run()
    assert len(seen) == 10
    assert unraisable == []


def test_stop_is_sticky(port):
    port.stop()
    port.run()
    port.run()
    port.stop()
    port.run()


def test_get_goes_on_after_stop(port, net):
    port.stop()
    port.post("still served")
    assert port.get(LIMIT).result() == "still served"
    a, peer = net.pair()
    op = port.recv(a, 10)
    peer.send(b"x")
    assert net.result(op) == b"x"


def test_stop_leaves_the_rest_to_get(port):
    """What was dequeued together with the stopping one is not lost."""
    seen = []
    port.timer(0, callback=stopper(port))
    ops = [port.timer(0, callback=seen.append) for _ in range(20)]
    port.run()
    while port.in_flight:
        assert port.get(LIMIT)
    assert all(op.done for op in ops)


def test_get_inside_a_callback(port):
    """A callback may wait itself, for any completion, on the same port."""
    seen = []

    def callback(op) -> None:
        port.post("inner")
        inner = port.get(LIMIT)
        seen.append(inner.result())
        port.stop()

    port.timer(0, callback=callback)
    port.run()
    assert seen == ["inner"]


def test_get_inside_a_callback_takes_from_the_same_batch(port):
    """What was dequeued together with the running callback is there for a get() inside it."""
    seen = []

    def callback(op) -> None:
        for _ in range(20):
            seen.append(port.get(LIMIT))
        port.stop()

    port.timer(0, callback=callback)
    ops = [port.timer(0) for _ in range(20)]
    port.run()
    assert seen == ops


@pytest.mark.system
def test_run_inside_a_callback(port):
    """A nested loop serves the rest, until the stop that ends both."""
    seen = []

    def outer(op) -> None:
        port.timer(0, callback=seen.append)
        port.timer(0.001, callback=stopper(port))
        try:
            port.run()
        except RuntimeError as error:  # or it is refused
            seen.append(error)
            port.stop()

    port.timer(0, callback=outer)
    port.run()
    while port.in_flight:
        assert port.get(LIMIT)
    assert seen


@pytest.mark.system
def test_cancel_and_close_handle_inside_a_callback(port, net):
    a, peer = net.pair()
    b, _ = net.pair()
    ended = []
    waiting = port.recv(a, 10, callback=lambda op: ended.append(op.cancelled))
    other = port.recv(b, 10, callback=lambda op: (ended.append(op.cancelled), port.stop()))

    def callback(op) -> None:
        assert waiting.cancel()
        port.close_handle(b)

    port.timer(0, callback=callback)
    port.run()
    if not waiting.done:
        net.finish(waiting)
    assert other.cancelled
    assert peer.sock.fileno() >= 0


@pytest.mark.system
def test_stop_from_another_thread(port):
    waits = port.stats()["waits"]
    thread = threading.Thread(target=port.run)
    thread.start()
    wait_until(lambda: port.stats()["waits"] > waits, "a wait")
    assert port.stats()["workers"] == 1
    port.stop()
    thread.join(LIMIT)
    assert not thread.is_alive()
    assert port.stats()["workers"] == 0


@pytest.mark.system
def test_an_accept_loop(port, net, workers):
    """A listener served by workers, as a server would."""
    listener, address = net.listener()
    served = []

    def accepted(op) -> None:
        sock, _ = op.result()
        port.accept(listener, callback=accepted)
        port.recv(sock, 100, callback=received)

    def received(op) -> None:
        data = op.result()
        if data:
            port.send(op.handle, data.upper())
            port.recv(op.handle, 100, callback=received)
        else:
            port.close_handle(op.handle)
            served.append(op.handle)

    waiting = port.accept(listener, callback=accepted)
    net.pumping = False
    with workers(port, 2):
        for number in range(20):
            peer = net.dial(address)
            peer.send(b"hello %d" % number)
            assert peer.recv(6 + len(str(number))) == b"HELLO %d" % number
            peer.close()
        wait_until(lambda: len(served) == 20, "the end of twenty streams")
    assert waiting.done
    port.close_handle(listener)
    while port.in_flight:
        assert port.get(LIMIT)
