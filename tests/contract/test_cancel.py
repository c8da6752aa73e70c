"""cancel: every kind of operation, before, during and after its completion. It ends exactly once,
as cancelled or as completed; what it did not take is still there."""

from __future__ import annotations

import errno
import random
import threading

import pytest
from support.system import LIMIT, POLLIN, scaled

# ---- one that would wait for ever, of each kind: a function of (port, net) -----------------------


def start_recv(port, net):
    return port.recv(net.pair()[0], 10)


def start_recv_into(port, net):
    return port.recv_into(net.pair()[0], bytearray(10))


def start_accept(port, net):
    return port.accept(net.listener()[0])


def start_recv_from(port, net):
    return port.recv_from(net.datagram()[0], 10)


def start_poll(port, net):
    return port.poll(net.pair()[0], POLLIN)


def start_timer(port, net):
    return port.timer(1000)


WAITING = {
    function.__name__.removeprefix("start_"): function
    for function in (
        start_recv,
        start_recv_into,
        start_accept,
        start_recv_from,
        start_poll,
        start_timer,
    )
}


def start_connect(port, net):
    address = net.silent_address()
    if address is None:
        pytest.skip("every address answers at once here")
    return port.connect(net.stream(), address)


def start_send(port, net):
    a, _ = net.pair()
    net.fill(a)
    return port.send(a, bytes(1 << 22))


def start_send_file(port, net):
    a, _ = net.pair()
    net.fill(a)
    return port.send_file(a, net.file(bytes(1 << 22)))


WAITING_ON_THE_SYSTEM = {
    function.__name__.removeprefix("start_"): function
    for function in (start_connect, start_send, start_send_file)
}


# ---- those that the system ends soon by itself ---------------------------------------------------

BRIEF = {
    "read": lambda port, net: port.read(net.file(bytes(100)), 100, 0),
    "read_into": lambda port, net: port.read_into(net.file(bytes(100)), bytearray(100), 0),
    "write": lambda port, net: port.write(net.file(), bytes(100), 0),
    "sync": lambda port, net: port.sync(net.file(b"x")),
    "send": lambda port, net: port.send(net.pair()[0], b"x"),
    "send_to": lambda port, net: port.send_to(net.datagram()[0], b"x", net.datagram()[1]),
    "send_file": lambda port, net: port.send_file(net.pair()[0], net.file(b"x")),
    "connect": lambda port, net: port.connect(net.stream(), net.listener()[1]),
    "timer": lambda port, net: port.timer(0),
}


def check_cancelled(op):
    assert op.done
    assert op.cancelled
    assert type(op.error) is OSError
    assert op.error.errno == errno.ECANCELED
    with pytest.raises(OSError) as raised:
        op.result()
    assert raised.value.errno == errno.ECANCELED


def check_ended(op):
    """Cancelled or completed, never both, never neither."""
    assert op.done
    if op.cancelled:
        check_cancelled(op)
    else:
        assert op.error is None
        op.result()


def waiting(kind):
    return WAITING.get(kind) or WAITING_ON_THE_SYSTEM[kind]


@pytest.mark.parametrize("kind", WAITING)
def test_of_a_waiting_one(port, net, kind):
    op = WAITING[kind](port, net)
    assert op.cancel() is True
    assert not op.done or op.cancelled
    net.finish(op)
    check_cancelled(op)
    net.nothing_more()


@pytest.mark.system
@pytest.mark.parametrize("kind", WAITING_ON_THE_SYSTEM)
def test_of_one_that_the_system_delays(port, net, kind):
    op = WAITING_ON_THE_SYSTEM[kind](port, net)
    net.pump()
    assert not op.done
    assert op.cancel() is True
    net.finish(op)
    check_cancelled(op)
    net.nothing_more()


