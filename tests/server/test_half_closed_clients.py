"""Clients that ask, end their streams, and read the answer only later, or never."""

from __future__ import annotations

import hashlib
import socket
import time

import pytest
from iocpcore import Connection
from support.events import Events
from support.streams import read_all
from support.system import scaled, wait_until

pytestmark = pytest.mark.found_in_use

ANSWER = hashlib.sha256(b"answer").digest() * (16 << 15)  # 16 MiB: more than a socket takes
QUIET_SECONDS = 1.0


@pytest.mark.system
@pytest.mark.parametrize("way", ["send", "send_file"])
def test_they_cost_nothing(make_server, plain, tmp_path, way):
    """The worker sleeps until they read; then everything arrives."""
    path = tmp_path / "answer"
    path.write_bytes(ANSWER)
    asked = Events()

    def on_data(conn: Connection, data: bytes) -> None:
        if way == "send":
            conn.send(ANSWER)
        else:
            with open(path, "rb") as file:
                conn.send_file(file)
        asked.add(conn)

    server = make_server(on_data=on_data)
    socks = [plain(server) for _ in range(scaled(10, 3))]
    for sock in socks:
        sock.sendall(b"?")
        sock.shutdown(socket.SHUT_WR)
    asked.wait(len(socks))
    port = server.completion_port
    before, looked = time.process_time(), port.stats()["waits"]
    time.sleep(QUIET_SECONDS)
    assert time.process_time() - before < QUIET_SECONDS / 2
    assert port.stats()["waits"] - looked < 10_000
    assert len(server.connections) == len(socks)
    for sock in socks:
        assert read_all(sock) == ANSWER
    wait_until(lambda: not server.connections, "the end of all")
