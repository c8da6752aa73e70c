"""Inside connect(): with a handshake of the test's own, and before its user has
the connection."""

from __future__ import annotations

import socket
import ssl
import threading

import iocpcore
import pytest
from iocpcore import Connection, _client_sockets, _runtime
from support.callbacks import echo
from support.certificates import HOST, client_context, server_context
from support.events import Events
from support.system import LIMIT, wait_until


@pytest.mark.found_in_use
@pytest.mark.system
def test_on_connect_comes_first(backend, client_port):
    """Whoever has got hold of a connection early: timers and offloads wait for on_connect."""
    events = Events()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connecting = iocpcore.connect_nowait(
            "127.0.0.1",
            listener.getsockname()[1],
            ssl=client_context(),
            server_hostname=HOST,
            on_connect=lambda conn: events.add("on_connect"),
            on_close=lambda conn, error: events.add(error),
            completion_port=client_port(),
        )
        sock = listener.accept()[0]
        wait_until(lambda: connecting._connection, "the connection")
        conn = connecting._connection
        fired = threading.Event()
        conn.call_later(0, lambda: events.add("timer"))
        conn.offload(fired.set, then=lambda conn, result: events.add("offload"))
        conn.offload(fired.set, then=lambda conn, result: events.add("serial"), serial=True)
        assert fired.wait(LIMIT)
        assert conn.send(b"early")  # waits for the end of the handshake
        assert events.items == []
        server = server_context().wrap_socket(sock, server_side=True)
        assert server.recv(10) == b"early"
        assert events.wait(4)[0] == "on_connect"
        assert sorted(events.items[1:]) == ["offload", "serial", "timer"]
        server.close()
        assert events.wait(5)


@pytest.mark.found_in_use
@pytest.mark.system
def test_jobs_of_one_that_is_never_established(backend, client_port):
    """They are dropped with it."""
    events, fired = Events(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connecting = iocpcore.connect_nowait(
            "127.0.0.1",
            listener.getsockname()[1],
            ssl=client_context(),
            server_hostname=HOST,
            on_close=lambda conn, error: events.add((conn, type(error))),
            completion_port=client_port(),
        )
        sock = listener.accept()[0]
        wait_until(lambda: connecting._connection, "the connection")
        connecting._connection.call_later(0, lambda: events.add("timer"))
        connecting._connection.offload(fired.set, then=lambda conn, result: events.add("offload"))
        assert fired.wait(LIMIT)
        assert sock.recv(65536)
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        ((conn, error),) = events.wait()
        assert conn is None
        assert issubclass(error, ssl.SSLError)
        sock.close()
        wait_until(lambda: client_port().in_flight == 0, "the end of all operations")
        assert len(events) == 1


class Slow:
    """A handshake: the first byte from the peer, which may never come, decides."""

    peer_ended = False

    def __init__(self, conn: Connection) -> None:
        self.conn = conn

    def start(self) -> None:
        pass

    def receive(self, data: bytes) -> bytes:
        if data[:1] != b"+":
            raise ConnectionError("rejected")
        self.conn._established()
        self.conn._set_stage(None)
        return data[1:]

    def eof(self) -> None:
        raise ConnectionError("ended too early")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setattr("iocpcore._tls.client_stage", lambda *_: Slow)
    return {"ssl": object()}


def test_a_handshake(make_server, dial, slow):
    events = Events()
    server = make_server(on_connect=lambda conn: conn.call_later(0.05, conn.send, b"+data"))
    conn = dial(
        server,
        on_connect=events.recorder("connect"),
        on_data=events.recorder("data"),
        on_close=events.recorder("close"),
        **slow,
    )
    conn.close()
    assert events.wait(2)[0] == ("connect",)
    events.wait_for(("close", None))


@pytest.mark.parametrize("answer", [b"-", b""])
def test_a_handshake_that_fails(make_server, dial, nowait, slow, answer):
    def on_connect(conn: Connection) -> None:
        conn.send(answer)
        conn.close()

    events = Events()
    server = make_server(on_connect=on_connect)
    words = "rejected" if answer else "ended too early"
    with pytest.raises(ConnectionError, match=words):
        dial(server, on_connect=events.add, on_close=events.add, **slow)
    assert len(events) == 0
    nowait(server, on_connect=events.add, on_close=lambda *args: events.add(args), **slow)
    ((conn, error),) = events.wait()
    assert conn is None
    assert words in str(error)


def test_the_timeout_covers_the_handshake(make_server, dial, nowait, slow, backend):
    if backend == "sim":
        pytest.skip("its timers are faster than its wall clock")
    events = Events()
    server = make_server()
    with pytest.raises(TimeoutError):
        dial(server, on_connect=events.add, on_close=events.add, timeout=0.2, **slow)
    connecting = nowait(
        server,
        on_connect=events.add,
        on_close=lambda *args: events.add(args),
        timeout=0.2,
        **slow,
    )
    ((conn, error),) = events.wait()
    assert conn is None
    assert isinstance(error, TimeoutError)
    assert connecting.connection is None
    wait_until(lambda: not server.connections, "the end of both")
    assert len(events) == 1


@pytest.mark.system
def test_the_connection_is_known_to_its_callbacks(make_server, nowait, monkeypatch):
    """They may be called before the thread that made it goes on."""
    streams = _client_sockets.SystemStream
    adopt, called, told = streams.adopt, threading.Event(), threading.Event()
    events = Events()

    def slow_adopt(*args: object) -> Connection:
        conn = adopt(*args)
        assert called.wait(LIMIT)
        return conn

    def on_connect(conn: Connection) -> None:
        called.set()
        assert told.wait(LIMIT)
        events.add(connecting.connection is conn)

    server = make_server(on_data=echo)
    monkeypatch.setattr(streams, "adopt", slow_adopt)
    connecting = nowait(server, on_connect=on_connect)
    told.set()
    assert events.wait() == [True]


def test_connections_that_are_alike_share_what_they_can(make_server, dial, client_port, backend):
    """Of many connections each costs little; nothing is kept when all are gone."""
    server = make_server(on_data=echo)
    port = server.completion_port if backend == "sim" else client_port()
    runtime = _runtime.runtime_of(port)
    ends = Events()

    def end(conn: Connection, error: BaseException | None) -> None:
        ends.add(conn.context)

    conns = [dial(server, on_close=end, context=number) for number in range(10)]
    assert len(runtime.client_groups) == 1
    other = dial(server, on_close=end, write_high=300_000, context=10)
    assert len(runtime.client_groups) == 2
    for conn in (*conns, other):
        conn.close()
    assert sorted(ends.wait(11)) == list(range(11))
    wait_until(lambda: not runtime.client_groups, "the end of both kinds")
    wait_until(lambda: not server.connections, "the end of all")
