"""Runs servers and loads as child processes."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import iocpcore

if sys.platform != "win32":
    import resource

# All in seconds.
END_LIMIT = 5.0  # from the request to end until the process is killed
CONNECT_LIMIT = 30.0  # for all connections of the load
ANSWER_LIMIT = 5.0  # for outstanding answers at the end of the load
PATIENCE = 10.0  # extra time for a slow process


class LineProcess:
    """A process that writes lines to its stdout.

    Closing its stdin asks it to end. As a context manager it kills a process that does not end in
    time, so none is left behind.
    """

    def __init__(
        self, command: Sequence[str], cores: Set[int] | None = None, **options: Any
    ) -> None:
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        options.setdefault("stdin", subprocess.PIPE)
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, encoding="utf-8", **options
        )
        if cores:
            _pin(self.process.pid, cores)
        self._reader = threading.Thread(target=self._read, name="lines", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def line(self, limit: float) -> str:
        """The next line, or "" if there are no more. Raises queue.Empty after `limit` seconds."""
        found = self._lines.get(timeout=max(0.0, limit))
        if found is None:
            self._lines.put(None)
            return ""
        return found

    def end(self) -> None:
        """Ask it to end. Its last lines may follow."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
        except OSError:
            pass  # it has ended

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()
        try:
            self.process.wait(END_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Child(LineProcess):
    """A module of this package as a process that writes one line of JSON per event.

    It does not receive Ctrl-C.
    """

    def __init__(
        self, module: str, *arguments: object, cores: Set[int] | None = None, **environment: str
    ) -> None:
        super().__init__(
            [sys.executable, "-u", "-m", module, *map(str, arguments)],
            cores,
            env=_environment() | environment,
            **_apart(),
        )

    def event(self, limit: float) -> dict[str, Any]:
        """The next event.

        Raises queue.Empty after `limit` seconds, RuntimeError if the process has ended.
        """
        line = self.line(limit)
        if not line:
            raise RuntimeError("a process of the load or of a server has ended early")
        found: dict[str, Any] = json.loads(line)
        return found


def watch_stdin(function: Callable[[], object]) -> None:
    """In a child: call a function, in a thread, when stdin ends."""

    def wait() -> None:
        while os.read(0, 4096):  # not sys.stdin: no thread may hold its lock at exit
            pass
        function()

    threading.Thread(target=wait, name="stdin", daemon=True).start()


def report(**event: object) -> None:
    """In a child: write an event for the parent. Ends the process if the parent is gone."""
    try:
        print(json.dumps(event), flush=True)
    except OSError:
        os._exit(1)


def _environment() -> dict[str, str]:
    """Our environment, with the path of the package that this process uses."""
    found = str(Path(iocpcore.__file__).parents[1])
    path = os.pathsep.join(filter(None, [found, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}


if sys.platform == "win32":

    def _apart() -> dict[str, Any]:
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}

    def _pin(pid: int, cores: Set[int]) -> None:
        """Does nothing: pinning is left to the system."""

    def need_descriptors(count: int) -> None:
        """Does nothing: Windows has no such limit."""

else:

    def _apart() -> dict[str, Any]:
        """Popen arguments that keep signals of the terminal from the child."""
        return {"start_new_session": True}

    def _pin(pid: int, cores: Set[int]) -> None:
        with suppress(OSError):  # it has already ended; reading its output shows that
            os.sched_setaffinity(pid, cores)

    def need_descriptors(count: int) -> None:
        """Raise the descriptor limit for this many connections.

        Raises ValueError if the system does not allow that.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = count + 64  # for everything else
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise ValueError(
                f"{count} connections need more descriptors than this process may have: {hard}"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
