"""Servers and their connections: what every program relies on."""

from __future__ import annotations

import socket
import threading
import time

import iocpcore
import pytest
from iocpcore import Connection, Delimited, FramingError, LengthPrefixed, Server
from support.events import Events
from support.net import reset
from support.streams import read_all, read_exactly
from support.system import LIMIT, scaled, wait_until


def echo(conn: Connection, data: bytes) -> None:
    conn.send(data)


def collector(events: Events) -> dict[str, object]:
    """Callbacks of a client that report everything."""
    return {name: events.recorder(name) for name in ("on_data", "on_eof", "on_close")}


def joined(events: Events) -> bytes:
    return b"".join(item[1] for item in events.items if item[0] == "on_data")


# ---- data ---------------------------------------------------------------------------------------


def test_echo(make_server, dial):
    events = Events()
    server = make_server(on_data=echo)
    conn = dial(server, **collector(events))
    for count, data in enumerate((b"one", b"two", bytes(1000)), 1):
        assert conn.send(data)
        wait_until(lambda count=count: len(joined(events)) == (3, 6, 1006)[count - 1], "the echo")
    assert joined(events) == b"onetwo" + bytes(1000)
    conn.close()
    events.wait_for(("on_close", None))
    wait_until(lambda: not server.connections, "the server's end")


def test_many_connections(make_server, dial):
    events = Events()
    server = make_server(on_message=lambda c, m: c.send_message(m), framing=LengthPrefixed(2))
    count = scaled(100, 10)
    conns = [
        dial(
            server,
            on_message=lambda c, m: events.add((c.context, m)),
            framing=LengthPrefixed(2),
            context=number,
        )
        for number in range(count)
    ]
    assert len({conn.id for conn in conns}) == count
    wait_until(lambda: len(server.connections) == count, "all of them")
    for number, conn in enumerate(conns):
        conn.send_message(b"%d" % number)
    assert sorted(events.wait(count)) == [(number, b"%d" % number) for number in range(count)]
    for conn in conns:
        conn.close()
    wait_until(lambda: not server.connections, "their end")
    assert server.stats()["accepted"] == server.stats()["closed"] == count


def test_a_handler(make_server, dial):
    """Its methods are the callbacks; a keyword comes first."""
    events = Events()

    class Handler:
        def on_connect(self, conn: Connection) -> None:
            events.add("connect")

        def on_data(self, conn: Connection, data: bytes) -> None:
            events.add("overridden")

        def on_close(self, conn: Connection, error: BaseException | None) -> None:
            events.add(("close", error))

    server = make_server(Handler(), on_data=lambda c, data: events.add(data))
    conn = dial(server)
    conn.send(b"x")
    events.wait_for(b"x")
    conn.close()
    assert events.wait(3) == ["connect", b"x", ("close", None)]


def test_the_order_of_callbacks(make_server, dial):
    """on_connect, data, on_close; and nothing after it."""
    events = Events()
    server = make_server(
        on_connect=events.recorder("connect"),
        on_data=events.recorder("data"),
        on_close=events.recorder("close"),
    )
    conn = dial(server)
    conn.send(b"x" * 10)
    conn.close()
    events.wait_for(("close", None))
    items = events.items
    assert items[0] == ("connect",)
    assert items[-1] == ("close", None)
    assert b"".join(item[1] for item in items[1:-1]) == b"x" * 10


def test_what_a_connection_knows(make_server, dial, backend):
    events = Events()
    server = make_server(on_connect=events.add)
    conn = dial(server, context={"a": 1})
    theirs = events.wait()[0]
    assert conn.context == {"a": 1}
    assert theirs.context is None
    theirs.context = 5
    assert server.connections == (theirs,)
    assert server.connections[0].context == 5
    assert conn.peername == theirs.sockname == server.addresses[0]
    if backend != "sim":
        assert conn.sockname == theirs.peername
        assert conn.fileno() >= 0
    assert conn.id != theirs.id
    assert not conn.closing
    assert conn.ssl_object is None
    conn.send(b"12345")
    wait_until(lambda: theirs.bytes_received == 5, "the bytes")
    wait_until(lambda: conn.bytes_sent == 5, "the end of the send")
    assert conn.pending_bytes == 0
    conn.close()
    assert conn.closing
    assert conn.send(b"x") is False


# ---- framing ------------------------------------------------------------------------------------


