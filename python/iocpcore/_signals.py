"""serve_forever(): waits in the main thread for Ctrl-C, SIGTERM or the end of what is served."""

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
    """A server or datagram socket that serve() runs and waits for."""

    @property
    def stopped(self) -> bool: ...
    @property
    def exit(self) -> BaseException | None:
        """Why it stopped without a request: an exception of a callback, or the end of its port."""

    def start(self) -> object: ...
    def begin_stop(self, timeout: float) -> None: ...
    def wait_stopped(self) -> None: ...
    def when_stopped(self, function: Callable[[], object]) -> None: ...


def serve(served: Served, timeout: float) -> None:
    """Start it, wait until it has stopped, and raise its `exit` if that is set.

    In the main thread, the first signal stops it gracefully within `timeout`, the second at once.
    """
    if threading.current_thread() is threading.main_thread():
        with Signals() as signals:
            served.when_stopped(signals.wake)
            served.start()  # handlers first: a client may send a signal once it can connect
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
        count = signals.count  # read once: another signal may arrive at any time
        if count == heard:
            continue
        if heard == 0:
            logger.info("stopping, within %g s; a second signal ends it at once", timeout)
        served.begin_stop(timeout if count == 1 else 0.0)
        heard = count


class Signals:
    """A context manager that counts the signals that mean "stop", and can be waited on.

    Any thread may receive a signal. Python's C handler then writes the signal number to the wakeup
    socket, which wait() reads. The Python handler runs in the main thread before or after that. So
    both keep a count, and the higher one is right.
    """

    def __init__(self) -> None:
        self._handled = 0
        self._read = 0
        self._lock = threading.Lock()  # wake() must not use a closed socket
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(True)  # overrides socket.setdefaulttimeout()
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
            if handler is not None:  # None: not installed by Python, so it cannot be restored
                signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        with self._lock:
            self._reader.close()
            self._writer.close()

    @property
    def count(self) -> int:
        """The number of signals so far."""
        return max(self._handled, self._read)

    def wait(self) -> None:
        """Block until a signal or wake()."""
        self._read += sum(byte in NUMBERS for byte in self._reader.recv(64))

    def wake(self) -> None:
        """Make wait() return. May be called from any thread."""
        with self._lock, suppress(OSError):  # full (wait() returns anyway), or closed
            self._writer.send(b"\0")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._handled += 1
