"""A port, the threads that run it, its members, and how all of that ends.

Members are what lives on the port: a server's listeners and connections, groups of clients,
connection attempts, datagram sockets. A stop shuts the members down, waits until they have no
connections or its time is up, aborts the rest, and closes the port. Everything after the time limit
has fixed budgets (the constants below), so that a callback that never returns cannot block a stop.
"""

from __future__ import annotations

import contextvars
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import ParamSpec, Protocol, TypeVar

from iocpcore import _process_exit, _validate
from iocpcore._core import CompletionPort, backends
from iocpcore._log import Log
from iocpcore._sim_sockets import SimulatedSockets
from iocpcore._sockets import Sockets, is_simulated
from iocpcore._system_sockets import SystemSockets
from iocpcore._workers import Closed, Stopped, Workers, daemon, thread_counts

logger = logging.getLogger("iocpcore")

P = ParamSpec("P")
R = TypeVar("R")

STOP_TIMEOUT = 5.0  # seconds; container runtimes usually kill after ten

# Budgets in seconds after the time limit of a stop. stop() promises less than 1 s in all.
TEAR_DOWN_LIMIT = 0.9
ABORT_LIMIT = 0.4  # for on_close of the aborted connections
JOIN_LIMIT = 0.2  # for the workers; one that is in a callback is abandoned
CLOSE_LIMIT = 0.2  # for the kernel to return all operations; more if there is time left
LEFT_LIMIT = 0.1  # for on_close of the connections that are still left


def open_port(concurrency: int, backend: str | None = None) -> CompletionPort:
    """Open a port for connections.

    The default on Linux is epoll. Connections wait in epoll with either backend, so the ring of
    io_uring would be idle. Other ports default to io_uring, which is better for files.
    """
    if backend is None and not os.environ.get("IOCPCORE_BACKEND"):
        backend = "epoll" if backends().get("epoll", "missing") is None else None
    return CompletionPort(concurrency, backend=backend)


class _Pool(ThreadPoolExecutor):
    """A pool whose threads start with an empty context; see _workers.daemon()."""

    def submit(self, function: Callable[P, R], /, *args: P.args, **options: P.kwargs) -> Future[R]:
        return contextvars.Context().run(super().submit, function, *args, **options)


class Stoppable(Protocol):
    """A member of a runtime: a server's connections, its listeners, a client's connection."""

    @property
    def count(self) -> int:
        """The number of connections that have not ended."""

    def shutdown(self) -> None:
        """Begin a graceful end. Does not wait."""

    def abort(self) -> int:
        """End at once. Returns the number of connections that lose unsent data."""


