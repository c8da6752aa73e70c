"""What systematic tests do not come to: found by trying to break servers."""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
import time
from concurrent.futures import CancelledError

import iocpcore
import pytest
from iocpcore import _connection_tasks
from support.events import Events
from support.streams import read_exactly
from support.system import LIMIT, wait_until

pytestmark = pytest.mark.found_in_use


@pytest.mark.system
def test_connections_are_whole_when_they_are_listed(make_server):
    """server.connections gave some that were not open yet, and using those was a crash."""
    server = make_server(on_data=lambda conn, data: None, workers=2)
    end = time.monotonic() + 1

    def use() -> None:
        while time.monotonic() < end:
            for conn in server.connections:
                conn.send(b"x")
                conn.close()

    def connect() -> None:
        while time.monotonic() < end:
            try:
                socket.create_connection(server.addresses[0][:2], LIMIT).close()
            except OSError:
                pass

    threads = [threading.Thread(target=function) for function in (use, use, connect, connect)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    wait_until(lambda: not server.connections, "the end of all connections")


@pytest.mark.system
def test_connection_that_comes_when_the_end_has_begun(make_server, plain):
    server = make_server(on_data=lambda conn, data: None)
    server._group.shutdown()  # an accept was under way, and the listener is not closed yet
    try:
        assert plain(server).recv(1) == b""
    except ConnectionResetError:  # perhaps while it connects
        pass


def offloads(make_server, dial, on_message):
    server = make_server(on_message=on_message, framing=iocpcore.Delimited(b"\n"))
    conn = dial(server, on_message=lambda conn, message: None, framing=iocpcore.Delimited(b"\n"))
    conn.send(b"first\nsecond\n")


def test_serial_offloads_overlap(make_server, dial):
    """The end of one does not let go what another one still holds."""
    events, go_on = Events(), threading.Event()

    def on_message(conn, message):
        events.add(message)
        if message == b"first":
            conn.offload(int, then=lambda conn, _: events.add("short"), serial=True)
            conn.offload(go_on.wait, LIMIT, then=lambda conn, _: events.add("long"), serial=True)

    offloads(make_server, dial, on_message)
    events.wait(2)
    time.sleep(0.05)  # for what must not come
    go_on.set()
    assert events.wait(4) == [b"first", "short", "long", b"second"]


def test_serial_offload_after_another(make_server, dial):
    """The same if `then` begins the other one."""
    events = Events()

    def then(conn, _):
        events.add("one")
        conn.offload(time.sleep, 0.05, then=lambda conn, _: events.add("two"), serial=True)

    def on_message(conn, message):
        events.add(message)
        if message == b"first":
            conn.offload(int, then=then, serial=True)

    offloads(make_server, dial, on_message)
    assert events.wait(4) == [b"first", "one", "two", b"second"]


def test_cancelled_error_of_then(make_server, dial):
    """It is an exception as any other one."""
    events = Events()

    def then(conn, result):
        raise CancelledError("mine")

    server = make_server(
        on_connect=lambda conn: conn.offload(int, then=then),
        on_error=lambda conn, error: events.add(str(error)),
    )
    dial(server)
    assert events.wait(1) == ["mine"]


def test_call_later_that_fails_leaves_nothing(make_server, dial):
    server = make_server()
    conn = dial(server)
    for wrong in (-1, float("nan"), "1", True):
        with pytest.raises((ValueError, TypeError), match="seconds must"):
            conn.call_later(wrong, print)
    gc.collect()
    assert not [
        one
        for one in gc.get_referrers(_connection_tasks.Timer)
        if type(one) is _connection_tasks.Timer
    ]
    conn.abort()
    with pytest.raises(TypeError, match="seconds must"):
        conn.call_later("1", print)


def test_on_error_may_exit(make_server, dial):
    """SystemExit stops the server, from this callback too."""
    server = make_server(
        on_data=lambda conn, data: 1 / 0, on_error=lambda conn, error: sys.exit(3), start=False
    )
    raised = []

    def serve():
        try:
            server.serve_forever()
        except SystemExit as error:
            raised.append(error.code)

    thread = threading.Thread(target=serve)
    thread.start()
    dial(server).send(b"x")
    thread.join(LIMIT)
    assert raised == [3]


def test_long_idle_timeout_beside_a_short_handshake_timeout(make_server, backend, monkeypatch):
    """Silence was counted in steps of the shorter limit, up to 65,535 of them."""
    if backend != "sim":
        pytest.skip("needs virtual time")
    monkeypatch.setattr("iocpcore.server._stage", lambda *_: lambda conn: None)  # through at once
    events = Events()

    def on_connect(conn):
        port = server.completion_port
        for seconds in (660, 701):
            port.timer(seconds, callback=lambda op, at=seconds: events.add(at))

    server = make_server(
        on_connect=on_connect,
        on_close=lambda conn, error: events.add(type(error)),
        idle_timeout=680,
        handshake_timeout=0.01,
    )
    host, number = server.addresses[0][:2]
    iocpcore.connect(host, number, completion_port=server.completion_port, timeout=LIMIT)
    found = events.wait(3)
    assert found[0] == 660
    assert TimeoutError in found


@pytest.mark.system
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking with threads
def test_forked_child_leaves_the_socket_file(make_server, tmp_path):
    """A child that unwinds `with server:` must not take the parent's address away."""
    path = str(tmp_path / "s")
    server = make_server(on_data=lambda conn, data: conn.send(data), listen=False)
    server.listen(path)
    child = os.fork()
    if child == 0:
        try:
            server._listeners.shutdown()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(LIMIT)
        sock.connect(path)
        sock.sendall(b"x")
        assert read_exactly(sock, 1) == b"x"
    server.stop(LIMIT)
    assert not os.path.exists(path)


def test_local_address_with_a_port_out_of_range():
    """The system's resolver takes such a number modulo 65,536."""
    for function in (
        lambda: iocpcore.Datagram(local_address=("127.0.0.1", 70000)),
        lambda: iocpcore.connect("127.0.0.1", 1, local_address=("127.0.0.1", 70000)),
    ):
        with pytest.raises(ValueError, match="port must be 0 to 65535"):
            function()


def test_errors_say_what_and_where(make_server):
    with pytest.raises(TypeError, match="sock must be a socket"):
        iocpcore.Datagram(sock="x")  # type: ignore[arg-type]
    if hasattr(socket, "AF_UNIX") and sys.platform != "win32":
        server = iocpcore.Server()
        try:
            with pytest.raises(OSError, match=r"listen on .*path too long") as caught:
                server.listen("/tmp/" + "x" * 200)
            assert caught.value.errno
        finally:
            server.stop(0)


@pytest.mark.system
def test_an_interrupt_in_get_many(make_server):
    """It is raised there, and what was taken out together with it is served by the next call."""
    connected = []

    def on_connect(conn):
        connected.append(conn)
        if len(connected) == 1:
            raise KeyboardInterrupt

    server = make_server(on_connect=on_connect, start=False)
    server.listen("127.0.0.1", 0)
    server._listeners.begin()  # and no worker of its own
    port = server.completion_port
    clients = [socket.create_connection(address, LIMIT) for address in server.addresses]
    with pytest.raises(KeyboardInterrupt):
        port.get_many(64, LIMIT)
    wait_until(lambda: not port.get_many(64, 0) and len(connected) == 2, "the other one")
    assert server.stats()["accepted"] == 2
    for client in clients:
        client.close()
