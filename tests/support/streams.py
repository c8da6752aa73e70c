"""Plain blocking sockets at the other end of a server."""

from __future__ import annotations

import socket


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