@pytest.mark.system
@pytest.mark.parametrize("kind", [*WAITING, *WAITING_ON_THE_SYSTEM])
def test_from_another_thread_while_this_one_waits(port, net, kind):
    op = waiting(kind)(port, net)
    thread = threading.Thread(target=op.cancel)
    thread.start()
    assert port.get(LIMIT) is op
    thread.join(LIMIT)
    check_cancelled(op)


@pytest.mark.parametrize("kind", BRIEF)
def test_of_a_brief_one(port, net, kind):
    """Whoever is faster."""
    for _ in range(scaled(20, 3)):
        op = BRIEF[kind](port, net)
        op.cancel()
        net.finish(op)
        check_ended(op)
    assert port.in_flight == 0


@pytest.mark.parametrize("kind", BRIEF)
def test_of_one_that_is_done(port, net, kind):
    """Too late: nothing changes."""
    op = BRIEF[kind](port, net)
    net.finish(op)
    assert op.error is None
    result = op.result()
    assert op.cancel() is False
    assert not op.cancelled
    assert op.result() == result
    net.nothing_more()


def test_of_one_that_has_completed_and_is_not_handed_out(port, net):
    """The bytes are in its buffer already: they are not thrown away."""
    a, peer = net.pair()
    op = port.recv(a, 10)
    peer.send(b"x")
    while port.in_flight > 1:
        net.pump()
    op.cancel()
    net.finish(op)
    if op.cancelled:
        assert net.result(port.recv(a, 10)) == b"x"
    else:
        assert op.result() == b"x"


def test_twice(port, net):
    op = port.recv(net.pair()[0], 10)
    op.cancel()
    op.cancel()
    net.finish(op)
    check_cancelled(op)
    assert op.cancel() is False
    net.nothing_more()


def test_one_of_several_receives(port, net):
    """Those behind it move up, with nothing lost between."""
    a, peer = net.pair()
    first, second, third = (port.recv(a, 4) for _ in range(3))
    second.cancel()
    peer.send(b"11112222")
    net.finish(first, second, third)
    check_cancelled(second)
    assert [first.result(), third.result()] == [b"1111", b"2222"]


def test_the_first_of_several_receives(port, net):
    a, peer = net.pair()
    first, second = port.recv(a, 4), port.recv(a, 4)
    net.pump()
    first.cancel()
    net.finish(first)
    peer.send(b"1234")
    net.finish(second)
    check_cancelled(first)
    assert second.result() == b"1234"


@pytest.mark.system
def test_a_send_behind_a_blocked_one(port, net):
    """It has not begun: none of its bytes go out, and those around it are whole."""
    a, peer = net.pair()
    filled = net.fill(a)
    first = port.send(a, b"1" * 100_000)
    second = port.send(a, b"2" * 100_000)
    third = port.send(a, b"3" * 100_000)
    second.cancel()
    net.finish(second)
    check_cancelled(second)
    data = peer.recv(filled + 200_000)[filled:]
    assert data == b"1" * 100_000 + b"3" * 100_000
    net.finish(first, third)


@pytest.mark.system
def test_a_send_under_way(port, net):
    """Some of it may have gone; what follows is not torn."""
    a, peer = net.pair()
    filled = net.fill(a)
    op = port.send(a, b"1" * 5_000_000)
    net.pump()
    after = port.send(a, b"after")
    peer.recv(filled)
    op.cancel()
    data = b""
    while not data.endswith(b"after"):
        data += peer.recv_some(1 << 20)
    net.finish(op, after)
    check_ended(op)
    assert set(data[:-5]) <= {ord("1")}
    assert op.cancelled or len(data) == 5_000_005
    assert after.result() == 5


def test_reuse_after_a_cancel(port, net):
    """A receive, a poll and an accept that come after a cancelled one know nothing of it."""
    a, peer = net.pair()
    for number in range(scaled(100, 10)):
        op = port.recv(a, 10)
        op.cancel()
        receive = port.recv(a, 10)
        peer.send(b"%d" % number)
        net.finish(op, receive)
        check_cancelled(op)
        assert receive.result() == b"%d" % number


