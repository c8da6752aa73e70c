"""Listening sockets: from a host and port, a path, or a socket that somebody else has bound."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from iocpcore import _validate

logger = logging.getLogger("iocpcore")

WINDOWS = sys.platform == "win32"
UNIX: Any = None if WINDOWS else getattr(socket, "AF_UNIX", None)
PIPE = "\\\\.\\pipe\\"
# As many as the system allows; Linux limits it to net.core.somaxconn, which is this today.
BACKLOG = socket.SOMAXCONN if WINDOWS else 4096
ATTEMPTS = 16  # to find a port that is free in every family


@dataclass(frozen=True)
class Listening:
    """A socket that listens, does not block, and is nobody else's."""

    sock: socket.socket
    address: Any  # as getsockname() gives it; a path is a str
    file: SocketFile | None = None  # made by us


@dataclass(frozen=True)
class SocketFile:
    """What a unix socket leaves in the file system."""

    path: str
    identity: tuple[int, int]
    owner: int  # the process: the file is not that of a forked child

    def remove(self) -> None:
        """Unless somebody has put another in its place."""
        if os.getpid() != self.owner:
            return
        with suppress(OSError):
            if _identity(self.path) == self.identity:
                os.unlink(self.path)


def is_path(host: object, port: int | None) -> bool:
    """Whether this means a unix socket. Python gives abstract names as bytes.

    Raises TypeError for one with a port.
    """
    if isinstance(host, bytes):
        path = host.startswith(b"\0")
    else:
        path = isinstance(host, os.PathLike) or (
            isinstance(host, str) and ("/" in host or host.startswith("\0"))
        )
    if path and port is not None:
        raise TypeError("port must not be given with a path")
    return path


def is_pipe(host: object, port: int | None) -> bool:
    return port is None and isinstance(host, str) and host.lower().startswith(PIPE)


def listen_path(path: str | bytes | os.PathLike[str], backlog: int | None) -> list[Listening]:
    """A unix socket. The file of a server that is gone is replaced, that of a living one not."""
    if UNIX is None:
        raise ValueError("unix sockets do not exist here")
    name = os.fsdecode(path) if isinstance(path, bytes) else os.fspath(path)
    if not isinstance(name, str):
        raise TypeError("host must be a str if it is a path, not bytes")
    with _closing_on_error(socket.socket(UNIX, socket.SOCK_STREAM)) as sock:
        if name.startswith("\0"):
            bind(sock, name, "listen on")
            return [_listening(sock, backlog)]
        try:
            bind(sock, name, "listen on")
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_stale(name):
                raise
            os.unlink(name)
            bind(sock, name, "listen on")
        file = SocketFile(name, _identity(name), os.getpid())
        try:
            return [_listening(sock, backlog, file)]
        except OSError:
            file.remove()
            raise


def listen_host(
    host: object, port: int, backlog: int | None, reuse_port: bool, keepalive: bool
) -> list[Listening]:
    """A socket for each address of the host, all with the same port."""
    if host is not None and not isinstance(host, str):
        raise TypeError(f"host must be a str, a socket or None, not {type(host).__name__}")
    addresses = _resolve(host or None, port)
    for attempt in range(ATTEMPTS):
        try:
            return _listen_all(addresses, backlog, reuse_port, keepalive)
        except OSError as error:
            # The port that was free in one family may be taken in the other.
            retry = error.errno == errno.EADDRINUSE and port == 0 and len(addresses) > 1
            if not retry or attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def take_socket(sock: socket.socket, backlog: int | None, keepalive: bool) -> list[Listening]:
    """A socket that is bound, and may be listening already. The caller's object is closed."""
    if type(sock) is not socket.socket and hasattr(sock, "context"):
        raise TypeError("host must be a plain socket: TLS is asked for with ssl=")
    if sock.type != socket.SOCK_STREAM:
        raise ValueError("host must be a stream socket")
    try:
        address = sock.getsockname()
    except OSError:  # Windows says so
        address = None
    if not (address[1] if isinstance(address, tuple) and len(address) > 1 else address):
        raise ValueError("host must be a socket that is bound")
    if backlog is not None or not _listens(sock):
        sock.listen(BACKLOG if backlog is None else backlog)
    _set_inherited(sock, keepalive)
    sock.setblocking(False)
    return [Listening(sock, address)]


