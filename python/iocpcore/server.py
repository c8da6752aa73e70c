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

# The figures that only grow: stats() gives their growth per second, too.
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
    """Accepts connections and calls functions for what happens to them.

    Callbacks, each a keyword argument here or a method of `handler` (a keyword comes first). They
    are called by worker threads; those of one connection never overlap:

    * ``on_connect(conn)``: first, after the TLS handshake
    * ``on_data(conn, data)``: bytes as they came, without `framing`
    * ``on_message(conn, message)``: one message, with `framing`
    * ``on_eof(conn)``: the peer has ended its stream. Without it the connection then closes
    * ``on_drain(conn)``: what is pending has fallen from above `write_high` to `write_low`
    * ``on_close(conn, error)``: last, exactly once. `error` is None after close(), abort() or the
      peer's orderly end
    * ``on_error(conn, exception)``: a callback has raised, or framing failed. Without it what a
      callback has raised goes to ``sys.unraisablehook``, and a FramingError only to `on_close`,
      which is told of both. The connection closes in either case

    Parameters:
        framing: LengthPrefixed, Delimited, FixedSize, or a callable that returns a new Framer
        ssl: an ``ssl.SSLContext`` for servers, for TLS
        workers: threads. Default: 1 with the GIL; without it, one more than `concurrency`
        concurrency: how many of them are in callbacks at once; the others stand by for callbacks
            that block. Default: 1 with the GIL; without it, the CPUs of this process
        backend: "iocp", "io_uring", "epoll" or "sim". None: IOCPCORE_BACKEND, else the best for
            connections that works here (on Linux epoll)
        max_connections: so many at once; others wait to be accepted. None: no limit
        max_connections_per_address: of one IP address at once; others are closed. None: no limit
        idle_timeout: seconds after which a connection on which nothing moved ends with
            TimeoutError, or None
        handshake_timeout: seconds for TLS and the PROXY header, or None. Of no effect without both
        write_high, write_low: pending bytes at which a connection stops being read, and goes on
        max_write_buffer: pending bytes with which another send() ends the connection
        read_size: bytes received at once, at most; 1 to 65536
        proxy_protocol: addresses or networks of the proxies in front, which tell the clients'
        keepalive: have the system notice peers that are gone (SO_KEEPALIVE)
        executor: where ``conn.offload()`` runs functions. Default: threads, made when needed.
            One that is given is not shut down

    Raises TypeError or ValueError that names the argument, and RuntimeError if the backend does
    not work here. All methods may be called by any thread. A context manager: it starts, and stops
    with the default time limit. A server that is not started is closed by stop() as well; one that
    is just dropped before it was started closes its sockets, with a ResourceWarning. After
    ``os.fork()`` it is of no use in the child: make it there.
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
        self._lock = threading.Lock()  # the last stats()
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
        except RuntimeError:  # it is the parent process's
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
        """Accept connections here as well; the address, of the first socket if there are several.

        * ``listen("127.0.0.1", 9000)``: an address, or a name, of which all addresses are used. ""
          or None: every interface, IPv4 and IPv6. Port 0: a free one, the same in each
        * ``listen("/run/x.sock")``: a unix socket. The file of a server that has died is replaced,
          and removed by stop()
        * ``listen(r"\\\\.\\pipe\\x")``: a named pipe (Windows)
        * ``listen(sock)``: a stream socket that is bound, perhaps listening already. The server
          takes it over, and `sock` is closed (detached)

        `backlog`: how many connections may wait to be accepted, as far as the system allows;
        default: many. `reuse_port`: other processes that say so too may listen on the same port,
        and the kernel distributes connections (Linux).

        May be called before start() and after it. Raises OSError if that is not possible, TypeError
        or ValueError for bad arguments, RuntimeError after stop().
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

        Raises RuntimeError after stop(), and if the system has no threads left.
        """
        self._listeners.begin()
        if not self._runtime.start():
            raise RuntimeError("the server was stopped, and cannot be started again")

    def stop(self, timeout: float = STOP_TIMEOUT) -> int:
        """End gracefully within `timeout` seconds; how many connections had to be aborted.

        No connection is accepted and nothing is read any more. What is queued is sent, and the
        connection closed; one with nothing queued closes at once. Those that have unsent bytes
        left when the time is up are aborted, so that these are lost, and counted; the others are
        closed as usual, even by ``stop(0)``. It returns at most 1 second after
        `timeout`, even if a callback never does. Clients on this server's port end with it.

        Stopping again brings the time limit forward if it is shorter, waits as well, and returns
        the same. In a callback of this server it returns 0 at once, and the rest goes on without
        it; serve_forever() returns when it is done.
        """
        return self._runtime.stop(timeout)

    def serve_forever(self, *, stop_timeout: float = STOP_TIMEOUT) -> None:
        """Start, and return when the server has been stopped; at once if it was before.

        In the main thread, SIGINT (Ctrl-C) and SIGTERM (on Windows Ctrl-Break too) stop it
        gracefully within `stop_timeout` seconds, and a second one at once; their handlers are put
        back afterwards. In other threads signals are left alone.

        Raises RuntimeError without a listen(), and whatever SystemExit or KeyboardInterrupt a
        callback has raised: that stops the server, too. So it does if somebody else closes the
        server's port (ValueError) or stops it (RuntimeError), and if the port fails, which is what
        the system says when other code has closed its descriptor (OSError).
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

    # ---- looking at it

    @property
    def completion_port(self) -> CompletionPort:
        """The port that everything here lives on; for ``connect(completion_port=...)``, timers."""
        return self._runtime.port

    @property
    def addresses(self) -> tuple[Any, ...]:
        """Every address that it listens on, or did before it was stopped."""
        return tuple(self._listeners.addresses)

    @property
    def connections(self) -> tuple[Connection, ...]:
        """Those that are established and have not ended, as they are now.

        From just before on_connect until on_close has returned. Before that, during a TLS handshake
        or until a PROXY header has come, they are only counted: ``stats()["establishing"]``.
        """
        return self._group.connections()

    def stats(self) -> dict[str, float]:
        """Figures for monitoring.

        What the connections count, what the port counts (as ``port_...``), ``running`` (1 from
        start() until it stops or its port fails, else 0), ``listeners``, ``uptime`` (seconds), and
        for each count that only grows its growth per second since the last call, as
        ``..._per_second``; ``interval`` is how long ago that was, in seconds.
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
    """Where a server listens. That ends first when it stops.

    Before the server starts its sockets are held here, and clients wait in their backlogs. Were
    they on the port already, it would hold them, and by its callbacks the server, for ever.
    """

    count = 0  # no connections

    def __init__(self, group: ConnectionGroup) -> None:
        self._group = group
        self._lock = threading.Lock()
        self._began = self._ended = False
        self._waiting: list[Listening] = []
        self._open: list[Listener] = []
        self._files: list[SocketFile] = []
        self.addresses: list[Any] = []

    def add(self, found: list[Listening]) -> Any:
        """All of these, or none; the first one's address."""
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
        """Accept connections."""
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
        """On how many of them it still listens."""
        return len(self._waiting) + len(self._open)

    def _end_if_ended(self) -> None:
        """Since a moment ago, perhaps, and shutdown() has not seen what has come."""
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
