"""close: whatever is in flight ends, in time; nobody waits on."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import threading
import time

import iocpcore
import pytest
from support import child
from support.system import LIMIT, LINUX, POLLIN, wait_until


def everything(port, net):
    """Work of every kind that nothing will complete, and some that the system is about to."""
    a, _ = net.pair()
    udp, _ = net.datagram()
    listener, _ = net.listener()
    waiting = [port.recv(a, 10) for _ in range(3)]
    waiting += [port.recv_into(net.pair()[0], bytearray(10)), port.recv_from(udp, 10)]
    waiting += [port.accept(listener), port.accept(listener), port.poll(a, POLLIN)]
    waiting += [port.timer(1000), port.timer(2000)]
    if not net.simulated:
        blocked, _ = net.pair()
        net.fill(blocked)
        waiting += [port.send(blocked, bytes(1 << 20)), port.send(blocked, b"x")]
        waiting.append(port.send_file(blocked, net.file(bytes(1 << 20))))
        address = net.silent_address()
        if address:
            waiting += [port.connect(net.stream(), address) for _ in range(2)]
    file = net.file(bytes(1 << 20))
    brief = [port.read(file, 1 << 16, 1000 * number) for number in range(20)]
    brief += [port.write(file, b"x", 0), port.sync(file), port.timer(0)]
    brief.append(port.send(net.pair()[0], b"sent"))
    port.post("posted")
    return waiting, brief


def check_closed_call(call, *args):
    with pytest.raises(ValueError, match="port is closed"):
        call(*args)


def test_with_everything_in_flight(make_port, make_net):
    port = make_port()
    net = make_net(port)
    waiting, brief = everything(port, net)
    begin = time.monotonic()
    port.close(timeout=10)
    assert time.monotonic() - begin < 10
    for op in waiting:
        assert op.done, op
        assert op.cancelled, op
        assert op.error.errno == errno.ECANCELED
    for op in brief:
        assert op.done, op
        assert op.cancelled or op.error is None, op


def test_buffers_are_free_after_close(make_port, make_net):
    port = make_port()
    net = make_net(port)
    buffer = bytearray(10)
    port.recv_into(net.pair()[0], buffer)
    with pytest.raises(BufferError):
        buffer.clear()
    port.close()
    buffer.clear()


def test_sockets_are_left_open(make_port, make_net):
    """They are the user's."""
    port = make_port()
    net = make_net(port)
    if net.simulated:
        pytest.skip("the simulated sockets end with their port")
    a, peer = net.pair()
    op = port.recv(a, 10)
    port.close()
    assert op.cancelled
    net.pumping = False
    peer.send(b"still")
    a.settimeout(LIMIT)
    assert a.recv(10) == b"still"


def test_later_calls(make_port, make_net):
    port = make_port()
    net = make_net(port)
    a, _ = net.pair()
    udp, address = net.datagram()
    listener, listening = net.listener()
    file = net.file(b"x")
    port.close()
    check_closed_call(port.associate, a)
    check_closed_call(port.dissociate, a)
    check_closed_call(port.recv, a, 1)
    check_closed_call(port.recv_into, a, bytearray(1))
    check_closed_call(port.send, a, b"x")
    check_closed_call(port.accept, listener)
    check_closed_call(port.connect, a, listening)
    check_closed_call(port.recv_from, udp, 1)
    check_closed_call(port.send_to, udp, b"x", address)
    check_closed_call(port.send_file, a, file)
    check_closed_call(port.read, file, 1, 0)
    check_closed_call(port.read_into, file, bytearray(1), 0)
    check_closed_call(port.write, file, b"x", 0)
    check_closed_call(port.sync, file)
    check_closed_call(port.poll, a, POLLIN)
    check_closed_call(port.timer, 1)
    check_closed_call(port.post)
    check_closed_call(port.get, 0)
    check_closed_call(port.get_many, 1, 0)
    check_closed_call(port.run)


def test_what_was_handed_out_before(make_port, make_net):
    """Operations outlive their port."""
    port = make_port()
    net = make_net(port)
    a, peer = net.pair()
    op = port.recv(a, 10)
    peer.send(b"before")
    assert net.result(op) == b"before"
    waiting = port.recv(a, 10)
    port.close()
    assert op.result() == b"before"
    assert op.cancel() is False
    assert waiting.cancel() is False
    assert waiting.cancelled
    repr(op), repr(waiting), repr(port)


@pytest.mark.system
@pytest.mark.parametrize("call", ["get", "get_many", "run"])
def test_waiting_calls(make_port, call):
    port = make_port()
    raised = []
    waits = port.stats()["waits"]

    def wait() -> None:
        try:
            getattr(port, call)()
        except ValueError as error:
            raised.append(str(error))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: port.stats()["waits"] > waits, "a wait")
    port.close()
    for thread in threads:
        thread.join(LIMIT)
    assert raised == ["port is closed"] * 3


@pytest.mark.system
def test_while_others_submit(make_port, make_net):
    """They get an operation that ends, or the error of a closed port."""
    port = make_port()
    net = make_net(port)
    a, _ = net.pair()
    ops = []
    ends = []

    def submit() -> None:
        try:
            while True:
                if len(ops) < 10_000:  # in guard mode each is a mapping of its own
                    ops.append(port.recv(a, 10))
                    ops.append(port.timer(100))
                port.post()
                port.get(0)
        except ValueError as error:
            ends.append(str(error))

    threads = [threading.Thread(target=submit) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(ops) > 100, "operations")
    port.close()
    for thread in threads:
        thread.join(LIMIT)
    assert ends == ["port is closed"] * 3
    assert all(op.done for op in ops)


