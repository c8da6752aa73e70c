"""stop() with all kinds of connections at once: within its time, with the right number of aborted
ones, and with everything delivered to those who read."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack

import pytest
from iocpcore import Connection, Server
from support import certificates
from support.events import Events
from support.stopping import PROMISED, within
from support.streams import read_all, read_exactly
from support.system import LIMIT, wait_until

MIB = 1 << 20


def small_window(server: Server, stack: ExitStack) -> socket.socket:
    """A client that takes little without reading."""
    sock = stack.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    sock.settimeout(LIMIT)
    sock.connect(server.addresses[0][:2])
    return sock


class Mixed:
    """Answers each command of one byte."""

    LARGE = 24 * MIB  # more than any socket buffer

    def __init__(self) -> None:
        self.begun, self.closed, self.told = Events(), Events(), Events()
        self.let_go = threading.Event()

    def on_connect(self, conn: Connection) -> None:
        self.begun.add(conn.id)

    def on_data(self, conn: Connection, data: bytes) -> None:
        if data[:1] == b"l":
            conn.send(bytes(self.LARGE))
        elif data[:1] == b"c":
            conn.send(bytes(self.LARGE))
            conn.close()
        elif data[:1] == b"b":
            self.told.add("blocked")
            self.let_go.wait(LIMIT)
        elif data[:1] == b"o":
            conn.offload(self.let_go.wait, LIMIT, then=lambda conn, _: self.told.add("then"))
        elif data[:1] == b"p":
            conn.pause_receiving()
            conn.send(data)
        else:
            conn.send(data)
        self.told.add(data[:1])

    def on_close(self, conn: Connection, error: BaseException | None) -> None:
        self.closed.add(error)


@pytest.mark.system
@pytest.mark.parametrize("timeout", [0.0, 0.5])
@pytest.mark.parametrize("caller", ["here", "elsewhere", "twice"])
def test_all_kinds_at_once(make_server, timeout, caller):
    """Of these only who reads nothing is aborted: one that was sent to, one that was closed."""
    mixed = Mixed()
    server = make_server(mixed, workers=2)
    with ExitStack() as stack:
        stack.callback(mixed.let_go.set)
        silent = [small_window(server, stack) for _ in range(3)]
        idle, stuck, closing, paused, offloading = (small_window(server, stack) for _ in range(5))
        for sock, command in [(stuck, b"l"), (closing, b"c"), (paused, b"p"), (offloading, b"o")]:
            sock.sendall(command)
            mixed.told.wait_for(command)
        idle.sendall(b"e")
        assert read_exactly(idle, 1) == b"e"
        assert read_exactly(paused, 1) == b"p"
        paused.sendall(bytes(100_000))  # nobody reads that
        mixed.begun.wait(len(silent) + 5)
        with within(timeout + PROMISED):
            aborted = stop(server, timeout, caller)
        assert aborted == server.stats()["aborted"] == 2
        assert server.connections == ()
        assert len(mixed.closed) == len(silent) + 5
        for sock in (*silent, idle, offloading):
            assert read_all(sock) == b""
    assert "then" not in mixed.told.items


def stop(server: Server, timeout: float, caller: str) -> int:
    if caller == "here":
        return server.stop(timeout)
    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(server.stop, timeout) for _ in range(4 if caller == "twice" else 1)]
        answers = {each.result() for each in callers}
    assert len(answers) == 1
    return answers.pop()


@pytest.mark.system
def test_every_worker_is_blocked(make_server):
    """Then nothing can be sent any more, and still it ends."""
    mixed = Mixed()
    server = make_server(mixed, workers=2)
    with ExitStack() as stack:
        stack.callback(mixed.let_go.set)
        reader = small_window(server, stack)
        reader.sendall(b"l")
        mixed.told.wait_for(b"l")
        for _ in range(2):
            small_window(server, stack).sendall(b"b")
        wait_until(lambda: mixed.told.items.count("blocked") == 2, "the workers")
        with within(0.3 + PROMISED):
            server.stop(0.3)
        assert len(server.connections) <= 2  # those whose callbacks go on


@pytest.mark.system
def test_readers_of_all_speeds(make_server):
    """What was accepted for sending arrives at everybody who reads, and nobody is aborted."""
    size, events, begin = 2 * MIB, Events(), threading.Barrier(5)

    def on_data(conn: Connection, data: bytes) -> None:
        conn.send(bytes(size))
        events.add("sent")

    server = make_server(on_data=on_data)

    def read(sock: socket.socket, step: int) -> int:
        begin.wait(LIMIT)
        total = 0
        while part := sock.recv(step):
            total += len(part)
            time.sleep(step / 20e6)  # a slow reader, of 20 MB/s at most
        return total

    with ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        socks = [small_window(server, stack) for _ in range(4)]
        for sock in socks:
            sock.sendall(b"x")
        events.wait(4)
        totals = [pool.submit(read, sock, 1 << (12 + 2 * i)) for i, sock in enumerate(socks)]
        begin.wait(LIMIT)
        assert server.stop(LIMIT) == 0
        assert [total.result() for total in totals] == [size] * 4


@pytest.mark.system
@pytest.mark.parametrize("size", [30_000, 150_000, MIB])
def test_input_that_nobody_reads(make_server, size):
    """It makes no reset that would destroy what is still on its way to the peer."""
    events = Events()

    def on_data(conn: Connection, data: bytes) -> None:
        conn.pause_receiving()
        conn.send(bytes(size))
        events.add("sent")

    server = make_server(on_data=on_data)
    with ExitStack() as stack:
        sock = small_window(server, stack)
        sock.sendall(b"x")
        events.wait()
        sock.sendall(bytes(5000))
        stopping = stack.enter_context(ThreadPoolExecutor(1)).submit(server.stop, LIMIT)
        wait([stopping], 0.3)  # by then it has closed the connection, or waits for the reader
        assert len(read_all(sock)) == size
        assert stopping.result() == 0


@pytest.mark.system
@pytest.mark.parametrize("step", ["nothing", "a part", "garbage"])
def test_in_the_middle_of_tls(make_server, plain, step):
    server = make_server(on_data=Connection.send, ssl=certificates.server_context())
    socks = [plain(server) for _ in range(5)]
    hello = first_flight()
    for sock in socks:
        sock.sendall({"nothing": b"", "a part": hello[: len(hello) // 2], "garbage": b"GET"}[step])
    wait_until(lambda: server.stats()["accepted"] == 5, "the connections")
    with within(PROMISED):
        assert server.stop(LIMIT) == 0
    assert server.connections == ()


def first_flight() -> bytes:
    import ssl

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = certificates.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_from_callbacks_of_many(make_server, dial):
    """Whoever stops it, all end, and each hears of it once."""
    closed, ended = Events(), Events()

    def on_data(conn: Connection, data: bytes) -> None:
        server.stop(LIMIT)

    server = make_server(on_data=on_data, on_close=closed.recorder("close"), workers=4)
    clients = [dial(server, on_close=ended.recorder("end")) for _ in range(20)]
    for client in clients:
        client.send(b"stop")
    assert closed.wait(20) == [("close", None)] * 20
    ended.wait(20)
    assert server.stop(LIMIT) == 0
    assert len(closed) == len(ended) == 20
