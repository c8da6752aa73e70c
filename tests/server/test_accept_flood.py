"""Masses of clients, some of whom are gone before they are seen: the listener goes on, and nothing
is left of them."""

from __future__ import annotations

import socket

import pytest
from iocpcore import Connection
from support import system
from support.events import Events
from support.net import reset
from support.streams import read_exactly
from support.system import LIMIT, scaled, wait_until

FLOOD = 20_000


@pytest.mark.system
@pytest.mark.stress
@pytest.mark.parametrize("talk", [False, True])
def test_a_flood(make_server, plain, talk):
    """A third of them are reset at once, with data or without, the others just leave."""
    count = scaled(FLOOD, 60)
    server = make_server(on_data=Connection.send)
    before = len(system.descriptors())
    address = server.addresses[0]
    for number in range(count):
        sock = socket.socket()
        sock.settimeout(LIMIT)
        sock.connect(address)
        if talk:
            sock.sendall(b"x")
        if number % 3 == 0:
            reset(sock)
        else:
            sock.close()
    wait_until(lambda: server.stats()["accepted"] >= count * 2 // 3, "the connections")
    sock = plain(server)
    sock.sendall(b"still there")
    assert read_exactly(sock, 11) == b"still there"
    sock.close()
    wait_until(lambda: not server.connections, "the end of all")
    wait_until(
        lambda: len(system.descriptors()) <= before + system.HANDLE_TOLERANCE, "their descriptors"
    )


@pytest.mark.system
@pytest.mark.parametrize("way", ["at once", "accepted", "paused"])
def test_data_and_then_a_reset(make_server, plain, way):
    """Whether it is being received or not by then, the connection ends."""
    count, connected, closed = 50, Events(), Events()

    def on_connect(conn: Connection) -> None:
        if way == "paused":
            conn.pause_receiving()
        connected.add(conn)

    server = make_server(on_connect=on_connect, on_close=closed.recorder("close"))
    socks = [plain(server) for _ in range(count)]
    if way != "at once":
        connected.wait(count)
    for sock in socks:
        sock.sendall(b"the last words")
        reset(sock)
    if way == "paused":
        for conn in connected.items:
            conn.resume_receiving()
    if way == "at once":  # also those that were reset before they were accepted
        wait_until(lambda: connected.items and not server.connections, "the end of all")
    else:
        assert len(closed.wait(count)) == count
