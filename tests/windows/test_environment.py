"""Is Windows itself, as it is emulated here, fit to judge the product? Nothing of it is used.

A failure here says that the toolchain or Wine is broken, not iocpcore.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.machinery
import mmap
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from ctypes import wintypes
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

assert sys.platform == "win32"

ABI = os.environ.get("IOCPCORE_EXPECT_ABI", "")

ERROR_ABANDONED_WAIT_0 = 735
INVALID_HANDLE = wintypes.HANDLE(-1)
INFINITE = 0xFFFFFFFF

kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
kernel32.CreateIoCompletionPort.restype = wintypes.HANDLE
kernel32.CreateIoCompletionPort.argtypes = (
    *(wintypes.HANDLE, wintypes.HANDLE, ctypes.c_size_t, wintypes.DWORD),
)
kernel32.PostQueuedCompletionStatus.argtypes = (
    *(wintypes.HANDLE, wintypes.DWORD, ctypes.c_size_t, ctypes.c_void_p),
)
kernel32.GetQueuedCompletionStatus.argtypes = (
    *(wintypes.HANDLE, wintypes.LPDWORD, ctypes.POINTER(ctypes.c_size_t)),
    *(ctypes.POINTER(ctypes.c_void_p), wintypes.DWORD),
)
kernel32.CloseHandle.argtypes = (wintypes.HANDLE,)


def run_python(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload,no-any-return]


def test_this_is_the_wanted_python() -> None:
    assert sys.platform == "win32"
    assert sysconfig.get_platform() == "win-amd64"
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    abi = f"cp3{sys.version_info.minor}{'t' if free_threaded else ''}"
    assert abi == (ABI or abi)
    assert importlib.machinery.EXTENSION_SUFFIXES[0] == f".{abi}-win_amd64.pyd"
    assert free_threaded == ("free-threading" in sys.version)


def test_wine_is_not_too_old() -> None:
    ntdll = ctypes.WinDLL("ntdll")
    if not hasattr(ntdll, "wine_get_version"):
        pytest.skip("this is not Wine")
    ntdll.wine_get_version.restype = ctypes.c_char_p
    version = ntdll.wine_get_version().decode()
    assert int(re.match(r"\d+", version)[0]) >= 10, version  # type: ignore[index]


def get_completion(port: int) -> tuple[bool, int, int, int]:
    count, key, operation = wintypes.DWORD(), ctypes.c_size_t(), ctypes.c_void_p()
    good = kernel32.GetQueuedCompletionStatus(
        port, ctypes.byref(count), ctypes.byref(key), ctypes.byref(operation), INFINITE
    )
    if not good:
        return False, ctypes.get_last_error(), 0, 0
    return True, count.value, key.value, operation.value or 0


def test_completion_port_delivers_in_order() -> None:
    port = kernel32.CreateIoCompletionPort(INVALID_HANDLE, None, 0, 1)
    assert port
    for number in range(10):
        assert kernel32.PostQueuedCompletionStatus(port, number, number + 1, number + 2)
    for number in range(10):
        assert get_completion(port) == (True, number, number + 1, number + 2)
    assert kernel32.CloseHandle(port)


def test_closing_a_port_releases_its_waiter() -> None:
    """Old versions of Wine leave the thread waiting for ever."""
    results: list[tuple[bool, int, int, int]] = []

    def wait(port: int) -> None:
        results.append(get_completion(port))

    # Nothing tells that the thread has begun to wait. If it was not that far when the port was
    # closed, it found an invalid handle, and the next round gives it more time.
    for pause in (0.05, 0.5, 5):
        port = kernel32.CreateIoCompletionPort(INVALID_HANDLE, None, 0, 1)
        waiter = threading.Thread(target=wait, args=(port,), daemon=True)
        waiter.start()
        time.sleep(pause)
        assert kernel32.CloseHandle(port)
        waiter.join(20)
        assert not waiter.is_alive()
        if results.pop() == (False, ERROR_ABANDONED_WAIT_0, 0, 0):
            return
    pytest.fail("no waiter was released with ERROR_ABANDONED_WAIT_0")


def test_ctypes_callback() -> None:
    double = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda number: 2 * number)
    assert double(21) == 42


def test_threads_and_timed_wait() -> None:
    total = 0
    lock = threading.Lock()

    def count() -> None:
        nonlocal total
        for _ in range(1000):
            with lock:
                total += 1

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert total == 8000
    start = time.monotonic()
    assert not threading.Event().wait(0.1)
    # Windows counts this in ticks of 15.6 ms, so it may be one tick short.
    assert time.monotonic() - start > 0.08


def test_subprocess_pipes_and_exit_code() -> None:
    code = "import sys; print(sys.stdin.read().upper()); print('no', file=sys.stderr); sys.exit(3)"
    done = run_python(code, input="hello")
    assert (done.returncode, done.stdout, done.stderr) == (3, "HELLO\n", "no\n")


def test_interrupt_ends_a_sleep() -> None:
    code = """
import signal, threading, time
threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
try:
    time.sleep(50)
except KeyboardInterrupt:
    print("interrupted")
"""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run_python(code).stdout == "interrupted\n"


def _answer(pipe: Connection) -> None:
    pipe.send(pipe.recv()[::-1])


def test_multiprocessing_spawn() -> None:
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    child = context.Process(target=_answer, args=(theirs,))
    child.start()
    mine.send("abc")
    assert mine.poll(60)
    assert mine.recv() == "cba"
    child.join(60)
    assert child.exitcode == 0


def test_blocking_sockets() -> None:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.create_server((address, 0), family=family) as server:
            with socket.create_connection(server.getsockname()[:2], 10) as client:
                peer, _ = server.accept()
                with peer:
                    client.sendall(b"ping")
                    assert peer.recv(10) == b"ping"


async def _echo_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readexactly(300_000))
    await writer.drain()
    writer.close()
    await writer.wait_closed()


def test_asyncio_on_a_completion_port() -> None:
    """The standard library's own use of completion ports: if it works, so can ours."""

    async def main() -> None:
        assert isinstance(asyncio.get_running_loop(), asyncio.ProactorEventLoop)
        server = await asyncio.start_server(_echo_once, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        data = os.urandom(300_000)
        writer.write(data)
        assert await asyncio.wait_for(reader.readexactly(len(data)), 20) == data
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    asyncio.run(main())


def test_asyncio_subprocess() -> None:
    async def main() -> None:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "import sys; print(len(sys.stdin.read()))"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await asyncio.wait_for(child.communicate(b"x" * 200_000), 60)
        assert (output.strip(), child.returncode) == (b"200000", 0)

    asyncio.run(main())


def test_memory_mapped_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 10_000)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[:3] = b"xyz"
    assert path.read_bytes()[:4] == b"xyza"


def test_pip_is_there() -> None:
    code = "import pip; print(pip.__version__)"
    assert run_python(code).stdout.strip()
