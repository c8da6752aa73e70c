"""Accepting fails: for ever, for a while, or for every second client. Others go on meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import textwrap

import iocpcore
import pytest
from iocpcore import _core
from iocpcore._sockets import AcceptingListener
from support import child
from support.streams import read_exactly
from support.system import LIMIT, LINUX, wait_until

# What accept(2) lists, but for what means "wait" (EAGAIN), and some others. The numbers are
# Linux's, as the simulation's are everywhere.
NUMBERS = {
    "ENETDOWN": 100,
    "EPROTO": 71,
    "ENOPROTOOPT": 92,
    "EHOSTDOWN": 112,
    "ENONET": 64,
    "EHOSTUNREACH": 113,
    "EOPNOTSUPP": 95,
    "ENETUNREACH": 101,
    "EPERM": 1,
    "ENOBUFS": 105,
    "EMFILE": 24,
    "ENFILE": 23,
    "ENOMEM": 12,
    "EIO": 5,
    "ECONNABORTED": 103,
    "EBADF": 9,
    "EINVAL": 22,
    "EINTR": 4,
    "EFAULT": 14,
    "ETIMEDOUT": 110,
}

# ---- on the simulated network -------------------------------------------------------------------


@pytest.fixture
def simulated(ends_at_zero):
    """A server, and the number of its listener."""
    made = []

    def make(**options):
        server = iocpcore.Server(on_data=iocpcore.Connection.send, backend="sim", **options)
        made.append(server)
        handle, address = _core.sim_listener(server.completion_port)
        return server, handle, address

    yield make
    for server in made:
        server.stop(0)


def serve(server, handle, address):
    listener = server._group.listen(handle, socket.AF_INET)
    server._listeners.add([AcceptingListener(listener, address)])
    server.start()


def visit(server, address):
    """Whether a client is served."""
    got = []
    conn = iocpcore.connect(
        *address,
        completion_port=server.completion_port,
        on_data=lambda conn, data: got.append(data),
        timeout=None,
    )
    conn.send(b"x")
    wait_until(lambda: got, "the answer")
    conn.close()


ERRORS = [pytest.param(number, id=name) for name, number in NUMBERS.items()]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(("times", "period"), [(1, 1), (100, 1), (60, 2)])
def test_simulated_failures(simulated, error, times, period):
    server, handle, address = simulated()
    _core.sim_fail_accepts(server.completion_port, handle, error, times=times, period=period)
    serve(server, handle, address)
    for _ in range(20):
        visit(server, address)
    assert server.stats()["accepted"] == 20


@pytest.mark.parametrize("error", ERRORS)
def test_simulated_failure_for_ever(simulated, error):
    server, handle, address = simulated()
    _core.sim_fail_accepts(server.completion_port, handle, error)
    serve(server, handle, address)
    wait_until(lambda: server.stats()["accept_errors"] > 20, "failures, one after another")
    server.stop()


@pytest.mark.skipif(not LINUX, reason="elsewhere the classes follow other numbers")
@pytest.mark.parametrize("number", ERRORS)
def test_what_accept_answers(number):
    """A port's own accept is not tried again for ever either: the error is its answer."""
    with iocpcore.CompletionPort(1, backend="sim") as port:
        handle, _ = _core.sim_listener(port)
        _core.sim_fail_accepts(port, handle, number)
        op = port.accept(handle)
        assert port.get(timeout=LIMIT) is op
        assert type(op.error) is type(OSError(number, ""))
        assert op.error.errno == number
        assert not op.cancelled


# ---- on epoll, with an accept4 that is told to fail ---------------------------------------------

ACCEPT4 = """
#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

long syscall(long number, ...);
volatile int refused_error, refused_times, refused_period = 1, attempts, no_watches;

struct epoll_event;

int epoll_ctl(int epoll, int what, int fd, struct epoll_event *event) {
    if (no_watches && what == 1) {
        errno = ENOSPC;
        return -1;
    }
    return (int)syscall(SYS_epoll_ctl, epoll, what, fd, event);
}

int accept4(int listener, struct sockaddr *address, socklen_t *length, int flags) {
    int number = __sync_add_and_fetch(&attempts, 1);
    if (refused_times != 0 && number % refused_period == 0) {
        if (refused_times > 0)
            refused_times--;
        errno = refused_error;
        return -1;
    }
    return (int)syscall(SYS_accept4, listener, address, length, flags);
}
"""