class Runtime:
    """One port and its workers. All methods may be called from any thread.

    `workers` is None for a port that the user runs, and which the user stops.
    """

    def __init__(
        self, port: CompletionPort, workers: int | None = None, executor: Executor | None = None
    ) -> None:
        self.port = port
        self.sockets: Sockets = (
            SimulatedSockets(port) if is_simulated(port.backend) else SystemSockets(port)
        )
        self.log = Log(port.timer)
        # A KeyboardInterrupt or SystemExit raised by a callback, or the reason the port ended.
        self.exit: BaseException | None = None
        self.failure: BaseException | None = None  # the error, if the port itself failed
        self._workers = (
            None if workers is None else Workers(port, workers, self._on_exit, self._on_worker_end)
        )
        self._lock = threading.Lock()
        self._executor = executor
        self._own_executor = executor is None
        self._port_ended = False  # not by stop(): user code ended the port, or it failed
        self._torn_down = False
        self._blocked = 0  # workers that wait in connect()
        self._started = False
        # The state below is guarded by `_guard`. `_changed` is notified of everything that ends.
        # Use `with _guard`, not `with _changed`: the __exit__ of a condition is Python code, and
        # would fail to release the lock when memory is short.
        self._guard = threading.RLock()
        self._changed = threading.Condition(self._guard)
        self._members: dict[Stoppable, None] = {}  # an ordered set
        self.client_groups: dict[Hashable, Stoppable] = {}  # see _client_groups.py
        self._deadline: float | None = None  # of the current stop; None before one
        self._stopped = threading.Event()
        self._when_stopped: list[Callable[[], object]] = []
        self._aborted = 0
        with _registry_lock:
            _runtimes[id(port)] = self

    # ---- members

    def add(self, member: Stoppable) -> bool:
        """Add a member to be ended by a stop. Returns False if a stop has already begun."""
        with self._guard:
            if self._deadline is not None:
                return False
            self._members[member] = None
            return True

    def remove(self, member: Stoppable) -> None:
        with self._guard:
            self._members.pop(member, None)
            self._changed.notify_all()

    def guard(self) -> AbstractContextManager[object]:
        """The lock of the members and of `client_groups`."""
        return self._guard

    def changed(self) -> None:
        """Wake a stop that waits for members to become empty.

        Takes no lock before a stop: this is called every time the last connection ends.
        """
        if self.stopping:
            with self._guard:
                self._changed.notify_all()

    def executor(self) -> Executor:
        """The executor for offload(): the user's, or a pool created on first use."""
        with self._lock:
            if self._executor is None:
                if self._torn_down:
                    raise RuntimeError("offload() is not possible after stop()")
                self._executor = _Pool(thread_name_prefix="iocpcore-offload")
            return self._executor

    @contextmanager
    def blocking(self) -> Iterator[None]:
        """Must surround a wait for something that a worker has to do.

        Raises RuntimeError in a worker if no other worker would be left to do it.
        """
        if not self.inside():
            yield
            return
        assert self._workers is not None
        with self._lock:
            if self._blocked + 1 >= len(self._workers):
                raise RuntimeError(
                    "connect() in a callback would wait for ever, as no other worker is free to "
                    "finish it: use connect_nowait()"
                )
            self._blocked += 1
        try:
            yield
        finally:
            with self._lock:
                self._blocked -= 1

    # ---- beginning and end

    def inside(self) -> bool:
        """Whether the calling thread is one of the workers."""
        return self._workers is not None and self._workers.inside()

    @property
    def started(self) -> bool:
        return self._started

    @property
    def stopping(self) -> bool:
        return self._deadline is not None

    @property
    def ending(self) -> bool:
        """Whether it is being stopped, or its port has ended."""
        return self.stopping or self._port_ended

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def start(self) -> bool:
        """Start the workers, once. Returns False if a stop has already begun."""
        assert self._workers is not None
        with self._guard:
            if self.stopping:
                return False
            if not self._started:
                self._workers.start()
                self._started = True
                with _registry_lock:
                    _running[self] = None
            return True

    def stop(self, timeout: float) -> int:
        """End everything within `timeout` plus at most a second.

        Returns the number of connections that were aborted with unsent data. A second call can
        only bring the time limit forward, and waits as well. In a worker it does not wait and
        returns 0.
        """
        deadline = time.monotonic() + _validate.duration("timeout", timeout)
        inside = self.inside()
        if inside or not self._begin(deadline):
            if inside:
                self._stop_in_thread(deadline)
                return 0
            left = max(0.0, (self._deadline or 0.0) - time.monotonic()) + 1.0
            self._stopped.wait(min(left, threading.TIMEOUT_MAX))
            return self._aborted
        self._end()
        return self._aborted

    def begin_stop(self, timeout: float) -> None:
        """Begin a stop, and return without waiting for it."""
        self._stop_in_thread(time.monotonic() + timeout)

    def wait_stopped(self) -> None:
        self._stopped.wait()

    def when_stopped(self, function: Callable[[], object]) -> None:
        """Call a function, in any thread, when everything has ended; now if that is past."""
        with self._guard:
            if not self.stopped:
                self._when_stopped.append(function)
                return
        function()

    def _begin(self, deadline: float) -> bool:
        """Set the deadline, or bring it forward. Returns True for the first caller.

        That one must then call _end().
        """
        with self._guard:
            first = self._deadline is None
            self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)
            self._changed.notify_all()
            return first

    def _stop_in_thread(self, deadline: float) -> None:
        """Stop in a new thread, or in this one if no thread can be started."""
        if not self._begin(deadline):
            return
        try:
            daemon(self._end, "iocpcore-stop").start()
        except RuntimeError:
            self._end()

    def _end(self) -> None:
        try:
            if self._port_ended:  # no worker runs it: closing it is what ends the members
                self._close_port(time.monotonic() + TEAR_DOWN_LIMIT)
            for member in self._member_list():
                member.shutdown()
            self._wait_until_empty()
        finally:
            try:
                self._tear_down()
            finally:
                try:
                    self.log.close()
                finally:
                    self._announce_end()

    def _announce_end(self) -> None:
        with self._guard:
            self._stopped.set()
            functions, self._when_stopped = self._when_stopped, []
        with _registry_lock:
            _running.pop(self, None)
        for function in functions:
            function()

    def _tear_down(self) -> None:
        """Abort what is left, and end workers, port and executor, within TEAR_DOWN_LIMIT."""
        began = time.monotonic()
        with self._guard:
            self._deadline = 0.0  # a waiting stop() must not wait longer
        members = self._member_list()
        self._aborted = sum(member.abort() for member in members)
        if self._started:
            with self._guard:
                self._changed.wait_for(self._empty, ABORT_LIMIT)
        with suppress(ValueError):  # closed by user code
            self.port.stop()
        if self._workers is not None and not self._workers.join(JOIN_LIMIT):
            logger.warning("a callback has not returned; its thread is left to itself")
        self._close_port(began + TEAR_DOWN_LIMIT)
        with self._lock:
            self._torn_down = True
            executor = self._executor if self._own_executor else None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    def _close_port(self, deadline: float) -> None:
        """Close the port in a new thread.

        Closing calls on_close of the remaining connections. Such a callback may block, or need a
        lock that the caller of stop() holds.
        """
        errors: list[BaseException] = []
        limit = max(CLOSE_LIMIT, deadline - time.monotonic() - LEFT_LIMIT)

        def close() -> None:
            try:
                self.port.close(limit)
            except BaseException as error:  # such as a warning turned into an error
                errors.append(error)

        closing = daemon(close, "iocpcore-close")
        try:
            closing.start()
        except RuntimeError:  # no thread can be started; CPython 3.12 starts none at exit
            close()
        else:
            closing.join(limit + LEFT_LIMIT)
            if closing.is_alive():
                logger.warning("on_close has not returned; its thread is left to itself")
        if errors:
            raise errors[0]

    def _member_list(self) -> list[Stoppable]:
        with self._guard:
            return list(self._members)

    def _empty(self) -> bool:
        return all(member.count == 0 for member in self._members)

    def _wait_until_empty(self) -> None:
        with self._guard:
            while self._started and not self._empty():
                left = (self._deadline or 0.0) - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(min(left, threading.TIMEOUT_MAX))

    def _on_exit(self, error: BaseException) -> None:
        """A callback raised KeyboardInterrupt or SystemExit: begin a graceful stop."""
        self.exit = error
        logger.info("stopping: a callback raised %r", error)
        self.begin_stop(STOP_TIMEOUT)

    def _on_worker_end(self, end: BaseException) -> None:
        """A worker has ended. Unless a stop is in progress, the port has ended: stop at once."""
        with self._guard:
            if self.stopping or not self._started or self._port_ended:
                return
            self._port_ended = True
            self.exit = end
            if not isinstance(end, Closed | Stopped):
                self.failure = end
        if self.failure is not None:
            logger.error("the port has failed, and everything on it ends: %s", self.failure)
        self._stop_in_thread(time.monotonic())


