"""The implementation of ``Connection.offload`` and ``Connection.call_later``.

The C methods forward here. Both end on the connection's strand, by ``_run``: offload() hands over
the result of an executor's thread, call_later() the expiry of a timer operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from iocpcore import _validate

if TYPE_CHECKING:
    from iocpcore import Connection, Operation


def offload(
    connection: Connection,
    function: Callable[..., Any],
    /,
    *args: Any,
    then: Callable[[Connection, Any], object] | None = None,
    serial: bool = False,
) -> None:
    if not callable(function):
        raise TypeError(f"function must be callable, not {type(function).__name__}")
    if then is not None and not callable(then):
        raise TypeError(f"then must be callable, not {type(then).__name__}")
    future = connection._executor().submit(function, *args)
    if serial:
        connection._hold(True)
    future.add_done_callback(partial(_offloaded, connection, then, serial))


def _offloaded(
    connection: Connection,
    then: Callable[[Connection, Any], object] | None,
    serial: bool,
    future: Future[Any],
) -> None:
    """Called on the executor's thread when the function is done. Continues on the strand."""

    def back() -> None:
        try:
            if future.cancelled():  # the executor was shut down before the function started
                return
            result = future.result()
            if then is not None:
                then(connection, result)
        finally:
            if serial:
                connection._hold(False)

    connection._run(back)


class Timer:
    """What ``call_later`` returns."""

    __slots__ = ("_connection", "_operation")

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection
        self._operation: Operation | None = None

    def cancel(self) -> None:
        """Cancel the call unless it has started. May be called from any thread, repeatedly."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection._remove_timer(self)
        operation, self._operation = self._operation, None  # breaks the reference cycle
        if operation is not None:
            operation.cancel()

    def _due(self, function: Callable[[], object], operation: Operation) -> None:
        """Callback of the timer operation, on any worker. Continues on the strand."""
        connection = self._connection
        if connection is not None and not operation.cancelled:
            connection._run(partial(self._call, function))

    def _call(self, function: Callable[[], object]) -> None:
        """Runs on the strand."""
        if self._connection is not None:
            self.cancel()
            function()


def call_later(
    connection: Connection, seconds: float, function: Callable[..., object], /, *args: Any
) -> Timer:
    if not callable(function):
        raise TypeError(f"function must be callable, not {type(function).__name__}")
    seconds = _validate.duration("seconds", seconds)
    timer = Timer(connection)
    due = partial(timer._due, partial(function, *args))
    if not connection._add_timer(timer):
        return timer
    try:
        timer._operation = connection._port.timer(seconds, callback=due)
    except BaseException:
        timer.cancel()
        raise
    if timer._connection is None:  # cancelled or expired before `_operation` was set
        timer.cancel()
    return timer


def cancel_timers(timers: Iterable[Timer]) -> None:
    """Cancel the timers of a connection that has ended."""
    for timer in list(timers):
        timer.cancel()
