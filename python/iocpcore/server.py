"""A server: listening sockets, their connections, and the threads that serve them."""

from __future__ import annotations

import os
import socket
import ssl as _ssl
import threading
import time
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from typing import Any, Self

from iocpcore import _core, _options, _signals, _tls, _validate
from iocpcore._core import CompletionPort, Connection, ConnectionGroup, Listener
from iocpcore._log import ServerLog
from iocpcore._options import (
    Framing,
    Limits,
    OnClose,
    OnConnect,
    OnData,
    OnDrain,
    OnEof,
    OnError,
    OnMessage,
    SocketOptions,
)
from iocpcore._proxy_protocol import Trusted, proxy_stage
from iocpcore._runtime import STOP_TIMEOUT, Runtime, open_port
from iocpcore._sockets import Listening, SocketFile
from iocpcore._stage import StageFactory
from iocpcore._workers import thread_counts

# Counters that only grow. stats() also returns their growth per second.
GROWING = (
    "accepted",
    "closed",
    "failed",
    "refused",
    "aborted",
    "accept_errors",
    "bytes_received",
    "bytes_sent",
    "messages",
)


class Server:
    """Accepts connections and calls functions for their events.

    Callbacks, each a keyword argument here or a method of `handler` (a keyword takes precedence).
    Worker threads call them; calls for one connection never overlap:

    * ``on_connect(conn)``: first, after the TLS handshake
    * ``on_data(conn, data)``: bytes as they came, without `framing`
    * ``on_message(conn, message)``: one message, with `framing`
    * ``on_eof(conn)``: the peer has ended its stream. Without it the connection then closes
    * ``on_drain(conn)``: pending bytes have fallen from above `write_high` to `write_low`
    * ``on_close(conn, error)``: last, exactly once. `error` is None after close(), abort() or the
      peer's orderly end
    * ``on_error(conn, exception)``: a callback has raised, or framing failed. Without it the
      exception of a callback goes to ``sys.unraisablehook``, and a FramingError only to
      `on_close`, which gets both. The connection closes in either case

    Parameters:
        framing: LengthPrefixed, Delimited, FixedSize, or a callable that returns a new Framer
        ssl: an ``ssl.SSLContext`` for servers, for TLS
        workers: threads. Default: 1 with the GIL; without it, one more than `concurrency`
        concurrency: how many of them run callbacks at once; the others stand by for callbacks
            that block. Default: 1 with the GIL; without it, the CPUs of this process
        backend: "iocp", "io_uring", "epoll" or "sim". None: IOCPCORE_BACKEND, else the best for
            connections that works here (on Linux epoll)
        max_connections: limit at one time; others wait to be accepted. None: no limit
        max_connections_per_address: limit for one IP address at one time; others are closed.
            None: no limit
        idle_timeout: seconds without traffic in either direction after which a connection ends
            with TimeoutError, or None
        handshake_timeout: seconds for TLS and the PROXY header, or None. Has no effect if neither
            is used
        write_high, write_low: pending bytes at which a connection stops and resumes reading
        max_write_buffer: pending bytes at which another send() ends the connection
        read_size: bytes received at once, at most; 1 to 65536
        proxy_protocol: addresses or networks of the proxies in front, which send the clients'
            addresses
        keepalive: have the system detect peers that are gone (SO_KEEPALIVE)
        executor: where ``conn.offload()`` runs functions. Default: threads, created when needed.
            The server does not shut down an executor that is given

    Raises TypeError or ValueError that names the argument, and RuntimeError if the backend does
    not work here. All methods may be called by any thread. A context manager that starts the
    server, and stops it with the default time limit. stop() also closes a server that was never
    started. If such a server is dropped instead, its sockets are closed with a ResourceWarning.
    After ``os.fork()`` it cannot be used in the child: create it there.
    """

    _made = False

    def __init__(
        self,
        handler: object | None = None,
        *,
        on_connect: OnConnect | None = None,
        on_data: OnData | None = None,
        on_message: OnMessage | None = None,
        on_eof: OnEof | None = None,
        on_drain: OnDrain | None = None,
        on_close: OnClose | None = None,
        on_error: OnError | None = None,
        framing: Framing | None = None,
        ssl: _ssl.SSLContext | None = None,
        workers: int | None = None,
        concurrency: int | None = None,
        backend: str | None = None,
        max_connections: int | None = Limits.max_connections,
        max_connections_per_address: int | None = Limits.max_connections_per_address,
        idle_timeout: float | None = Limits.idle_timeout,
        handshake_timeout: float | None = Limits.handshake_timeout,
        write_high: int = Limits.write_high,
        write_low: int = Limits.write_low,
        max_write_buffer: int = Limits.max_write_buffer,
        read_size: int = Limits.read_size,
        proxy_protocol: Iterable[Trusted] | None = None,
        keepalive: bool = SocketOptions.keepalive,
        executor: Executor | None = None,
    ) -> None:
        given = locals()
        found = _options.collect(handler, given)
        _options.check_framing(found, framing)
        limits = Limits().updated(given)
        if proxy_protocol is not None and max_connections_per_address is not None:
            raise ValueError(
                "max_connections_per_address cannot be used with proxy_protocol: "
                "all connections come from the proxy"
            )
        _options.check_executor(executor)
        self._socket_options = SocketOptions().updated(given)
        count, concurrency = thread_counts(workers, concurrency)
        self._lock = threading.Lock()  # guards _last and _last_time
        self._runtime = Runtime(open_port(concurrency, backend), count, executor)
        self._group = self._make_group(found, framing, limits, ssl, proxy_protocol)
        self._listeners = _Listeners(self._group)
        self._runtime.add(self._listeners)
        self._runtime.add(self._group)
        self._born = self._last_time = time.monotonic()
        self._last: dict[str, float] = {}
        self._made = True

    def __del__(self) -> None:
        if not self._made or self._runtime.started or self._runtime.stopping:
            return
        port = self.completion_port
        unclosed = self._listeners.open > 0 or not port.closed
        self._listeners.shutdown()
        try:
            port.close(0)
        except RuntimeError:  # the port belongs to the parent process
            return
        if unclosed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)

    def _make_group(
        self,
        callbacks: Mapping[str, Any],
        framing: Framing | None,
        limits: Limits,
        ssl: _ssl.SSLContext | None,
        proxy_protocol: Iterable[Trusted] | None,
    ) -> ConnectionGroup:
        runtime = self._runtime
        log = ServerLog(runtime.log)
        try:
            stage = _stage(ssl, proxy_protocol, limits.max_write_buffer, log)
            return _core.ConnectionGroup(
                runtime.port,
                **callbacks,
                framing=framing,
                stage=stage,
                on_failed=log.on_failed,
                on_accept_error=log.on_accept_error,
                on_refused=log.on_refused,
                on_lost=log.on_lost,
                on_empty=runtime.changed,
                executor=runtime.executor,
                reads_on=False,
                **vars(limits),
            )
        except BaseException:
            runtime.port.close()
            raise

    # ---- listening

    def listen(
        self,
        host: str | bytes | os.PathLike[str] | socket.socket | None,
        port: int | None = None,
        *,
        backlog: int | None = SocketOptions.backlog,
        reuse_port: bool = SocketOptions.reuse_port,
    ) -> Any:
        """Accept connections on another address. Returns the address, the first if several.

        * ``listen("127.0.0.1", 9000)``: an address, or a name, all addresses of which are used. ""
          or None: every interface, IPv4 and IPv6. Port 0: a free one, the same for all addresses
        * ``listen("/run/x.sock")``: a unix socket. The file of a server that has died is replaced,
          and removed by stop()
        * ``listen(r"\\\\.\\pipe\\x")``: a named pipe (Windows)
        * ``listen(sock)``: a bound stream socket, which may already be listening. The server
          takes it over, and `sock` is closed (detached)

        `backlog`: how many connections may wait to be accepted, as far as the system allows;
        default: many. `reuse_port`: other processes that set this too may listen on the same port,
        and the kernel distributes connections (Linux).

        May be called before start() and after it. Raises OSError if it cannot listen, TypeError or
        ValueError for bad arguments, RuntimeError after stop().
        """
        given = {"backlog": backlog, "reuse_port": reuse_port}
        options = self._socket_options.updated(given)
        if self._runtime.stopping:
            raise RuntimeError("the server was stopped")
        if self.completion_port.closed:
            raise ValueError("port is closed")
        found = self._runtime.sockets.listen(self._group, host, port, options)
        return self._listeners.add(found)

    # ---- beginning and end

    def start(self) -> None:
        """Start the workers; does nothing if they run. They do not keep the process alive.

        Raises RuntimeError after stop(), or if the system cannot start a thread.
        """
        self._listeners.begin()
        if not self._runtime.start():
            raise RuntimeError("the server was stopped, and cannot be started again")

    def stop(self, timeout: float = STOP_TIMEOUT) -> int:
        """End gracefully within `timeout` seconds. Returns how many connections were aborted.

        The server stops accepting and reading. Queued data is sent, then the connection closes;
        one with nothing queued closes at once. Connections that still have unsent bytes when the
        time is up are aborted and counted, and those bytes are lost; the others are closed as
        usual, even by ``stop(0)``. It returns at most 1 second after `timeout`, even if a callback
        never does. Clients on this server's port end with it.

        Another call brings the time limit forward if its own is earlier, waits as well, and returns
        the same number. In a callback of this server it returns 0 at once, and the stop continues
        in the background; serve_forever() returns when it is done.
        """
        return self._runtime.stop(timeout)

    def serve_forever(self, *, stop_timeout: float = STOP_TIMEOUT) -> None:
        """Start, and return when the server has been stopped; at once if it already was.

        In the main thread, SIGINT (Ctrl-C) and SIGTERM (on Windows Ctrl-Break too) stop it
        gracefully within `stop_timeout` seconds, and a second signal at once; their handlers are
        restored afterwards. In other threads signals are left alone.

        Raises RuntimeError if listen() was not called. Raises the SystemExit or KeyboardInterrupt
        of a callback, which stops the server too. Raises ValueError if other code closes the
        server's port, RuntimeError if other code stops the port, and OSError if the port fails, as
        when other code has closed its descriptor.
        """
        stop_timeout = _validate.duration("stop_timeout", stop_timeout)
        if not self._listeners.addresses and not self._runtime.stopping:
            raise RuntimeError("there is nothing to serve: call listen() first")
        self._listeners.begin()
        _signals.serve(self._runtime, stop_timeout)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        runtime = self._runtime
        state = (
            f"failed: {runtime.failure}"
            if runtime.failure is not None
            else "stopped"
            if runtime.stopped
            else "stopping"
            if runtime.stopping
            else "running"
            if runtime.started
            else "not started"
        )
        return f"<iocpcore.Server {state}, {self.completion_port.backend}, {self.addresses}>"

    # ---- inspection

    @property
    def completion_port(self) -> CompletionPort:
        """The server's port; for ``connect(completion_port=...)`` and timers."""
        return self._runtime.port

    @property
    def addresses(self) -> tuple[Any, ...]:
        """Every address that it listens on, or listened on before it was stopped."""
        return tuple(self._listeners.addresses)

    @property
    def connections(self) -> tuple[Connection, ...]:
        """A snapshot of the connections that are established and have not ended.

        A connection is included from just before on_connect until on_close has returned. Before
        that, during a TLS handshake or until a PROXY header has arrived, it is only counted:
        ``stats()["establishing"]``.
        """
        return self._group.connections()

    def stats(self) -> dict[str, float]:
        """Figures for monitoring.

        These are the counters of the connections, the counters of the port (as ``port_...``),
        ``running`` (1 from start() until it stops or its port fails, else 0), ``listeners``,
        ``uptime`` (seconds), and for each counter that only grows its growth per second since the
        last call, as ``..._per_second``; ``interval`` is how long ago that was, in seconds.
        """
        figures: dict[str, float] = dict(self._group.stats())
        port = self.completion_port.stats()
        now = time.monotonic()
        with self._lock:
            last, self._last = self._last, dict(figures)
            interval, self._last_time = now - self._last_time, now
        rates = {
            f"{name}_per_second": (figures[name] - last.get(name, 0)) / max(interval, 1e-9)
            for name in GROWING
        }
        figures.update({f"port_{name}": value for name, value in port.items()})
        figures.update(rates)
        running = self._runtime.started and not self._runtime.ending
        figures.update(
            running=int(running),
            listeners=self._listeners.open,
            uptime=now - self._born,
            interval=interval,
        )
        return figures


