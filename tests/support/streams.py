"""Helpers for plain blocking sockets that are clients of a server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from iocpcore import Connection, Datagram


@contextmanager
def socket_of(conn: Connection | Datagram) -> Iterator[socket.socket]:
    """A socket object to inspect options. The connection still owns the descriptor."""
    sock = socket.socket(fileno=conn.fileno())
    try:
        yield sock
    finally:
        sock.detach()


def read_all(sock: socket.socket) -> bytes:
    """Read up to the end of the stream."""
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
