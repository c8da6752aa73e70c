"""What happens to ports when the interpreter ends, and when the process forks."""

from __future__ import annotations

import atexit
import os
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress

from iocpcore import _core
from iocpcore._core import CompletionPort

STOP_LIMIT = 1.0  # seconds for servers and clients to send what was queued
WORKERS_LIMIT = 1.0  # seconds for all run()s to return; one may be stuck in a callback
CLOSE_LIMIT = 1.0  # seconds for the kernel to give everything of one port back

_first: list[Callable[[float], object]] = []
_unclosed: list[str] = []  # what was in flight when the interpreter began to end


def register() -> None:
    """Close ports before the interpreter waits for the threads that are in run().

    Ports that are opened after that are closed when they have ended.
    """
    atexit.register(warn_of_unclosed)
    atexit.register(close_all)
    before_joining = getattr(threading, "_register_atexit", None)
    if before_joining is not None:
        with suppress(RuntimeError):  # it is ending already
            before_joining(close_all)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_core._set_main_thread)


def stop_first(function: Callable[[float], object]) -> None:
    """Have this called with STOP_LIMIT before ports are closed: it may still need them."""
    _first.append(function)


def close_all() -> None:
    try:
        for function in _first:
            function(STOP_LIMIT)
    finally:
        _close_ports()


def _close_ports() -> None:
    """Stop the workers of every open port, and close it.

    A worker that is stopped returns from run(); had its port been closed first, it would end with
    an exception that nobody expects.
    """
    _core._begin_end()
    ports = [port for port in _core._open_ports() if _stop(port)]
    _unclosed.extend(repr(port) for port in ports if port.in_flight)
    deadline = time.monotonic() + WORKERS_LIMIT
    while any(_workers(port) for port in ports) and time.monotonic() < deadline:
        time.sleep(0.001)
    for port in ports:
        port.close(CLOSE_LIMIT)


def warn_of_unclosed() -> None:
    """Apart, because a warning that is an error would keep other ports from being closed."""
    while _unclosed:
        warnings.warn(f"unclosed {_unclosed.pop()}", ResourceWarning, stacklevel=1)


def _stop(port: CompletionPort) -> bool:
    """Whether there is something to close: not after another thread did, or in a forked child."""
    with suppress(ValueError, RuntimeError):
        port.stop()
        return True
    return False


def _workers(port: CompletionPort) -> int:
    return port.stats()["workers"]
