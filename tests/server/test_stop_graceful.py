"""stop(): in every state, within its time, and nothing lost that well-behaved peers wait for."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import iocpcore
import pytest
from iocpcore import Connection
from support import certificates
from support.events import Events
from support.stopping import PROMISED, within
from support.streams import read_all
from support.system import LIMIT, wait_until


def in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def test_idle(make_server, dial):
    events, begun, ends = Events(), Events(), Events()
    server = make_server(on_connect=begun.add, on_close=events.recorder("close"))
    for _ in range(10):
        dial(server, on_close=ends.recorder("end"))
    begun.wait(10)  # one that has not begun has no on_close
    with within(0):
        assert server.stop(LIMIT) == 0
    assert events.items == [("close", None)] * 10
    assert server.connections == ()


@pytest.mark.parametrize("count", [1, 2, 10])
def test_on_close_wants_what_the_caller_holds(make_server, dial, count):
    """It is called in other threads, and stop() waits for it no longer than it promises."""
    lock, closed = threading.Lock(), Events()

    def on_close(*_: object) -> None:
        with lock:
            closed.add(threading.current_thread())

    begun = Events()
    server = make_server(on_connect=begun.add, on_close=on_close)
    for _ in range(count):
        dial(server)
    begun.wait(count)
    with lock, within(PROMISED):
        server.stop(0)
    assert threading.current_thread() not in closed.wait(count)


def test_offload_after_stop(make_server, dial):
    begun = Events()
    server = make_server(on_connect=begun.add)
    dial(server)
    conn = begun.wait()[0]
    server.stop(0)
    with pytest.raises(RuntimeError, match="not possible after stop"):
        conn.offload(int)


@pytest.mark.system
@pytest.mark.parametrize("timeout", [0, LIMIT])
def test_idle_peers_see_the_end(make_server, plain, timeout):
    """Without any time, too: nothing is lost by closing them."""
    server = make_server()
    socks = [plain(server) for _ in range(10)]
    wait_until(lambda: len(server.connections) == 10, "the connections")
    with within(0 if timeout else PROMISED):
        assert server.stop(timeout) == 0
    for sock in socks:
        assert read_all(sock) == b""


@pytest.mark.parametrize("tls", [False, True])
def test_without_any_time(make_server, dial, backend, tls):
    """Those that have got their answers have nothing to lose."""
    if tls and backend == "sim":
        pytest.skip("TLS's own end has to wait for a worker there, and is lost")
    answers, events = Events(), Events()
    server = make_server(
        on_data=lambda conn, data: conn.send(data),
        on_close=events.recorder("close"),
        ssl=certificates.server_context() if tls else None,
    )
    options = {"ssl": certificates.client_context(), "server_hostname": "localhost"} if tls else {}
    clients = [dial(server, on_data=answers.recorder("data"), **options) for _ in range(5)]
    for client in clients:
        client.send(b"x")
    answers.wait(5)
    assert server.stats()["listeners"] == 1
    with within(PROMISED):
        assert server.stop(0) == 0
    assert events.wait(5) == [("close", None)] * 5
    assert server.connections == ()
    assert server.stats()["aborted"] == server.stats()["listeners"] == 0
    assert server.stats()["port_in_flight"] == 0
    assert server.addresses


@pytest.mark.system
@pytest.mark.parametrize("tls", [False, True])
def test_what_is_lost_is_counted(make_server, dial, tls):
    events = Events()
    server = make_server(
        on_data=lambda conn, data: events.add(conn.send(bytes(16_000_000))),
        ssl=certificates.server_context() if tls else None,
    )
    options = {"ssl": certificates.client_context(), "server_hostname": "localhost"} if tls else {}
    clients = [dial(server, on_data=print, **options) for _ in range(3)]
    clients[0].pause_receiving()
    clients[0].send(b"x")
    events.wait()
    assert server.stop(0) == server.stats()["aborted"] == 1


@pytest.mark.system
def test_nobody_new_is_accepted(make_server, plain):
    server = make_server()
    plain(server)
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        plain(server)


@pytest.mark.system
def test_a_reader_that_reads_gets_everything(make_server, plain):
    events = Events()
    size = 8_000_000

    def on_data(conn: Connection, data: bytes) -> None:
        conn.send(bytes(size))
        events.add("sent")

    server = make_server(on_data=on_data, on_close=events.recorder("close"))
    sock = plain(server)
    sock.sendall(b"x")
    events.wait_for("sent")
    results = Events()
    thread = in_thread(lambda: results.add(server.stop(LIMIT)))
    assert len(read_all(sock)) == size
    sock.close()
    assert results.wait() == [0]
    thread.join()
    assert events.items[-1] == ("close", None)


@pytest.mark.system
def test_a_reader_that_does_not_read_is_aborted(make_server, plain):
    events = Events()
    server = make_server(
        on_connect=lambda conn: conn.send(bytes(16_000_000)) and events.add("sent"),
        on_close=events.recorder("close"),
    )
    plain(server)
    idle = plain(server)
    events.wait(2)
    read_in_thread = in_thread(lambda: read_all(idle))
    with within(0.3 + PROMISED):
        assert server.stop(0.3) == 1
    assert events.items[2:] == [("close", None)] * 2
    read_in_thread.join(LIMIT)


@pytest.mark.system
def test_a_peer_that_never_ends_its_stream(make_server, plain):
    """Its connection is closed by us, and lingers: that is nothing to wait for."""
    events = Events()
    server = make_server(on_data=lambda conn, _: conn.close() or events.add("closed"))
    sock = plain(server)
    sock.sendall(b"x")
    events.wait()
    with within(1.0):
        assert server.stop(LIMIT) == 0
    assert read_all(sock) == b""


@pytest.mark.parametrize("count", [1, 3])
def test_a_callback_that_never_returns(make_server, dial, count):
    """The rest of its connection is not waited for."""
    let_go, blocked = threading.Event(), Events()

    def on_data(conn: Connection, data: bytes) -> None:
        blocked.add(conn)
        let_go.wait(LIMIT)

    server = make_server(on_data=on_data, workers=count)
    for _ in range(count):
        dial(server).send(b"x")
    blocked.wait(count)
    try:
        with within(0.2 + PROMISED):
            assert server.stop(0.2) <= 2 * count  # on sim, both ends are on its port
    finally:
        let_go.set()
    wait_until(lambda: not workers(), "the end of the workers")


def workers() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name.startswith("iocpcore-")]


def test_in_a_callback(make_server, dial):
    """It waits for nothing, not even for its own callback."""
    events = Events()

    def on_data(conn: Connection, data: bytes) -> None:
        conn.send(b"bye")
        events.add(("stop", server.stop(LIMIT)))

    server = make_server(on_data=on_data, on_close=events.recorder("close"))
    answers = Events()
    dial(server, on_data=answers.recorder("data"), on_close=answers.recorder("close")).send(b"x")
    waiting = in_thread(server.serve_forever)
    waiting.join(LIMIT)
    assert not waiting.is_alive()
    assert events.items == [("stop", 0), ("close", None)]
    assert server.stop() == 0
    if server.completion_port.backend != "sim":  # where the server's end is the client's
        answers.wait_for(("data", b"bye"))
        answers.wait_for(("close", None))


def test_in_on_close_of_a_stop(make_server, dial):
    """Stopping what is stopping already."""
    events, begun = Events(), Events()
    server = make_server(
        on_connect=begun.add, on_close=lambda conn, error: events.add(server.stop())
    )
    dial(server)
    begun.wait()
    with within(0):
        assert server.stop(LIMIT) == 0
    assert events.items == [0]


@pytest.mark.system
def test_again_with_less_time(make_server, plain):
    """The time limit can only come forward; both calls return the same."""
    events, results = Events(), Events()
    server = make_server(
        on_connect=lambda conn: conn.send(bytes(16_000_000)) and events.add("sent")
    )
    plain(server)
    events.wait()
    threads = [in_thread(lambda: results.add(server.stop(LIMIT))) for _ in range(3)]
    wait_until(lambda: "stopping" in repr(server), "the beginning")
    with within(PROMISED):
        assert server.stop(0) == 1
    assert results.wait(3) == [1, 1, 1]
    for thread in threads:
        thread.join(LIMIT)
    assert server.stop(LIMIT) == 1


@pytest.mark.system
def test_during_a_handshake(make_server, plain):
    """A client that has not finished it is not waited for."""
    events = Events()
    server = make_server(
        on_connect=events.add, on_close=events.add, ssl=certificates.server_context()
    )
    sock = plain(server)
    sock.sendall(b"\x16\x03\x01")  # the first bytes of a record
    wait_until(lambda: server.stats()["establishing"] == 1, "the connection")
    with within(0):
        assert server.stop(LIMIT) == 0
    assert len(events) == 0


def test_clients_on_the_servers_port(make_server, backend):
    """Their end is part of the server's."""

    events = Events()
    server = make_server(on_connect=events.recorder("accepted"))
    host, number = server.addresses[0][:2]
    iocpcore.connect(
        host,
        number,
        completion_port=server.completion_port,
        on_close=events.recorder("end"),
        timeout=LIMIT,
    )
    events.wait()
    with within(0):
        assert server.stop(LIMIT) == 0
    events.wait_for(("end", None))


