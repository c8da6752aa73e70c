"""Closes ports when the interpreter exits, and registers the core's fork hook.

At exit, servers and clients are stopped first. Then the workers of every open port are stopped, and
the ports closed. Every step has a time limit, since a callback may never return.
"""

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

STOP_LIMIT = 1.0  # seconds for servers and clients to send what is queued
WORKERS_LIMIT = 1.0  # seconds for every run() to return; one may be stuck in a callback
CLOSE_LIMIT = 1.0  # seconds for the kernel to return all operations of one port

_first: list[Callable[[float], object]] = []
_unclosed: list[str] = []  # ports with operations in flight when the exit began


def register() -> None:
    """Have ports closed before the interpreter joins the threads that are in run().

    A second pass, after those threads have ended, closes ports that were opened meanwhile.
    """
    atexit.register(warn_of_unclosed)
    atexit.register(close_all)
    before_joining = getattr(threading, "_register_atexit", None)
    if before_joining is not None:
        with suppress(RuntimeError):  # the interpreter is already exiting
            before_joining(close_all)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_core._set_main_thread)


def stop_first(function: Callable[[float], object]) -> None:
    """Register a function to call with STOP_LIMIT before ports are closed."""
    _first.append(function)


def close_all() -> None:
    try:
        for function in _first:
            function(STOP_LIMIT)
    finally:
        _close_ports()


def _close_ports() -> None:
    """Stop the workers of every open port, then close the ports.

    A stopped worker returns from run(). If its port were closed first, run() would raise.
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
    """Warn of unclosed ports. Done last: a warning turned into an error would stop the closing."""
    while _unclosed:
        warnings.warn(f"unclosed {_unclosed.pop()}", ResourceWarning, stacklevel=1)


def _stop(port: CompletionPort) -> bool:
    """Stop a port. Returns False if it is already closed, or belongs to a parent process."""
    with suppress(ValueError, RuntimeError):
        port.stop()
        return True
    return False


def _workers(port: CompletionPort) -> int:
    return port.stats()["workers"]
