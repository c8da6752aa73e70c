"""One delivery: from a peer's send() to the return of the callback.

The peer's system call is a part of it, as it is there that the kernel delivers.
"""

from __future__ import annotations

import iocpcore
import pytest

from benchmarks.inside.driving import BATCH, MESSAGE, Loop, Pairs, Served, group, receive

pytestmark = group("delivery")

FRAMED = iocpcore.LengthPrefixed(4).encode(MESSAGE)


class Receiving(Served):
    on_data = Served.one


class Echoing(Served):
    def on_data(self, conn: iocpcore.Connection, data: bytes) -> None:
        conn.send(data)
        self.one()


class ReceivingMessages(Served):
    on_message = Served.one


def test_sockets_alone(measure):
    """What the two system calls cost: the limit."""
    with Pairs(BATCH) as pairs:

        def receive():
            pairs.feed()
            for sock in pairs.ours:
                sock.recv(1 << 16)

        measure(receive)


@pytest.mark.parametrize("size", [128, 16384])
def test_on_data(backend, measure, size):
    """On as many connections as there are in a batch."""
    data = b"x" * size
    with Receiving(backend, BATCH) as served:

        def deliver():
            for peer in served.peers:
                peer.send(data)
            served.run(BATCH)

        measure(deliver)


def test_on_data_one_at_a_time(backend, measure):
    """With a wait for each, and a return from run()."""
    with Receiving(backend) as served:
        (peer,) = served.peers

        def deliver():
            for _ in range(BATCH):
                peer.send(MESSAGE)
                served.run(1)

        measure(deliver)


def test_on_message(backend, measure):
    """One message in each receive; for many in one, see test_framing."""
    with ReceivingMessages(backend, BATCH, framing=iocpcore.LengthPrefixed(4)) as served:

        def deliver():
            for peer in served.peers:
                peer.send(FRAMED)
            served.run(BATCH)

        measure(deliver)


def test_echo(backend, measure):
    """A delivery and a send."""
    with Echoing(backend, BATCH) as served:

        def deliver():
            for peer in served.peers:
                peer.send(MESSAGE)
            served.run(BATCH)

        def drain():
            for peer in served.peers:
                receive(peer, 1)

        measure(deliver, teardown=drain)


def test_recv(port, measure):
    """An operation of a port instead of a connection."""
    loop = Loop(port)
    with Pairs(BATCH) as pairs:

        def deliver():
            for sock in pairs.ours:
                port.recv(sock, 65536, callback=loop.one)
            pairs.feed()
            loop.run(BATCH)

        measure(deliver)
