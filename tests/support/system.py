"""The machine that runs the tests: its platform, its speed, and the resources in use."""

from __future__ import annotations

import gc
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable

import iocpcore

WINDOWS = sys.platform == "win32"
LINUX = sys.platform == "linux"
FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()
GUARDED = os.environ.get("IOCPCORE_GUARD", "") not in ("", "0")
SANITIZED = any(
    name in os.environ.get("LD_PRELOAD", "") for name in ("asan", "tsan", "ubsan")
) or bool(os.environ.get("IOCPCORE_SANITIZE"))

# Large tests do less where each step costs more: under Wine every system call is a message between
# processes, and in guard mode every operation has its own pages.
SLOWNESS = 20 if WINDOWS else 10 if GUARDED or SANITIZED else 1
# Seconds to wait for an event that must occur. Only a failing test waits that long.
LIMIT = 60.0 if SLOWNESS > 1 else 30.0

REAL_BACKENDS = ["iocp"] if WINDOWS else ["io_uring", "epoll"]
ALL_BACKENDS = [*REAL_BACKENDS, "sim"]


def scaled(count: int, least: int = 1) -> int:
    return max(least, count // SLOWNESS)


def wait_until(condition: Callable[[], object], what: str, limit: float = LIMIT) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.001)


def wait_ready(sock: socket.socket, event: int, seconds: float) -> bool:
    """Whether the socket is readable (select.POLLIN) or writable within this time."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(sock, event)
        return bool(poll.poll(seconds * 1000))
    read = [sock] if event == POLLIN else []
    write = [sock] if event == POLLOUT else []
    return any(select.select(read, write, write, seconds))


POLLIN = getattr(select, "POLLIN", 1)
POLLOUT = getattr(select, "POLLOUT", 4)


def raise_descriptor_limit() -> int:
    """Raise the descriptor limit of this process. Returns the new limit."""
    if WINDOWS:
        return 2000
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


# ---- resources in use ---------------------------------------------------------------------------


def descriptors() -> dict[str, str]:
    """The open descriptors of this process and what they refer to; on Windows, its handles."""
    if WINDOWS:
        return {str(number): "a handle" for number in range(_handle_count())}
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor that listed the directory
    return found


# Windows and Wine open internal handles over time.
HANDLE_TOLERANCE = 24 if WINDOWS else 0


def _handle_count() -> int:
    import ctypes

    kernel32 = ctypes.windll.kernel32  # type: ignore[attr-defined]
    kernel32.GetCurrentProcess.restype = ctypes.c_void_p
    kernel32.GetProcessHandleCount.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_ulong)]
    count = ctypes.c_ulong()
    assert kernel32.GetProcessHandleCount(kernel32.GetCurrentProcess(), ctypes.byref(count))
    return count.value


def threads() -> list[str]:
    """The threads of this process, including non-Python ones but not those of io_uring."""
    if not LINUX:
        return sorted(thread.name for thread in threading.enumerate())
    names = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/comm") as file:
                name = file.read().strip()
        except OSError:
            continue
        if not name.startswith("iou-"):
            names.append(name)
    return sorted(names)


def operations() -> int:
    """The number of Operation objects that exist."""
    return sum(type(item) is iocpcore.Operation for item in gc.get_objects())