@pytest.mark.parametrize(
    ("timeout", "kind"), [(-1, ValueError), ("1", TypeError), (None, TypeError), (True, TypeError)]
)
def test_bad_time_limits(make_server, timeout, kind):
    server = make_server()
    with pytest.raises(kind, match="timeout"):
        server.stop(timeout)
    with pytest.raises(kind, match="stop_timeout"):
        server.serve_forever(stop_timeout=timeout)
    assert "running" in repr(server)


def test_offload_that_goes_on(make_server, dial):
    """What runs on the executor is not waited for, and its answer dropped."""
    let_go, events = threading.Event(), Events()

    def on_data(conn: Connection, data: bytes) -> None:
        conn.offload(let_go.wait, LIMIT, then=lambda *_: events.add("then"))
        events.add("offloaded")

    server = make_server(on_data=on_data)
    dial(server).send(b"x")
    events.wait()
    try:
        with within(PROMISED):
            assert server.stop(0.5) == 0
    finally:
        let_go.set()
    assert events.items == ["offloaded"]


@pytest.mark.system
def test_while_many_connect(make_server):
    """Whatever was accepted by then ends; nothing hangs, nothing is left."""
    server = make_server(on_data=lambda conn, data: conn.send(data))
    address = server.addresses[0]
    going = threading.Event()
    done = threading.Event()

    def connect() -> None:
        while not done.is_set():
            try:
                with socket.create_connection(address, LIMIT) as sock:
                    sock.sendall(b"x")
                    going.set()
            except OSError:
                pass

    threads = [in_thread(connect) for _ in range(4)]
    assert going.wait(LIMIT)
    wait_until(lambda: server.stats()["accepted"] > 50, "some connections")
    with within(2 + PROMISED):
        server.stop(2)
    done.set()
    for thread in threads:
        thread.join(LIMIT)
    assert server.connections == ()
