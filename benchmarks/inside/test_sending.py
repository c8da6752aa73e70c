"""One send, and the thread that it is called in."""

from __future__ import annotations

import iocpcore
import pytest

from benchmarks.inside.driving import BATCH, MESSAGE, Loop, Pairs, Served, group, receive

pytestmark = group("sending")


class Idle(Served):
    on_data = Served.one


class Answering(Served):
    """Sends a batch for each receive; all of it leaves when the callback returns."""

    def on_data(self, conn: iocpcore.Connection, data: bytes) -> None:
        for _ in range(BATCH):
            conn.send(MESSAGE)
        self.one()


class IdleWithMessages(Served):
    on_message = Served.one


def drain(served: Served) -> None:
    receive(served.peers[0], BATCH)


def test_socket_alone(measure):
    """What the system call costs: the limit."""
    with Pairs(1) as pairs:
        (sock,) = pairs.ours

        def send():
            for _ in range(BATCH):
                sock.send(MESSAGE)

        measure(send, teardown=pairs.drain)


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "list"])
def test_send(backend, measure, kind):
    """Outside of callbacks: with a system call for each."""
    data = {"bytes": MESSAGE, "bytearray": bytearray(MESSAGE), "list": [MESSAGE[:64]] * 2}[kind]
    with Idle(backend) as served:
        (conn,) = served.connections

        def send():
            for _ in range(BATCH):
                conn.send(data)

        measure(send, teardown=lambda: drain(served))


def test_send_message(backend, measure):
    with IdleWithMessages(backend, framing=iocpcore.LengthPrefixed(4)) as served:
        (conn,) = served.connections
        message = MESSAGE[4:]  # with its length it is as long as the others

        def send():
            for _ in range(BATCH):
                conn.send_message(message)

        measure(send, teardown=lambda: drain(served))


def test_send_in_a_callback(backend, measure):
    """With one delivery and one system call for the whole batch."""
    with Answering(backend) as served:

        def send():
            served.peers[0].send(b"!")
            served.run(1)

        measure(send, teardown=lambda: drain(served))


def test_send_beside_a_worker(backend, measure):
    """In another thread than the worker, which waits meanwhile."""
    with Idle(backend) as served:
        (conn,) = served.connections
        served.server.start()

        def send():
            for _ in range(BATCH):
                conn.send(MESSAGE)

        measure(send, teardown=lambda: drain(served))


def test_send_operation(port, measure):
    """An operation of a port instead of a connection, until its callback."""
    loop = Loop(port)
    with Pairs(BATCH) as pairs:

        def send():
            for sock in pairs.ours:
                port.send(sock, MESSAGE, callback=loop.one)
            loop.run(BATCH)

        measure(send, teardown=pairs.drain)