def systemd_sockets() -> list[socket.socket]:
    """The sockets that systemd passed to this process (``sd_listen_fds``), for ``listen()``.

    In the order of the unit file; empty if there are none. They are taken: a second call, and
    child processes, get none. Raises ValueError if the environment is malformed.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if not count or pid != str(os.getpid()):
        return []
    if not count.isdecimal():
        raise ValueError(f"LISTEN_FDS must be a number, not {count!r}")
    sockets: list[socket.socket] = []
    try:
        for number in range(3, 3 + int(count)):
            os.set_inheritable(number, False)
            sockets.append(socket.socket(fileno=number))
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise ValueError(f"LISTEN_FDS is {count}, but descriptor {number}: {error}") from error
    return sockets


# ---- parts --------------------------------------------------------------------------------------


def _resolve(host: str | None, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise socket.gaierror(error.errno, f"listen on {host}: {error.strerror}") from None
    # Without repetitions, in the resolver's order.
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _listen_all(
    addresses: list[tuple[socket.AddressFamily, Any]],
    backlog: int | None,
    reuse_port: bool,
    keepalive: bool,
) -> list[Listening]:
    opened: list[Listening] = []
    refused: OSError | None = None
    try:
        for family, address in addresses:
            if opened and address[1] == 0:
                address = (address[0], opened[0].address[1], *address[2:])
            try:
                sock = _bound(family, address, reuse_port)
            except OSError as error:
                # The resolver knows it, but IPv6 (or IPv4) is switched off here.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                refused = error
                continue
            with _closing_on_error(sock):
                _set_inherited(sock, keepalive)
                opened.append(_listening(sock, backlog))
    except BaseException:
        for listening in opened:
            listening.sock.close()
        raise
    if not opened:
        raise refused if refused is not None else OSError("no address to listen on")
    if refused is not None:
        logger.info("not listening on every address: %s", refused)
    return opened


def _bound(family: socket.AddressFamily, address: Any, reuse_port: bool) -> socket.socket:
    with _closing_on_error(socket.socket(family, socket.SOCK_STREAM)) as sock:
        if sys.platform == "win32":
            # SO_REUSEADDR would let any other process take the port over there.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            set_reuse_port(sock)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bind(sock, address, "listen on")
        return sock


def bind(sock: socket.socket, address: Any, what: str = "bind to") -> None:
    """Raises an OSError that says which address."""
    try:
        sock.bind(address)
    except OSError as error:
        where = f"{address[0]} port {address[1]}" if isinstance(address, tuple) else repr(address)
        # Python itself finds that a path is too long, and gives no number.
        number = error.errno or errno.ENAMETOOLONG
        text = f"{what} {where}: {error.strerror or error}"
        raise OSError(number, text, None, getattr(error, "winerror", None)) from None


def set_reuse_port(sock: socket.socket) -> None:
    """Let other processes bind the same port. Raises ValueError where that is not possible."""
    if sys.platform == "win32" or not hasattr(socket, "SO_REUSEPORT"):
        raise ValueError("reuse_port is not possible here")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _listening(
    sock: socket.socket, backlog: int | None, file: SocketFile | None = None
) -> Listening:
    sock.listen(BACKLOG if backlog is None else backlog)
    sock.setblocking(False)
    return Listening(sock, sock.getsockname(), file)


def _set_inherited(sock: socket.socket, keepalive: bool) -> None:
    """What accepted sockets inherit from the listener, on Linux."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(keepalive))
        with suppress(OSError):  # of a protocol that is like TCP and does not know it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _is_stale(path: str) -> bool:
    """Whether it is a socket that nobody listens on any more."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


@contextmanager
def _closing_on_error(sock: socket.socket) -> Iterator[socket.socket]:
    try:
        yield sock
    except BaseException:
        sock.close()
        raise


def check_backlog(backlog: int | None) -> int | None:
    return None if backlog is None else _validate.whole("backlog", backlog, 1, 2**31 - 1)
