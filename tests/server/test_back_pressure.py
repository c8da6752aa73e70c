"""Readers that are slow, or stop: what they cost, how they end, and what waits for them."""

from __future__ import annotations

import os
import threading

import pytest
from iocpcore import Connection, SlowReaderError
from support.events import Events
from support.streams import read_exactly
from support.system import LIMIT, LINUX, POLLOUT, SANITIZED, scaled, wait_ready, wait_until

PIECE = 1 << 20

MIB = 1 << 20
BLOCK = 100_000
MORE_THAN_FITS = bytes(48 * MIB)  # into the buffers of both ends' systems, grown to their largest


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_reader_that_stops(make_server, dial, kind):
    """No more waits for it than max_write_buffer and one send. Then it ends, and says why."""
    most, pending, closed = MIB, [], Events()
    connected = Events()
    server = make_server(
        on_connect=lambda conn: connected.add(conn),
        on_close=lambda conn, error: closed.add(type(error)),
        max_write_buffer=most,
    )
    client = dial(server)
    client.pause_receiving()
    conn = connected.wait()[0]
    while conn.send(kind(BLOCK)):
        pending.append(conn.pending_bytes)
    assert not conn.send(b"x")
    assert closed.wait() == [SlowReaderError]
    assert most <= max(pending) < most + BLOCK
    assert conn.pending_bytes == 0
    client.abort()


@pytest.mark.system
@pytest.mark.stress
@pytest.mark.skipif(not LINUX or SANITIZED, reason="measures the memory of a Linux process")
def test_what_readers_that_stop_cost(make_server, plain):
    """Memory for what waits, and little else."""
    count, most = 20, MIB
    closed, connected = Events(), Events()
    server = make_server(
        on_connect=lambda conn: connected.add(conn),
        on_close=lambda conn, error: closed.add(type(error)),
        max_write_buffer=most,
    )
    socks = [plain(server) for _ in range(count)]
    conns = connected.wait(count)
    before = resident()
    for conn in conns:
        while conn.pending_bytes < most - BLOCK:
            assert conn.send(bytearray(b"x") * BLOCK)
    assert resident() - before < count * (most + BLOCK) * 1.25 + 16 * MIB
    for conn in conns:
        while conn.send(bytearray(b"x") * BLOCK):
            pass
    closed.wait(count)
    assert closed.items == [SlowReaderError] * count
    assert len(socks) == count


