"""The command line: info and echo."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import iocpcore
import pytest
from support import child
from support.net import reset
from support.system import LIMIT, SLOWNESS, WINDOWS, scaled


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "iocpcore", *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        env=child.environment(),
        timeout=LIMIT,
        check=False,
    )


def test_info():
    result = run("info")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert iocpcore.__version__ in result.stdout
    for name, reason in iocpcore.backends().items():
        assert name in result.stdout
        if reason:
            assert reason in result.stdout


def test_help():
    result = run("--help")
    assert result.returncode == 0
    assert "info" in result.stdout
    assert "echo" in result.stdout
    assert run("echo", "--help").returncode == 0


@pytest.mark.parametrize(
    "args",
    [
        ["nonsense"],
        ["echo", "--port", "x"],
        ["echo", "--port", "70000"],
        ["echo", "--workers", "0"],
        ["echo", "--host", "not an address"],
        ["echo", "--backend", "nonsense"],
    ],
    ids=" ".join,
)
def test_bad_arguments(args):
    """A message, not a traceback."""
    result = run(*args)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert result.stderr.strip()


def test_a_number_that_is_none():
    """The message is about the argument, not about us."""
    for option in ("--port", "--workers"):
        errors = run("echo", option, "abc").stderr
        assert f"argument {option}: must be a number, not 'abc'" in errors
        assert " _" not in errors


def test_a_backend_without_sockets(monkeypatch):
    expected = "iocpcore: the backend 'sim' has no sockets of the system to serve\n"
    result = run("echo", "--port", "0", "--backend", "sim")
    assert (result.returncode, result.stderr) == (2, expected)
    monkeypatch.setenv("IOCPCORE_BACKEND", "sim")
    result = run("echo", "--port", "0")
    assert (result.returncode, result.stderr) == (2, expected)


def test_a_port_that_is_taken():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        result = run("echo", "--host", "127.0.0.1", "--port", str(sock.getsockname()[1]))
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert str(sock.getsockname) or result.stderr


class Server:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        line = process.stdout.readline()
        match = re.search(r"(\d+\.\d+\.\d+\.\d+):(\d+)", line)
        assert match, (line, process.stderr.read() if process.poll() is not None else "")
        self.address = (match[1], int(match[2]))

    def connect(self) -> socket.socket:
        sock = socket.create_connection(self.address, timeout=LIMIT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def interrupt(self) -> float:
        """Ctrl-C, where it can be sent to one process; how long the end took."""
        begin = time.monotonic()
        if WINDOWS:
            self.process.kill()
        else:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(LIMIT)
        return time.monotonic() - begin


@contextmanager
def echo_server(backend: str, *args: str):
    process = child.start(
        *("-u", "-m", "iocpcore", "echo", "--host", "127.0.0.1", "--port", "0", *args),
        IOCPCORE_BACKEND=backend,
    )
    with process:
        try:
            yield Server(process)
        finally:
            if process.poll() is None:
                process.kill()


def receive(sock: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = sock.recv(min(count, 1 << 16))
        if not part:
            break
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


@pytest.mark.system
@pytest.mark.parametrize("workers", [1, 4])
def test_echo(backend, workers):
    with echo_server(backend, "--workers", str(workers)) as server, server.connect() as sock:
        for number in range(100):
            sock.sendall(b"message %d" % number)
            assert receive(sock, 8 + len(str(number))) == b"message %d" % number
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
        server.interrupt()


@pytest.mark.system
@pytest.mark.stress
def test_echo_for_many(backend):
    """Clients that stay, come and go, send much, reset: each gets its own bytes."""
    clients = scaled(200, 20)
    with echo_server(backend, "--workers", "4") as server:
        socks = [server.connect() for _ in range(clients)]
        for round_ in range(3):
            for number, sock in enumerate(socks):
                sock.sendall(b"%06d %d" % (number, round_))
            for number, sock in enumerate(socks):
                assert receive(sock, 8) == b"%06d %d" % (number, round_)
        for sock in socks[::3]:
            reset(sock)
        for sock in socks[1::3]:
            sock.close()
        big = bytes(range(256)) * scaled(1 << 14)
        with server.connect() as sock:
            sender = threading.Thread(target=sock.sendall, args=(big,))
            sender.start()
            assert receive(sock, len(big)) == big
            sender.join(LIMIT)
        for number, sock in list(enumerate(socks))[2::3]:
            sock.sendall(b"still %06d" % number)
            assert receive(sock, 12) == b"still %06d" % number
            sock.close()
        server.interrupt()


@pytest.mark.system
@pytest.mark.skipif(WINDOWS, reason="Ctrl-C cannot be sent to one process on Windows")
@pytest.mark.parametrize("workers", [1, 4])
def test_ctrl_c(backend, workers):
    """It ends within a second, with clients in every state, and says nothing bad about it."""
    with echo_server(backend, "--workers", str(workers)) as server:
        socks = [server.connect() for _ in range(20)]
        for sock in socks[:10]:
            sock.sendall(b"x")
            assert receive(sock, 1) == b"x"
        # One that sends and does not read.
        socks[0].setblocking(False)
        try:
            for _ in range(1000):
                socks[0].send(bytes(1 << 16))
        except BlockingIOError:
            pass
        took = server.interrupt()
        assert server.process.returncode in (0, 130)
        assert took < (5 if SLOWNESS > 1 else 2)
        assert "Traceback" not in server.process.stderr.read()
        for sock in socks:
            sock.close()


@pytest.mark.system
@pytest.mark.skipif(WINDOWS, reason="no SIGTERM on Windows")
def test_idle_and_interrupted_at_once(backend):
    with echo_server(backend) as server:
        server.interrupt()
        assert server.process.returncode in (0, 130)
