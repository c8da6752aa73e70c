"""Listening sockets: from a host and port, a path, or a socket that the caller has bound."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from iocpcore._core import ConnectionGroup, Listener
from iocpcore._options import SocketOptions
from iocpcore._sockets import SocketFile

logger = logging.getLogger("iocpcore")

WINDOWS = sys.platform == "win32"
UNIX: Any = None if WINDOWS else getattr(socket, "AF_UNIX", None)
PIPE = "\\\\.\\pipe\\"
# As many as the system allows. Linux limits it to net.core.somaxconn, which defaults to 4096.
BACKLOG = socket.SOMAXCONN if WINDOWS else 4096
ATTEMPTS = 16  # tries to find a port that is free in every address family


@dataclass(frozen=True)
class ListeningSocket:
    """A listening, non-blocking socket of the system."""

    sock: socket.socket
    address: Any
    file: SocketFile | None = None

    def accept_on(self, group: ConnectionGroup) -> Listener:
        listener = group.listen(self.sock.fileno(), self.sock.family)
        self.sock.detach()
        return listener

    def close(self) -> None:
        self.sock.close()


def is_path(host: object, port: int | None) -> bool:
    """Whether the arguments mean a unix socket. An abstract name may be bytes, as in Python.

    Raises TypeError for a path with a port.
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


def listen_path(path: str | bytes | os.PathLike[str], options: SocketOptions) -> ListeningSocket:
    """Listen on a unix socket. A stale socket file is replaced, one of a running server is not."""
    if UNIX is None:
        raise ValueError("unix sockets do not exist here")
    name = os.fsdecode(path) if isinstance(path, bytes) else os.fspath(path)
    if not isinstance(name, str):
        raise TypeError("host must be a str if it is a path, not bytes")
    with _closing_on_error(socket.socket(UNIX, socket.SOCK_STREAM)) as sock:
        if name.startswith("\0"):
            bind(sock, name, "listen on")
            return _listening(sock, options)
        try:
            bind(sock, name, "listen on")
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_stale(name):
                raise
            os.unlink(name)
            bind(sock, name, "listen on")
        file = SocketFile.of(name)
        try:
            return _listening(sock, options, file)
        except OSError:
            file.remove()
            raise


def listen_host(host: object, port: int, options: SocketOptions) -> list[ListeningSocket]:
    """Listen on every address of the host, with the same port on each."""
    if host is not None and not isinstance(host, str):
        raise TypeError(f"host must be a str, a socket or None, not {type(host).__name__}")
    addresses = _resolve(host or None, port)
    for attempt in range(ATTEMPTS):
        try:
            return _listen_all(addresses, options)
        except OSError as error:
            # The port chosen in one family may be in use in the other.
            retry = error.errno == errno.EADDRINUSE and port == 0 and len(addresses) > 1
            if not retry or attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def take_over(sock: socket.socket, options: SocketOptions) -> ListeningSocket:
    """Take over a bound socket, which may already be listening. `sock` is detached."""
    if type(sock) is not socket.socket and hasattr(sock, "context"):
        raise TypeError("host must be a plain socket: TLS is asked for with ssl=")
    if sock.type != socket.SOCK_STREAM:
        raise ValueError("host must be a stream socket")
    try:
        address = sock.getsockname()
    except OSError:  # on Windows the socket is not bound then
        address = None
    if not (address[1] if isinstance(address, tuple) and len(address) > 1 else address):
        raise ValueError("host must be a socket that is bound")
    if options.backlog is not None or not _listens(sock):
        _listen(sock, options)
    options.apply(sock)
    sock.setblocking(False)
    family, socket_type, protocol = sock.family, sock.type, sock.proto
    ours = socket.socket(family, socket_type, protocol, fileno=sock.detach())
    return ListeningSocket(ours, address)


def systemd_sockets() -> list[socket.socket]:
    """The sockets that systemd passed to this process (``sd_listen_fds``), for ``listen()``.

    They are in the order of the unit file; the list is empty if there are none. The caller owns
    them: a second call, or a child process, gets none. Raises ValueError if the environment is
    malformed.
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


# ---- helpers ------------------------------------------------------------------------------------


def _resolve(host: str | None, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise socket.gaierror(error.errno, f"listen on {host}: {error.strerror}") from None
    # Remove duplicates, but keep the resolver's order.
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _listen_all(
    addresses: list[tuple[socket.AddressFamily, Any]], options: SocketOptions
) -> list[ListeningSocket]:
    opened: list[ListeningSocket] = []
    refused: OSError | None = None
    try:
        for family, address in addresses:
            if opened and address[1] == 0:
                address = (address[0], opened[0].address[1], *address[2:])
            try:
                sock = _bound(family, address, options)
            except OSError as error:
                # The resolver returns it, but IPv6 (or IPv4) is disabled on this machine.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                refused = error
                continue
            with _closing_on_error(sock):
                options.apply(sock)
                opened.append(_listening(sock, options))
    except BaseException:
        for listening in opened:
            listening.close()
        raise
    if not opened:
        raise refused if refused is not None else OSError("no address to listen on")
    if refused is not None:
        logger.info("not listening on every address: %s", refused)
    return opened


def _bound(family: socket.AddressFamily, address: Any, options: SocketOptions) -> socket.socket:
    with _closing_on_error(socket.socket(family, socket.SOCK_STREAM)) as sock:
        if sys.platform == "win32":
            # On Windows SO_REUSEADDR would let another process take over the port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        options.apply_before_bind(sock)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bind(sock, address, "listen on")
        return sock


def bind(sock: socket.socket, address: Any, what: str = "bind to") -> None:
    """Bind a socket. Raises OSError that names the address."""
    try:
        sock.bind(address)
    except OSError as error:
        where = f"{address[0]} port {address[1]}" if isinstance(address, tuple) else repr(address)
        # Python checks the length of a path itself; that error has no errno.
        number = error.errno or errno.ENAMETOOLONG
        text = f"{what} {where}: {error.strerror or error}"
        raise OSError(number, text, None, getattr(error, "winerror", None)) from None


def _listening(
    sock: socket.socket, options: SocketOptions, file: SocketFile | None = None
) -> ListeningSocket:
    _listen(sock, options)
    sock.setblocking(False)
    return ListeningSocket(sock, sock.getsockname(), file)


def _listen(sock: socket.socket, options: SocketOptions) -> None:
    sock.listen(BACKLOG if options.backlog is None else options.backlog)


def _listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _is_stale(path: str) -> bool:
    """Whether the path is a socket file on which no process listens any more."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED


@contextmanager
def _closing_on_error(sock: socket.socket) -> Iterator[socket.socket]:
    try:
        yield sock
    except BaseException:
        sock.close()
        raise
