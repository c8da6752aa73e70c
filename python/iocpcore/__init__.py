"""Completion ports for Python: IOCP on Windows, the same model on io_uring and epoll."""

from __future__ import annotations

from iocpcore import _lifetime
from iocpcore._core import CompletionPort, Delimited, FixedSize, LengthPrefixed, Operation, backends
from iocpcore._version import __version__
from iocpcore.errors import FramingError, InvalidStateError
from iocpcore.framing import Framer

__all__ = [
    "CompletionPort",
    "Delimited",
    "FixedSize",
    "Framer",
    "FramingError",
    "InvalidStateError",
    "LengthPrefixed",
    "Operation",
    "__version__",
    "backends",
]

_lifetime.register()
