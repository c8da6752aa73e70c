"""Clients that come in masses, say nothing, or are gone before they are seen: the listener goes on,
and nothing is left of them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import iocpcore
import pytest
from iocpcore import Connection
from support import certificates, child, system
from support.events import Events
from support.net import reset
from support.streams import read_exactly
from support.system import LIMIT, WINDOWS, scaled, wait_until

FLOOD = 20_000
SILENT = 1000


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


@pytest.mark.system
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("limit", ["idle_timeout", "handshake_timeout"])
def test_silent_clients(make_server, plain, limit, tls):
    """They are gone after the time limit, all of them."""
    if limit == "handshake_timeout" and not tls:
        pytest.skip("there is no handshake")
    count = scaled(SILENT, 20)
    closed = Events()
    options = {"handshake_timeout": None, limit: 0.5}
    if tls:
        options["ssl"] = certificates.server_context()
    server = make_server(
        on_data=Connection.send,
        on_close=lambda conn, error: closed.add(type(error)),
        **options,
    )
    socks = [plain(server) for _ in range(count)]
    for sock in socks:
        assert sock.recv(1) == b""
    figures = ("connections", "establishing")
    wait_until(lambda: not any(map(server.stats().get, figures)), "the end of all")
    expected = [] if tls else [TimeoutError] * count
    assert closed.items == expected
    assert server.stats()["failed"] == count - len(expected)


@pytest.mark.system
@pytest.mark.skipif(WINDOWS, reason="there is no limit of descriptors")
def test_without_descriptors(backend):
    """In a process that may have few: it says so once, goes on, and serves everybody."""
    child.check(
        """
        import logging, resource, socket, sys, iocpcore

        class Lines(logging.Handler):
            def emit(self, record):
                lines.append(record.getMessage().split(":")[0])

        lines = []
        logging.getLogger("iocpcore").addHandler(Lines())
        server = iocpcore.Server(on_data=iocpcore.Connection.send)
        address = server.listen("127.0.0.1", 0)
        server.start()
        clients = [socket.create_connection(address, 30) for _ in range(20)]
        for client in clients:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        more = [socket.socket() for _ in range(20)]
        highest = max(sock.fileno() for sock in more)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        for sock in more:
            sock.settimeout(30)
            sock.connect(address)
            sock.sendall(b"y")
        while server.stats()["accept_errors"] < 2:
            pass
        for client in clients:  # those that are there notice nothing
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            client.close()
        for sock in more:
            assert sock.recv(1) == b"y"
        assert server.stop(5) == 0
        print(*lines)
        """,
        backend,
        output="accepting connections pauses failures to accept connections",
    )


@pytest.mark.system
@pytest.mark.parametrize("timeout", [0, 0.05])
def test_get_beside_connections_that_are_always_busy(port, timeout):
    """It returns at its deadline, and does not serve them as long as there is something to do."""
    over, handed = threading.Event(), []
    limit = threading.Timer(LIMIT / 2, over.set)

    def feed() -> None:
        with listener.accept()[0] as sock:
            sock.settimeout(0.1)
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    sock.send(bytes(65536))

    def on_data(conn: Connection, data: bytes) -> None:
        handed.append(len(data))
        time.sleep(0.002)

    def get(timeout: float) -> None:
        operation = port.get(timeout)
        if operation is not None:
            operation.callback(operation)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        feeder = threading.Thread(target=feed)
        feeder.start()
        limit.start()
        attempt = iocpcore.connect_nowait(
            *listener.getsockname(), completion_port=port, on_data=on_data, read_size=1024
        )
        while len(handed) < 20:
            get(0.01)
        for _ in range(10):
            get(timeout)
        returned = not over.is_set()
        over.set()
        limit.cancel()
        feeder.join(LIMIT)
        assert attempt.connection is not None
        attempt.connection.abort()
        while port.in_flight:
            get(0.01)
    assert returned
