"""Completion ports for Python: IOCP on Windows, the same model on io_uring and epoll."""

from __future__ import annotations

from iocpcore import _lifetime
from iocpcore._core import CompletionPort, Operation, backends
from iocpcore._version import __version__
from iocpcore.errors import InvalidStateError

__all__ = ["CompletionPort", "InvalidStateError", "Operation", "__version__", "backends"]

_lifetime.register()