@pytest.mark.system
def test_messages_from_a_stream(make_server, plain):
    server = make_server(
        on_message=lambda c, m: c.send_message(m.upper()), framing=Delimited(b"\r\n")
    )
    sock = plain(server)
    sock.sendall(b"one\r\ntwo\r")
    assert read_exactly(sock, 5) == b"ONE\r\n"
    sock.sendall(b"\n\r\nthree\r\n")
    assert read_exactly(sock, 14) == b"TWO\r\n\r\nTHREE\r\n"


@pytest.mark.system
def test_a_message_that_is_too_large(make_server, plain):
    """It goes to on_error; what was sent before arrives; others are not concerned."""
    events = Events()
    server = make_server(
        on_message=lambda c, m: c.send_message(m),
        framing=LengthPrefixed(4, max_size=100),
        on_error=events.recorder("error"),
        on_close=events.recorder("close"),
    )
    other = plain(server)
    sock = plain(server)
    sock.sendall(b"\0\0\0\2ok\0\0\0\x65")
    assert read_all(sock) == b"\0\0\0\2ok"
    sock.close()
    (_, told), (_, closed) = events.wait(2)
    assert isinstance(told, FramingError)
    assert isinstance(closed, FramingError)
    other.sendall(b"\0\0\0\2ok")
    assert read_exactly(other, 6) == b"\0\0\0\2ok"


def test_a_framer_in_python(make_server, dial):
    class Semicolons:
        def __init__(self) -> None:
            self.rest = b""

        def feed(self, data: bytes) -> list[bytes]:
            *messages, self.rest = (self.rest + data).split(b";")
            return messages

        def encode(self, message: bytes) -> bytes:
            return message + b";"

    events = Events()
    server = make_server(on_message=lambda c, m: c.send_message(m[::-1]), framing=Semicolons)
    conn = dial(server, on_message=lambda c, m: events.add(m), framing=Semicolons)
    conn.send(b"abc;d")
    conn.send(b"ef;")
    assert events.wait(2) == [b"cba", b"fed"]


def test_a_framer_that_gives_bytes(make_server, dial):
    """It is told so, instead of every byte becoming a message."""

    class Raw:
        def feed(self, data: bytes) -> bytes:
            return data

        def encode(self, message: bytes) -> bytes:
            return message

    events = Events()
    server = make_server(
        on_message=events.recorder("message"), on_error=events.recorder("error"), framing=Raw
    )
    dial(server).send(b"abc")
    ((name, error),) = events.wait()
    assert name == "error"
    assert "Raw.feed() must return an iterable of messages, not bytes" in str(error)


# ---- the end of a stream ------------------------------------------------------------------------


@pytest.mark.system
def test_without_on_eof_it_closes(make_server, plain):
    """After what is queued."""
    events = Events()
    server = make_server(on_data=echo, on_close=events.recorder("close"))
    sock = plain(server)
    sock.sendall(b"last words")
    sock.shutdown(socket.SHUT_WR)
    assert read_all(sock) == b"last words"
    assert events.wait() == [("close", None)]


@pytest.mark.system
def test_with_on_eof_it_goes_on(make_server, plain):
    events = Events()
    server = make_server(on_eof=events.add, on_close=events.recorder("close"))
    sock = plain(server)
    sock.shutdown(socket.SHUT_WR)
    conn = events.wait()[0]
    assert not conn.closing
    conn.send(b"still here")
    assert read_exactly(sock, 10) == b"still here"
    conn.close()
    assert read_all(sock) == b""
    events.wait_for(("close", None))


@pytest.mark.system
def test_half_close(make_server, plain):
    """shutdown() ends our stream after what is queued; the peer's goes on."""
    events = Events()

    def on_connect(conn: Connection) -> None:
        conn.send(bytes(1_000_000))
        conn.shutdown()

    server = make_server(
        on_connect=on_connect,
        on_data=events.recorder("data"),
        on_close=events.recorder("close"),
    )
    sock = plain(server)
    assert read_all(sock) == bytes(1_000_000)
    sock.sendall(b"more")
    assert events.wait() == [("data", b"more")]
    sock.close()
    events.wait_for(("close", None))


@pytest.mark.system
@pytest.mark.parametrize("size", [0, 1, 100_000, 20_000_000])
def test_close_sends_everything(make_server, plain, size):
    def on_connect(conn: Connection) -> None:
        conn.send(bytes(size))
        conn.close()

    server = make_server(on_connect=on_connect)
    sock = plain(server)
    assert len(read_all(sock)) == size
    sock.close()
    wait_until(lambda: not server.connections, "the end of the connection")


