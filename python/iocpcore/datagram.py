"""UDP: the set-up and the rare events of a datagram socket. The rest is _core.DatagramSocket."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Self

from iocpcore import _client_sockets, _core, _options, _signals, _validate
from iocpcore._core import CompletionPort, Operation
from iocpcore._log import DATAGRAM_ERRORS, shown
from iocpcore._options import DATAGRAM_CALLBACKS, DatagramLimits, SocketOptions
from iocpcore._runtime import runtime_of
from iocpcore._sockets import Target
from iocpcore._workers import daemon

# Receiving pauses if the system has no memory for it, or after many errors in a row. Any other
# error concerns one datagram (an ICMP error for one that was sent earlier, say), and receiving
# continues at once.
NO_MEMORY = frozenset({errno.ENOBUFS, errno.ENOMEM})
FAILURES_MAX = 64  # consecutive errors
PAUSE_MIN, PAUSE_MAX = 0.01, 1.0  # seconds; doubled for each pause


class Datagram(_core.DatagramSocket):
    """A UDP endpoint on a port: calls a function for every datagram.

    Callbacks, each a keyword argument here or a method of `handler`:

    * ``on_datagram(endpoint, data, address)``: one datagram, perhaps empty
    * ``on_error(endpoint, exception)``: one could not be sent or received (the system's OSError:
      nobody listens there, it is too large, ...), or a callback has raised. Without it the former
      is only logged (level DEBUG), and the latter goes to ``sys.unraisablehook``. Neither ends
      the endpoint

    The workers of the port call them. The calls for datagrams that arrive never overlap and are
    in order of arrival; on_error for sends may come at any time.

    Parameters:
        local_address: (host, port) to bind; host "" is every IPv4 interface ("::" every IPv6 one),
            port 0 a free port. Default: a free port, on every IPv4 interface
        remote_address: (host, port) of the only peer: datagrams from others are not received, and
            send_to() needs no address. A name is looked up here, which blocks
        sock: a bound UDP socket to take over instead (``sock`` is closed, detached); for multicast
        completion_port: a port that is being run: a server's or your own. Default: one that the
            process has for this, which has its own workers
        reuse_port: other processes that set this too may bind the same port (Linux)
        broadcast: allow sending to broadcast addresses
        max_size: bytes of a datagram that are kept; longer ones are truncated
        max_write_buffer: bytes that may wait to be sent
        context: the initial value of the attribute `context`, which is for the user

    Raises OSError that names the address, TypeError or ValueError that names the argument. All
    methods may be called by any thread. A context manager that closes it.
    """

    def __init__(
        self,
        handler: object | None = None,
        *,
        on_datagram: Callable[[Datagram, bytes, Any], object] | None = None,
        on_error: Callable[[Datagram, BaseException], object] | None = None,
        local_address: tuple[str, int] | None = None,
        remote_address: tuple[str, int] | None = None,
        sock: socket.socket | None = None,
        completion_port: CompletionPort | None = None,
        reuse_port: bool = SocketOptions.reuse_port,
        broadcast: bool = SocketOptions.broadcast,
        max_size: int = DatagramLimits.max_size,
        max_write_buffer: int = DatagramLimits.max_write_buffer,
        context: Any = None,
    ) -> None:
        given = locals()
        found = _options.collect(handler, given, DATAGRAM_CALLBACKS)
        self._on_error = found.get("on_error")
        limits = DatagramLimits().updated(given)
        options = SocketOptions().updated(given)
        if sock is not None and (local_address or remote_address or reuse_port or broadcast):
            raise ValueError("sock must be given alone: it is bound already")
        local = _client_sockets.local_target(local_address, socket.SOCK_DGRAM)
        remote = _remote_target(remote_address, local)
        self.context = context
        self._runtime = runtime_of(completion_port)
        self._port = self._runtime.port
        self._remote: Any = None if remote is None else remote.address
        self._lock = threading.Lock()  # guards _when_closed
        self._ended = threading.Event()
        self._when_closed: list[Callable[[], object]] = []
        self._pause = PAUSE_MIN
        native, family, self._sockname = self._runtime.sockets.open_datagram(
            sock, local, remote, options
        )
        self._open(
            self._port,
            native,
            family,
            found.get("on_datagram"),
            self._remote,
            limits.max_size,
            limits.max_write_buffer,
        )
        if not self._runtime.add(self):
            self.close()
            raise ValueError("completion_port is being closed")
        self._receive()

    # ---- for everybody

    def close(self) -> None:
        """Close it at once. Datagrams that wait to be sent are dropped.

        No on_datagram begins after this. One that has begun may still be running in another
        thread. Closing twice is harmless.
        """
        if not self._end():
            return
        with self._lock:
            functions, self._when_closed = self._when_closed, []
        self._ended.set()
        self._runtime.remove(self)
        for function in functions:
            function()

    def serve_forever(self) -> None:
        """Return when it has been closed. In the main thread, SIGINT and SIGTERM close it.

        Raises the SystemExit or KeyboardInterrupt of a callback, if that is why it was closed.
        """
        _signals.serve(_Serving(self), 0.0)

    @property
    def sockname(self) -> Any:
        """The address it is bound to."""
        return self._sockname

    @property
    def remote_address(self) -> Any:
        """The address of the only peer, or None."""
        return self._remote

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"at {shown(self._sockname)}"
        return f"<iocpcore.Datagram {state}>"

    # ---- as a member of its runtime

    count = 0
    """No connections: nobody waits for it to end."""

    def shutdown(self) -> None:
        """Close it because the port is being stopped. If the port has failed, call on_error."""
        failure = self._runtime.failure
        if failure is not None and not self.closed:
            # In a new thread, because on_error may block and a stop must not. If none can be
            # started, the failure is only in the log.
            with suppress(RuntimeError):
                daemon(partial(self._report_error, failure, False), "iocpcore-error").start()
        self.close()

    def abort(self) -> int:
        """Like shutdown(). Returns 0: datagrams are not counted as lost."""
        self.close()
        return 0

    # ---- called by the core

    def _not_received(self, error: BaseException, failures: int) -> None:
        """Called after `failures` consecutive receive errors. Must start the next receive."""
        if failures == 1:
            self._pause = PAUSE_MIN
        pause = self._pause
        pauses = getattr(error, "errno", None) in NO_MEMORY or failures > FAILURES_MAX
        if pauses:
            self._pause = min(2 * pause, PAUSE_MAX)
        try:
            self._report_error(error, False)
        finally:
            if not pauses:
                self._receive()
            elif not self._port.closed:
                self._port.timer(pause, callback=self._resume)

    def _resume(self, _: Operation) -> None:
        self._receive()

    def _report_error(self, error: BaseException, of_callback: bool) -> None:
        """Report a failed send or receive, or (`of_callback`) an exception of a callback."""
        if self._on_error is not None:
            self._on_error(self, error)
        elif of_callback:
            raise error  # the core passes it to sys.unraisablehook
        else:
            self._runtime.log.note(DATAGRAM_ERRORS, "%r: %s", self, error)


class _Serving:
    """The Served of serve_forever(); see _signals.py."""

    def __init__(self, endpoint: Datagram) -> None:
        self._endpoint = endpoint

    @property
    def exit(self) -> BaseException | None:
        return self._endpoint._runtime.exit

    @property
    def stopped(self) -> bool:
        return self._endpoint.closed

    def start(self) -> None:
        """Nothing to do: it runs as soon as it is created."""

    def when_stopped(self, function: Callable[[], object]) -> None:
        with self._endpoint._lock:
            if not self._endpoint.closed:
                self._endpoint._when_closed.append(function)
                return
        function()

    def wait_stopped(self) -> None:
        self._endpoint._ended.wait()

    def begin_stop(self, timeout: float) -> None:
        self._endpoint.close()


def _remote_target(value: Any, local: Target | None) -> Target | None:
    if value is None:
        return None
    if not (isinstance(value, tuple) and len(value) >= 2 and isinstance(value[0], str)):
        raise TypeError("remote_address must be (host, port)")
    number = _validate.port_number(value[1])
    found = _client_sockets.numeric(value[0], number, socket.SOCK_DGRAM)
    if found is None:
        found = _client_sockets.resolve(value[0], number, socket.SOCK_DGRAM)
    for target in found:
        if local is None or target.family == local.family:
            return target
    raise ValueError("remote_address and local_address must be of one family")
