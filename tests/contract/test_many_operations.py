"""Ten thousand operations at once, a million posts."""

from __future__ import annotations

import socket
import threading
from collections import Counter

import pytest
from support.system import LIMIT, LINUX, WINDOWS, raise_descriptor_limit, scaled

pytestmark = [pytest.mark.system, pytest.mark.stress]


def test_ten_thousand_in_flight(port, net):
    """Receives on as many sockets as the process may have, and timers; each ends once."""
    count = 10_000 if LINUX and scaled(2) == 2 else scaled(10_000, 500)
    pairs = max(1, min(count // 2, (raise_descriptor_limit() - 500) // 2, 100 if WINDOWS else 4000))
    each = -(-count // pairs)
    sockets = [socket.socketpair() for _ in range(pairs)]
    try:
        expected = {}
        for near, _ in sockets:
            for number in range(each):
                expected[port.recv(near, 1)] = bytes([number])
        timers = [port.timer(0.001 * (number % 100)) for number in range(count // 2)]
        total = len(expected) + len(timers)
        assert len(expected) >= count
        assert port.in_flight == total
        for _, far in sockets:
            far.sendall(bytes(range(each)))
        taken = net.take(total)
        assert Counter(map(id, taken)).most_common(1)[0][1] == 1
        assert {op: op.result() for op in expected} == expected
        assert all(op.result() is None for op in timers)
        net.nothing_more()
    finally:
        expected = None
        net.forget()
        for near, far in sockets:
            near.close()
            far.close()


def test_ten_thousand_cancelled(port, net):
    count = scaled(10_000, 500)
    pairs = [socket.socketpair() for _ in range(20)]
    ops = [port.recv(pairs[number % 20][0], 10) for number in range(count)]
    assert port.in_flight == count
    for op in ops:
        op.cancel()
    net.finish(*ops)
    assert all(op.cancelled for op in ops)
    for pair in pairs:
        pair[1].sendall(b"x")
        assert net.result(port.recv(pair[0], 10)) == b"x"
        for sock in pair:
            sock.close()


def test_a_million_posts(port):
    """From four threads to four threads: each once, and those of one thread in their order."""
    each = scaled(250_000, 2500)
    received: list[list[int]] = [[] for _ in range(4)]
    excess = []

    def send(name: int) -> None:
        for number in range(name * each, (name + 1) * each):
            port.post(number)

    def receive(values: list[int]) -> None:
        while True:
            ops = port.get_many(256, LIMIT)
            results = [op.result() for op in ops]
            ends = results.count(None)
            values += [value for value in results if value is not None]
            if ends or not ops:
                excess.append(ends - 1)
                for _ in range(ends - 1):
                    port.post(None)
                return

    senders = [threading.Thread(target=send, args=(name,)) for name in range(4)]
    getters = [threading.Thread(target=receive, args=(values,)) for values in received]
    for thread in senders + getters:
        thread.start()
    for thread in senders:
        thread.join()
    for _ in getters:
        port.post(None)
    for thread in getters:
        thread.join()
    assert sum(map(len, received)) == 4 * each
    assert sorted(value for values in received for value in values) == list(range(4 * each))
    for values in received:
        for name in range(4):
            mine = [value for value in values if value // each == name]
            assert mine == sorted(mine)
    assert port.in_flight == 0
    stats = port.stats()
    assert stats["submitted"] == stats["completed"]


def test_a_connection_storm(port, net):
    """Accepts and connects, one conversation each, all at once."""
    count = scaled(500, 25)
    listener, address = net.listener(backlog=1024)
    accepts = [port.accept(listener) for _ in range(count)]
    clients = [net.stream() for _ in range(count)]
    connects = [port.connect(sock, address) for sock in clients]
    net.finish(*accepts, *connects)
    served = [net.taken(op.result()[0]) for op in accepts]
    receives = [port.recv(sock, 100) for sock in served]
    sends = [port.send(sock, b"%06d" % number) for number, sock in enumerate(clients)]
    net.finish(*receives, *sends)
    assert sorted(op.result() for op in receives) == [b"%06d" % n for n in range(count)]
