"""The command line: info, echo, demo and bench."""

from __future__ import annotations

import importlib.util
import os
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
from support import certificates, child
from support.net import reset
from support.system import LIMIT, SLOWNESS, WINDOWS, scaled


def run(*args: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "iocpcore", *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        env=child.environment(**extra),
        timeout=LIMIT,
        check=False,
    )


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


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
    for command in ("info", "echo", "demo", "bench"):
        assert command in result.stdout
        assert run(command, "--help").returncode == 0


@pytest.mark.parametrize(
    "args",
    [
        ["nonsense"],
        ["echo", "--port", "x"],
        ["echo", "--port", "70000"],
        ["echo", "--workers", "0"],
        ["echo", "--host", "not an address"],
        ["echo", "--host", "/not/an/address"],
        ["echo", "--backend", "nonsense"],
        ["echo", "--framing", "nonsense"],
        ["echo", "--tls-cert", "nonsense"],
        ["echo", "--tls-key", "nonsense"],
        ["demo", "--seconds", "0"],
        ["demo", "--seconds", "x"],
        ["demo", "--connections", "0"],
        ["demo", "--backend", "nonsense"],
        ["bench", "--seconds", "nan"],
        ["bench", "--connections", "-1"],
        ["bench", "--picture", "nonsense"],
        ["bench", "--picture", "no folder/x.png"],
    ],
    ids=" ".join,
)
def test_bad_arguments(args):
    """A message, not a traceback."""
    result = run(*args)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert result.stderr.strip()


def test_certificates_that_are_none():
    """The message says which file it is about."""
    good, other = (str(certificates.FOLDER / name) for name in ("server.pem", "ca.pem"))
    for args, expected in [
        (["--tls-cert", good, "--tls-key", "nonsense"], "--tls-key nonsense: No such file"),
        (["--tls-cert", "nonsense"], "--tls-cert nonsense: No such file"),
        (["--tls-cert", other], f"--tls-cert {other}: these must be a certificate and its key"),
    ]:
        result = run("echo", "--port", "0", *args)
        assert result.returncode == 2
        assert result.stderr.startswith(f"iocpcore: {expected}")
        assert result.stderr.count("\n") == 1


