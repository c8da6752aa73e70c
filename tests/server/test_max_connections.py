"""How many connections a server takes, in all and from one address."""

from __future__ import annotations

import logging
import socket
import threading
import time

import pytest
from iocpcore import Connection
from support.callbacks import echo
from support.events import Events
from support.streams import read_exactly
from support.system import LIMIT, LINUX, wait_until


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
