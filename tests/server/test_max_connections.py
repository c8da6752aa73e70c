"""Limits: how many connections, how long, how much."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time

import pytest
from iocpcore import Connection, SlowReaderError
from support.events import Events
from support.streams import read_all, read_exactly
from support.system import LIMIT, LINUX, WINDOWS, raise_descriptor_limit, wait_until


def echo(conn: Connection, data: bytes) -> None:
    conn.send(data)


@pytest.mark.system
def test_max_connections(make_server, plain):
    """More wait until others have gone, and are served then."""
    server = make_server(on_data=echo, max_connections=2)
    first, second, third = (plain(server) for _ in range(3))
    for sock in (first, second, third):
        sock.sendall(b"x")
    assert read_exactly(first, 1) == read_exactly(second, 1) == b"x"
    third.settimeout(0.1)
    with pytest.raises(TimeoutError):
        third.recv(1)
    assert len(server.connections) == 2
    third.settimeout(LIMIT)
    first.close()
    assert read_exactly(third, 1) == b"x"


@pytest.mark.system
def test_max_connections_of_several_listeners(make_server, plain):
    """They hold for all of them together. Who waited until the end is counted as well."""
    server = make_server(on_data=echo, max_connections=1)
    server.listen("127.0.0.1", 0)
    first = plain(server)
    first.sendall(b"x")
    assert read_exactly(first, 1) == b"x"
    second = socket.create_connection(server.addresses[1], LIMIT)
    wait_until(lambda: server.stats()["accepted"] == 2, "the second one")
    assert len(server.connections) == 1
    server.stop()
    with second:
        assert second.recv(1) == b""
    stats = server.stats()
    assert (stats["closed"], stats["failed"]) == (1, 1)


@pytest.mark.system
def test_max_connections_under_load(make_server):
    """Also where a place becomes free while a client is about to take the last one."""
    most, seen = 3, []

    def on_connect(conn: Connection) -> None:
        seen.append(len(server.connections))
        if conn.id % 3 == 0:
            conn.abort()

    server = make_server(
        on_connect=on_connect,
        on_data=lambda conn, data: conn.close(),
        max_connections=most,
        workers=6,
        concurrency=4,
        listen=False,
    )
    for _ in range(3):
        server.listen("127.0.0.1", 0)
    end = time.monotonic() + 1.5

    def visit(address: tuple[str, int]) -> None:
        while time.monotonic() < end:
            try:
                with socket.create_connection(address, LIMIT) as sock:
                    sock.sendall(b"x")
                    sock.recv(1)
            except OSError:
                pass

    threads = [threading.Thread(target=visit, args=(address,)) for address in server.addresses * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert seen
    assert max(seen) <= most


@pytest.mark.system
def test_max_connections_per_address(make_server, plain, caplog):
    events = Events()
    server = make_server(
        on_data=echo, on_connect=events.recorder("connect"), max_connections_per_address=2
    )
    with caplog.at_level(logging.WARNING, "iocpcore"):
        first, second, third = (plain(server) for _ in range(3))
        try:
            assert third.recv(1) == b""
        except ConnectionResetError:
            pass
        fourth = plain(server)
        try:
            assert fourth.recv(1) == b""
        except ConnectionResetError:
            pass
        wait_until(lambda: server.stats()["refused"] == 2, "the refusals")
    assert [record.message for record in caplog.records] == [
        "too many connections from 127.0.0.1: 1 refused"
    ]
    for sock in (first, second):
        sock.sendall(b"x")
        assert read_exactly(sock, 1) == b"x"
    assert len(events) == 2
    first.close()
    wait_until(lambda: len(server.connections) == 1, "the end of one")
    again = plain(server)
    again.sendall(b"x")
    assert read_exactly(again, 1) == b"x"


@pytest.mark.system
@pytest.mark.skipif(not LINUX, reason="two addresses to connect from")
def test_a_place_that_a_refused_one_does_not_take(make_server, plain):
    """Who comes while it is being refused finds no place, and waits no longer than for that."""
    refusing, let_go = threading.Event(), threading.Event()

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            refusing.set()
            let_go.wait(LIMIT)

    server = make_server(on_data=echo, max_connections=2, max_connections_per_address=1, workers=3)
    server.listen("127.0.0.1", 0)
    first = plain(server)
    first.sendall(b"x")
    assert read_exactly(first, 1) == b"x"
    slow, logger = Slow(), logging.getLogger("iocpcore")
    logger.addHandler(slow)
    try:
        refused = plain(server)
        assert refusing.wait(LIMIT)
        other = socket.create_connection(server.addresses[1], LIMIT, ("127.0.0.2", 0))
        wait_until(lambda: server.stats()["accepted"] == 3, "another one")
    finally:
        let_go.set()
        logger.removeHandler(slow)
    with other:
        other.sendall(b"y")
        assert read_exactly(other, 1) == b"y"
    assert refused.recv(1) == b""


@pytest.mark.system
@pytest.mark.skipif(not LINUX, reason="two addresses to connect from")
def test_a_log_handler_that_closes_the_port(make_server, plain, recwarn):
    """While a client that has waited for its place is refused: close() does not wait for itself."""
    closed = Events()

    class Closing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            server.completion_port.close(LIMIT)
            closed.add("closed")

    server = make_server(on_data=echo, max_connections=2, max_connections_per_address=1)
    server.listen("127.0.0.1", 0)
    first = plain(server)
    first.sendall(b"x")
    assert read_exactly(first, 1) == b"x"
    other = socket.create_connection(server.addresses[0], LIMIT, ("127.0.0.2", 0))
    wait_until(lambda: len(server.connections) == 2, "the last place")
    with socket.create_connection(server.addresses[1], LIMIT):
        wait_until(lambda: server.stats()["accepted"] == 3, "one that waits")
        handler, logger = Closing(), logging.getLogger("iocpcore")
        logger.addHandler(handler)
        try:
            other.close()
            closed.wait(limit=LIMIT / 2)
        finally:
            logger.removeHandler(handler)
    assert not recwarn.list


@pytest.mark.system
def test_idle_timeout(make_server, plain):
    events = Events()
    server = make_server(on_data=echo, on_close=events.recorder("close"), idle_timeout=0.4)
    silent, busy = plain(server), plain(server)
    began = time.monotonic()
    while not events.items:
        busy.sendall(b"x")
        assert read_exactly(busy, 1) == b"x"
        assert time.monotonic() - began < LIMIT
        time.sleep(0.02)
    assert time.monotonic() - began >= 0.35
    assert read_all(silent) == b""
    assert isinstance(events.items[0][1], TimeoutError)
    busy.sendall(b"y")
    assert read_exactly(busy, 1) == b"y"


@pytest.mark.system
def test_a_stalled_write_is_idle(make_server, plain):
    events = Events()
    server = make_server(
        on_connect=lambda conn: conn.send(bytes(16_000_000)),
        on_close=events.recorder("close"),
        idle_timeout=0.3,
    )
    plain(server)
    assert isinstance(events.wait()[0][1], TimeoutError)


@pytest.mark.system
def test_handshake_timeout(make_server, plain, monkeypatch, caplog):
    class Never:
        peer_ended = False

        def __init__(self, conn: Connection) -> None:
            pass

        def start(self) -> None:
            pass

        def receive(self, data: bytes) -> bytes:
            return b""

        def eof(self) -> None:
            pass

    monkeypatch.setattr("iocpcore.server._stage", lambda *_: Never)
    events = Events()
    server = make_server(on_connect=events.add, on_close=events.add, handshake_timeout=0.3)
    with caplog.at_level(logging.INFO, "iocpcore"):
        sock = plain(server)
        sock.sendall(b"hello?")
        assert read_all(sock) == b""
        sock.close()
        wait_until(lambda: not server.stats()["establishing"], "the end of it")
    assert len(events) == 0
    assert server.stats()["failed"] == 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("connection from 127.0.0.1:")
    assert "not established" in line


def test_without_a_handshake(make_server, dial):
    """There is nothing that handshake_timeout has to watch, and so no clock."""
    connected, servers = Events(), []
    for limit in (None, 10):
        servers.append(
            make_server(on_connect=connected.recorder("connect"), handshake_timeout=limit)
        )
        dial(servers[-1])
    connected.wait(2)
    one, other = servers
    wait_until(
        lambda: one.stats()["port_in_flight"] == other.stats()["port_in_flight"], "the same of both"
    )


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


@pytest.mark.system
@pytest.mark.skipif(WINDOWS, reason="the number of descriptors has no limit there")
def test_without_descriptors(make_server, plain, caplog, monkeypatch):
    """Accepting pauses, says so once, and goes on, which is said when it is sure."""
    import resource

    monkeypatch.setattr("iocpcore._log.INTERVAL", 0.5)
    server = make_server(on_data=echo)
    clients = [socket.socket() for _ in range(3)]
    descriptor = os.open(os.devnull, os.O_RDONLY)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with caplog.at_level(logging.WARNING, "iocpcore"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptor, hard))
        try:
            for client in clients:
                client.settimeout(LIMIT)
                client.connect(server.addresses[0])
                client.sendall(b"x")
            wait_until(lambda: server.stats()["accept_errors"] > 1, "the refusal")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptor, hard))
            raise_descriptor_limit()
            os.close(descriptor)
        for client in clients:
            assert read_exactly(client, 1) == b"x"
            client.close()
        wait_until(lambda: "goes on" in caplog.records[-1].getMessage(), "the end of it")
    messages = [record.getMessage().split(":")[0] for record in caplog.records]
    pauses, goes_on = "accepting connections pauses", "accepting connections goes on"
    # Once, unless the machine has stood still for half a second.
    assert messages == [pauses, goes_on] * (len(messages) // 2)
    assert messages