def test_twice(make_port):
    port = make_port()
    port.close()
    port.close()
    port.close(timeout=0)


@pytest.mark.system
def test_from_several_threads_at_once(make_port, make_net):
    port = make_port()
    net = make_net(port)
    ops = [port.recv(net.pair()[0], 10) for _ in range(20)]
    errors = []

    def close() -> None:
        try:
            port.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert not errors
    assert all(op.cancelled for op in ops)


@pytest.mark.system
def test_from_a_callback(make_port, make_net):
    """The run() that called it returns."""
    port = make_port()
    net = make_net(port)
    waiting = port.recv(net.pair()[0], 10)
    port.timer(0, callback=lambda op: port.close())
    port.run()
    assert waiting.cancelled
    check_closed_call(port.get, 0)


@pytest.mark.system
def test_from_a_callback_with_other_workers(make_port, make_net):
    port = make_port(2)
    net = make_net(port)
    waiting = port.recv(net.pair()[0], 10)
    ends = []

    def work() -> None:
        try:
            port.run()
            ends.append("returned")
        except ValueError as error:
            ends.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: port.stats()["workers"] == 3, "three workers")
    port.timer(0, callback=lambda op: port.close())
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(ends) == ["port is closed", "port is closed", "returned"]
    assert waiting.cancelled


@pytest.mark.system
def test_while_a_callback_runs(make_port):
    """The callback finishes; its run() then finds the port closed."""
    port = make_port()
    begun, go_on, finished = threading.Event(), threading.Event(), threading.Event()
    ends = []

    def callback(op) -> None:
        begun.set()
        go_on.wait(LIMIT)
        finished.set()

    def work() -> None:
        try:
            port.run()
        except ValueError as error:
            ends.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    port.timer(0, callback=callback)
    assert begun.wait(LIMIT)
    closer = threading.Thread(target=port.close)
    closer.start()
    wait_until(lambda: is_closed(port), "a closed port")
    go_on.set()
    closer.join(LIMIT)
    thread.join(LIMIT)
    assert finished.is_set()
    assert ends == ["port is closed"]


def is_closed(port) -> bool:
    try:
        port.post()
    except ValueError:
        return True
    return False


def test_context_manager(backend):
    with iocpcore.CompletionPort(backend=backend) as port:
        op = port.timer(1000)
        assert port.get(0) is None
    assert op.cancelled
    check_closed_call(port.get, 0)


def test_context_manager_with_an_exception(backend):
    with pytest.raises(ZeroDivisionError), iocpcore.CompletionPort(backend=backend) as port:
        raise ZeroDivisionError
    check_closed_call(port.post)


def test_closing_it_inside_its_context(backend):
    with iocpcore.CompletionPort(backend=backend) as port:
        port.close()


def test_a_forgotten_port_warns(backend):
    """And is closed all the same."""
    holder = [iocpcore.CompletionPort(backend=backend)]
    with pytest.warns(ResourceWarning, match="CompletionPort"):
        forget(holder)


def forget(things: list) -> None:
    things.clear()
    gc.collect()


@pytest.mark.system
def test_no_timeout(make_port, make_net):
    """A limit of nothing still cancels everything that can be cancelled at once."""
    port = make_port()
    net = make_net(port)
    ops = [port.recv(net.pair()[0], 10), port.timer(1000)]
    with contextlib.suppress(ResourceWarning):
        port.close(timeout=1)
    assert all(op.done and op.cancelled for op in ops)


@pytest.mark.system
@pytest.mark.skipif(not LINUX, reason="counts descriptors in /proc")
def test_descriptors_go_at_once(backend):
    """Not at some later collection."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        iocpcore.CompletionPort(backend=backend).close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.system
@pytest.mark.stress
def test_opened_and_closed_with_work_again_and_again(make_port, make_net):
    """Leftovers of one port never reach the next one."""
    for _ in range(20):
        port = make_port()
        net = make_net(port)
        a, peer = net.pair()
        ops = [port.recv(a, 10) for _ in range(10)]
        peer.send(b"xxx")
        port.timer(0)
        port.close()
        assert all(op.done for op in ops)
        net.pumping = False
        net.end()


STUCK = """
import errno, gc, warnings
import iocpcore
from support import sim

port = iocpcore.CompletionPort()
a, b = sim.pair(port)
sim.configure(port, stuck=True)
buffer = bytearray(10)
op = port.recv_into(a, buffer)
timer = port.timer(1000)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    port.close(timeout=0.5)
assert [warning.category for warning in caught] == [ResourceWarning], caught
assert "1" in str(caught[0].message)
for ended in (op, timer):
    assert ended.done and ended.cancelled and ended.error.errno == errno.ECANCELED
port.close()
try:
    buffer.clear()
except BufferError:
    print("the kernel still has it")
del port, op, timer
gc.collect()
"""


def test_what_the_kernel_does_not_give_back():
    """It is leaked, with a warning, and never freed: the kernel may still write there."""
    child.check(STUCK, "sim", output="the kernel still has it")
