"""Connections of a group that come as the system seldom brings them."""

from __future__ import annotations

import socket

import pytest


@pytest.mark.system
def test_a_peer_that_is_not_numbers_only(make_server, plain):
    """As the address of an interface may look. Then the system is asked."""
    listening, server = make_server(), make_server()
    sock = plain(listening)
    sock.setblocking(False)
    peer = sock.getpeername()
    conn = server._group.adopt(sock.detach(), socket.AF_INET, peer=("127.0.0.1%lo", 5))
    assert repr(conn) == f"<iocpcore.Connection {conn.id}>"
    assert conn.peername == peer


@pytest.mark.found_in_use
@pytest.mark.system
def test_connection_that_comes_when_the_end_has_begun(make_server, plain):
    server = make_server(on_data=lambda conn, data: None)
    server._group.shutdown()  # an accept was under way, and the listener is not closed yet
    try:
        assert plain(server).recv(1) == b""
    except ConnectionResetError:  # perhaps while it connects
        pass
