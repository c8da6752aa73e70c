"""From accepted to established: nobody but its stage uses a connection before it is whole."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import iocpcore
import pytest
from support.certificates import HOST, client_context, server_context
from support.events import Events
from support.system import LIMIT, scaled, wait_until

pytestmark = pytest.mark.found_in_use

TLS_VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


# Application data of TLS that no key fits.
DAMAGED = b"\x17\x03\x03\x00\x20" + bytes(32)


def shake_hands(sock: socket.socket, side: ssl.SSLObject, bios: Any, flight: int) -> None:
    """In memory, with a damaged record behind what that flight sends; until the peer ends it."""
    incoming, outgoing = bios
    sent = 0
    try:
        while True:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
            if outgoing.pending:
                sent += 1
                sock.sendall(outgoing.read() + (DAMAGED if sent == flight else b""))
            data = sock.recv(65536)
            if not data:
                return
            incoming.write(data)
    except (ConnectionError, ssl.SSLError):
        pass


def client_with_damage(sock: socket.socket) -> None:
    """A client whose Finished has a damaged record behind it."""
    bios = ssl.MemoryBIO(), ssl.MemoryBIO()
    shake_hands(sock, client_context().wrap_bio(*bios, server_hostname=HOST), bios, 2)
    sock.close()


def server_with_damage(sock: socket.socket, version: ssl.TLSVersion) -> None:
    """The same of a server, which with TLS 1.3 is the first to be through."""
    bios = ssl.MemoryBIO(), ssl.MemoryBIO()
    side = limited(server_context(), version).wrap_bio(*bios, server_side=True)
    shake_hands(sock, side, bios, 1 if version is ssl.TLSVersion.TLSv1_3 else 2)


def limited(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = version
    return context


def raises(conn: Any) -> None:
    raise RuntimeError("on_connect has failed")


ON_CONNECT: dict[str, Callable[[Any], object] | None] = {
    "none": None,
    "returns": lambda conn: None,
    "sends": lambda conn: conn.send(b"welcome"),
    "closes": lambda conn: conn.close(),
    "aborts": lambda conn: conn.abort(),
    "raises": raises,
}


# ---- a record that is damaged, behind the end of the handshake ----------------------------------


@pytest.mark.system
@pytest.mark.parametrize("version", TLS_VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("on_connect", ON_CONNECT)
def test_damaged_record_behind_finished_of_a_client(make_server, plain, version, on_connect):
    """It travels with the client's Finished: the connection ends, and nothing else does."""
    events = Events()
    options = {"on_connect": ON_CONNECT[on_connect]} if ON_CONNECT[on_connect] else {}
    server = make_server(
        on_data=lambda conn, data: conn.send(data),
        on_error=lambda conn, error: events.add(type(error)),
        on_close=lambda conn, error: events.add(error),
        ssl=limited(server_context(), version),
        **options,
    )
    for _ in range(3):
        client_with_damage(plain(server))
    wait_until(lambda: server.stats()["closed"] == 3, "their ends")
    wait_until(lambda: server.connections == (), "the end of the last one")
    expected = {"closes": type(None), "aborts": type(None), "raises": RuntimeError}
    ends = [event for event in events.items if not isinstance(event, type)]
    assert [type(end) for end in ends] == 3 * [expected.get(on_connect, ssl.SSLError)]
    assert (RuntimeError in events.items) == (on_connect == "raises")
    if on_connect in ("none", "returns"):  # and others are served
        sock = client_context().wrap_socket(plain(server), server_hostname=HOST)
        sock.sendall(b"good")
        assert sock.recv(10) == b"good"
        sock.close()


@pytest.mark.system
@pytest.mark.parametrize("version", TLS_VERSIONS, ids=lambda version: version.name)
def test_damaged_record_behind_finished_of_a_server(backend, client_port, version):
    """The same of a client whose server is hostile."""
    ends = Events()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)

        def serve() -> None:
            with listener.accept()[0] as sock:
                sock.settimeout(LIMIT)
                server_with_damage(sock, version)

        thread = threading.Thread(target=serve)
        thread.start()
        conn = iocpcore.connect(
            "127.0.0.1",
            listener.getsockname()[1],
            ssl=client_context(),
            server_hostname=HOST,
            on_data=lambda conn, data: ends.add(data),
            on_close=lambda conn, error: ends.add(error),
            completion_port=client_port(),
            timeout=LIMIT,
        )
        (error,) = ends.wait()
        thread.join(LIMIT)
    assert conn.closing
    assert isinstance(error, ssl.SSLError)


@pytest.mark.system
@pytest.mark.parametrize("behind", ["record", "bytes"])
def test_damaged_record_behind_a_proxy_header(make_server, plain, behind):
    """Garbage for TLS, in one segment with the header that makes TLS begin."""
    server = make_server(
        on_connect=lambda conn: None,
        on_data=lambda conn, data: None,
        ssl=server_context(),
        proxy_protocol=["127.0.0.1"],
    )
    header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
    for _ in range(3):
        sock = plain(server)
        sock.sendall(header + (DAMAGED if behind == "record" else b"GET / "))
        try:
            while sock.recv(4096):
                pass
        except ConnectionResetError:
            pass
        sock.close()
    wait_until(lambda: server.stats()["failed"] == 3, "their ends")


# ---- before it is established -------------------------------------------------------------------


