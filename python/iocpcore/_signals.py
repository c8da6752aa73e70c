"""Waiting in the main thread for Ctrl-C, SIGTERM and the end of what is served."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

logger = logging.getLogger("iocpcore")

NUMBERS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)


class Served(Protocol):
    """What is waited for."""

    @property
    def stopped(self) -> bool: ...
    @property
    def exit(self) -> BaseException | None:
        """Why it stopped unasked: what a callback raised, or that its port was ended."""

    def start(self) -> object: ...
    def begin_stop(self, timeout: float) -> None: ...
    def wait_stopped(self) -> None: ...
    def when_stopped(self, function: Callable[[], object]) -> None: ...


def serve(served: Served, timeout: float) -> None:
    """Start it, wait until it has stopped, raise its `exit`. In the main thread signals stop it.

    The first one does so gracefully, within `timeout`; the second at once.
    """
    if threading.current_thread() is threading.main_thread():
        with Signals() as signals:
            served.when_stopped(signals.wake)
            served.start()  # not before: a client may know that it runs, and send a signal
            _serve(served, signals, timeout)
    else:
        served.start()
        served.wait_stopped()
    if served.exit is not None:
        raise served.exit


def _serve(served: Served, signals: Signals, timeout: float) -> None:
    heard = 0
    while not served.stopped:
        signals.wait()
        count = signals.count  # once: another signal may come between any two lines
        if count == heard:
            continue
        if heard == 0:
            logger.info("stopping, within %g s; a second signal ends it at once", timeout)
        served.begin_stop(timeout if count == 1 else 0.0)
        heard = count


class Signals:
    """Counts the signals that mean "end" while it is entered, and can be waited on.

    Any thread may take a signal, and Python's own C handler then writes the signal's number to a
    socket, which is what is waited for. The handler in Python runs in the main thread some time
    before or after that. So both count, and the one that is ahead is right.
    """

    def __init__(self) -> None:
        self._handled = 0
        self._read = 0
        self._lock = threading.Lock()  # wake() against the end
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(True)  # socket.setdefaulttimeout() is not about this one
        self._writer.setblocking(False)
        self._old_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in NUMBERS:
            self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._old.items():
            if handler is not None:  # None: not installed by Python, which cannot bring it back
                signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        with self._lock:
            self._reader.close()
            self._writer.close()

    @property
    def count(self) -> int:
        """How many signals there have been."""
        return max(self._handled, self._read)

    def wait(self) -> None:
        """Until a signal or wake() comes."""
        self._read += sum(byte in NUMBERS for byte in self._reader.recv(64))

    def wake(self) -> None:
        """From any thread."""
        with self._lock, suppress(OSError):  # full, or closed
            self._writer.send(b"\0")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._handled += 1