@pytest.mark.system
def test_abort(make_server, plain):
    events = Events()
    server = make_server(on_data=lambda conn, _: conn.abort(), on_close=events.recorder("close"))
    sock = plain(server)
    sock.sendall(b"x")
    with pytest.raises(ConnectionResetError):
        sock.recv(1)
    assert events.wait() == [("close", None)]


@pytest.mark.system
def test_a_reset(make_server, plain):
    events = Events()
    server = make_server(
        on_data=lambda conn, data: conn.send(data), on_close=events.recorder("close")
    )
    sock = plain(server)
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"  # Wine tells a reset only to a receive that waits already
    reset(sock)
    assert isinstance(events.wait()[0][1], ConnectionResetError)


# ---- callbacks that raise -----------------------------------------------------------------------


def test_on_error(make_server, dial):
    """Told what was raised; that connection closes, and no other."""
    events = Events()

    def on_data(conn: Connection, data: bytes) -> None:
        if data == b"bad":
            raise ArithmeticError("bad")
        conn.send(data)

    server = make_server(
        on_data=on_data, on_error=events.recorder("error"), on_close=events.recorder("close")
    )
    answers, ends = Events(), Events()
    other = dial(server, on_data=lambda c, data: answers.add(data))
    conn = dial(server, on_close=ends.recorder("end"))
    conn.send(b"bad")
    (_, told), (_, closed) = events.wait(2)
    assert type(told) is ArithmeticError
    assert closed is told
    assert ends.wait() == [("end", None)]
    other.send(b"good")
    assert answers.wait() == [b"good"]


@pytest.mark.parametrize("name", ["on_connect", "on_data", "on_eof", "on_close"])
def test_what_nobody_is_told_of(make_server, dial, unraisable, name):
    def fail(*args: object) -> None:
        raise ArithmeticError(name)

    server = make_server(**{name: fail})
    conn = dial(server)
    conn.send(b"x")
    conn.shutdown()
    wait_until(lambda: unraisable, "what was raised")
    wait_until(lambda: not server.connections, "the end of the connection")
    conn.abort()
    assert [type(error) for error in unraisable] == [ArithmeticError]


def test_on_close_is_the_last(make_server, dial, unraisable):
    """What it raises goes to nobody's on_error."""
    events = Events()

    def on_close(*args: object) -> None:
        events.add("close")
        raise ArithmeticError

    server = make_server(on_close=on_close, on_error=events.recorder("error"))
    dial(server).close()
    wait_until(lambda: unraisable, "what was raised")
    wait_until(lambda: not server.connections, "the end of the connection")
    assert events.items == ["close"]


def test_on_error_that_raises(make_server, dial, unraisable):
    def fail(*args: object) -> None:
        raise ArithmeticError(len(args))

    server = make_server(on_data=fail, on_error=fail)
    dial(server).send(b"x")
    wait_until(lambda: unraisable, "what was raised")
    wait_until(lambda: not server.connections, "the end of the connection")


# ---- the server itself --------------------------------------------------------------------------


def test_a_callback_that_blocks(make_server, dial):
    """It costs its worker, and nobody else anything."""
    let_go, blocked, answers = threading.Event(), threading.Event(), Events()

    def on_data(conn: Connection, data: bytes) -> None:
        if data == b"block":
            blocked.set()
            let_go.wait(LIMIT)
        conn.send(data)

    server = make_server(on_data=on_data, workers=2)
    try:
        dial(server).send(b"block")
        assert blocked.wait(LIMIT)
        dial(server, on_data=lambda c, data: answers.add(data)).send(b"go on")
        assert answers.wait() == [b"go on"]
    finally:
        let_go.set()


def test_offload_and_call_later(make_server, dial):
    events = Events()

    def on_data(conn: Connection, data: bytes) -> None:
        conn.offload(threading.current_thread, then=lambda c, thread: c.send(thread.name.encode()))
        conn.call_later(0.01, events.add, "later")

    server = make_server(on_data=on_data)
    dial(server, on_data=lambda c, data: events.add(data)).send(b"x")
    items = events.wait(2)
    assert "later" in items
    assert any(item.startswith(b"iocpcore-offload") for item in items if item != "later")


