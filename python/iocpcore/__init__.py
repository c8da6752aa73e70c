"""Completion ports for Python: IOCP on Windows, the same model on io_uring and epoll."""

from __future__ import annotations

from iocpcore import _process_exit
from iocpcore._core import (
    CompletionPort,
    Connection,
    Delimited,
    FixedSize,
    LengthPrefixed,
    Operation,
    backends,
)
from iocpcore._server_sockets import systemd_sockets
from iocpcore._version import __version__
from iocpcore.client import Connecting, connect, connect_nowait
from iocpcore.datagram import Datagram
from iocpcore.errors import (
    FramingError,
    InvalidStateError,
    ProxyProtocolError,
    SlowReaderError,
)
from iocpcore.framing import Framer
from iocpcore.server import Server

__all__ = [
    "CompletionPort",
    "Connecting",
    "Connection",
    "Datagram",
    "Delimited",
    "FixedSize",
    "Framer",
    "FramingError",
    "InvalidStateError",
    "LengthPrefixed",
    "Operation",
    "ProxyProtocolError",
    "Server",
    "SlowReaderError",
    "__version__",
    "backends",
    "connect",
    "connect_nowait",
    "systemd_sockets",
]

_process_exit.register()
