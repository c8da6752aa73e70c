"""serve_forever(), signals, and servers at the end of their process."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from iocpcore import Connection
from support.child import check, start
from support.events import Events
from support.streams import read_all, read_exactly
from support.system import LIMIT, LINUX, scaled, wait_until

signals = pytest.mark.skipif(not LINUX, reason="Windows has no signals for other processes")
pytestmark = pytest.mark.system

SERVER = """
import sys, time, threading, iocpcore

def on_data(conn, data):
    if data == b"big":
        conn.send(bytes(16_000_000))
    elif data == b"block":
        print("blocked", flush=True)
        threading.Event().wait()
    elif data == b"exit":
        sys.exit(7)
    else:
        conn.send(data)

server = iocpcore.Server(on_data=on_data)
print(server.listen("127.0.0.1", 0)[1], flush=True)
server.serve_forever(stop_timeout=TIMEOUT)
print("ended", flush=True)
"""


class Child:
    """A server in a process of its own."""

    def __init__(self, backend: str, timeout: float) -> None:
        code = textwrap.dedent(SERVER).replace("TIMEOUT", repr(timeout))
        self.process = start("-c", code, IOCPCORE_BACKEND=backend)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.sockets: list[socket.socket] = []

    def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), LIMIT)
        self.sockets.append(sock)
        sock.sendall(b"x")
        assert read_exactly(sock, 1) == b"x"
        return sock

    def ends(self, code: int = 0, output: str = "ended\n", errors: str = "") -> None:
        out, err = self.process.communicate(timeout=LIMIT)
        assert (self.process.returncode, out) == (code, output)
        assert errors in err
        assert errors or not err

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def child(backend: str, ends_at_zero: None, request: pytest.FixtureRequest) -> Iterator[Child]:
    child = Child(backend, getattr(request, "param", LIMIT))
    yield child
    child.close()


@signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal(child, number):
    """Everybody gets what is theirs, and the end."""
    idle, reading = child.connect(), child.connect()
    reading.sendall(b"big")
    assert read_exactly(reading, 1000)
    child.process.send_signal(number)
    assert read_all(idle) == b""
    assert len(read_all(reading)) == 16_000_000 - 1000
    child.ends()


@signals
@pytest.mark.parametrize("child", [0.3], indirect=True)
def test_a_signal_and_a_peer_that_does_not_read(child):
    sock = child.connect()
    sock.sendall(b"big")
    assert read_exactly(sock, 1000)
    began = time.monotonic()
    child.process.send_signal(signal.SIGTERM)
    child.ends()
    assert time.monotonic() - began < 0.3 + 1 + 2  # the interpreter's end is part of it


@signals
def test_a_second_signal(child):
    """It does not wait any more."""
    sock = child.connect()
    idle = child.connect()
    sock.sendall(b"big")
    assert read_exactly(sock, 1000)
    child.process.send_signal(signal.SIGINT)
    assert read_all(idle) == b""
    child.process.send_signal(signal.SIGINT)
    child.ends()


@signals
@pytest.mark.parametrize("child", [0.2], indirect=True)
def test_a_signal_and_a_callback_that_never_returns(child):
    sock = child.connect()
    sock.sendall(b"block")
    assert child.process.stdout.readline() == "blocked\n"
    child.process.send_signal(signal.SIGTERM)
    child.ends(errors="a callback has not returned")


def test_sys_exit_in_a_callback(child):
    """It ends the server gracefully, and then the process, as it says."""
    idle = child.connect()
    child.connect().sendall(b"exit")
    assert read_all(idle) == b""
    child.ends(7, output="")


@signals
def test_handlers_are_put_back(backend):
    check(
        """
        import os, signal, threading, time, iocpcore
        before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
        server = iocpcore.Server()
        server.listen("127.0.0.1", 0)
        threading.Timer(0.1, server.stop).start()
        server.serve_forever()
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
        assert signal.set_wakeup_fd(-1) == -1
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            print("as ever")
        """,
        backend,
        output="as ever",
    )


def test_in_another_thread(make_server, plain):
    """Signals are left alone there."""
    before = signal.getsignal(signal.SIGINT)
    server = make_server(start=False, on_data=lambda conn, data: conn.send(data))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    sock = plain(server)
    sock.sendall(b"x")
    assert read_exactly(sock, 1) == b"x"
    assert signal.getsignal(signal.SIGINT) is before
    server.stop()
    thread.join(LIMIT)
    assert not thread.is_alive()


def test_stop_by_another_thread(make_server):
    """serve_forever() in the main thread returns."""
    server = make_server(start=False)
    results = Events()
    timer = threading.Timer(0.1, lambda: results.add(server.stop()))
    timer.start()
    server.serve_forever()
    assert results.wait() == [0]
    timer.join()


@pytest.mark.parametrize("where", ["callback", "thread", "before"])
@pytest.mark.parametrize("way", ["close", "stop"])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_port_is_ended_by_its_user(make_server, plain, where, way, workers):
    """It cannot serve any more, and says why instead of waiting for ever."""
    events, begun = Events(), Events()
    server = make_server(
        start=False,
        workers=workers,
        on_connect=begun.add,
        on_data=lambda conn, data: b"!" in data and getattr(server.completion_port, way)(),
        on_close=events.recorder("close"),
    )
    if where == "before":
        getattr(server.completion_port, way)()
    kind, words = (ValueError, "is closed") if way == "close" else (RuntimeError, "is stopped")
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as stack:
        stack.callback(server.stop, 0)
        served = pool.submit(server.serve_forever)
        if where != "before":
            sock = plain(server)
            sock.sendall(b"?")
            begun.wait()
        if where == "callback":
            sock.sendall(b"!")
        elif where == "thread":
            getattr(server.completion_port, way)()
        with pytest.raises(kind, match=f"port {words}"):
            served.result(LIMIT)
    if where != "before":
        assert isinstance(events.wait()[0][1], OSError)
    wait_until(lambda: not server.connections, "the end of all")


def test_stop_by_a_callback(make_server, plain):
    def on_data(conn: Connection, data: bytes) -> None:
        conn.send(b"bye")
        server.stop()

    server = make_server(start=False, on_data=on_data)
    sock = plain(server)
    sock.sendall(b"x")
    server.serve_forever()
    assert read_all(sock) == b"bye"


# ---- the end of the process ---------------------------------------------------------------------


def test_start_does_not_keep_the_process_alive(backend):
    check(
        """
        import iocpcore
        server = iocpcore.Server(on_data=print)
        server.listen("127.0.0.1", 0)
        server.start()
        print("end")
        """,
        backend,
        output="end",
    )


def test_what_was_sent_before_the_end_arrives(backend):
    """Of a client, on the port of the process."""
    size = scaled(4_000_000)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = start(
            "-c",
            "import sys, iocpcore\n"
            "conn = iocpcore.connect('127.0.0.1', int(sys.argv[1]))\n"
            "conn.send(bytes(int(sys.argv[2])))\n",
            str(listener.getsockname()[1]),
            str(size),
            IOCPCORE_BACKEND=backend,
        )
        listener.settimeout(LIMIT)
        with listener.accept()[0] as sock:
            sock.settimeout(LIMIT)
            assert len(read_all(sock)) == size
    assert process.communicate(timeout=LIMIT) == ("", "")
    assert process.returncode == 0


def test_exit_with_a_callback_that_never_returns(backend):
    check(
        """
        import socket, threading, iocpcore
        blocked = threading.Event()
        def on_connect(conn):
            blocked.set()
            threading.Event().wait()
        server = iocpcore.Server(on_connect=on_connect)
        address = server.listen("127.0.0.1", 0)
        server.start()
        sock = socket.create_connection(address)
        blocked.wait()
        sock.close()
        print("end")
        """,
        backend,
        output="end",
        errors="a callback has not returned; its thread is left to itself",
    )


@pytest.mark.skipif(not LINUX, reason="reuse_port is for Linux")
def test_several_processes_on_one_port(backend):
    code = textwrap.dedent(
        """
        import os, sys, iocpcore
        def on_connect(conn):
            conn.send(b"%d" % os.getpid())
            conn.close()
        server = iocpcore.Server(on_connect=on_connect)
        print(server.listen("127.0.0.1", int(sys.argv[1]), reuse_port=True)[1], flush=True)
        server.serve_forever()
        """
    )
    children: list[subprocess.Popen[str]] = []
    try:
        port = "0"
        for _ in range(2):
            children.append(start("-c", code, port, IOCPCORE_BACKEND=backend))
            assert children[-1].stdout is not None
            port = children[-1].stdout.readline().strip()
        seen = set()
        deadline = time.monotonic() + LIMIT
        while len(seen) < 2:
            assert time.monotonic() < deadline
            with socket.create_connection(("127.0.0.1", int(port)), LIMIT) as sock:
                seen.add(int(read_all(sock)))
        assert seen == {child.pid for child in children}
    finally:
        for child in children:
            child.terminate()
            assert child.communicate(timeout=LIMIT) == ("", "")
            assert child.returncode == 0


def test_a_default_timeout_of_sockets(backend):
    """It is not about the sockets that are used inside."""
    code = """
        import queue, socket, threading, iocpcore
        socket.setdefaulttimeout(0.01)
        server = iocpcore.Server(on_data=lambda conn, data: conn.send(data))
        address = server.listen("127.0.0.1", 0)
        answers = queue.SimpleQueue()

        def use():
            conn = iocpcore.connect(*address, on_data=lambda conn, data: answers.put(data))
            threading.Event().wait(0.2)  # 20 times as long
            conn.send(b"late")
            print(answers.get(timeout=10))
            server.stop()

        threading.Thread(target=use).start()
        server.serve_forever()
        print("ended")
    """
    check(code, backend, output="b'late'\nended")
