"""Accepting one connection: from a client's connect() to on_connect, or to the callback."""

from __future__ import annotations

import socket

import iocpcore

from benchmarks.inside.driving import BATCH, Loop, Served, dial, group

pytestmark = group("accepting")


class Accepting(Served):
    on_data = Served.one
    on_close = Served.one

    def close_all(self) -> None:
        for peer in self.peers:
            peer.close()
        self.run(len(self.peers))
        self.peers.clear()
        self.connections.clear()


def test_sockets_alone(measure):
    """What connecting and accepting cost without a port: the limit."""
    made: list[socket.socket] = []

    def accept():
        for _ in range(BATCH):
            made.append(dial(listener.getsockname()))
        for _ in range(BATCH):
            made.append(listener.accept()[0])

    def close_all():
        for sock in made:
            sock.close()
        made.clear()

    with socket.create_server(("127.0.0.1", 0), backlog=BATCH) as listener:
        measure(accept, teardown=close_all)
        close_all()


def test_server(backend, measure):
    with Accepting(backend, connections=0) as served:
        measure(lambda: served.open(BATCH), teardown=served.close_all)


def test_accept(port, measure):
    """An operation of a port for each."""
    loop = Loop(port)
    made: list[socket.socket] = []

    def accepted(op: iocpcore.Operation) -> None:
        made.append(op.result()[0])
        loop.one()

    def accept():
        for _ in range(BATCH):
            port.accept(listener, callback=accepted)
        for _ in range(BATCH):
            made.append(dial(listener.getsockname()))
        loop.run(BATCH)

    def close_all():
        for sock in made:
            sock.close()
        made.clear()

    with socket.create_server(("127.0.0.1", 0), backlog=BATCH) as listener:
        measure(accept, teardown=close_all)
        close_all()
