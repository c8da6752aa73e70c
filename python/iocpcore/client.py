"""Client connections: connect() and connect_nowait().

An attempt looks up the name in a thread if necessary, then tries one address after another, then
adopts the connected stream into a connection group. The attempt is a member of its runtime until it
is settled: connected, or failed and reported. Several threads may settle it (a worker, a timer,
cancel(), a stop); `_claim` picks the one that does.
"""

from __future__ import annotations

import errno
import logging
import os
import ssl as _ssl
import threading
import time
from concurrent.futures import Executor
from typing import Any, Unpack

from iocpcore import _client_sockets, _options, _tls, _validate
from iocpcore._client_groups import ClientGroup, acquire_group, identity, key_of
from iocpcore._core import CompletionPort, Connection, Operation
from iocpcore._log import NOT_CONNECTED, shown
from iocpcore._options import Callbacks, ClientLimits, Framing, Limits, SocketOptions
from iocpcore._runtime import Runtime, runtime_of
from iocpcore._server_sockets import UNIX, WINDOWS, is_path, is_pipe
from iocpcore._sockets import Stream, Target
from iocpcore._workers import daemon

logger = logging.getLogger("iocpcore")

# Seconds between checks, by a thread that waits, whether the port is still open. On Windows this
# also lets Ctrl-C through: nothing else interrupts such a wait.
TICK = 0.1
NO_WORKER_LIMIT = 1.0  # seconds after which a port without workers is an error

PENDING, CONNECTED, FAILED = "under way", "connected", "failed"


class ConnectOptions(Callbacks, ClientLimits, total=False):
    """The keyword arguments of connect() and connect_nowait(). See docs/server.md."""

    handler: object | None
    framing: Framing | None
    ssl: _ssl.SSLContext | bool | None
    server_hostname: str | None
    timeout: float | None
    completion_port: CompletionPort | None
    local_address: tuple[str, int] | None
    context: Any
    keepalive: bool
    executor: Executor | None


LIMITS = Limits(handshake_timeout=None)  # `timeout` covers the handshake
SOCKET_OPTIONS = SocketOptions()


def connect(
    host: str | bytes | os.PathLike[str], port: int | None = None, **options: Unpack[ConnectOptions]
) -> Connection:
    """Connect and wait for the result: TCP, a unix socket's path or a Windows pipe's name.

    All addresses of a name are tried, one after another. With `ssl` the handshake is included.
    The callbacks are those of Server. They are called by the workers of `completion_port`, by
    default of a port of the process that is opened on first use.

    Parameters, besides the callbacks and limits of Server:
        timeout: seconds for all of it, including name lookup and TLS. Default: none
        ssl: an ``ssl.SSLContext`` for clients; True is ``ssl.create_default_context()``
        server_hostname: the name that the certificate must be valid for. Default: `host`
        completion_port: a port that is being run: a server's, or your own
        local_address: (host, port) to connect from; port 0 is any
        context: the initial value of ``conn.context``

    Raises OSError that names the address, for the last one that was tried (TimeoutError for
    `timeout`, socket.gaierror for the name, ssl.SSLError with the address as a note);
    TypeError and ValueError for bad arguments; RuntimeError if it would wait for ever: in a
    callback on the same port with no other worker free, or on a port that no thread runs. In
    these cases no callback is called.

    May be called from any thread. In callbacks, use connect_nowait() instead.
    """
    plan = _Plan("connect", host, port, options)
    runtime = runtime_of(plan.completion_port)
    with runtime.blocking():
        return Connecting(plan, runtime, waited_for=True)._wait()


def connect_nowait(
    host: str | bytes | os.PathLike[str], port: int | None = None, **options: Unpack[ConnectOptions]
) -> Connecting:
    """Start to connect and return at once; for use in callbacks. The options are connect()'s.

    Callbacks report the result, on a worker: ``on_connect(conn)`` when it is connected and
    ``on_close(conn, error)`` when the connection has ended; or only ``on_close(None, error)`` if
    the attempt failed or Connecting.cancel() ended it. Names are looked up in a thread.

    Raises TypeError and ValueError for bad arguments, and nothing else. If the port is closed
    meanwhile, no callback is called.
    """
    plan = _Plan("connect_nowait", host, port, options)
    return Connecting(plan, runtime_of(plan.completion_port), waited_for=False)


