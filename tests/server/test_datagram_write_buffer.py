"""Datagrams that wait for being sent: how many, in which order, and how they end."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import iocpcore
import pytest
from iocpcore import Datagram
from support.datagrams import drain, own_datagram
from support.events import Events
from support.system import LIMIT, LINUX, wait_until


@pytest.fixture
def waiting(port: iocpcore.CompletionPort, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes an endpoint that nobody runs, one of whose sends waits; the address, and the other end.

    Linux' UDP never has to wait on loopback, but a unix socket does when nobody reads.
    """
    opened: list[Any] = []

    def make(**options: Any) -> tuple[Datagram, Any, Any]:
        if port.backend in ("io_uring", "epoll"):
            reader, writer = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
            reader.bind(str(tmp_path / "reader"))
            reader.settimeout(LIMIT)
            address = reader.getsockname()
            writer.connect(address)
            one = Datagram(sock=writer, completion_port=port, **options)
        else:
            reader = own_datagram(port)
            address = reader.sockname
            one = own_datagram(port, **options)
        opened.extend((one, reader))
        while not one.pending_bytes:
            assert one.send_to(bytes(20), address)
        assert one.pending_bytes == 20
        return one, address, reader

    yield make
    for one in opened:
        one.close()
    drain(port)


def test_the_write_buffer(waiting):
    """One datagram is always taken, however large the limit says it is."""
    one, address, _ = waiting(max_write_buffer=10)
    before = one.stats()
    assert one.send_to(b"x", address) is False
    assert one.send_to(b"", address) is False
    assert one.stats() == {**before, "dropped": 2}


@pytest.mark.system
@pytest.mark.skipif(not LINUX, reason="elsewhere UDP does not wait long enough to be seen")
def test_what_waits_keeps_the_order(waiting, port):
    """What is sent behind it waits too, even if there is room by then."""
    one, address, reader = waiting()
    sent = one.stats()["sent"]
    data = bytearray(b"a view")
    assert one.send_to(b"second", address)
    assert one.send_to(memoryview(data)[2:], address)
    assert one.pending_bytes == 20 + 6 + 4
    for _ in range(sent):
        assert reader.recv(100) == bytes(20)
    assert one.send_to(b"last", address)
    assert one.pending_bytes == 20 + 6 + 4 + 4
    wait_until(lambda: port.get(0) or not one.pending_bytes, "the sends")
    assert [reader.recv(100) for _ in range(4)] == [bytes(20), b"second", b"view", b"last"]
    stats = one.stats()
    assert stats["sent"] == sent + 4
    assert stats["bytes_sent"] == 20 * (sent + 1) + 14
    data.clear()  # it is not held any more
    assert one.send_to(b"at once again", address)
    assert one.pending_bytes == 0


def test_close_drops_what_waits(waiting, port):
    errors = Events()
    one, address, _ = waiting(on_error=lambda _, error: errors.add(error))
    one.close()
    assert one.send_to(b"x", address) is False
    wait_until(lambda: port.get(0) or not one.pending_bytes, "the end of the sends")
    assert not errors.items


def test_a_port_that_is_closed_with_sends(waiting, port):
    """They end with it, and tell nobody; the endpoint is still to be closed."""
    one, address, _ = waiting()
    port.close()
    assert one.send_to(b"x", address) is False
    assert not one.closed
    one.close()
    assert one.closed
    assert one.fileno() == -1


@pytest.mark.system
def test_errors_are_not_told_by_send_to(make_port, workers):
    """They wait for somebody who runs the port, and count as pending until then."""
    port = make_port(1)
    errors = Events()
    with own_datagram(
        port, on_error=lambda _, error: errors.add((error, threading.get_ident()))
    ) as one:
        assert one.send_to(bytes(70_000), one.sockname)
        assert one.pending_bytes == 70_000
        assert not errors.items
        with workers(port, 1) as threads:
            ((error, thread),) = errors.wait()
            assert thread == threads[0].ident
            assert one.pending_bytes == 0
            one.close()
            wait_until(lambda: port.in_flight == 0, "the end of all operations")
    assert error.errno in (errno.EMSGSIZE, getattr(errno, "WSAEMSGSIZE", None))
    assert str(error.strerror).startswith(f"send_to 127.0.0.1:{one.sockname[1]}: ")