class _Listeners:
    """The listening sockets of a server. They are the first member to be shut down by a stop.

    Before the server starts, the sockets are only held here, and clients wait in their backlogs. If
    they were already on the port, the port would keep them alive, and through their callbacks the
    server: a server that is dropped unstarted would never be freed.
    """

    count = 0  # as a member it has no connections

    def __init__(self, group: ConnectionGroup) -> None:
        self._group = group
        self._lock = threading.Lock()
        self._began = self._ended = False
        self._waiting: list[Listening] = []
        self._open: list[Listener] = []
        self._files: list[SocketFile] = []
        self.addresses: list[Any] = []

    def add(self, found: list[Listening]) -> Any:
        """Add all of these or none. Returns the address of the first."""
        with self._lock:
            if self._began:
                self._open += self._accept_on(found)
            else:
                self._waiting += found
            self._files += [item.file for item in found if item.file is not None]
            self.addresses += [item.address for item in found]
        self._end_if_ended()
        return found[0].address

    def begin(self) -> None:
        """Start accepting connections."""
        with self._lock:
            self._began = True
            waiting, self._waiting = self._waiting, []
            self._open += self._accept_on(waiting)

    def _accept_on(self, found: list[Listening]) -> list[Listener]:
        opened: list[Listener] = []
        try:
            for item in found:
                opened.append(item.accept_on(self._group))
        except BaseException:
            for listener in opened:
                listener.close()
            for item in found:
                item.close()
                if item.file is not None:
                    item.file.remove()
            raise
        return opened

    @property
    def open(self) -> int:
        """The number of sockets on which it still listens."""
        return len(self._waiting) + len(self._open)

    def _end_if_ended(self) -> None:
        """Close what was added after shutdown() had run."""
        if self._ended:
            self.shutdown()

    def shutdown(self) -> None:
        with self._lock:
            self._ended = True
            waiting, self._waiting = self._waiting, []
            opened, self._open = self._open, []
            files, self._files = self._files, []
        for file in files:
            file.remove()
        for item in waiting:
            item.close()
        for listener in opened:
            listener.close()

    def abort(self) -> int:
        self.shutdown()
        return 0


def _stage(
    ssl: _ssl.SSLContext | None,
    proxy_protocol: Iterable[Trusted] | None,
    max_write_buffer: int,
    log: ServerLog,
) -> StageFactory | None:
    stage = None if ssl is None else _tls.server_stage(ssl, max_write_buffer)
    if proxy_protocol is None:
        return stage
    return proxy_stage(proxy_protocol, stage, on_refused=log.on_bad_header)
