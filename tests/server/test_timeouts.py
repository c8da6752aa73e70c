"""How long a connection may be silent, and take until it is established."""

from __future__ import annotations

import logging
import time

import iocpcore
import pytest
from iocpcore import Connection
from support import certificates
from support.callbacks import echo
from support.events import Events
from support.streams import read_all, read_exactly
from support.system import LIMIT, scaled, wait_until

SILENT = 1000
BEGINNING_OF_TLS = b"\x16\x03\x01"  # the first bytes of a record


@pytest.mark.found_in_use
def test_long_idle_timeout_beside_a_short_handshake_timeout(make_server, backend):
    """Silence was counted in steps of the shorter limit, up to 65,535 of them."""
    if backend != "sim":
        pytest.skip("needs virtual time")
    events = Events()

    def on_connect(conn):
        port = server.completion_port
        for seconds in (660, 701):
            port.timer(seconds, callback=lambda op, at=seconds: events.add(at))

    server = make_server(
        on_connect=on_connect,
        on_close=lambda conn, error: events.add(type(error)),
        idle_timeout=680,
        handshake_timeout=0.01,
        proxy_protocol=["0.0.0.0/0"],
        workers=1,
    )
    iocpcore.connect_nowait(
        *server.addresses[0][:2],
        on_connect=lambda conn: conn.send(b"PROXY UNKNOWN\r\n"),
        completion_port=server.completion_port,
    )
    found = events.wait(3)
    assert found[0] == 660
    assert TimeoutError in found


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
def test_handshake_timeout(make_server, plain, caplog):
    events = Events()
    server = make_server(
        on_connect=events.add,
        on_close=events.add,
        handshake_timeout=0.3,
        ssl=certificates.server_context(),
    )
    with caplog.at_level(logging.INFO, "iocpcore"):
        sock = plain(server)
        sock.sendall(BEGINNING_OF_TLS)
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