def test_an_executor_of_ones_own(make_server, dial):
    from concurrent.futures import ThreadPoolExecutor

    events = Events()
    with ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
        server = make_server(
            on_data=lambda c, _: c.offload(
                threading.current_thread, then=lambda _, thread: events.add(thread.name)
            ),
            executor=executor,
        )
        dial(server).send(b"x")
        assert events.wait() == ["mine_0"]
        server.stop()
        executor.submit(int).result()  # it is still there


def test_statistics(make_server, dial):
    events = Events()
    server = make_server(on_message=lambda c, m: c.send_message(m), framing=LengthPrefixed(1))
    conn = dial(server, on_message=lambda c, m: events.add(m), framing=LengthPrefixed(1))
    for _ in range(5):
        conn.send_message(b"123")
    events.wait(5)
    # They are counted when the callbacks have returned, a little after what these have sent.
    wait_until(lambda: server._group.stats()["messages"] == 5, "the figures")
    stats = server.stats()
    assert stats["accepted"] == stats["connections"] == stats["listeners"] == 1
    assert stats["messages"] == 5
    assert stats["bytes_received"] == 20
    assert stats["messages_per_second"] == pytest.approx(5 / stats["interval"])
    assert stats["uptime"] >= stats["interval"] > 0
    assert 0 < stats["callback_seconds_mean"] <= stats["callback_seconds_max"]
    assert stats["port_workers"] == server.completion_port.stats()["workers"]
    assert server.stats()["messages_per_second"] == 0
    server.stop()
    assert server.stats()["messages"] == 5


def test_time_of_callbacks(make_server, dial):
    """That of on_error is one, also where nothing else is called."""
    closed = Events()
    server = make_server(
        on_message=lambda conn, message: None,
        on_error=lambda conn, error: time.sleep(0.1),
        on_close=closed.recorder("close"),
        framing=LengthPrefixed(4),
    )
    conn = dial(server)
    conn.send(b"\0\0\0\x09abc")
    wait_until(lambda: server.stats()["bytes_received"] == 7, "a part of a message")
    conn.close()
    closed.wait()
    wait_until(lambda: server.stats()["callback_seconds_max"] >= 0.09, "its time")


def test_workers_have_names(make_server, dial):
    events = Events()
    server = make_server(on_connect=lambda _: events.add(threading.current_thread()), workers=3)
    dial(server)
    thread = events.wait()[0]
    assert thread.name.startswith("iocpcore-")
    assert thread.daemon
    assert sum(one.name.startswith("iocpcore-") for one in threading.enumerate()) == 3
    server.stop()
    assert not any(one.name.startswith("iocpcore-") for one in threading.enumerate())


def test_states(make_server):
    server = make_server(listen=False, start=False)
    assert "not started" in repr(server)
    with pytest.raises(RuntimeError, match="listen"):
        server.serve_forever()
    server.start()
    server.start()
    assert "running" in repr(server)
    assert isinstance(server.completion_port, iocpcore.CompletionPort)
    assert server.connections == server.addresses == ()
    assert server.stop() == 0
    assert "stopped" in repr(server)
    assert server.stop() == 0
    with pytest.raises(RuntimeError, match="stopped"):
        server.start()
    with pytest.raises(RuntimeError, match="stopped"):
        server.listen("127.0.0.1", 0)
    server.serve_forever()  # returns: it has been stopped


def test_a_context_manager(backend, dial):
    with Server(on_data=echo, backend=backend) as server:
        server.listen("127.0.0.1", 0)
        events = Events()
        dial(server, on_data=lambda c, data: events.add(data)).send(b"x")
        events.wait()
    assert "stopped" in repr(server)


def test_one_that_is_never_started(backend):
    server = Server(backend=backend)
    server.listen("127.0.0.1", 0)
    assert server.stop() == 0


def test_defaults_for_workers():
    from iocpcore import _workers

    if _workers.free_threaded():
        cpus = _workers.cpus()
        assert _workers.thread_counts(None, None) == (cpus + 1, cpus)
        assert _workers.thread_counts(2, None) == (2, 1)
        assert _workers.thread_counts(None, 1) == (2, 1)
    else:
        assert _workers.thread_counts(None, None) == (1, 1)
        assert _workers.thread_counts(8, None) == (8, 1)
        assert _workers.thread_counts(None, 1) == (1, 1)
    assert _workers.thread_counts(None, 4) == (5, 4)
    assert _workers.thread_counts(1, None) == (1, 1)
    assert _workers.thread_counts(2, 3) == (2, 3)
