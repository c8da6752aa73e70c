"""connect() and connect_nowait(): what comes of them, and who is told."""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator

import iocpcore
import pytest
from iocpcore import Connecting, Connection, _client_sockets, _runtime, connect, connect_nowait
from iocpcore._sockets import Target
from support.child import check
from support.events import Events
from support.streams import socket_of
from support.system import LIMIT, LINUX, wait_until


def echo(conn: Connection, data: bytes) -> None:
    conn.send(data)


@pytest.fixture
def dead() -> Iterator[tuple[str, int]]:
    """An address where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()


@pytest.fixture
def nowait(backend, client_port) -> Callable[..., Connecting]:
    """connect_nowait() to a server."""

    def call(server: iocpcore.Server, **options: object) -> Connecting:
        port = server.completion_port if backend == "sim" else client_port()
        return connect_nowait(*server.addresses[0][:2], completion_port=port, **options)

    return call


# ---- waiting ------------------------------------------------------------------------------------


def test_callbacks(make_server, dial):
    events = Events()
    server = make_server(on_data=echo)
    conn = dial(
        server,
        on_connect=events.recorder("connect"),
        on_data=events.recorder("data"),
        on_close=events.recorder("close"),
    )
    conn.send(b"x")
    events.wait(2)
    conn.close()
    assert events.wait(3) == [("connect",), ("data", b"x"), ("close", None)]


def test_the_port_of_the_process(make_server, backend):
    if backend == "sim":
        pytest.skip("its own network is not the server's")
    events = Events()
    server = make_server(on_data=echo)
    address = server.addresses[0]
    conns = [connect(*address, on_data=lambda c, data: events.add(data)) for _ in range(3)]
    for conn in conns:
        conn.send(b"x")
    assert events.wait(3) == [b"x"] * 3
    assert _runtime.stop_default() == 0
    assert all(conn.closing for conn in conns)
    connect(*address).close()  # on another one


@pytest.mark.system
def test_refused(client_port, dead):
    words = f"connect to 127.0.0.1:{dead[1]}: .*refused"
    with pytest.raises(ConnectionRefusedError, match=words):
        connect(*dead, completion_port=client_port())


@pytest.mark.system
def test_all_addresses_are_tried(make_server, client_port, dead, monkeypatch):
    server = make_server()
    found = [Target(socket.AF_INET, address) for address in (dead, dead, server.addresses[0])]
    monkeypatch.setattr(_client_sockets, "resolve", lambda *_: list(found))
    connect("several.test", 1, completion_port=client_port()).close()
    found.pop()
    with pytest.raises(ConnectionRefusedError) as caught:
        connect("several.test", 1, completion_port=client_port())
    assert len(caught.value.__notes__) == 1
    assert caught.value.__notes__[0].startswith("before that: ")


@pytest.mark.system
def test_a_name(make_server, client_port, localhost):
    events = Events()
    server = make_server(on_data=echo)
    conn = connect(
        localhost,
        server.addresses[0][1],
        completion_port=client_port(),
        on_data=lambda c, data: events.add(data),
        timeout=LIMIT,
    )
    conn.send(b"x")
    assert events.wait() == [b"x"]


def test_the_peer_is_known(make_server, dial):
    """Of clients, too, and in what is said of their end."""
    closed = Events()
    server = make_server(on_data=lambda conn, _: conn.abort())
    conn = dial(server, on_close=lambda conn, error: closed.add((str(error), conn.peername)))
    host, number = server.addresses[0][:2]
    assert repr(conn) == f"<iocpcore.Connection {conn.id} with {host}:{number}>"
    conn.send(b"x")
    text, peername = closed.wait()[0]
    assert f"receive from {host}:{number}: " in text
    assert peername == (host, number)


@pytest.mark.system
def test_a_peer_that_is_not_numbers_only(make_server, plain):
    """As the address of an interface may look. Then the system is asked."""
    listening, server = make_server(), make_server()
    sock = plain(listening)
    sock.setblocking(False)
    peer = sock.getpeername()
    conn = server._group.adopt(sock.detach(), socket.AF_INET, peer=("127.0.0.1%lo", 5))
    assert repr(conn) == f"<iocpcore.Connection {conn.id}>"
    assert conn.peername == peer


@pytest.mark.system
@pytest.mark.parametrize("name", ["no-such-host.invalid", "a" * 64 + ".test"])
def test_a_name_that_is_unknown(client_port, name):
    with pytest.raises(socket.gaierror, match=name):
        connect(name, 1, completion_port=client_port(), timeout=LIMIT)


@pytest.mark.system
def test_the_timeout(client_port, port, net):
    address = net.silent_address()
    if address is None:
        pytest.skip("here every address answers")
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"connect to 127.0.0.1:\d+: not done within 0.2 s"):
        connect(*address, completion_port=client_port(), timeout=0.2)
    assert 0.15 < time.monotonic() - began < 5


@pytest.mark.system
def test_the_timeout_covers_the_name(client_port, monkeypatch):
    let_go = threading.Event()
    monkeypatch.setattr(_client_sockets, "resolve", lambda *_: let_go.wait(LIMIT) and [])
    with pytest.raises(TimeoutError, match=r"connect to slow\.test:1: not done within"):
        connect("slow.test", 1, completion_port=client_port(), timeout=0.1)
    let_go.set()


@pytest.mark.system
def test_a_local_address(make_server, client_port):
    server = make_server()
    host, number = server.addresses[0]
    conn = connect(
        host, number, completion_port=client_port(), local_address=("127.0.0.2" if LINUX else "", 0)
    )
    if LINUX:
        assert conn.sockname[0] == "127.0.0.2"
    conn.close()
    with pytest.raises(OSError, match="bind to 203.0.113.1 port 0"):  # noqa: RUF043
        connect(host, number, completion_port=client_port(), local_address=("203.0.113.1", 0))
    with pytest.raises(OSError, match="another family"):
        connect(host, number, completion_port=client_port(), local_address=("::1", 0))


@pytest.mark.system
def test_options_of_the_socket(make_server, client_port):
    server = make_server()
    for keepalive in (True, False):
        conn = connect(
            *server.addresses[0], completion_port=client_port(), keepalive=keepalive, timeout=LIMIT
        )
        with socket_of(conn) as sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) == keepalive


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


# ---- where it cannot work -----------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_in_a_callback(make_server, dial, workers):
    """On the same port another worker is needed. The answer is never a deadlock."""
    events = Events()

    def on_data(conn: Connection, data: bytes) -> None:
        try:
            host, number = server.addresses[0][:2]
            port = server.completion_port
            connect(host, number, completion_port=port, timeout=LIMIT).close()
            events.add("connected")
        except RuntimeError as error:
            events.add(error)

    server = make_server(on_data=on_data, workers=workers)
    dial(server).send(b"x")
    (answer,) = events.wait()
    if workers > 1:
        assert answer == "connected"
    else:
        assert "connect_nowait" in str(answer)


def test_a_port_that_nobody_runs(make_server, make_port, backend):
    server = make_server(start=backend != "sim")
    port = server.completion_port if backend == "sim" else make_port()
    host, number = server.addresses[0][:2]
    with pytest.raises(RuntimeError, match="nobody runs completion_port"):
        connect(host, number, completion_port=port)
    if backend != "sim":
        wait_until(lambda: port.get(0) is None and port.in_flight == 0, "the end of the attempt")


def test_a_closed_port(make_port):
    port = make_port()
    port.close()
    for call in (connect, connect_nowait):
        with pytest.raises(ValueError, match="completion_port is closed"):
            call("127.0.0.1", 1, completion_port=port)


@pytest.mark.system
def test_a_port_that_is_closed_meanwhile(net, make_port):
    address = net.silent_address()
    if address is None:
        pytest.skip("here every address answers")
    port = make_port()
    timer = threading.Timer(0.1, port.close)
    timer.start()
    with pytest.raises(ConnectionAbortedError, match="the port is being closed"):
        connect(*address, completion_port=port, timeout=LIMIT)
    timer.join()


@pytest.mark.system
def test_a_server_that_stops_meanwhile(net, make_server):
    """The attempts on its port end with it, and their callers are told."""
    address = net.silent_address()
    if address is None:
        pytest.skip("here every address answers")
    events = Events()
    server = make_server(workers=2)
    options = {"completion_port": server.completion_port, "timeout": LIMIT}
    connecting = connect_nowait(*address, on_close=lambda *args: events.add(args), **options)

    def wait() -> None:
        try:
            connect(*address, **options)
        except OSError as error:
            events.add(error)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(
        lambda: sum(isinstance(one, Connecting) for one in list(server._runtime._members)) == 2,
        "both attempts",
    )
    assert server.stop(LIMIT) == 0
    events.wait(2)
    thread.join(LIMIT)
    kinds = {type(item[1] if isinstance(item, tuple) else item) for item in events.items}
    assert kinds == {ConnectionAbortedError}
    assert connecting.done


# ---- not waiting --------------------------------------------------------------------------------


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


def test_nowait(make_server, nowait):
    events = Events()
    server = make_server(on_data=echo)

    def on_connect(conn: Connection) -> None:
        events.add(("connect", conn))
        conn.send(b"x")

    connecting = nowait(
        server,
        on_connect=on_connect,
        on_data=events.recorder("data"),
        on_close=events.recorder("close"),
        context="mine",
    )
    (_, conn), _ = events.wait(2)
    assert connecting.connection is conn
    assert connecting.done
    assert connecting.error is None
    assert connecting.cancel() is False
    assert "connected" in repr(connecting)
    assert conn.context == "mine"
    conn.close()
    assert events.wait(3)[1:] == [("data", b"x"), ("close", None)]


def test_nowait_in_a_callback(make_server, backend):
    """A proxy: every connection of it has one to another server."""
    events = Events()
    target = make_server(on_data=lambda conn, data: conn.send(data.upper()))

    def on_connect(conn: Connection) -> None:
        connect_nowait(
            *(target if backend != "sim" else proxy).addresses[0][:2],
            completion_port=proxy.completion_port,
            on_connect=lambda upstream: upstream.send(b"hello"),
            on_data=lambda _, data: conn.send(data),
            on_close=lambda upstream, error: conn.close(),
        )

    if backend == "sim":
        pytest.skip("each server has a network of its own")
    proxy = make_server(on_connect=on_connect)
    connect(*proxy.addresses[0], on_data=lambda _, data: events.add(data))
    assert events.wait() == [b"HELLO"]


@pytest.mark.system
def test_nowait_refused(client_port, dead):
    """Only on_close, on a worker, without a connection."""
    events = Events()
    connecting = connect_nowait(
        *dead,
        completion_port=client_port(),
        on_connect=events.add,
        on_close=lambda *args: events.add((args, threading.current_thread())),
    )
    ((conn, error), thread) = events.wait()[0]
    assert conn is None
    assert isinstance(error, ConnectionRefusedError)
    assert connecting.error is error
    assert connecting.connection is None
    assert thread is not threading.current_thread()
    assert connecting.cancel() is False
    assert "failed" in repr(connecting)


@pytest.mark.system
def test_nowait_when_nobody_is_told(client_port, dead, caplog):
    with caplog.at_level(logging.WARNING, "iocpcore"):
        connecting = connect_nowait(*dead, completion_port=client_port())
        wait_until(lambda: caplog.records, "the line in the log")
    assert connecting.done
    assert f"connect to 127.0.0.1:{dead[1]}" in caplog.records[0].getMessage()


@pytest.mark.system
def test_nowait_with_a_name(make_server, client_port, localhost):
    events = Events()
    server = make_server()
    connect_nowait(
        localhost,
        server.addresses[0][1],
        completion_port=client_port(),
        on_connect=events.recorder("connect"),
    )
    events.wait()
    connect_nowait(
        "no-such-host.invalid",
        1,
        completion_port=client_port(),
        on_close=lambda conn, error: events.add(type(error)),
    )
    assert events.wait(2)[1] is socket.gaierror


@pytest.mark.system
def test_a_name_when_there_is_no_thread(client_port, monkeypatch):
    """The system has none left, or the interpreter is ending: it fails like any other attempt."""
    port, events = client_port(), Events()

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(OSError, match=r"connect to name\.test:1: can't start new thread"):
        connect("name.test", 1, completion_port=port)
    connecting = connect_nowait(
        "name.test", 1, completion_port=port, on_close=lambda *args: events.add(args)
    )
    ((conn, error),) = events.wait()
    assert conn is None
    assert error is connecting.error


@pytest.mark.system
def test_nowait_timeout(client_port, net):
    address = net.silent_address()
    if address is None:
        pytest.skip("here every address answers")
    events = Events()
    connect_nowait(
        *address,
        completion_port=client_port(),
        timeout=0.2,
        on_close=lambda *args: events.add(args),
    )
    ((conn, error),) = events.wait()
    assert conn is None
    assert isinstance(error, TimeoutError)


@pytest.mark.system
def test_cancel(client_port, net):
    address = net.silent_address()
    if address is None:
        pytest.skip("here every address answers")
    events = Events()
    connecting = connect_nowait(
        *address,
        completion_port=client_port(),
        timeout=LIMIT,
        on_close=lambda *args: events.add(args),
    )
    assert not connecting.done
    assert "under way" in repr(connecting)
    assert connecting.cancel() is True
    assert connecting.cancel() is False
    ((conn, error),) = events.wait()
    assert conn is None
    assert error.errno == errno.ECANCELED
    wait_until(lambda: client_port().in_flight == 0, "the end of the operations")
    assert len(events) == 1


def test_cancel_at_any_moment(make_server, nowait):
    """Exactly one of the two: a connection that ends, or none."""
    server = make_server()
    for number in range(50):
        events = Events()
        connecting = nowait(
            server,
            on_connect=lambda conn, events=events: events.add("connect"),
            on_close=lambda conn, error, events=events: events.add(conn),
        )
        for _ in range(number * 20):
            pass
        if connecting.cancel():
            assert events.wait() == [None]
        else:
            wait_until(lambda connecting=connecting: connecting.connection, "the connection")
            connecting.connection.close()
            assert events.wait(2) == ["connect", connecting.connection]
    wait_until(lambda: not server.connections, "the end of all")


# ---- stages -------------------------------------------------------------------------------------


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


# ---- processes ----------------------------------------------------------------------------------


@pytest.mark.system
@pytest.mark.skipif(not LINUX, reason="there is no fork")
def test_the_port_of_the_process_after_a_fork(backend):
    """The child makes another one."""
    check(
        """
        import os, threading, warnings, iocpcore
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
        server = iocpcore.Server(on_data=lambda conn, data: conn.send(data), workers=2)
        address = server.listen("127.0.0.1", 0)
        server.start()

        def ask(text):
            answered = threading.Event()
            conn = iocpcore.connect(*address, on_data=lambda *_: answered.set(), timeout=10)
            conn.send(text)
            assert answered.wait(10)
            conn.close()

        ask(b"parent")
        child = os.fork()
        if child == 0:
            try:
                ask(b"child")
            finally:
                os._exit(0 if threading.active_count() > 1 else 1)
        assert os.waitpid(child, 0)[1] == 0
        ask(b"parent again")
        server.stop()
        print("done")
        """,
        backend,
        output="done",
    )
