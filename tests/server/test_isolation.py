"""A callback that blocks or computes holds up no other connection."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest
from iocpcore import Connection, LengthPrefixed
from support.callbacks import ignore
from support.events import Events
from support.system import FREE_THREADED, LIMIT, scaled, wait_until

OTHERS = 8


class Echoes:
    """Answers everything but b"block", which blocks until the others have got on, or for long."""

    def __init__(self, rounds: int, compute: bool) -> None:
        self.rounds = rounds
        self.compute = compute
        self.blocking = threading.Event()
        self.passed = threading.Event()
        self.blocked_for = 0.0
        self.got_on_meanwhile = False

    def on_message(self, conn: Connection, message: bytes) -> None:
        if message == b"block":
            self.block()
        conn.send_message(message)

    def block(self) -> None:
        self.blocking.set()
        began = time.monotonic()
        if self.compute:
            while not self.passed.is_set() and time.monotonic() < began + LIMIT:
                pass
        else:
            self.passed.wait(LIMIT)
        self.blocked_for = time.monotonic() - began
        self.got_on_meanwhile = self.passed.is_set()


class Talker:
    """A client that sends as soon as it has the answer, so many times."""

    def __init__(self, rounds: int, done: Callable[[], None]) -> None:
        self.left = rounds
        self.done = done

    def on_message(self, conn: Connection, message: bytes) -> None:
        self.left -= 1
        if self.left == 0:
            self.done()
        elif self.left > 0:
            conn.send_message(message)


KINDS = [
    "sleeping",
    pytest.param(
        "computing",
        marks=pytest.mark.skipif(not FREE_THREADED, reason="the GIL lets one thread compute"),
    ),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [False, True])
def test_a_callback_that_blocks(make_server, dial, backend, kind, batch):
    """While it does, all others exchange many messages, also those that came at the same time."""
    rounds, framing = scaled(50, 5), LengthPrefixed(4)
    echoes, finished = Echoes(rounds, kind == "computing"), Events()
    # What has come before the workers start comes to them all at once. On sim nobody can connect.
    late = batch and backend != "sim"
    server = make_server(echoes, framing=framing, workers=2, concurrency=1, start=not late)
    blocker = dial(server, on_message=ignore, framing=framing)
    talkers = [
        dial(server, handler=Talker(rounds, lambda: finished.add("one")), framing=framing)
        for _ in range(OTHERS)
    ]
    blocker.send_message(b"block")
    if batch:
        for talker in talkers:
            talker.send_message(b"at the same time")
    if late:
        server.start()
    if not batch:
        assert echoes.blocking.wait(LIMIT)
        for talker in talkers:
            talker.send_message(b"later")
    try:
        finished.wait(OTHERS)
        assert echoes.blocking.wait(LIMIT)
    finally:
        echoes.passed.set()
    wait_until(lambda: echoes.blocked_for, "the end of it")
    assert echoes.got_on_meanwhile


def test_every_other_callback(make_server, dial):
    """One that blocks in on_connect, on_close, or after offload() costs no more."""
    let_go, blocked, answers = threading.Event(), Events(), Events()

    def block(*_: object) -> None:
        blocked.add("blocked")
        let_go.wait(LIMIT)

    def on_connect(conn: Connection) -> None:
        if not blocked.items:
            block()

    def on_data(conn: Connection, data: bytes) -> None:
        if data == b"offload":
            conn.offload(int, then=block)
        elif data == b"later":
            conn.call_later(0, block)
        elif data == b"close":
            conn.context = block
            conn.close()
        else:
            conn.send(data)

    def on_close(conn: Connection, error: BaseException | None) -> None:
        if conn.context is not None:
            conn.context()

    server = make_server(on_connect=on_connect, on_data=on_data, on_close=on_close, workers=5)
    try:
        dial(server)
        blocked.wait(1)
        for command in (b"offload", b"later", b"close"):
            dial(server).send(command)
        blocked.wait(4)
        dial(server, on_data=lambda conn, data: answers.add(data)).send(b"go on")
        assert answers.wait() == [b"go on"]
    finally:
        let_go.set()


def test_a_port_that_is_closed(make_server, dial):
    """Each connection hears of it once."""
    events, begun = Events(), Events()
    server = make_server(
        on_connect=begun.add, on_data=Connection.send, on_close=events.recorder("close")
    )
    for _ in range(5):
        dial(server)
    begun.wait(5)
    server.completion_port.stop()
    server.completion_port.close()
    found = events.wait(5)
    assert len(found) == 5
    assert all(isinstance(error, OSError) for _, error in found)
    assert server.connections == ()
    server.stop(0)
    assert len(events) == 5


@pytest.mark.system
def test_urgent_data_keeps_no_worker_busy(make_server, dial, plain):
    """A client that sends some and then nothing costs nothing."""
    server, answers = make_server(on_data=lambda conn, data: conn.send(data)), Events()
    sock = plain(server)
    for number in range(10):
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        if number % 2:
            sock.send(b"!", socket.MSG_OOB)
    other = dial(server, on_data=lambda _, data: answers.add(data))
    wait_until(lambda: len(server.connections) == 2, "the other one")
    before, rounds = server.stats()["port_completed"], scaled(200, 20)
    for number in range(1, rounds + 1):
        other.send(b"y")
        answers.wait(number)
    assert server.stats()["port_completed"] - before < 10 * rounds
    sock.sendall(b"z")
    assert sock.recv(1) == b"z"
