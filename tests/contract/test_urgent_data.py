"""Urgent data on sockets of the user's. It is not handed on, unless he has it in the stream; what
is around it is, and the end."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from selectors import EVENT_READ

import pytest
from support import system
from support.net import tcp_pair
from support.system import scaled

pytestmark = [
    pytest.mark.found_in_use,
    pytest.mark.system,
    pytest.mark.skipif(system.WINDOWS, reason="Wine's urgent data is not the kernel's"),
]


def pieces(urgent: int, seed: int) -> Iterator[tuple[bytes, int]]:
    """In turn, or in random places."""
    places = random.Random(seed)
    for _ in range(urgent):
        yield b"x" * (places.randrange(0, 300) if seed % 2 else 1), 0
        for _ in range(places.randrange(1, 3) if seed % 2 else 1):
            yield b"!", socket.MSG_OOB
    yield b"x", 0


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("urgent", [5, 20, 40, 200, 2000])
def test_everything_comes(port, net, urgent, inline):
    count = scaled(200 if urgent < 200 else 40 if urgent == 200 else 6, 2)
    for seed in range(count):
        sock, other = tcp_pair()
        sent = list(pieces(urgent, seed))
        if inline:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)

        def talk(other: socket.socket = other, sent: list[tuple[bytes, int]] = sent) -> None:
            for piece, flags in sent:
                other.send(piece, flags)
            other.shutdown(socket.SHUT_WR)

        talker = threading.Thread(target=talk)
        talker.start()
        got = bytearray()
        while part := net.result(port.recv(sock, 4096)):
            got += part
        talker.join()
        ordinary = sum(len(piece) for piece, flags in sent if not flags)
        assert got.count(b"x") == ordinary, seed
        if inline:
            assert got.count(b"!") == len(sent) - sum(not flags for _, flags in sent), seed
        sock.close()
        other.close()


def test_alone(port, net):
    """An urgent byte makes nothing readable."""
    sock, peer = net.pair()
    receive = port.recv(sock, 100)
    for _ in range(3):
        peer.sock.send(b"!", socket.MSG_OOB)
        net.pump(0.05)
    assert not receive.done
    peer.send(b"x")
    assert net.result(receive) == b"x"
    poll = port.poll(sock, EVENT_READ)
    peer.sock.send(b"!", socket.MSG_OOB)
    net.pump(0.05)
    assert not poll.done
    peer.send(b"x")
    assert net.result(poll) == EVENT_READ
    assert net.result(port.recv(sock, 100)) == b"x"
