"""Plain blocking sockets at the other end of a server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from iocpcore import Connection, Datagram


@contextmanager
def socket_of(conn: Connection | Datagram) -> Iterator[socket.socket]:
    """To look at its options; it stays the connection's."""
    sock = socket.socket(fileno=conn.fileno())
    try:
        yield sock
    finally:
        sock.detach()


def read_all(sock: socket.socket) -> bytes:
    """Up to the end of the stream."""
    parts = []
    while part := sock.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


def read_exactly(sock: socket.socket, nbytes: int) -> bytes:
    data = bytearray()
    while len(data) < nbytes:
        part = sock.recv(nbytes - len(data))
        assert part, f"the stream ended after {len(data)} bytes"
        data += part
    return bytes(data)
