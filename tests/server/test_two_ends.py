"""Both ends are connections of ours, and each sends much."""

from __future__ import annotations

import threading

import pytest
from support.system import LIMIT, scaled

pytestmark = pytest.mark.found_in_use

PIECE = 1 << 20


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
