"""Connections of a port that nobody runs: get() and get_many() serve them, as far as they come."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import iocpcore
import pytest
from iocpcore import Connection
from support import inside
from support.system import LIMIT, wait_until


@pytest.mark.found_in_use
@pytest.mark.system
def test_an_interrupt_in_get_many(make_server):
    """It is raised there, and what was taken out together with it is served by the next call."""
    connected = []

    def on_connect(conn):
        connected.append(conn)
        if len(connected) == 1:
            raise KeyboardInterrupt

    server = make_server(on_connect=on_connect, start=False)
    server.listen("127.0.0.1", 0)
    inside.accept_without_workers(server)  # and no worker of its own
    port = server.completion_port
    clients = [socket.create_connection(address, LIMIT) for address in server.addresses]
    with pytest.raises(KeyboardInterrupt):
        port.get_many(64, LIMIT)
    wait_until(lambda: not port.get_many(64, 0) and len(connected) == 2, "the other one")
    assert server.stats()["accepted"] == 2
    for client in clients:
        client.close()


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
