"""Client sockets of the system before they are connected, and address lookup."""

from __future__ import annotations

import errno
import socket
import sys
from contextlib import suppress
from typing import Any

from iocpcore import _core, _validate
from iocpcore._core import CompletionPort, Connection, ConnectionGroup
from iocpcore._options import SocketOptions
from iocpcore._server_sockets import bind
from iocpcore._sockets import Target


class SystemStream:
    def __init__(
        self, port: CompletionPort, target: Target, local: Target | None, options: SocketOptions
    ) -> None:
        self._port = port
        self._target = target
        self.handle = sock = socket.socket(target.family, socket.SOCK_STREAM)
        try:
            options.apply(sock)
            if local is not None:
                _bind(sock, local)
        except OSError:
            sock.close()
            raise

    def adopt(self, group: ConnectionGroup, context: object) -> Connection:
        family, peer = self.handle.family, self._target.address
        with suppress(OSError):  # the connection has been reset
            peer = self.handle.getpeername()  # differs from the target if that is 0.0.0.0
        self._port.dissociate(self.handle)
        return group.adopt(self.handle.detach(), family, peer=peer, context=context)

    def close(self) -> None:
        if self.handle.fileno() < 0:
            return
        try:
            self._port.close_handle(self.handle)
        except ValueError:  # the port is closed
            self.handle.close()


class Pipe:
    """The client end of a named pipe. It is connected from the start."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self._own = True

    def adopt(self, group: ConnectionGroup, context: object) -> Connection:
        self._own = False
        return group.adopt(self.handle, socket.AF_UNSPEC, context=context)

    def close(self) -> None:
        if self._own and sys.platform == "win32":
            _core.pipe_close(self.handle)


def _bind(sock: socket.socket, local: Target) -> None:
    if sock.family != local.family:
        raise OSError(errno.EAFNOSUPPORT, f"local_address {local.address[0]} is of another family")
    bind(sock, local.address)


# ---- addresses ----------------------------------------------------------------------------------


def numeric(host: str, port: int, socket_type: int = socket.SOCK_STREAM) -> list[Target] | None:
    """The addresses of the host, or None if it is a name rather than a numeric address."""
    try:
        return _lookup(host, port, socket_type, socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None


def resolve(host: str, port: int, socket_type: int = socket.SOCK_STREAM) -> list[Target]:
    """Look up all addresses of a name. Blocks. Raises socket.gaierror that names the host."""
    try:
        return _lookup(host, port, socket_type, 0)
    except UnicodeError as error:
        raise socket.gaierror(
            socket.EAI_NONAME, f"{host!r} is no name of a host: {error}"
        ) from None
    except socket.gaierror as error:
        raise socket.gaierror(error.errno, f"{host}: {error.strerror}") from None


def _lookup(host: str, port: int, socket_type: int, flags: int) -> list[Target]:
    found = socket.getaddrinfo(host, port, type=socket_type, flags=flags)
    return list(dict.fromkeys(Target(family, address) for family, _, _, _, address in found))


def local_target(value: Any, socket_type: int = socket.SOCK_STREAM) -> Target | None:
    """Parse a ``local_address=(host, port)``, whose host must be numeric."""
    if value is None:
        return None
    if not (isinstance(value, tuple) and len(value) >= 2 and isinstance(value[0], str)):
        raise TypeError("local_address must be (host, port)")
    number = _validate.port_number(value[1])
    flags = socket.AI_NUMERICHOST | socket.AI_PASSIVE
    try:
        return _lookup(value[0] or "0.0.0.0", number, socket_type, flags)[0]
    except OSError:
        raise ValueError(f"local_address must have a numeric host, not {value[0]!r}") from None


# ---- named pipes --------------------------------------------------------------------------------

if sys.platform == "win32":

    def open_pipe(name: str, limit: float) -> int:
        """Open the client end of a pipe. Waits up to `limit` seconds for a free instance."""
        return _core.pipe_connect(name, max(0.0, limit))

else:

    def open_pipe(name: str, limit: float) -> int:
        raise ValueError("named pipes do not exist here")
