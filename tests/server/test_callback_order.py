"""Callbacks of a connection: on_connect, then the messages in order, on_close last and once, never
two at a time; whatever its peer, other threads and the callbacks themselves do meanwhile."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import iocpcore
import pytest
from iocpcore import Connection
from support.events import Events
from support.system import LIMIT, scaled, wait_until
from support.witness import FRAMING, Handler, Planned, Sender, Witness, finish

CONNECTIONS = 2000
WORKERS = 8
SENDERS = 3
MESSAGES = 12
FIRST_CLIENT = 1000  # their sources; those below are the server's
SIZES = (0, 1, 100, 2047, 2048, 4096, 30000)


def do_something(witness: Witness, conn: Connection) -> None:
    """What callbacks do, at random."""
    dice = witness.random.random()
    if dice < 0.6:
        witness.send(conn, witness.random.choice(SIZES))
    if dice < 0.1:
        conn.pause_receiving()
        if dice < 0.05:
            conn.call_later(0.001 * witness.random.random(), conn.resume_receiving)
        else:
            conn.offload(conn.resume_receiving, serial=dice < 0.075)


# ---- what may become of a connection ------------------------------------------------------------


def raise_planned(conn: Connection) -> None:
    raise Planned


def close_and_abort(conn: Connection) -> None:
    conn.close()
    conn.abort()


# How the one side ends it; the other waits for that.
ENDINGS: dict[str, Callable[[Connection], None]] = {
    "close": Connection.close,
    "abort": Connection.abort,
    "shutdown": Connection.shutdown,
    "raise": raise_planned,
    "offloaded close": lambda conn: conn.offload(conn.close),
    "serial close": lambda conn: conn.offload(int, then=lambda conn, _: conn.close(), serial=True),
    "late close": lambda conn: conn.call_later(0.002, conn.close) and None,
    "late abort": lambda conn: conn.call_later(0.002, conn.abort) and None,
    "both": close_and_abort,
}
PROPER = {"close", "shutdown", "raise", "offloaded close", "serial close", "late close"}
# What is queued when a callback raises has its time limit, and simulated time passes in an instant
# while the peer is paused by another thread.
PROPER_IN_SIMULATION = PROPER - {"raise"}
PLANS = [(who, ending) for who in ("client", "server") for ending in ENDINGS]


class Side(Handler):
    """One end. The first message of a client has as many bytes as the number of its plan."""

    def __init__(self, who: str, faults: Events) -> None:
        super().__init__(faults)
        self.who = who

    def begin(self, witness: Witness, conn: Connection) -> None:
        if self.who == "client":
            witness.plan = PLANS[witness.number % len(PLANS)]
            witness.sender.source = FIRST_CLIENT + witness.number
            witness.send(conn, witness.number % len(PLANS))

    def act(self, witness: Witness, conn: Connection, size: int) -> None:
        if witness.plan is None:
            witness.plan = PLANS[size]
            witness.peer = next(source for source in witness.received if source >= FIRST_CLIENT)
        who, ending = witness.plan
        do_something(witness, conn)
        if who != self.who:
            witness.send(conn, 10)  # so that there always is one more message
        elif sum(witness.received.values()) >= witness.random.randrange(1, MESSAGES):
            ENDINGS[ending](conn)


class Meddlers:
    """Threads that send, pause and resume on whatever connections there are."""

    def __init__(self, server: iocpcore.Server, faults: Events) -> None:
        self.server, self.faults = server, faults
        self.sent: list[dict[int, Sender]] = [{} for _ in range(SENDERS)]
        self.done = threading.Event()

    def _meddle(self, index: int) -> None:
        dice = random.Random(index)
        senders = self.sent[index]
        while not self.done.is_set():
            connections = self.server.connections
            for conn in dice.sample(connections, -(-len(connections) // 10)):
                sender = senders.setdefault(conn.id, Sender(index + 1))
                if wrong := sender.send(conn, dice.choice(SIZES)):
                    self.faults.add(wrong)
                if dice.random() < 0.2:
                    conn.pause_receiving()
                    conn.resume_receiving()
            del connections
            self.done.wait(0.002)

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._meddle, args=(i,)) for i in range(SENDERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.done.set()
            for thread in threads:
                thread.join(LIMIT)


@pytest.fixture
def wide_port(backend: str, ends_at_zero: None) -> Iterator[iocpcore.CompletionPort]:
    """A port for clients with as many threads as the server has."""
    port = iocpcore.CompletionPort(WORKERS, backend=backend)
    threads = [threading.Thread(target=port.run) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    yield port
    port.stop()
    for thread in threads:
        thread.join(LIMIT)
    port.close()


# The limit is for a busy machine: free-threaded CPython 3.13 gives up the CPU 40 times before it
# waits for any lock, and for some that nobody holds.
@pytest.mark.stress
@pytest.mark.timeout(600)
@pytest.mark.parametrize("concurrency", [1, WORKERS])
def test_whatever_happens(make_server, wide_port, backend, concurrency):
    faults = Events()
    ours, theirs = Side("server", faults), Side("client", faults)
    server = make_server(
        ours,
        framing=FRAMING,
        workers=WORKERS,
        concurrency=concurrency,
        write_high=20000,
        write_low=5000,
    )
    host, number = server.addresses[0][:2]
    port = server.completion_port if backend == "sim" else wide_port
    count = scaled(CONNECTIONS if backend != "sim" else CONNECTIONS // 4, 100)
    meddlers = Meddlers(server, faults)
    with meddlers.running():
        for index in range(count):
            if index % 50 == 0 and backend == "sim":  # its backlog is short
                wait_until(lambda: server.stats()["accepted"] == index, "the connections")  # noqa: B023
            iocpcore.connect_nowait(
                host, number, handler=theirs, framing=FRAMING, completion_port=port
            )
        finish(theirs.closed, count, LIMIT)
        assert not faults.items, faults.items[:20]
        finish(ours.closed, count, LIMIT)
    assert not faults.items, faults.items[:20]
    check_what_arrived(ours, theirs, meddlers, PROPER_IN_SIMULATION if backend == "sim" else PROPER)


def check_what_arrived(ours: Side, theirs: Side, meddlers: Meddlers, proper: set[str]) -> None:
    """All that the one side sent before it closed properly has come to the other."""
    clients = {witness.sender.source: witness for witness in theirs.closed.items}
    losses = []
    for server in ours.closed.items:
        client = clients.get(server.peer)
        if client is None or client.plan[1] not in proper:
            continue
        if client.plan[0] == "client":
            sent = {client.sender.source: client.sender.accepted}
            received = server.received
        else:
            sent = {
                i + 1: m[server.number].accepted
                for i, m in enumerate(meddlers.sent)
                if server.number in m
            }
            sent[0] = server.sender.accepted
            received = client.received
        sent = {source: number for source, number in sent.items() if number}
        if sent != received:
            losses.append((client.plan, server.error, client.error, sent, received))
    assert not losses, (len(losses), losses[:5])
