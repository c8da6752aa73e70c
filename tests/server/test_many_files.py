"""A peer that asks for very many files and reads none of them."""

from __future__ import annotations

import tempfile

import iocpcore
import pytest
from support.system import descriptors

pytestmark = pytest.mark.found_in_use

ASKED = 1000


@pytest.mark.system
def test_files_that_nobody_reads(make_server, plain):
    """Each that waits holds a descriptor: so few wait, and the peer's other requests do, too."""
    asked = []
    with tempfile.TemporaryFile() as file:
        file.truncate(1 << 26)

        def on_message(conn, message):
            asked.append(message)
            conn.send_file(file)

        server = make_server(on_message=on_message, framing=iocpcore.FixedSize(1))
        before = len(descriptors())
        sock = plain(server)
        sock.sendall(bytes(ASKED))
        while not asked:
            assert sock.recv(1 << 16)
        sock.recv(1 << 16)
        assert 1 <= len(asked) < 50
        assert len(descriptors()) - before < 60
        (conn,) = server.connections
        conn.abort()
