"""Interfaces for creating sockets. They come from the system or from a simulated network.

A runtime chooses one implementation of Sockets once, by the backend of its port. Nothing else in
the package depends on the backend.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from iocpcore._core import Connection, ConnectionGroup, Listener
from iocpcore._options import SocketOptions


def is_simulated(backend: str) -> bool:
    """Whether this backend has its own network, which no other process can reach."""
    return backend == "sim"


class Target(NamedTuple):
    """One address to connect or bind to."""

    family: int
    address: Any


class Stream(Protocol):
    """A stream that is not connected yet. Its creator owns it until adopt() or close()."""

    handle: Any  # for the methods of the port

    def adopt(self, group: ConnectionGroup, context: object) -> Connection:
        """Turn it into a connection. The group takes ownership even if this raises."""

    def close(self) -> None:
        """Close it and cancel what is in flight. Does nothing after adopt()."""


@dataclass(frozen=True)
class SocketFile:
    """The file that a unix socket leaves in the file system."""

    path: str
    identity: tuple[int, int]
    owner: int  # process id: a forked child must not remove the file

    @classmethod
    def of(cls, path: str) -> SocketFile:
        return cls(path, _identity(path), os.getpid())

    def remove(self) -> None:
        """Remove it, unless it has been replaced by another file."""
        if os.getpid() != self.owner:
            return
        with suppress(OSError):
            if _identity(self.path) == self.identity:
                os.unlink(self.path)


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


class Listening(Protocol):
    """A listening socket or pipe. The caller owns it until accept_on() or close()."""

    @property
    def address(self) -> Any:
        """What getsockname() returns. A path or the name of a pipe is a str."""

    @property
    def file(self) -> SocketFile | None:
        """The file that was created for it and must be removed with it."""

    def accept_on(self, group: ConnectionGroup) -> Listener:
        """Start accepting connections for this group.

        The group takes ownership, unless this raises.
        """

    def close(self) -> None:
        """Close it. Only if no group has taken ownership."""


@dataclass(frozen=True)
class AcceptingListener:
    """A listener that is on the port from the start: a named pipe, or a simulated one."""

    listener: Listener
    address: Any
    file: SocketFile | None = None

    def accept_on(self, group: ConnectionGroup) -> Listener:
        return self.listener

    def close(self) -> None:
        self.listener.close()


class BoundDatagram(NamedTuple):
    """A bound datagram socket, owned by the caller."""

    native: int
    family: int
    address: Any


class Sockets(Protocol):
    """Creates the sockets of one port."""

    def known_targets(self, host: str, port: int) -> list[Target]:
        """The addresses of the host if it needs no lookup, else an empty list."""

    def open_stream(self, target: Target, local: Target | None, options: SocketOptions) -> Stream:
        """Raises OSError, or ValueError if the port is closed."""

    def listen(
        self, group: ConnectionGroup, host: Any, port: int | None, options: SocketOptions
    ) -> list[Listening]:
        """Returns at least one. Raises OSError, or TypeError or ValueError naming the argument."""

    def open_datagram(
        self,
        sock: socket.socket | None,
        local: Target | None,
        remote: Target | None,
        options: SocketOptions,
    ) -> BoundDatagram:
        """Raises OSError, or TypeError or ValueError naming the argument."""