@pytest.mark.system
def test_nothing_leaves_before_the_handshake(make_server, plain):
    """Other threads send to all connections while clients come that never say anything."""
    server = make_server(on_data=lambda conn, data: None, ssl=server_context())
    ended = threading.Event()

    def broadcast() -> None:
        while not ended.is_set():
            for conn in server.connections:
                conn.send(b"SECRET NEWS")
                conn.shutdown()

    threads = [threading.Thread(target=broadcast) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        clients = []
        for _ in range(scaled(200)):
            clients.append(plain(server))
        wait_until(lambda: server.stats()["establishing"] == len(clients), "all of them")
        for client in clients:
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(1)
    finally:
        ended.set()
        for thread in threads:
            thread.join(LIMIT)


@pytest.mark.system
def test_listed_when_established(make_server, plain):
    """With TLS: first only counted, and in `connections` from on_connect on."""
    seen = Events()
    server = make_server(
        on_connect=lambda conn: seen.add(server.connections == (conn,)),
        on_data=lambda conn, data: None,
        on_close=lambda conn, error: seen.add(server.connections == (conn,)),
        ssl=server_context(),
    )
    sock = plain(server)
    wait_until(lambda: server.stats()["establishing"] == 1, "the beginning")
    assert (server.connections, server.stats()["connections"]) == ((), 0)
    sock = client_context().wrap_socket(sock, server_hostname=HOST)
    assert seen.wait(1) == [True]
    assert (server.stats()["establishing"], server.stats()["connections"]) == (0, 1)
    sock.close()
    assert seen.wait(2) == [True, True]
    wait_until(lambda: server.connections == (), "the end")


@pytest.mark.system
def test_nobody_is_known_before_the_proxy_header(make_server, plain):
    events = Events()
    server = make_server(
        on_connect=lambda conn: events.add(conn.peername),
        on_data=lambda conn, data: None,
        proxy_protocol=["127.0.0.1"],
    )
    sock = plain(server)
    sock.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2")
    wait_until(lambda: server.stats()["establishing"] == 1, "the beginning")
    assert server.connections == ()
    sock.sendall(b"\r\n")
    assert events.wait() == [("192.0.2.1", 1)]
    assert len(server.connections) == 1


# ---- framers ------------------------------------------------------------------------------------


class Lines:
    """A framer in Python."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines

    def encode(self, message: bytes) -> bytes:
        return message + b"\n"


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
def test_first_message_of_a_client_with_a_framer(backend, make_server, dial, secured):
    """connect() returns before on_connect is called, perhaps, but not before there is a framer."""
    events = Events()
    server = make_server(
        on_message=lambda conn, message: events.add(message),
        framing=Lines,
        workers=2,
        handshake_timeout=None,  # the simulation's clock may jump
        **({"ssl": server_context()} if secured else {}),
    )
    count = scaled(100, 10)
    for number in range(count):
        options = {"ssl": client_context(), "server_hostname": HOST} if secured else {}
        conn = dial(server, on_message=lambda conn, message: None, framing=Lines, **options)
        assert conn.send_message(b"%d" % number)
        conn.close()
    assert sorted(map(int, events.wait(count))) == list(range(count))


@pytest.mark.system
def test_message_before_the_first_callback(port):
    """The thread that connects has the connection while no worker has come to it yet."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connecting = iocpcore.connect_nowait(
            *listener.getsockname(),
            on_message=lambda conn, message: None,
            framing=Lines,
            completion_port=port,
        )
        sock = listener.accept()[0]
        connected = port.get(LIMIT)  # as run() would, but for what comes after it
        connected.callback(connected)
        conn = connecting.connection
        assert conn.send_message(b"first")
        sock.settimeout(LIMIT)
        assert sock.recv(100) == b"first\n"
        sock.close()
        wait_until(lambda: port.get(0) or port.in_flight == 0, "its end")


class Unmade(Exception):
    """What the factory of a framer raises."""


def unmade() -> Lines:
    raise Unmade


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
def test_framer_of_a_client_that_cannot_be_made(backend, make_server, dial, secured):
    events = Events()
    options = {"ssl": client_context(), "server_hostname": HOST} if secured else {}
    server = make_server(on_data=lambda conn, data: None)
    with pytest.raises(Unmade):
        dial(server, on_message=lambda conn, message: None, framing=unmade, **options)
    port = server.completion_port
    connecting = iocpcore.connect_nowait(
        *server.addresses[0][:2],
        on_message=lambda conn, message: None,
        on_close=lambda conn, error: events.add((conn, type(error))),
        framing=unmade,
        completion_port=port,
        **options,
    )
    assert events.wait() == [(None, Unmade)]
    assert isinstance(connecting.error, Unmade)


def test_framer_of_a_server_that_cannot_be_made(backend, make_server, dial):
    """That client is not established, and the next one is."""
    made = Events()

    def make() -> Lines:
        made.add(None)
        if len(made) == 1:
            raise Unmade
        return Lines()

    server = make_server(on_message=lambda conn, message: conn.send_message(message), framing=make)
    ends, answers = Events(), Events()
    dial(
        server,
        on_data=lambda conn, data: None,
        on_close=lambda conn, error: ends.add(None),
    )
    ends.wait()
    wait_until(lambda: server.stats()["failed"] == 1, "the end at the server")
    conn = dial(server, on_data=lambda conn, data: answers.add(data))
    conn.send(b"x\n")
    assert answers.wait() == [b"x\n"]


@pytest.mark.found_in_use
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