PRELUDE = f"""
import ctypes, errno, logging, os, socket, sys, tempfile, threading, time
import iocpcore

library = ctypes.CDLL(sys.argv[1])
error, times, period, attempts, no_watches = (
    ctypes.c_int.in_dll(library, name)
    for name in ("refused_error", "refused_times", "refused_period", "attempts", "no_watches")
)
names = {list(NUMBERS)!r}

class Lines(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())

lines = []
logging.getLogger("iocpcore").addHandler(Lines())

def refuse(name, how_often, each=1):
    error.value, period.value, attempts.value = getattr(errno, name), each, 0
    times.value = how_often

def listening(family):
    if family == socket.AF_UNIX:
        return os.path.join(tempfile.mkdtemp(), "x")
    return ("127.0.0.1", 0)

def opened(family):
    server = iocpcore.Server(on_data=iocpcore.Connection.send, backend="epoll")
    where = listening(family)
    address = server.listen(where) if isinstance(where, str) else server.listen(*where)
    return server, address

def client(family, address):
    sock = socket.socket(family)
    sock.settimeout({LIMIT})
    sock.connect(address)
    return sock

FAMILIES = (socket.AF_INET, socket.AF_UNIX)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not LINUX or compiler is None:
        pytest.skip("needs Linux and a C compiler")
    if iocpcore.backends().get("epoll", "missing") is not None:
        pytest.skip("epoll does not work here")
    folder = tmp_path_factory.mktemp("accept4")
    source, target = folder / "accept4.c", folder / "accept4.so"
    source.write_text(ACCEPT4)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", target, source], check=True)
    return str(target)


def run(library: str, code: str, limit: float = 2 * LIMIT) -> list[str]:
    """What the program prints."""
    before = os.environ.get("LD_PRELOAD", "")
    preload = f"{before}:{library}" if before else library
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code), library],
        capture_output=True,
        encoding="utf-8",
        env=child.environment(LD_PRELOAD=preload),
        timeout=limit,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_failure_for_ever(library):
    """start() and stop() return, other threads go on, and few attempts are made."""
    said = run(
        library,
        """
        for name in names:
            for family in FAMILIES:
                server, address = opened(family)
                refuse(name, -1)
                lines.clear()
                server.start()
                sock = client(family, address)
                while server.stats()["accept_errors"] < 4:
                    time.sleep(0.001)
                before, began = attempts.value, time.monotonic()
                ticks = 0
                while time.monotonic() - began < 0.1:
                    time.sleep(0.001)
                    ticks += 1
                few = attempts.value - before
                assert ticks > 1
                assert few <= (1000 if name != "ECONNABORTED" else 10000), (name, few)
                assert server.stats()["accepted"] == 0
                began = time.monotonic()
                assert server.stop(5) == 0
                assert time.monotonic() - began < 5, name
                assert len(lines) <= 2, lines
                assert lines[0].startswith("accepting connections pauses: "), lines
                sock.close()
        print("all")
        """,
    )
    assert said == ["all"]


def test_failure_for_a_while(library):
    """It goes on by itself, on the same listener."""
    said = run(
        library,
        """
        for name in names:
            for family in FAMILIES:
                server, address = opened(family)
                refuse(name, 40 if name in ("ECONNABORTED", "EINTR") else 5)
                server.start()
                for _ in range(3):
                    with client(family, address) as sock:
                        sock.sendall(b"x")
                        assert sock.recv(1) == b"x"
                assert server.stats()["accept_errors"] >= 2, name
                server.stop()
        print("all")
        """,
    )
    assert said == ["all"]


def test_failure_for_every_second_client(library):
    """Nobody waits long, whatever is said of the others; the log has a line."""
    said = run(
        library,
        """
        for name in names:
            for family in FAMILIES:
                server, address = opened(family)
                server.start()
                lines.clear()
                refuse(name, -1, 2)
                for _ in range(100):
                    with client(family, address) as sock:
                        sock.sendall(b"x")
                        assert sock.recv(1) == b"x"
                assert server.stats()["accepted"] == 100
                assert len(lines) <= 1, lines
                server.stop()
        print("all")
        """,
    )
    assert said == ["all"]


def test_stop_while_it_pauses(library):
    said = run(
        library,
        """
        for name in ("EPERM", "ECONNABORTED"):
            for _ in range(30):
                server, address = opened(socket.AF_INET)
                refuse(name, -1)
                server.start()
                while not server.stats()["accept_errors"]:
                    time.sleep(0.001)
                began = time.monotonic()
                server.stop(5)
                assert time.monotonic() - began < 5
        print("all")
        """,
    )
    assert said == ["all"]


def test_clients_that_cannot_be_served(library):
    """The system watches no more sockets: they are closed, counted, and in the log once."""
    said = run(
        library,
        """
        server, address = opened(socket.AF_INET)
        server.start()
        no_watches.value = 1
        for _ in range(30):
            with client(socket.AF_INET, address) as sock:
                assert sock.recv(1) == b""
        assert server.stats()["failed"] == 30
        assert len(lines) == 1, lines
        assert "cannot be served" in lines[0] and "No space" in lines[0], lines
        no_watches.value = 0
        with client(socket.AF_INET, address) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        server.stop()
        assert "29 more until the end" in lines[1], lines
        print("all")
        """,
    )
    assert said == ["all"]


def test_what_accept_answers_on_epoll(library):
    said = run(
        library,
        """
        for name in names:
            for each in (1, 2):
                with iocpcore.CompletionPort(1, backend="epoll") as port:
                    with socket.create_server(("127.0.0.1", 0)) as listener:
                        refuse(name, -1, each)
                        with client(socket.AF_INET, listener.getsockname()):
                            if each == 2 and name not in ("ECONNABORTED", "EINTR"):
                                attempts.value = 1
                            op = port.accept(listener)
                            assert port.get(timeout=30) is op
                        if op.error is None:
                            assert each == 2
                            op.result()[0].close()
                        else:
                            assert type(op.error) is type(OSError(error.value, ""))
                            assert op.error.errno == error.value
                        assert (op.error is None) == (
                            each == 2 and name in ("ECONNABORTED", "EINTR")
                        ), name
                        port.dissociate(listener)
        print("all")
        """,
    )
    assert said == ["all"]


# ---- on every backend of the system -------------------------------------------------------------


@pytest.mark.system
@pytest.mark.skipif(not LINUX, reason="elsewhere a listener cannot be shut down")
def test_a_listener_that_somebody_has_shut_down(make_server, caplog):
    """accept() fails for ever; connections, stop() and the log are not troubled by it."""
    server = make_server(on_data=iocpcore.Connection.send, listen=False)
    sock = socket.create_server(("127.0.0.1", 0))
    with sock.dup() as other:
        address = server.listen(sock)
        with socket.create_connection(address, LIMIT) as client:
            client.sendall(b"x")
            assert read_exactly(client, 1) == b"x"
            other.shutdown(socket.SHUT_RDWR)
            wait_until(lambda: server.stats()["accept_errors"] > 3, "failures")
            client.sendall(b"y")
            assert read_exactly(client, 1) == b"y"
        assert server.stop() == 0
    messages = [record.getMessage() for record in caplog.records if record.name == "iocpcore"]
    assert messages[0].startswith("accepting connections pauses: ")
    assert len(messages) == 2
    assert "more until the end" in messages[1]


@pytest.mark.system
@pytest.mark.skipif(not LINUX, reason="elsewhere a listener cannot be shut down")
def test_accept_of_a_listener_that_was_shut_down(port, net):
    listener, _ = net.listener()
    op = port.accept(listener)
    listener.shutdown(socket.SHUT_RDWR)
    net.finish(op)
    error = net.error(op)
    assert type(error) is OSError
    assert error.errno == errno.EINVAL


def test_simulated_accepting_goes_on(simulated, caplog):
    """The log says when it pauses, and once when it does not any more; not at each client."""
    server, handle, address = simulated()
    _core.sim_fail_accepts(server.completion_port, handle, NUMBERS["EMFILE"], times=50, period=2)
    serve(server, handle, address)
    for _ in range(60):
        visit(server, address)
    wait_until(lambda: "goes on" in caplog.records[-1].getMessage(), "the end of it")
    messages = [record.getMessage() for record in caplog.records if record.name == "iocpcore"]
    assert messages[0].startswith("accepting connections pauses: ")
    assert messages[-1].startswith("accepting connections goes on: it had failed ")
