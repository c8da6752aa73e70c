"""The end of a connection whose peer is slow to read, and goes on sending meanwhile.

A socket that is closed answers what comes with a reset, which throws away what is still on its way.
"""

from __future__ import annotations

import socket
import threading
import time

import pytest
from support.system import LIMIT, LINUX, wait_until

pytestmark = pytest.mark.found_in_use

SIZE = 2 << 20
SLOWNESS_S = 2.6  # longer than a peer has for its own end of the stream


@pytest.fixture
def slow(make_server):
    """A server that sends much and a client with a small buffer that has not read anything yet."""

    def connect(**callbacks):
        server = make_server(**callbacks)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        sock.settimeout(LIMIT)
        sock.connect(server.addresses[0][:2])
        made.append(sock)
        return server, sock

    made: list[socket.socket] = []
    yield connect
    for sock in made:
        sock.close()


@pytest.mark.system
@pytest.mark.skipif(not LINUX, reason="only Linux can tell")
def test_looks_become_rare(slow):
    """At what a peer that never reads has not taken."""
    server, _ = slow(on_connect=lambda conn: (conn.send(bytes(300_000)), conn.close()))
    wait_until(lambda: server.stats()["port_completed"] > 1, "the connection")
    wait_until(lambda: server.connections[0].pending_bytes == 0, "what the system takes of it")
    before = server.stats()["port_completed"]
    began = time.monotonic()
    wait_until(lambda: server.stats()["port_completed"] >= before + 8, "8 looks")
    assert time.monotonic() - began > 0.5  # it would be 0.16 if they did not


def read_slowly(sock: socket.socket) -> int:
    """Everything, after a while in which it says something now and then."""
    until = time.monotonic() + SLOWNESS_S
    while time.monotonic() < until:
        sock.send(b"x")
        time.sleep(0.1)
    count = 0
    while part := sock.recv(1 << 16):
        count += len(part)
        sock.send(b"x")
    return count


@pytest.mark.system
@pytest.mark.skipif("not hasattr(socket, 'SO_REUSEPORT')", reason="only Linux can tell")
@pytest.mark.parametrize("way", ["close", "stop"])
def test_everything_arrives(slow, way):
    def on_connect(conn):
        conn.send(bytes(SIZE))
        if way == "close":
            conn.close()
        sent.set()

    sent = threading.Event()
    server, sock = slow(on_connect=on_connect)
    assert sent.wait(LIMIT)
    stopped = []
    stopper = threading.Thread(target=lambda: stopped.append(server.stop(LIMIT)))
    if way == "stop":
        stopper.start()
    assert read_slowly(sock) == SIZE
    if way == "stop":
        stopper.join(LIMIT)
        assert stopped == [0]
