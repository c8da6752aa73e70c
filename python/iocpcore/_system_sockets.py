"""Sockets of the operating system."""

from __future__ import annotations

import socket
import sys
from typing import Any

from iocpcore import _client_sockets, _server_sockets, _validate
from iocpcore._core import CompletionPort, ConnectionGroup
from iocpcore._options import SocketOptions
from iocpcore._sockets import AcceptingListener, BoundDatagram, Listening, Stream, Target


class SystemSockets:
    def __init__(self, port: CompletionPort) -> None:
        self._port = port

    def known_targets(self, host: str, port: int) -> list[Target]:
        return _client_sockets.numeric(host, port) or []

    def open_stream(self, target: Target, local: Target | None, options: SocketOptions) -> Stream:
        return _client_sockets.SystemStream(self._port, target, local, options)

    def listen(
        self, group: ConnectionGroup, host: Any, port: int | None, options: SocketOptions
    ) -> list[Listening]:
        if isinstance(host, str) and _server_sockets.is_pipe(host, port):
            if sys.platform != "win32":
                raise ValueError("host must not be a pipe: named pipes do not exist here")
            return [AcceptingListener(group.listen_pipe(host), host)]
        if isinstance(host, socket.socket):
            if port is not None:
                raise TypeError("port must not be given with a socket")
            return [_server_sockets.take_over(host, options)]
        if host is not None and _server_sockets.is_path(host, port):
            if options.reuse_port:
                raise ValueError("reuse_port is for TCP")
            return [_server_sockets.listen_path(host, options)]
        number = _validate.port_number(port)
        return [*_server_sockets.listen_host(host, number, options)]

    def open_datagram(
        self,
        sock: socket.socket | None,
        local: Target | None,
        remote: Target | None,
        options: SocketOptions,
    ) -> BoundDatagram:
        if sock is None:
            sock = _make_datagram(local, remote, options)
        elif not isinstance(sock, socket.socket):
            raise TypeError(f"sock must be a socket, not {type(sock).__name__}")
        elif sock.type != socket.SOCK_DGRAM:
            raise ValueError("sock must be a datagram socket")
        sock.setblocking(False)
        address, family = sock.getsockname(), sock.family
        return BoundDatagram(sock.detach(), family, address)


def _make_datagram(
    local: Target | None, remote: Target | None, options: SocketOptions
) -> socket.socket:
    family = next((target.family for target in (local, remote) if target), socket.AF_INET)
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        options.apply_before_bind(sock)
        options.apply(sock)
        if local is not None:
            _server_sockets.bind(sock, local.address)
        elif remote is None:
            # Windows cannot receive on a socket that is not bound.
            _server_sockets.bind(sock, ("0.0.0.0", 0))
        if remote is not None:
            sock.connect(remote.address)  # sends nothing; it only sets the peer
    except BaseException:
        sock.close()
        raise
    return sock