class _Plan:
    """The checked arguments."""

    def __init__(self, function: str, host: Any, port: int | None, options: ConnectOptions) -> None:
        for name in options:
            if name not in ConnectOptions.__optional_keys__:
                raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
        self.host = host
        self.port = 0
        self.pipe = is_pipe(host, port)
        self.path = not self.pipe and is_path(host, port)
        if not self.pipe and not self.path:
            if not isinstance(host, str):
                raise TypeError(f"host must be a str, not {type(host).__name__}")
            if not host:
                raise ValueError("host must not be empty")
            self.port = _validate.port_number(port)
        if self.path:
            self.host = os.fsdecode(host)
        if (self.path and UNIX is None) or (self.pipe and not WINDOWS):
            raise ValueError("host must not be a path: such sockets do not exist here")
        self.name = shown((host, port)) if port is not None else str(self.host)
        self.callbacks = _options.collect(options.get("handler"), options)
        self.framing = options.get("framing")
        _options.check_framing(self.callbacks, self.framing)
        self.limits = LIMITS.updated(options)
        self.executor = options.get("executor")
        _options.check_executor(self.executor)
        self.timeout = _validate.seconds("timeout", options.get("timeout"))
        self.socket_options = SOCKET_OPTIONS.updated(options)
        self.local = _client_sockets.local_target(options.get("local_address"))
        self.context = options.get("context")
        self.completion_port = options.get("completion_port")
        self.stage = self._stage(options.get("ssl"), options.get("server_hostname"))

    def _stage(self, context: Any, server_hostname: str | None) -> Any:
        if context is None or context is False:
            if server_hostname is not None:
                raise ValueError("server_hostname is only meaningful with ssl")
            return None
        if server_hostname is None:
            if self.path or self.pipe:
                raise ValueError("server_hostname is needed with ssl, as host is a path")
            server_hostname = self.host
        if context is True:
            context = _ssl.create_default_context()
        # Other libraries use "" for "no name".
        return _tls.client_stage(context, server_hostname or None, self.limits.max_write_buffer)

    def get_executor(self) -> Executor:
        assert self.executor is not None
        return self.executor


