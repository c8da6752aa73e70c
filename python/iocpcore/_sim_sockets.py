"""Sockets of the simulated backend. Every port has its own network, which assigns addresses."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

from iocpcore import _core
from iocpcore._core import CompletionPort, Connection, ConnectionGroup
from iocpcore._options import SocketOptions
from iocpcore._sockets import AcceptingListener, BoundDatagram, Listening, Stream, Target


class SimulatedSockets:
    def __init__(self, port: CompletionPort) -> None:
        self._port = port

    def known_targets(self, host: str, port: int) -> list[Target]:
        return [Target(socket.AF_INET, (host, port))]

    def open_stream(self, target: Target, local: Target | None, options: SocketOptions) -> Stream:
        return _SimulatedStream(self._port, target)

    def listen(
        self, group: ConnectionGroup, host: Any, port: int | None, options: SocketOptions
    ) -> list[Listening]:
        native, address = _core.sim_listener(self._port)
        return [AcceptingListener(group.listen(native, socket.AF_INET), address)]

    def open_datagram(
        self,
        sock: socket.socket | None,
        local: Target | None,
        remote: Target | None,
        options: SocketOptions,
    ) -> BoundDatagram:
        native, address = _core.sim_datagram(self._port)
        return BoundDatagram(native, socket.AF_INET, address)


class _SimulatedStream:
    def __init__(self, port: CompletionPort, target: Target) -> None:
        self._port = port
        self._target = target
        self._own = True
        self.handle = _core.sim_socket(port)

    def adopt(self, group: ConnectionGroup, context: object) -> Connection:
        self._port.dissociate(self.handle)
        self._own = False
        peer = self._target.address
        return group.adopt(self.handle, socket.AF_INET, peer=peer, context=context)

    def close(self) -> None:
        if not self._own:
            return
        with suppress(ValueError):  # the port is closed, and its simulated sockets with it
            self._port.close_handle(self.handle)