def test_a_cancelled_accept_loses_nobody(port, net):
    for _ in range(scaled(30, 5)):
        listener, address = net.listener()
        op = port.accept(listener)
        op.cancel()
        peer = net.dial(address)
        net.finish(op)
        if op.cancelled:
            op = port.accept(listener)
        sock, _ = net.result(op)
        net.taken(sock)
        peer.send(b"here")
        assert net.result(port.recv(sock, 10)) == b"here"


@pytest.mark.system
@pytest.mark.stress
def test_races_of_cancel_and_data_lose_no_byte(port, net):
    """Four bytes come while the receive is being cancelled: delivered, or still in the socket."""
    a, peer = net.pair()
    source = random.Random(6)
    ends = {True: 0, False: 0}
    begin, sent = threading.Barrier(2), threading.Barrier(2)
    rounds = scaled(1000)
    peer.sock.setblocking(True)

    def send() -> None:
        for number in range(rounds):
            begin.wait(LIMIT)
            peer.sock.sendall(b"%04d" % number)
            sent.wait(LIMIT)

    thread = threading.Thread(target=send)
    thread.start()
    for number in range(rounds):
        op = port.recv(a, 4)
        begin.wait(LIMIT)
        for _ in range(source.randrange(40)):
            pass
        op.cancel()
        net.finish(op)
        check_ended(op)
        ends[op.cancelled] += 1
        sent.wait(LIMIT)
        if op.cancelled:
            op = port.recv(a, 4)
            net.finish(op)
        assert op.result() == b"%04d" % number
    thread.join(LIMIT)
    net.nothing_more()


@pytest.mark.system
@pytest.mark.stress
@pytest.mark.parametrize("kind", ["recv", "accept", "recv_from", "poll", "timer"])
def test_races_of_two_cancels_and_a_getter(port, net, kind):
    """One thread waits, two cancel the same one: it comes out once."""
    for _ in range(scaled(100, 10)):
        op = WAITING[kind](port, net)
        threads = [threading.Thread(target=op.cancel) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert port.get(LIMIT) is op
        for thread in threads:
            thread.join(LIMIT)
        check_cancelled(op)
        assert port.get(0) is None
        if kind != "timer":
            net.end()
    assert port.in_flight == 0


@pytest.mark.system
@pytest.mark.stress
def test_races_of_cancel_and_connect(port, net):
    listener, address = net.listener()
    for number in range(scaled(200)):
        sock = net.stream()
        op = port.connect(sock, address)
        if number % 2:
            net.pump()
        op.cancel()
        net.finish(op)
        check_ended(op)
        sock.close()
    listener.close()
    assert port.in_flight == 0


@pytest.mark.system
@pytest.mark.stress
def test_races_of_cancel_and_file_work(port, net):
    """What the pool or the kernel has begun runs to its end; nothing is written after that."""
    file = net.file(bytes(1 << 16))
    ops = []
    for number in range(scaled(300)):
        buffer = bytearray(1 << 16)
        op = port.read_into(file, buffer, 0)
        if number % 3:
            op.cancel()
        ops.append(op)
    for op in ops[::2]:
        op.cancel()
    net.finish(*ops)
    for op in ops:
        check_ended(op)
    assert net.result(port.read(file, 4, 0)) == bytes(4)


@pytest.mark.system
@pytest.mark.stress
def test_races_of_cancel_and_timers(port):
    """Timers about to fire, cancelled by one thread and taken by another."""
    count = scaled(2000)
    ops = [port.timer(0.0001 * (number % 100)) for number in range(count)]
    thread = threading.Thread(target=lambda: [op.cancel() for op in ops])
    thread.start()
    taken = []
    while len(taken) < count:
        got = port.get_many(64, LIMIT)
        assert got
        taken += got
    thread.join(LIMIT)
    assert len({id(op) for op in taken}) == count
    for op in ops:
        check_ended(op)
    assert port.get(0) is None