class Connecting:
    """A connection attempt, as returned by connect_nowait(). May be used from any thread."""

    def __init__(self, plan: _Plan, runtime: Runtime, *, waited_for: bool) -> None:
        self._plan = plan
        self._waited_for = waited_for
        self._runtime = runtime
        self._port = runtime.port
        self._deadline = None if plan.timeout is None else time.monotonic() + plan.timeout
        self._refusals: list[BaseException] = []  # errors of the addresses tried so far
        self._targets: list[Target] = []  # addresses not tried yet
        self._lock = threading.Lock()  # guards everything below
        self._settled = threading.Event()
        self._state = PENDING
        self._reported = False  # after a failure: on_close has returned, or is not needed
        self._connection: Connection | None = None
        self._error: BaseException | None = None
        self._stream: Stream | None = None
        self._timer: Operation | None = None
        self._clients = self._acquire_group()
        self._group = self._clients.group
        self._begin()

    def _acquire_group(self) -> ClientGroup:
        """Get the connection group.

        With a stage, the attempt is settled by callbacks of its own, so it needs its own group.
        Without one, it is settled when the stream is adopted, and shares a group with others.
        """
        plan = self._plan
        key = None
        options: dict[str, Any] = {
            **plan.callbacks,
            **vars(plan.limits),
            "framing": plan.framing,
            "executor": self._runtime.executor if plan.executor is None else plan.get_executor,
        }
        if plan.stage is None:
            others = (plan.limits, identity(plan.framing), identity(plan.executor))
            key = key_of(plan.callbacks, *others)
        else:
            options["stage"] = plan.stage
            options["on_failed"] = self._on_failed
            options["on_connect"] = self._on_connect
            if "on_close" in plan.callbacks:
                options["on_close"] = self._on_close
        return acquire_group(self._runtime, key, options)

    # ---- for everybody

    def cancel(self) -> bool:
        """Cancel the attempt. Returns False if it is already connected or has failed.

        If this returns True, ``on_close(None, error)`` follows, with an OSError of ECANCELED.
        """
        return self._fail(OSError(errno.ECANCELED, f"connect to {self._plan.name}: cancelled"))

    @property
    def done(self) -> bool:
        """Whether it is connected, or has failed."""
        return self._state is not PENDING

    @property
    def connection(self) -> Connection | None:
        """The connection, once there is one."""
        if self._state is CONNECTED:
            # Callbacks may run before the connecting thread has set `_connection`.
            self._settled.wait(NO_WORKER_LIMIT)
        return self._connection if self._state is CONNECTED else None

    @property
    def error(self) -> BaseException | None:
        """The error, if the attempt has failed."""
        return self._error

    def __repr__(self) -> str:
        return f"<iocpcore.Connecting to {self._plan.name}: {self._state}>"

    # ---- as a member of its runtime

    @property
    def count(self) -> int:
        """1 while it may become a connection, or until its failure is reported; then 0."""
        return int(self._state is PENDING or (self._state is FAILED and not self._reported))

    def shutdown(self) -> None:
        """Cancel it because the port is being stopped, with a ConnectionAbortedError."""
        self._fail(self._closing_error())

    def abort(self) -> int:
        """Like shutdown(). Returns 0: an attempt has no data to lose."""
        self._fail(self._closing_error())
        return 0

    def _closing_error(self) -> OSError:
        text = f"connect to {self._plan.name}: the port is being closed"
        return ConnectionAbortedError(errno.ECONNABORTED, text)

    # ---- connecting

    def _begin(self) -> None:
        plan = self._plan
        if not self._runtime.add(self):
            self._fail(self._closing_error())
            return
        if self._deadline is not None and not self._waited_for:
            assert plan.timeout is not None
            with self._lock:
                self._timer = self._port.timer(plan.timeout, callback=self._on_timer)
        if plan.path:
            self._targets = [Target(UNIX, plan.host)]
        else:
            self._targets = self._runtime.sockets.known_targets(plan.host, plan.port)
        if self._targets:
            self._try_next_target()
        else:
            self._look_up_in_thread()

    def _look_up_in_thread(self) -> None:
        """Look the name up in a new thread. Fails the attempt if none can be started."""
        try:
            daemon(self._look_up, "iocpcore-resolve").start()
        except RuntimeError as error:
            self._fail(OSError(errno.EAGAIN, f"connect to {self._plan.name}: {error}"))

    def _look_up(self) -> None:
        """The blocking part: look up the name, or wait for an instance of the pipe."""
        plan = self._plan
        try:
            if plan.pipe:
                self._open_pipe()
                return
            self._targets = _client_sockets.resolve(plan.host, plan.port)
        except (OSError, ValueError) as error:
            self._fail(error)
            return
        self._try_next_target()

    def _open_pipe(self) -> None:
        left = 3600.0 if self._deadline is None else self._deadline - time.monotonic()
        handle = _client_sockets.open_pipe(self._plan.host, left)
        self._adopt(_client_sockets.Pipe(handle))

    def _try_next_target(self) -> None:
        """Try the next address. Any thread, but only one at a time. Fails if there is none left."""
        plan = self._plan
        while self._targets:
            target = self._targets.pop(0)
            try:
                stream = self._runtime.sockets.open_stream(target, plan.local, plan.socket_options)
            except OSError as error:
                self._refusals.append(error)
                continue
            except ValueError:  # the port is closed
                break
            if self._try_target(stream, target):
                return
            stream.close()
            if self._state is not PENDING:
                return
        self._fail(self._refusal())

    def _try_target(self, stream: Stream, target: Target) -> bool:
        """Start to connect the stream. Returns False if that failed or the attempt is settled."""
        with self._lock:
            if self._state is not PENDING:
                return False
            try:
                self._port.connect(stream.handle, target.address, callback=self._on_operation)
            except (ValueError, RuntimeError) as error:
                self._refusals.append(error)
                return False
            self._stream = stream
            return True

    def _refusal(self) -> BaseException:
        """The error of the last address, with the others as notes."""
        if not self._refusals:
            return self._closing_error()
        *others, last = self._refusals
        self._refusals = []
        for other in others:
            last.add_note(f"before that: {other}")
        return last

    def _on_operation(self, operation: Operation) -> None:
        """The connect operation for one address is done."""
        with self._lock:
            stream, self._stream = self._stream, None
        if stream is None:  # the attempt failed meanwhile, and _fail() closed the stream
            return
        if self._state is PENDING and operation.error is None:
            self._adopt(stream)
            return
        stream.close()
        if self._state is PENDING and operation.error is not None:
            self._refusals.append(operation.error)
            self._try_next_target()

    def _adopt(self, stream: Stream) -> None:
        # Without a stage the attempt succeeds here. With one, it succeeds in _on_connect.
        if self._plan.stage is None and not self._claim(CONNECTED):
            stream.close()
            return
        try:
            connection = stream.adopt(self._group, self._plan.context)
        except Exception as error:  # any error must be reported, or connect() waits for ever
            stream.close()
            with self._lock:
                if self._plan.stage is None:
                    self._state = PENDING
            self._fail(error)
            return
        with self._lock:
            self._connection = connection
            failed = self._state is FAILED
        if failed:
            connection.abort()
        elif self._plan.stage is None:
            self._succeeded()

    # ---- callbacks of a group of one connection, with a stage

    def _on_connect(self, connection: Connection) -> object:
        if not self._claim(CONNECTED):
            return None  # the attempt has failed and the connection is being aborted
        self._connection = connection
        self._succeeded()
        on_connect = self._plan.callbacks.get("on_connect")
        return None if on_connect is None else on_connect(connection)

    def _on_close(self, connection: Connection, error: BaseException | None) -> object:
        if self._state is FAILED:
            return None
        return self._plan.callbacks["on_close"](connection, error)

    def _on_failed(self, connection: Connection, error: BaseException) -> None:
        if isinstance(error, _ssl.SSLError):  # these do not name the peer
            error.add_note(f"connect to {self._plan.name}")
        self._fail(error)

    def _on_timer(self, operation: Operation) -> None:
        if not operation.cancelled:
            self._fail(self._timeout_error())

    def _timeout_error(self) -> TimeoutError:
        text = f"connect to {self._plan.name}: not done within {self._plan.timeout:g} s"
        return TimeoutError(errno.ETIMEDOUT, text)

    # ---- settling, exactly once

    def _claim(self, state: str) -> bool:
        """Settle the attempt in this state. Returns False if it is already settled."""
        with self._lock:
            if self._state is not PENDING:
                return False
            self._state = state
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        return True

    def _succeeded(self) -> None:
        self._clients.release()
        self._runtime.remove(self)
        self._settled.set()

    def _fail(self, error: BaseException) -> bool:
        if not self._claim(FAILED):
            return False
        with self._lock:
            self._error = error
            stream, self._stream = self._stream, None
            connection = self._connection
        if stream is not None:
            stream.close()
        if connection is not None:
            connection.abort()
        self._clients.release()
        self._report_failure(error)
        self._settled.set()
        return True

    def _report_failure(self, error: BaseException) -> None:
        """Report the failure, by on_close or in the log.

        A worker calls on_close: the user may be inside connect_nowait() or cancel() now.
        """
        on_close = self._plan.callbacks.get("on_close")
        if self._waited_for or on_close is None:
            if not self._waited_for:
                notes = getattr(error, "__notes__", ())
                text = "; ".join([str(error), *notes])
                self._runtime.log.note(NOT_CONNECTED, "%s", text)
            self._mark_reported()
            return

        def tell(_: Operation) -> None:
            try:
                on_close(None, error)
            finally:
                self._mark_reported()

        try:
            self._port.post(callback=tell)
        except (ValueError, RuntimeError):  # the port is closed
            logger.debug("nobody is told of: %s", error)
            self._mark_reported()

    def _mark_reported(self) -> None:
        self._reported = True
        self._runtime.remove(self)

    def _wait(self) -> Connection:
        try:
            self._wait_until_settled()
        except BaseException as error:  # such as KeyboardInterrupt
            if not self._fail(error) and self._connection is not None:
                self._connection.abort()
            raise
        if self._state is CONNECTED:
            assert self._connection is not None
            return self._connection
        try:
            assert self._error is not None
            raise self._error
        finally:
            self._error = None  # its traceback refers to this frame: a reference cycle

    def _wait_until_settled(self) -> None:
        began = time.monotonic()
        while not self._settled.wait(self._tick()):
            if self._deadline is not None and time.monotonic() >= self._deadline:
                self._fail(self._timeout_error())
            elif self._port.closed:
                self._fail(self._closing_error())
            elif time.monotonic() - began > NO_WORKER_LIMIT and not self._port.stats()["workers"]:
                raise RuntimeError(
                    "connect() would wait for ever, as nobody runs completion_port: call its run() "
                    "in another thread, or use connect_nowait()"
                )

    def _tick(self) -> float:
        if self._deadline is None:
            return TICK
        return max(0.0, min(TICK, self._deadline - time.monotonic()))
