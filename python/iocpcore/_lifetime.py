"""What happens to ports when the interpreter ends, and when the process forks."""

from __future__ import annotations

import atexit
import os
import time
from contextlib import suppress

from iocpcore import _core
from iocpcore._core import CompletionPort

WORKERS_LIMIT = 1.0  # seconds for all run()s to return; one may be stuck in a callback
CLOSE_LIMIT = 1.0  # seconds for the kernel to give everything of one port back


def register() -> None:
    atexit.register(close_all)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_core._set_main_thread)


def close_all() -> None:
    """Stop the workers of every open port, and close it.

    A worker that is stopped returns from run(); had its port been closed first, it would end with
    an exception that nobody expects.
    """
    ports = [port for port in _core._open_ports() if _stop(port)]
    deadline = time.monotonic() + WORKERS_LIMIT
    while any(_workers(port) for port in ports) and time.monotonic() < deadline:
        time.sleep(0.001)
    for port in ports:
        port.close(CLOSE_LIMIT)


def _stop(port: CompletionPort) -> bool:
    """Whether there is something to close: not after another thread did, or in a forked child."""
    with suppress(ValueError, RuntimeError):
        port.stop()
        return True
    return False


def _workers(port: CompletionPort) -> int:
    return port.stats()["workers"]
