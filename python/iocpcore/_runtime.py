"""A port, the threads that run it, what lives on it, and how all of that ends."""

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

STOP_TIMEOUT = 5.0  # seconds; in time for a container, which is killed after ten

# After the time limit of a stop is up. All of it is less than a second, which stop() promises.
TEAR_DOWN_LIMIT = 0.9
ABORT_LIMIT = 0.4  # for on_close of the connections that were aborted
JOIN_LIMIT = 0.2  # for the workers; one that is in a callback is left to itself
CLOSE_LIMIT = 0.2  # for the kernel to give everything back; more if there is time left
LEFT_LIMIT = 0.1  # for on_close of those that are left then


def open_port(concurrency: int, backend: str | None = None) -> CompletionPort:
    """A port for connections.

    On Linux they wait in epoll with either backend, so that io_uring's ring would lie idle; for
    files, and so for ports in general, io_uring is the better one.
    """
    if backend is None and not os.environ.get("IOCPCORE_BACKEND"):
        backend = "epoll" if backends().get("epoll", "missing") is None else None
    return CompletionPort(concurrency, backend=backend)


class _Pool(ThreadPoolExecutor):
    """Its threads begin with an empty context, as all of ours: see workers.daemon()."""

    def submit(self, function: Callable[P, R], /, *args: P.args, **options: P.kwargs) -> Future[R]:
        return contextvars.Context().run(super().submit, function, *args, **options)


class Stoppable(Protocol):
    """What lives on a port: a server's connections, its listeners, a client's connection."""

    @property
    def count(self) -> int:
        """How many connections have not ended."""

    def shutdown(self) -> None:
        """Begin to end, without waiting."""

    def abort(self) -> int:
        """End at once; how many connections lose something by that."""


