"""The worker threads that run a port, and how many of them there are."""

from __future__ import annotations

import contextvars
import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable

from iocpcore import _validate
from iocpcore._core import CompletionPort

logger = logging.getLogger("iocpcore")

PAUSE = 0.1  # seconds before a worker retries after MemoryError

_numbers = itertools.count(1)


class Closed(ValueError):
    """The port was closed by user code."""


class Stopped(RuntimeError):
    """The port was stopped by user code."""


def free_threaded() -> bool:
    """Whether Python code runs on several CPUs at once."""
    return not getattr(sys, "_is_gil_enabled", lambda: True)()


def cpus() -> int:
    """How many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_counts(workers: int | None, concurrency: int | None) -> tuple[int, int]:
    """Return (workers, concurrency): threads, and how many of them run callbacks at once.

    With the GIL the defaults are 1 and 1. Without it, concurrency is the number of CPUs, and there
    is one more worker in case a callback blocks. If one value is given, the default of the other
    follows from it. Raises TypeError or ValueError naming the argument.
    """
    if workers is not None:
        workers = _validate.whole("workers", workers, 1, 4096)
    if concurrency is not None:
        concurrency = _validate.whole("concurrency", concurrency, 1, 4096)
    if concurrency is None:
        concurrency = cpus() if free_threaded() else 1
        if workers is not None:
            concurrency = min(concurrency, max(1, workers - 1))
    if workers is None:
        workers = concurrency + 1 if free_threaded() or concurrency > 1 else 1
    return workers, concurrency


def daemon(function: Callable[[], object], name: str) -> threading.Thread:
    """Create a daemon thread that starts with an empty context.

    Most builds of Python do that anyway. Free-threaded ones (3.14 and later) copy the context of
    the creating thread: callbacks would see the context variables of whoever first used the port.
    """
    run = contextvars.Context().run
    return threading.Thread(target=run, args=(function,), name=name, daemon=True)


class Workers:
    """Daemon threads in ``port.run()``, named iocpcore-1 and so on.

    A worker ends when the port is stopped, closed or has failed. It then calls `on_end` with the
    reason: `Stopped`, `Closed` or the error. `on_exit` is called with a KeyboardInterrupt or
    SystemExit that a callback raised; the worker continues after that.
    """

    def __init__(
        self,
        port: CompletionPort,
        count: int,
        on_exit: Callable[[BaseException], None],
        on_end: Callable[[BaseException], None],
    ) -> None:
        self._port = port
        self._on_exit = on_exit
        self._on_end = on_end
        self._threads = [daemon(self._work, f"iocpcore-{next(_numbers)}") for _ in range(count)]

    def __len__(self) -> int:
        return len(self._threads)

    def start(self) -> None:
        """Start all threads, or none: raises RuntimeError if the system has none left."""
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError:
            self._port.stop()
            raise

    def inside(self) -> bool:
        """Whether the calling thread is one of them."""
        return threading.current_thread() in self._threads

    def join(self, limit: float) -> bool:
        """Wait up to `limit` seconds for all of them to end. Returns False if one has not.

        The calling thread is not waited for.
        """
        deadline = time.monotonic() + limit
        others = [thread for thread in self._threads if thread is not threading.current_thread()]
        for thread in others:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in others)

    def _work(self) -> None:
        try:
            end = self._run()
        except BaseException as error:
            end = error
        self._on_end(end)

    def _run(self) -> BaseException:
        """Run the port until it ends. Returns the reason."""
        while True:
            try:
                self._port.run()
                # A callback of this thread may have closed it.
                return Closed("port is closed") if self._port.closed else Stopped("port is stopped")
            except ValueError:  # closed by another thread; `closed` may become True only later
                return Closed("port is closed")
            except (KeyboardInterrupt, SystemExit) as error:
                self._on_exit(error)
            except MemoryError as error:  # only at the start: run() itself retries failed waits
                logger.warning("a worker cannot begin, and tries again: %r", error)
                time.sleep(PAUSE)
