"""A descriptor's number is not the file: what is under way stays with the file it was meant for."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import ExitStack

import pytest
from support import child
from support.net import tcp_pair
from support.system import LIMIT, LINUX, SLOWNESS, WINDOWS

pytestmark = pytest.mark.system

BUSY = (64 << 20) // SLOWNESS  # bytes that keep a file thread busy for a while


def test_a_file_closed_before_its_turn(port, tmp_path):
    """Its number goes to another file while the write still waits for a thread."""
    with (
        open(tmp_path / "1", "wb", 0) as one,
        open(tmp_path / "2", "wb", 0) as two,
        open(tmp_path / "3", "wb", 0) as three,
        open(tmp_path / "4", "wb", 0) as four,
    ):
        data = bytes(BUSY)
        ops = [port.write(file, data, 0) for file in (one, two, three, four)]
        first = open(tmp_path / "first", "wb", 0)  # noqa: SIM115
        number = first.fileno()
        op = port.write(first, b"for the first", 0)
        first.close()
        with open(tmp_path / "second", "wb", 0) as second:
            assert WINDOWS or second.fileno() == number
            done = set()
            while len(done) < 5:
                done.add(port.get(LIMIT))
    assert done == {*ops, op}
    assert (tmp_path / "second").read_bytes() == b""
    assert op.error or (tmp_path / "first").read_bytes() == b"for the first"
    assert all(op.result() == BUSY for op in ops)


def test_a_file_closed_while_it_is_sent(port, tmp_path):
    size = 8 << 20
    (tmp_path / "public").write_bytes(b"p" * size)
    (tmp_path / "secret").write_bytes(b"s" * size)
    ours, peer = tcp_pair()
    peer.settimeout(LIMIT)
    received = bytearray()

    def read() -> None:
        while len(received) < size and (data := peer.recv(1 << 16)):
            received.extend(data)

    with ours, peer:
        file = open(tmp_path / "public", "rb", 0)  # noqa: SIM115
        number = file.fileno()
        op = port.send_file(ours, file)
        file.close()
        with open(tmp_path / "secret", "rb", 0) as secret:
            assert WINDOWS or secret.fileno() == number
            thread = threading.Thread(target=read)
            thread.start()
            assert port.get(LIMIT) is op
            thread.join(LIMIT)
    assert op.result() == size
    assert bytes(received) == b"p" * size


@pytest.mark.skipif(not LINUX, reason="a backlog that is full and makes clients wait is Linux's")
def test_a_connect_that_was_begun_before(port):
    """By an operation that was cancelled, or by the socket itself: asked again, it goes on."""
    with ExitStack() as stack:

        def new_socket() -> socket.socket:
            return stack.enter_context(socket.socket())

        listener = new_socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        while True:
            sock = new_socket()
            op = port.connect(sock, address)
            if port.get(0.2) is None:
                break  # the backlog is full
            assert op.error is None
        assert op.cancel()
        assert port.get(LIMIT) is op
        other = new_socket()
        other.setblocking(False)
        other.connect_ex(address)
        waiting = {port.connect(sock, address), port.connect(other, address)}
        assert port.get(0.2) is None
        for op in waiting:
            op.cancel()
        assert {port.get(LIMIT), port.get(LIMIT)} == waiting
        assert all(op.cancelled for op in waiting)


@pytest.mark.skipif(not LINUX, reason="eventfd is Linux's")
def test_what_has_no_offsets(port):
    number = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        op = port.read(number, 8, 0)
        assert port.get(LIMIT) is op
        assert isinstance(op.error, OSError)
        assert "Illegal seek" in str(op.error)
        port.dissociate(number)
    finally:
        os.close(number)


@pytest.mark.skipif(not LINUX, reason="a directory is opened otherwise on Windows")
def test_every_error_has_its_text(port, tmp_path):
    number = os.open(tmp_path, os.O_RDONLY)
    try:
        op = port.read(number, 8, 0)
        assert port.get(LIMIT) is op
        assert isinstance(op.error, OSError)
        assert "Unknown error" not in str(op.error)
        port.dissociate(number)
    finally:
        os.close(number)


@pytest.mark.skipif(WINDOWS, reason="SIGPIPE is POSIX's")
def test_a_broken_pipe_is_an_error_and_no_signal(backend):
    code = """
import signal, socket, tempfile
import iocpcore

signal.signal(signal.SIGPIPE, signal.SIG_DFL)
port = iocpcore.CompletionPort()
a, b = socket.socketpair()
b.close()
with tempfile.TemporaryFile() as file:
    file.write(bytes(100))
    file.flush()
    ops = [port.send(a, b"x"), port.send_file(a, file)]
    while not all(op.done for op in ops):
        port.get(30)
for op in ops:
    print(type(op.error).__name__)
port.close()
"""
    child.check(code, backend, output="BrokenPipeError\nBrokenPipeError")