def test_it_is_not_read_while_it_does_not_read(make_server, dial):
    """An echo stops reading a client that does not, within its limits, and goes on with it."""
    size, block = scaled(24 * MIB, 12 * MIB), bytes(range(250)) * 400
    events, received = Events(), bytearray()
    pressed, drained = threading.Event(), threading.Event()

    def on_data(conn: Connection, data: bytes) -> None:
        assert conn.send(data)
        assert conn.pending_bytes <= 200_000 + 65536
        if conn.pending_bytes > 200_000:  # the system may take some of it yet
            pressed.set()

    server = make_server(
        on_data=on_data,
        on_drain=lambda conn: drained.set(),
        on_error=events.recorder("error"),
        on_close=events.recorder("close"),
        write_high=200_000,
        write_low=50_000,
    )

    def take(conn: Connection, data: bytes) -> None:
        received.extend(data)
        if len(received) == size:
            conn.close()

    client = dial(server, on_data=take, max_write_buffer=2 * size)
    client.pause_receiving()
    data = (block * (size // len(block) + 1))[:size]
    assert client.send(data)
    assert pressed.wait(LIMIT)
    (conn,) = server.connections
    assert conn.bytes_received < size
    assert client.pending_bytes > 0
    client.resume_receiving()
    assert events.wait() == [("close", None)]
    assert drained.is_set()
    assert received == data


def test_marks(make_server, dial):
    """on_drain comes once for each time that more than write_high was pending, at write_low."""
    drains, connected, received = Events(), Events(), Events()
    server = make_server(
        on_connect=lambda conn: connected.add(conn),
        on_drain=lambda conn: drains.add(conn.pending_bytes <= 1000),
        write_high=50_000,
        write_low=1000,
        max_write_buffer=1 << 30,
    )
    client = dial(server, on_data=lambda conn, data: received.add(len(data)))
    conn = connected.wait()[0]
    for turn in range(1, 4):
        client.pause_receiving()
        assert conn.send(MORE_THAN_FITS)
        assert len(drains) == turn - 1
        client.resume_receiving()
        drains.wait(turn)
        wait_until(lambda: conn.pending_bytes == 0, "the rest")
    assert drains.items == [True] * 3
    for _ in range(10):  # never above it
        conn.send(bytes(1000))
    wait_until(lambda: sum(received.items) == conn.bytes_sent, "everything")
    assert len(drains) == 3


def test_on_drain_that_raises(make_server, dial):
    """It closes the connection, as any callback."""
    events, connected = Events(), Events()

    def on_drain(conn: Connection) -> None:
        raise ZeroDivisionError

    server = make_server(
        on_connect=lambda conn: connected.add(conn),
        on_drain=on_drain,
        on_error=lambda conn, error: events.add(type(error)),
        on_close=lambda conn, error: events.add(("close", type(error))),
        write_high=50_000,
        write_low=1000,
    )
    client = dial(server)
    client.pause_receiving()
    conn = connected.wait()[0]
    conn.send(MORE_THAN_FITS)
    client.resume_receiving()
    assert events.wait(2) == [ZeroDivisionError, ("close", ZeroDivisionError)]


@pytest.mark.system
def test_others_do_not_wait_for_it(make_server, plain):
    """A reader that stops holds up nobody else."""
    server = make_server(on_data=Connection.send, write_high=100_000, write_low=1000)
    stuck, sock = plain(server), plain(server)
    stuck.setblocking(False)
    while wait_ready(stuck, POLLOUT, 0.1):
        stuck.send(bytes(BLOCK))
    for _ in range(100):
        sock.sendall(b"x" * 100)
        assert read_exactly(sock, 100) == b"x" * 100
    assert server.stop(0) >= 1


@pytest.mark.system
def test_max_write_buffer(make_server, plain):
    """A reader that stops costs so much memory, and its connection."""
    events = Events()

    def on_data(conn: Connection, data: bytes) -> None:
        for _ in range(1000):
            if not conn.send(bytes(1_000_000)):
                events.add("refused")
                return

    server = make_server(
        on_data=on_data, on_close=events.recorder("close"), max_write_buffer=4_000_000
    )
    plain(server).sendall(b"x")
    events.wait(2)
    assert events.items[0] == "refused"
    assert isinstance(events.items[1][1], SlowReaderError)


@pytest.mark.system
def test_on_drain(make_server, plain):
    """Above write_high the peer is not read any more; on_drain says when it goes on."""
    events = Events()

    def on_data(conn: Connection, data: bytes) -> None:
        events.add(("data", len(data)))
        if data == b"go":
            conn.send(bytes(16_000_000))

    server = make_server(on_data=on_data, on_drain=events.recorder("drain"))
    sock = plain(server)
    sock.sendall(b"go")
    events.wait()
    sock.sendall(b"not yet")
    assert read_exactly(sock, 1_000_000)
    assert events.items == [("data", 2)]
    assert len(read_exactly(sock, 15_000_000)) == 15_000_000
    events.wait(3)
    assert events.items[1] == ("drain",)
    assert events.items[2] == ("data", 7)


@pytest.mark.found_in_use
@pytest.mark.system
def test_an_echo_of_more_than_any_buffer(make_server, dial):
    """The server stops reading what it cannot send back; if its client did so, too, each would wait
    for the other for ever."""
    pieces = scaled(48, 16)
    received = 0
    done = threading.Event()

    def count(conn, data):
        nonlocal received
        received += len(data)
        if received == pieces * PIECE:
            done.set()

    server = make_server(on_data=lambda conn, data: conn.send(data), max_write_buffer=1 << 30)
    conn = dial(server, on_data=count, max_write_buffer=1 << 30)
    for _ in range(pieces):
        assert conn.send(bytes(PIECE))
    assert done.wait(LIMIT), f"{received} of {pieces * PIECE} bytes came back"
    conn.close()
