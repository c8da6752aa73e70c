"""Where sockets come from. A runtime chooses once: from the system, or from a simulation.

Nothing else asks which backend a port has.
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
    """Whether this backend has a network of its own, which no other process can reach."""
    return backend == "sim"


class Target(NamedTuple):
    """One address to connect to, or to bind."""

    family: int
    address: Any


class Stream(Protocol):
    """Not connected yet. Owned by whoever made it, until adopt() or close()."""

    handle: Any  # as the port takes it

    def adopt(self, group: ConnectionGroup, context: object) -> Connection:
        """Make a connection of it. It is given away, also if that raises."""

    def close(self) -> None:
        """Cancels what is in flight. Does nothing if it was given away."""


@dataclass(frozen=True)
class SocketFile:
    """What a unix socket leaves in the file system."""

    path: str
    identity: tuple[int, int]
    owner: int  # the process: the file is not that of a forked child

    @classmethod
    def of(cls, path: str) -> SocketFile:
        return cls(path, _identity(path), os.getpid())

    def remove(self) -> None:
        """Unless somebody has put another in its place."""
        if os.getpid() != self.owner:
            return
        with suppress(OSError):
            if _identity(self.path) == self.identity:
                os.unlink(self.path)


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


class Listening(Protocol):
    """Something that listens and is nobody else's."""

    @property
    def address(self) -> Any:
        """As getsockname() gives it; a path or the name of a pipe is a str."""

    @property
    def file(self) -> SocketFile | None:
        """Made for it, and to be removed with it."""

    def accept_on(self, group: ConnectionGroup) -> Listener:
        """Accept connections for this group, which takes it over. If it raises, it did not."""

    def close(self) -> None:
        """If no group has taken it over."""


@dataclass(frozen=True)
class AcceptingListener:
    """One that has been on the port from the beginning."""

    listener: Listener
    address: Any
    file: SocketFile | None = None

    def accept_on(self, group: ConnectionGroup) -> Listener:
        return self.listener

    def close(self) -> None:
        self.listener.close()


class BoundDatagram(NamedTuple):
    """A datagram socket that is nobody else's."""

    native: int
    family: int
    address: Any


class Sockets(Protocol):
    """Makes the sockets of one port."""

    def known_targets(self, host: str, port: int) -> list[Target]:
        """What the host is, if it needs no look-up; else nothing."""

    def open_stream(self, target: Target, local: Target | None, options: SocketOptions) -> Stream:
        """Raises OSError; ValueError if the port is closed."""

    def listen(
        self, group: ConnectionGroup, host: Any, port: int | None, options: SocketOptions
    ) -> list[Listening]:
        """At least one. Raises OSError, and TypeError or ValueError that names the argument."""

    def open_datagram(
        self,
        sock: socket.socket | None,
        local: Target | None,
        remote: Target | None,
        options: SocketOptions,
    ) -> BoundDatagram:
        """Raises OSError, and TypeError or ValueError that names the argument."""
