"""What was sent before close() arrives, whatever its size and however slowly it is read; what has
come is handed on, whatever happens to its connection."""

from __future__ import annotations

import socket
import threading

import pytest
from iocpcore import Connection
from support.events import Events
from support.net import reset
from support.streams import read_all, read_exactly
from support.system import LIMIT, WINDOWS, scaled, wait_until

pytestmark = pytest.mark.found_in_use

MIB = 1 << 20
BLOCK = bytes(range(251)) * 4177  # no power of two: what is torn or twice does not fit
HUGE = 1024 * MIB


def pattern(size: int) -> bytes:
    return (BLOCK * (size // len(BLOCK) + 1))[:size]


@pytest.mark.system
def test_a_reset_while_a_file_is_sent(make_server, plain, tmp_path):
    """It is no orderly end, though after a send that is told of it a receive says so. Linux forgets
    which error it was where sendfile(2) had sent something before."""
    with open(tmp_path / "file", "wb") as file:
        file.truncate(64 * MIB)
    closed = Events()

    def on_connect(conn: Connection) -> None:
        with open(tmp_path / "file", "rb") as file:
            conn.send_file(file)

    server = make_server(on_connect=on_connect, on_close=lambda conn, error: closed.add(error))
    sock = plain(server)
    assert sock.recv(1)
    reset(sock)
    assert isinstance(closed.wait()[0], ConnectionError)


class Check:
    """Takes a stream of `pattern` piece by piece."""

    def __init__(self) -> None:
        self.position = 0
        self.right = True
        self._twice = memoryview(BLOCK * 2)

    def add(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            start = self.position % len(BLOCK)
            part = rest[: len(BLOCK)]
            self.right = self.right and part == self._twice[start : start + len(part)]
            self.position += len(part)
            rest = rest[len(part) :]


@pytest.mark.stress
def test_one_send_of_any_size(make_server, dial, backend):
    size = scaled(HUGE if backend != "sim" else HUGE // 4, MIB)
    data, check, closed = pattern(size), Check(), threading.Event()

    def on_connect(conn: Connection) -> None:
        assert conn.send(data)
        conn.close()

    server = make_server(on_connect=on_connect)
    dial(server, on_data=lambda conn, part: check.add(part), on_close=lambda *_: closed.set())
    assert closed.wait(2 * LIMIT)
    assert (check.position, check.right) == (size, True)


@pytest.mark.stress
@pytest.mark.parametrize("pieces", [1, 100])
def test_upwards(make_server, dial, pieces):
    """The same from a client, in one piece or several."""
    size = scaled(16 * MIB, MIB)
    data, check, closed = memoryview(pattern(size)), Check(), Events()
    server = make_server(
        on_data=lambda conn, part: check.add(part), on_close=closed.recorder("close")
    )
    conn = dial(server, max_write_buffer=2 * size)
    step = -(-size // pieces)
    for start in range(0, size, step):
        assert conn.send(bytes(data[start : start + step]))
    conn.close()
    assert closed.wait() == [("close", None)]
    assert (check.position, check.right) == (size, True)


@pytest.mark.system
@pytest.mark.parametrize("size", [1, 100_000, 8 * MIB])
def test_a_reader_that_begins_late(make_server, size):
    """The server has closed the connection long before anything is read."""
    asked = threading.Event()

    def on_connect(conn: Connection) -> None:
        conn.send(pattern(size))
        conn.close()
        asked.set()

    server = make_server(on_connect=on_connect)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        sock.settimeout(LIMIT)
        sock.connect(server.addresses[0])
        assert asked.wait(LIMIT)
        check = Check()
        for _ in range(64):  # in small steps at first
            check.add(sock.recv(100))
        check.add(read_all(sock))
    assert (check.position, check.right) == (size, True)


@pytest.mark.system
def test_a_peer_that_talks_on(make_server, plain):
    """Input that comes after close() is taken away: else the system would send a reset, and what
    the peer has not read yet would be lost."""
    size = 4 * MIB

    def on_data(conn: Connection, data: bytes) -> None:
        conn.send(pattern(size))
        conn.close()

    server = make_server(on_data=on_data)
    sock = plain(server)
    sock.sendall(b"x")
    first = read_exactly(sock, 1)
    for _ in range(100):
        sock.sendall(bytes(1000))
    check = Check()
    check.add(first)
    check.add(read_all(sock))
    assert (check.position, check.right) == (size, True)


@pytest.mark.system
@pytest.mark.skipif(WINDOWS, reason="the system itself discards what has come before a reset")
def test_paused_when_the_peer_goes(make_server, plain):
    """What had come by then is handed on after the pause, although nothing can be sent any more."""
    events = Events()
    connected: list[Connection] = []

    def on_connect(conn: Connection) -> None:
        conn.pause_receiving()
        connected.append(conn)
        events.add("connected")

    server = make_server(
        on_connect=on_connect,
        on_data=lambda conn, data: events.add(data),
        on_close=events.recorder("close"),
    )
    sock = plain(server)
    events.wait()
    sock.sendall(b"the last words")
    reset(sock)
    conn = connected.pop()
    wait_until(lambda: not conn.send(b"into the void"), "the failure")
    assert events.items == ["connected"]
    conn.resume_receiving()
    found = events.wait(3)
    assert found[1] == b"the last words"
    assert found[2][0] == "close"
    assert isinstance(found[2][1], ConnectionError)