@pytest.mark.skipif(WINDOWS, reason="pipes of Windows tell it otherwise")
def test_a_reader_that_has_seen_enough():
    """As `| head -0` would be."""
    with subprocess.Popen(
        [sys.executable, "-m", "iocpcore", "info"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child.environment(),
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(LIMIT) == 141


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
    for args in (["echo", "--port", "0"], ["demo"]):
        result = run(*args)
        assert (result.returncode, result.stderr) == (2, expected)


def test_a_port_that_is_taken():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        result = run("echo", "--host", "127.0.0.1", "--port", str(sock.getsockname()[1]))
        number = str(sock.getsockname()[1])
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert number in result.stderr


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
@pytest.mark.parametrize(
    ("framing", "sent", "answered"),
    [
        ("length", b"\0\0\0\2ab\0\0\0\0\0\0\0\1c\0\0", b"\0\0\0\2ab\0\0\0\0\0\0\0\1c"),
        ("lines", b"one\r\n\ntwo", b"one\r\n\n"),
    ],
)
def test_echo_of_messages(backend, framing, sent, answered):
    """Whole ones: what is left of one at the end is not sent back."""
    with echo_server(backend, "--framing", framing) as server, server.connect() as sock:
        for number in range(len(sent)):
            sock.sendall(sent[number : number + 1])
        sock.shutdown(socket.SHUT_WR)
        assert receive(sock, len(sent) + 1) == answered
        server.interrupt()


@pytest.mark.system
def test_a_message_that_is_too_large(backend):
    """One line about it, and the end of that connection."""
    with echo_server(backend, "--framing", "length") as server:
        with server.connect() as sock, server.connect() as other:
            sock.sendall(b"\xff\xff\xff\xff")
            assert receive(sock, 1) == b""
            other.sendall(b"\0\0\0\1x")
            assert receive(other, 5) == b"\0\0\0\1x"
            name = "{}:{}".format(*sock.getsockname())
        server.interrupt()
        errors = server.process.stderr.read()
        assert errors.startswith(f"iocpcore: {name}: ")
        assert errors.count("\n") == 1


@pytest.mark.system
@pytest.mark.skipif(WINDOWS, reason="Ctrl-C cannot be sent to one process on Windows")
def test_many_messages_that_are_too_large(backend):
    """A line when it begins, and one with the number of the others."""
    with echo_server(backend, "--framing", "length") as server:
        for _ in range(20):
            with server.connect() as sock:
                sock.sendall(b"\xff\xff\xff\xff")
                assert receive(sock, 1) == b""
        server.interrupt()
        errors = server.process.stderr.read()
        assert errors.count("\n") == 2
        assert "19 more until the end" in errors


@pytest.mark.system
@pytest.mark.parametrize("framing", ["none", "length"])
def test_echo_with_tls(backend, framing):
    certificate = str(certificates.FOLDER / "server.pem")
    context = certificates.client_context()
    with echo_server(backend, "--tls-cert", certificate, "--framing", framing) as server:
        with context.wrap_socket(server.connect(), server_hostname=certificates.HOST) as sock:
            sock.sendall(b"\0\0\0\5hello")
            assert receive(sock, 9) == b"\0\0\0\5hello"
        server.interrupt()


@pytest.mark.system
@pytest.mark.skipif(WINDOWS, reason="Ctrl-C cannot be sent to one process on Windows")
def test_what_it_says_at_the_end(backend):
    with echo_server(backend) as server:
        for _ in range(3):
            with server.connect() as sock:
                sock.sendall(b"hello")
                assert receive(sock, 5) == b"hello"
        server.interrupt()
        assert server.process.stdout.read() == "served 3 connections, 15 bytes\n"
        assert server.process.stderr.read() == ""
        assert server.process.returncode == 0


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
        assert server.process.returncode == 0
        assert took < (5 if SLOWNESS > 1 else 2)
        assert "Traceback" not in server.process.stderr.read()
        for sock in socks:
            sock.close()


@pytest.mark.system
@pytest.mark.skipif(WINDOWS, reason="no SIGTERM on Windows")
def test_idle_and_interrupted_at_once(backend):
    with echo_server(backend) as server:
        server.interrupt()
        assert server.process.returncode == 0


# ---- demo ---------------------------------------------------------------------------------------

CLIENTS = scaled(100, 10)


def messages(output: str) -> int:
    match = re.search(r"then ([\d,]+) messages", output)
    assert match, output
    return int(match[1].replace(",", ""))


@pytest.mark.system
@pytest.mark.parametrize("workers", [[], ["--workers", "4"]], ids=["default", "4 workers"])
def test_demo(backend, workers):
    """It ends by itself, and all is well."""
    args = ("--seconds", "1.5", "--connections", str(CLIENTS), *workers)
    result = run("demo", *args, IOCPCORE_BACKEND=backend)
    assert result.returncode == 0, (result.stdout, result.stderr)
    assert result.stderr == ""
    first, *_, last = result.stdout.splitlines()
    assert backend in first
    assert last == "ok: every message was answered once, in order, and correctly"
    assert f"{CLIENTS} connections in " in result.stdout
    assert " messages/s " in result.stdout  # figures while it runs
    assert messages(result.stdout) >= 4 * CLIENTS


@pytest.mark.system
def test_demo_on_a_named_backend(backend):
    result = run("demo", "--seconds", "0.2", "--connections", "3", "--backend", backend)
    assert result.returncode == 0, (result.stdout, result.stderr)
    assert f"({backend}, " in result.stdout


@pytest.mark.system
@pytest.mark.skipif(WINDOWS, reason="Ctrl-C cannot be sent to one process on Windows")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_demo_is_interrupted(backend, name):
    """Everything that is under way is still answered."""
    args = ("--seconds", "300", "--connections", str(CLIENTS))
    with child.start("-m", "iocpcore", "demo", *args, IOCPCORE_BACKEND=backend) as process:
        try:
            while " messages/s " not in process.stdout.readline():
                assert process.poll() is None
            process.send_signal(getattr(signal, name))
            output, errors = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")
    assert "ended by a signal" in output
    assert output.splitlines()[-1].startswith("ok: ")


WRONG = {
    "one answer is wrong": "conn.send_message(message.upper() if b'7 ' in message else message)",
    "one is missing": "b'00000007' in message or conn.send_message(message.upper())",
    "one comes twice": "[conn.send_message(message.upper()) for _ in range(2)]",
    "a connection is lost": "conn.abort() if b'00000007' in message else conn.send_message("
    "message.upper())",
}


@pytest.mark.system
@pytest.mark.parametrize("handler", WRONG.values(), ids=WRONG)
def test_demo_notices(backend, handler):
    """A server that is not right."""
    code = f"""
    import sys
    from iocpcore._cli import demo, main

    demo.on_message = lambda conn, message: {handler}
    sys.exit(main(["demo", "--seconds", "0.5", "--connections", "5"]))
    """
    result = child.run(code, backend)
    assert result.returncode == 1, (result.stdout, result.stderr)
    assert result.stdout.splitlines()[-1].startswith("FAILED: ")


@pytest.mark.system
@pytest.mark.skipif(WINDOWS, reason="no pseudo terminals")
def test_demo_in_a_terminal(backend):
    """With a table that changes, if rich is installed; it looks the same in the end."""
    import pty

    reader, writer = pty.openpty()
    with open(reader, "rb", buffering=0) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-m", "iocpcore", "demo", "--seconds", "1.5", "--connections", "9"],
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            env=child.environment(IOCPCORE_BACKEND=backend, TERM="xterm", COLUMNS="100"),
        )
        os.close(writer)
        output = b""
        with process:
            try:
                while part := terminal.read(1 << 16):
                    output += part
            except OSError:
                pass  # how a terminal ends
            process.wait(LIMIT)
    text = output.decode()
    assert process.returncode == 0, text
    assert "ok: every message" in text
    assert ("question to answer, half" in text) == installed("rich")
    assert (" messages/s " in text) != installed("rich")


# ---- bench --------------------------------------------------------------------------------------


def test_bench(tmp_path):
    """A row for each server in both tables, and a picture if there is what draws it."""
    picture = tmp_path / "x.png"
    args = ("--seconds", "0.2", "--connections", "3", "--picture", str(picture))
    result = run("bench", *args, MPLCONFIGDIR=str(tmp_path))
    assert result.returncode == 0, (result.stdout, result.stderr)
    _, echo, messages = re.split(r"\n(?=echo:|messages:)", result.stdout)
    working = [name for name, reason in iocpcore.backends().items() if not reason]
    servers = [f"iocpcore, {name}" for name in working if name != "sim"] + ["asyncio"]
    fast = "winloop" if WINDOWS else "uvloop"
    servers += [fast] if installed(fast) else []
    assert (f"{fast} is not installed" in result.stdout) != installed(fast)
    for table, names in ((echo, servers), (messages, [*servers, "asyncio, one write"])):
        for name in names:
            assert re.search(rf"^  {name} +[\d,]+ +[\d.]+ us ", table, re.MULTILINE), (name, table)
    assert picture.exists() == installed("matplotlib")
    assert ("no picture" in result.stdout) != installed("matplotlib")


def test_bench_of_a_server_that_fails(tmp_path):
    """That row says so, and the others are shown."""
    code = f"""
    import sys
    from iocpcore._cli import bench, main

    rows = [bench.Row(name, name) for name in ("nonsense", "asyncio")]
    bench.choose_rows = lambda: (rows, [])
    args = ["--seconds", "0.1", "--connections", "2", "--picture", r"{tmp_path / "x.png"}"]
    sys.exit(main(["bench", *args]))
    """
    result = child.run(code, "")
    assert result.returncode == 1, (result.stdout, result.stderr)
    assert len(re.findall(r"^  nonsense +failed: ", result.stdout, re.MULTILINE)) == 2
    assert len(re.findall(r"^  asyncio +[\d,]+ ", result.stdout, re.MULTILINE)) == 2
