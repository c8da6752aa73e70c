"""What one connection does costs no other anything: callbacks that block, compute or raise, work
elsewhere, timers; and a connection that has ended leaves nothing behind."""

from __future__ import annotations

import gc
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from iocpcore import Connection, LengthPrefixed
from support.events import Events
from support.system import FREE_THREADED, LIMIT, scaled, wait_until

OTHERS = 8


def ignore(conn: Connection, message: bytes) -> None:
    pass


# ---- callbacks that block -----------------------------------------------------------------------


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


# ---- callbacks that raise -----------------------------------------------------------------------


@pytest.mark.parametrize("where", ["on_connect", "on_message", "on_eof", "on_close"])
def test_a_callback_that_raises(make_server, dial, unraisable, where):
    """Only its connection ends, with on_error first."""
    events, answers, framing = Events(), Events(), LengthPrefixed(4)

    class Handler:
        def _act(self, name: str, conn: Connection) -> None:
            if conn.id in raising and name == where:
                raise ValueError(name)

        def on_connect(self, conn: Connection) -> None:
            if not raising:
                raising.add(conn.id)
            self._act("on_connect", conn)

        def on_message(self, conn: Connection, message: bytes) -> None:
            self._act("on_message", conn)
            conn.send_message(message)

        def on_eof(self, conn: Connection) -> None:
            self._act("on_eof", conn)
            conn.close()

        def on_error(self, conn: Connection, error: BaseException) -> None:
            events.add(("error", str(error)))

        def on_close(self, conn: Connection, error: BaseException | None) -> None:
            if conn.id in raising:
                events.add(("close", str(error)))
            self._act("on_close", conn)

    raising: set[int] = set()
    server = make_server(Handler(), framing=framing)
    bad = dial(server, on_message=ignore, framing=framing)
    wait_until(lambda: raising, "the first one")
    good = dial(server, on_message=lambda conn, data: answers.add(data), framing=framing)
    bad.send_message(bytes(1000))
    if where in ("on_eof", "on_close"):
        bad.close()
    found = events.wait(1 if where == "on_close" else 2)
    if where == "on_close":
        wait_until(lambda: unraisable or len(events) > 1, "where it goes")
    else:
        assert found[:2] == [("error", where), ("close", where)]
    good.send_message(b"still there")
    assert answers.wait() == [b"still there"]
    bad.abort()


# ---- offload and call_later ---------------------------------------------------------------------


def test_offload_is_on_the_strand(make_server, dial):
    """What comes back never overlaps with another callback of the connection."""
    inside, events, count = threading.Lock(), Events(), scaled(200, 20)

    @contextmanager
    def alone(name: str) -> Iterator[None]:
        if not inside.acquire(blocking=False):
            events.add("overlap")
        yield
        inside.release()
        events.add(name)

    def back(conn: Connection, result: int) -> None:
        with alone("back"):
            time.sleep(0)

    def on_message(conn: Connection, message: bytes) -> None:
        with alone("message"):
            conn.offload(len, message, then=back)
            conn.call_later(0, later)

    def later() -> None:
        with alone("later"):
            pass

    framing = LengthPrefixed(2)
    server = make_server(on_message=on_message, framing=framing, workers=4, concurrency=4)
    client = dial(server, on_message=ignore, framing=framing)
    for _ in range(count):
        client.send_message(b"x")
    found = events.wait(3 * count)
    assert sorted(found) == ["back"] * count + ["later"] * count + ["message"] * count


@pytest.mark.parametrize("serial", [False, True])
def test_serial_offload(make_server, dial, serial):
    """With serial=True the next message waits until `then` has returned."""
    let_go, events, framing = threading.Event(), Events(), LengthPrefixed(2)

    def on_message(conn: Connection, message: bytes) -> None:
        events.add(message)
        if message == b"first":
            conn.offload(
                let_go.wait, LIMIT, then=lambda conn, result: events.add("then"), serial=serial
            )

    server = make_server(on_message=on_message, framing=framing, workers=2)
    client = dial(server, on_message=ignore, framing=framing)
    for message in (b"first", b"second", b"third"):
        client.send_message(message)
    try:
        if serial:
            events.wait(1)
            wait_until(lambda: client.pending_bytes == 0, "that all has been sent")
        else:
            events.wait(3)
    finally:
        let_go.set()
    found = events.wait(4)
    expected = [b"first", "then", b"second", b"third"]
    assert found == (expected if serial else [b"first", b"second", b"third", "then"])