# ---- all runtimes -------------------------------------------------------------------------------

_registry_lock = threading.Lock()
_runtimes: weakref.WeakValueDictionary[int, Runtime] = weakref.WeakValueDictionary()  # by id(port)
_running: dict[Runtime, None] = {}
_default: Runtime | None = None


def runtime_of(port: CompletionPort | None) -> Runtime:
    """The runtime of a port. None means the default port of the process, opened on first use.

    Raises TypeError if it is not a port, and ValueError if it is closed.
    """
    if port is None:
        return _default_runtime()
    if not isinstance(port, CompletionPort):
        raise TypeError(f"completion_port must be a CompletionPort, not {type(port).__name__}")
    with _registry_lock:
        runtime = _runtimes.get(id(port))
    if port.closed:
        raise ValueError("completion_port is closed")
    return runtime if runtime is not None else Runtime(port)


def _default_runtime() -> Runtime:
    global _default
    with _default_lock:
        if _default is None or _default.stopping:
            workers, concurrency = thread_counts(None, None)
            # One more than the concurrency, so that a callback may block.
            runtime = Runtime(open_port(concurrency), max(workers, concurrency + 1))
            runtime.start()
            _default = runtime
        return _default


_default_lock = threading.Lock()


def stop_default(timeout: float = STOP_TIMEOUT) -> int:
    """Stop the default port of the process. The next connect() opens a new one."""
    with _default_lock:
        runtime = _default
    return 0 if runtime is None else runtime.stop(timeout)


def _stop_all(limit: float) -> None:
    """At exit, stop all runtimes within `limit` seconds. Queued data may still be sent."""
    deadline = time.monotonic() + limit
    with _registry_lock:
        runtimes = list(_running)
    for runtime in runtimes:
        runtime.stop(max(0.0, deadline - time.monotonic()))


def _forget_all() -> None:
    """Reset everything in a forked child. It has no workers, and every port is unusable."""
    global _registry_lock, _default_lock, _default
    _registry_lock = threading.Lock()
    _default_lock = threading.Lock()
    _default = None
    _runtimes.clear()
    _running.clear()


_process_exit.stop_first(_stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