class Runtime:
    """One port and its workers. All methods may be called from any thread.

    `workers` is None for a port that its user runs: nothing here stops that one.
    """

    def __init__(
        self, port: CompletionPort, workers: int | None = None, executor: Executor | None = None
    ) -> None:
        self.port = port
        self.sockets: Sockets = (
            SimulatedSockets(port) if is_simulated(port.backend) else SystemSockets(port)
        )
        self.log = Log(port.timer)
        # A KeyboardInterrupt or SystemExit of a callback, or what ended the port.
        self.exit: BaseException | None = None
        self.failure: BaseException | None = None  # of the port, which nobody has ended
        self._workers = (
            None if workers is None else Workers(port, workers, self._on_exit, self._on_worker_end)
        )
        self._lock = threading.Lock()
        self._executor = executor
        self._own_executor = executor is None
        self._port_ended = False  # by somebody else, or by its failure
        self._torn_down = False
        self._blocked = 0  # workers that wait for a connect()
        self._started = False
        # How it ends. Guarded by `_guard`; `_changed` is told of everything that ends. (The lock is
        # not entered by way of the condition, whose exit is Python: without memory it stays taken.)
        self._guard = threading.RLock()
        self._changed = threading.Condition(self._guard)
        self._members: dict[Stoppable, None] = {}  # in order
        self.client_groups: dict[Hashable, Stoppable] = {}  # see _client_groups.py
        self._deadline: float | None = None  # of the stop that is under way
        self._stopped = threading.Event()
        self._when_stopped: list[Callable[[], object]] = []
        self._aborted = 0
        with _registry_lock:
            _runtimes[id(port)] = self

    # ---- members

    def add(self, member: Stoppable) -> bool:
        """Let it take part in the end. False: that has begun already."""
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
        """Members neither come nor go meanwhile, and `client_groups` is its user's."""
        return self._guard

    def changed(self) -> None:
        """Something that a stop may be waiting for has happened.

        Before a stop this takes no lock: it is called whenever the last connection has gone.
        """
        if self.stopping:
            with self._guard:
                self._changed.notify_all()

    def executor(self) -> Executor:
        """Where offload() runs functions: the user's executor, or a pool made now."""
        with self._lock:
            if self._executor is None:
                if self._torn_down:
                    raise RuntimeError("offload() is not possible after stop()")
                self._executor = _Pool(thread_name_prefix="iocpcore-offload")
            return self._executor

    @contextmanager
    def blocking(self) -> Iterator[None]:
        """Around a wait for something that a worker must do.

        Raises RuntimeError in a worker if none other would be left to do it.
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
        """It is being stopped, or its port has ended."""
        return self.stopping or self._port_ended

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def start(self) -> bool:
        """Start the workers, once. False: it was stopped before."""
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
        """End everything within `timeout` and less than a second; how many were aborted.

        A second call brings the time limit forward, and waits as well. In a worker it waits for
        nothing and returns 0.
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
        """The same without waiting."""
        self._stop_in_thread(time.monotonic() + timeout)

    def wait_stopped(self) -> None:
        self._stopped.wait()

    def when_stopped(self, function: Callable[[], object]) -> None:
        """Call this, in any thread, when everything has ended; now if it has already."""
        with self._guard:
            if not self.stopped:
                self._when_stopped.append(function)
                return
        function()

    def _begin(self, deadline: float) -> bool:
        """Whether it is the first to stop; else it brings the time limit forward, at most."""
        with self._guard:
            first = self._deadline is None
            self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)
            self._changed.notify_all()
            return first

    def _stop_in_thread(self, deadline: float) -> None:
        """In a thread of its own; in this one if the system has none left."""
        if not self._begin(deadline):
            return
        try:
            daemon(self._end, "iocpcore-stop").start()
        except RuntimeError:
            self._end()

    def _end(self) -> None:
        try:
            if self._port_ended:  # nobody runs it any more: what lives on it hears just that
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
            told, self._when_stopped = self._when_stopped, []
        with _registry_lock:
            _running.pop(self, None)
        for function in told:
            function()

    def _tear_down(self) -> None:
        """Bounded, whatever callbacks do."""
        began = time.monotonic()
        with self._guard:
            self._deadline = 0.0  # nobody gets more time
        members = self._member_list()
        self._aborted = sum(member.abort() for member in members)
        if self._started:
            with self._guard:
                self._changed.wait_for(self._empty, ABORT_LIMIT)
        with suppress(ValueError):  # closed by its user
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
        """In a thread of its own: it calls on_close of what is left, which may take any time, or
        want what the caller of stop() holds."""
        errors: list[BaseException] = []
        limit = max(CLOSE_LIMIT, deadline - time.monotonic() - LEFT_LIMIT)

        def close() -> None:
            try:
                self.port.close(limit)
            except BaseException as error:  # a warning that is one
                errors.append(error)

        closing = daemon(close, "iocpcore-close")
        try:
            closing.start()
        except RuntimeError:  # there are no more threads: CPython 3.12 has none at exit
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
        """A callback wants the process to end: everything here does, gracefully."""
        self.exit = error
        logger.info("stopping: a callback raised %r", error)
        self.begin_stop(STOP_TIMEOUT)

    def _on_worker_end(self, end: BaseException) -> None:
        """A worker has ended. If nobody stops this, the port has ended, and all this with it."""
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


# ---- all of them --------------------------------------------------------------------------------

_registry_lock = threading.Lock()
_runtimes: weakref.WeakValueDictionary[int, Runtime] = weakref.WeakValueDictionary()  # by id(port)
_running: dict[Runtime, None] = {}
_default: Runtime | None = None


def runtime_of(port: CompletionPort | None) -> Runtime:
    """The runtime of this port; without one, that of the process, which is made when needed."""
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
            # One more than at once, so that a callback of one connection may block.
            runtime = Runtime(open_port(concurrency), max(workers, concurrency + 1))
            runtime.start()
            _default = runtime
        return _default


_default_lock = threading.Lock()


def stop_default(timeout: float = STOP_TIMEOUT) -> int:
    """Stop the port of the process. The next connect() makes another."""
    with _default_lock:
        runtime = _default
    return 0 if runtime is None else runtime.stop(timeout)


def _stop_all(limit: float) -> None:
    """At exit: what was queued by then may still be sent."""
    deadline = time.monotonic() + limit
    with _registry_lock:
        runtimes = list(_running)
    for runtime in runtimes:
        runtime.stop(max(0.0, deadline - time.monotonic()))


def _forget_all() -> None:
    """In a forked child, where there are no workers and every port is dead."""
    global _registry_lock, _default_lock, _default
    _registry_lock = threading.Lock()
    _default_lock = threading.Lock()
    _default = None
    _runtimes.clear()
    _running.clear()


_process_exit.stop_first(_stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