@pytest.mark.parametrize("serial", [False, True])
def test_offload_that_raises(make_server, dial, serial):
    events = Events()

    def on_data(conn: Connection, data: bytes) -> None:
        conn.offload(int, "no number", then=lambda conn, _: events.add("then"), serial=serial)

    server = make_server(
        on_data=on_data,
        on_error=lambda conn, error: events.add(type(error)),
        on_close=lambda conn, error: events.add(("close", type(error))),
    )
    dial(server).send(b"x")
    assert events.wait(2) == [ValueError, ("close", ValueError)]


def test_after_the_end(make_server, dial):
    """Neither offload() nor call_later() comes back to a connection that has ended."""
    let_go, events, timers = threading.Event(), Events(), []

    def on_data(conn: Connection, data: bytes) -> None:
        conn.offload(let_go.wait, LIMIT, then=lambda conn, _: events.add("then"))
        timers.append(conn.call_later(3600, events.add, "timer"))
        timers.append(conn.call_later(0.01, events.add, "timer"))
        conn.close()

    def on_close(conn: Connection, error: BaseException | None) -> None:
        events.add("close")
        conn.offload(events.add, "offloaded", then=lambda conn, _: events.add("then"))
        timers.append(conn.call_later(0, events.add, "timer"))

    server = make_server(on_data=on_data, on_close=on_close)
    dial(server).send(b"x")
    events.wait_for("close")
    let_go.set()
    events.wait_for("offloaded")
    wait_until(lambda: server.stats()["port_in_flight"] <= 2, "the timers")
    for timer in timers:
        timer.cancel()
    timers.clear()
    server.stop()
    assert [event for event in events.items if event in ("then", "timer")] == []


def test_timers_in_order(make_server, dial):
    events = Events()

    def on_connect(conn: Connection) -> None:
        conn.call_later(0.05, events.add, "third")
        conn.call_later(0.03, events.add, "second")
        conn.call_later(0.01, events.add, "first")
        conn.call_later(0.02, events.add, "never").cancel()

    server = make_server(on_connect=on_connect)
    dial(server)
    assert events.wait(3) == ["first", "second", "third"]


# ---- nothing is left ----------------------------------------------------------------------------


def is_gone(there: weakref.ref[object]) -> bool:
    if FREE_THREADED:  # counts of several threads are put together by the collector at the latest
        gc.collect()
    return there() is None


class Thing:
    """Something to hold a weak reference to."""


@pytest.mark.parametrize("ending", ["close", "abort", "peer", "raise", "bad message", "stop"])
def test_nothing_keeps_a_connection(make_server, dial, ending):
    """What a connection held is free after on_close, without the collector's help."""
    events, things = Events(), []
    framing = LengthPrefixed(4, max_size=100)

    def on_connect(conn: Connection) -> None:
        conn.context = thing = Thing()
        things.append(weakref.ref(thing))
        conn.call_later(3600, conn.close)
        conn.offload(int, then=lambda conn, _: None)

    def on_message(conn: Connection, message: bytes) -> None:
        if ending == "raise":
            raise ValueError
        if ending in ("close", "abort"):
            getattr(conn, ending)()

    server = make_server(
        on_connect=on_connect,
        on_message=on_message,
        on_error=lambda conn, error: None,
        on_close=lambda conn, error: events.add("close"),
        framing=framing,
    )
    gc.collect()
    gc.disable()
    try:
        client = dial(server, on_message=ignore, framing=LengthPrefixed(4))
        client.send_message(bytes(101) if ending == "bad message" else b"x")
        if ending == "peer":
            client.close()
        if ending == "stop":
            wait_until(lambda: things, "the connection")
            server.stop()
        events.wait()
        wait_until(lambda: is_gone(things[0]), "the end of what it held")
    finally:
        gc.enable()


def test_nothing_keeps_a_server(make_server, dial):
    server = make_server(on_data=Connection.send)
    client = dial(server)
    there = weakref.ref(server)
    server.stop()
    del server, client
    make_server.__closure__[1].cell_contents.clear()
    wait_until(lambda: gc.collect() >= 0 and there() is None, "the end of the server")


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
