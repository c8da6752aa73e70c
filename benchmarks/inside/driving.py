"""What the suites have in common: the clock, and worker loops in the thread that is timed."""

from __future__ import annotations

import socket
import struct
import sys
import time
from contextlib import ExitStack, suppress
from typing import Any, Self

import iocpcore
import pytest

BATCH = 64
MESSAGE = b"x" * 128
FOREVER = 3600.0  # seconds, of timers that are not to fire
AT_ONCE = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)  # how a socket lingers


def clock() -> float:
    """Seconds, that many times too few: the time of a batch reads as that of one of it."""
    return time.perf_counter() / BATCH


def group(name: str) -> pytest.MarkDecorator:
    return pytest.mark.benchmark(group=name, timer=clock)


def leave(op: iocpcore.Operation) -> None:
    raise SystemExit  # which leaves run(); stop() would be for ever


def discard(port: iocpcore.CompletionPort) -> None:
    """Take everything that has completed."""
    while port.get_many(1024, 0):
        pass


def receive(sock: socket.socket, count: int) -> None:
    """So many messages."""
    left = count * len(MESSAGE)
    while left > 0:
        data = sock.recv(left)
        assert data
        left -= len(data)


class Loop:
    """A port's run() in this thread, until enough has happened.

    With a thread of its own it would be the switching of threads that is timed.
    """

    def __init__(self, port: iocpcore.CompletionPort) -> None:
        self.port = port
        self._left = 0
        self._failure: BaseException | None = None

    def run(self, count: int) -> None:
        """Until one() has been called so often."""
        self._left = count
        with suppress(SystemExit):
            self.port.run()
        if self._failure is not None:
            raise self._failure

    def one(self, *_: object) -> None:
        """Also as a callback, whatever its arguments."""
        self._left -= 1
        if self._left == 0:
            self.port.post(callback=leave)


class Served(Loop):
    """A server with connections, whose loop is in this thread, and the sockets at their far ends.

    A subclass has the callbacks.
    """

    def __init__(self, backend: str, connections: int = 1, **options: Any) -> None:
        self.connections: list[iocpcore.Connection] = []
        self.peers: list[socket.socket] = []
        self.server = iocpcore.Server(self, backend=backend, workers=1, **options)
        super().__init__(self.server.completion_port)
        self.address = self.server.listen("127.0.0.1", 0)
        self.server._listeners.begin()  # as start() does, which has a worker besides
        if connections:
            self.open(connections)

    def on_connect(self, conn: iocpcore.Connection) -> None:
        self.connections.append(conn)
        self.one()

    def on_error(self, conn: iocpcore.Connection, error: BaseException) -> None:
        self._failure = error  # what run() waits for will not happen
        self.port.post(callback=leave)

    def open(self, count: int) -> None:
        for _ in range(count):
            self.peers.append(dial(self.address))
        self.run(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for peer in self.peers:
            peer.close()
        self.server.stop(0)


def dial(address: tuple[str, int]) -> socket.socket:
    """A connection that leaves nothing behind when it is closed, as thousands of them would."""
    sock = socket.create_connection(address)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
    return sock


class Pairs:
    """Pairs of connected sockets: ours, and their peers.

    TCP as everywhere here, and not socketpair(), which on Linux costs less than half.
    """

    def __init__(self, count: int) -> None:
        self._stack = ExitStack()
        self.ours: list[socket.socket] = []
        self.peers: list[socket.socket] = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for _ in range(count):
                self.peers.append(self._stack.enter_context(dial(listener.getsockname())))
                self.ours.append(self._stack.enter_context(listener.accept()[0]))
        for sock in self.ours:  # as a server's are
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def feed(self) -> None:
        for peer in self.peers:
            peer.send(MESSAGE)

    def drain(self) -> None:
        """Of a batch, however it is distributed."""
        for peer in self.peers:
            receive(peer, BATCH // len(self.peers))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
