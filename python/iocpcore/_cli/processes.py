"""The child processes of demo and bench."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import iocpcore

if sys.platform != "win32":
    import resource

# Seconds.
END_LIMIT = 5.0  # between the request to end and the end
CONNECT_LIMIT = 30.0  # for all connections of the load
ANSWER_LIMIT = 5.0  # for answers that are missing at its end
PATIENCE = 10.0  # for a process that is late


class Child:
    """A module of ours as a process of its own, which writes JSON, a line for each event.

    It ends when its stdin does; so none is left behind, however this process ends. Ctrl-C is not
    its business.
    """

    def __init__(
        self, module: str, *arguments: object, cpu: int | None = None, **environment: str
    ) -> None:
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", module, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env=_environment() | environment,
            **_apart(),
        )
        if cpu is not None:
            _pin(self._process.pid, cpu)
        self._reader = threading.Thread(target=self._read, name="events", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)

    def event(self, limit: float) -> dict[str, Any]:
        """The next one. Raises queue.Empty after so many seconds, RuntimeError if none follows."""
        found = self._events.get(timeout=limit)
        if found is None:
            self._events.put(None)
            raise RuntimeError("a process of the load or of a server has ended early")
        return found

    def end(self) -> None:
        """Ask it to end. Its last events may follow."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass  # it has ended

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()
        try:
            self._process.wait(END_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


def watch_stdin(function: Callable[[], object]) -> None:
    """Of a child: call this, in a thread, when it is asked to end."""

    def wait() -> None:
        while os.read(0, 4096):  # not sys.stdin, in which nobody may be waiting at exit
            pass
        function()

    threading.Thread(target=wait, name="stdin", daemon=True).start()


def report(**event: object) -> None:
    """Of a child: say this to the parent. If that is gone, end."""
    try:
        print(json.dumps(event), flush=True)
    except OSError:
        os._exit(1)


def _environment() -> dict[str, str]:
    """Ours, with the package where this process found it."""
    found = str(Path(iocpcore.__file__).parents[1])
    path = os.pathsep.join(filter(None, [found, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}


if sys.platform == "win32":

    def _apart() -> dict[str, Any]:
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}

    def _pin(pid: int, cpu: int) -> None:
        """Left to the system."""

    def need_descriptors(count: int) -> None:
        """There is no such limit."""

else:

    def _apart() -> dict[str, Any]:
        """Signals of the terminal are not for the child."""
        return {"start_new_session": True}

    def _pin(pid: int, cpu: int) -> None:
        with suppress(OSError):  # it has ended; its events will tell
            os.sched_setaffinity(pid, {cpu})

    def need_descriptors(count: int) -> None:
        """Raises ValueError if the system does not let this process have so many connections."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = count + 64  # for everything else
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise ValueError(
                f"{count} connections need more descriptors than this process may have: {hard}"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
