"""TLS over servers and connections, on every backend, and with clients that are not ours."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import iocpcore
import pytest
from iocpcore import Server, SlowReaderError
from support.callbacks import echo
from support.certificates import HOST, OTHER_HOST, client_context, server_context
from support.events import Events
from support.net import reset
from support.streams import read_all
from support.system import LIMIT, scaled, wait_until

MEBIBYTE = 1 << 20


class Peer:
    """One end of connections: its callbacks, and what they were told."""

    def __init__(self, **callbacks: Callable[..., object]) -> None:
        self.events = Events()  # (name, further arguments), without data
        self.data = bytearray()
        self.conn: Any = None
        self.connected = threading.Event()
        self.closed = threading.Event()
        self.error: BaseException | None = None
        self._callbacks = callbacks
        self._changed = threading.Condition()

    def _call(self, name: str, *args: Any) -> None:
        if name in self._callbacks:
            self._callbacks[name](*args)

    def on_connect(self, conn: Any) -> None:
        self.conn = conn
        self.events.add(("connect",))
        self._call("on_connect", conn)
        self.connected.set()

    def on_data(self, conn: Any, data: bytes) -> None:
        assert self.connected.is_set()
        with self._changed:
            self.data += data
            self._changed.notify_all()
        self._call("on_data", conn, data)

    def on_eof(self, conn: Any) -> None:
        self.events.add(("eof",))
        if "on_eof" in self._callbacks:
            self._call("on_eof", conn)
        else:
            conn.close()

    def on_close(self, conn: Any, error: BaseException | None) -> None:
        self.error = error
        self.events.add(("close",))
        self._call("on_close", conn, error)
        self.closed.set()

    def wait_data(self, nbytes: int) -> bytes:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.data) >= nbytes, LIMIT), len(self.data)
            return bytes(self.data)

    def wait_closed(self) -> BaseException | None:
        assert self.closed.wait(LIMIT)
        return self.error

    @property
    def names(self) -> list[str]:
        return [event[0] for event in self.events.items]


class World:
    """Servers with TLS, and clients of them."""

    def __init__(
        self, backend: str, make_server: Callable[..., Server], client_port: Callable[[], Any]
    ) -> None:
        self._backend = backend
        self._make_server = make_server
        self._client_port = client_port
        self.server: Any = None

    def serve(self, peer: Peer | None, **options: Any) -> tuple[str, int]:
        options.setdefault("ssl", server_context())
        if self._backend == "sim":
            # Its time passes when nobody waits for anything else, and then time limits are up.
            options = {"workers": 1, "concurrency": 1, "handshake_timeout": None, **options}
        self.server = self._make_server(peer, **options)
        return self.server.addresses[0]

    @property
    def port(self) -> iocpcore.CompletionPort:
        """For clients. Simulated ones share their port's world."""
        return self.server.completion_port if self._backend == "sim" else self._client_port()

    def connect(self, address: tuple[str, int], peer: Peer | None, **options: Any) -> Any:
        options.setdefault("ssl", client_context())
        if options["ssl"]:
            options.setdefault("server_hostname", HOST)
        options.update(handler=peer, timeout=LIMIT, completion_port=self.port)
        conn = iocpcore.connect(*address, **options)
        if peer is not None:
            assert peer.connected.wait(LIMIT)
        return conn


@pytest.fixture
def world(
    backend: str, make_server: Callable[..., Server], client_port: Callable[[], Any]
) -> World:
    return World(backend, make_server, client_port)


@pytest.fixture
def unestablished(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The server's lines about connections that did not come about."""
    caplog.set_level(logging.INFO, "iocpcore")
    return lambda: [r.getMessage() for r in caplog.records if "not established" in r.getMessage()]


# ---- data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("nbytes", [1, 20000, MEBIBYTE])
def test_echo(world, which, nbytes):
    context = server_context()
    context.minimum_version = context.maximum_version = which
    versions: list[str | None] = []
    server = Peer(on_data=echo)
    client = Peer(on_connect=lambda conn: versions.append(conn.ssl_object.version()))
    # The server does not read while it has too much to send, so the client must go on reading.
    conn = world.connect(world.serve(server, ssl=context), client, write_high=2 * MEBIBYTE)
    assert server.connected.wait(LIMIT)
    assert server.conn.ssl_object.server_side
    data = random.randbytes(nbytes)
    assert conn.send([data[: nbytes // 2], data[nbytes // 2 :]])
    assert client.wait_data(nbytes) == data
    conn.close()
    assert client.wait_closed() is None
    assert server.wait_closed() is None
    assert server.names == ["connect", "eof", "close"]
    assert client.names == ["connect", "close"]
    assert versions == [which.name.replace("_", ".")]


def test_messages(world):
    """Framing is behind TLS, whatever the records are."""
    got = Events()
    framing = iocpcore.LengthPrefixed(2)
    address = world.serve(
        None, framing=framing, on_message=lambda conn, message: conn.send_message(message.upper())
    )
    conn = world.connect(
        address, None, framing=framing, on_message=lambda conn, message: got.add(message)
    )
    sizes = [0, 1, 2, 1000, 20000, 65535] * 3
    for size in sizes:
        assert conn.send_message(b"x" * size)
    assert got.wait(len(sizes)) == [b"X" * size for size in sizes]


def test_a_send_larger_than_the_buffer(world):
    """One is always taken, whatever its size."""
    nbytes = scaled(24, 2) * MEBIBYTE
    client = Peer()
    address = world.serve(
        None,
        on_connect=lambda conn: (conn.send(bytes(nbytes)), conn.close()),
        max_write_buffer=MEBIBYTE,
    )
    world.connect(address, client)
    assert client.wait_closed() is None
    assert len(client.data) == nbytes


def test_a_peer_that_does_not_read(world):
    """It stops us from reading, and what it does not take is limited."""
    server = Peer()
    address = world.serve(server, max_write_buffer=MEBIBYTE)
    client = Peer()
    conn = world.connect(address, client)
    conn.pause_receiving()
    assert server.connected.wait(LIMIT)
    sent = 0
    while server.conn.send(bytes(100000)):
        sent += 1
        assert sent < 100000
    assert isinstance(server.wait_closed(), SlowReaderError)
    conn.abort()
    client.wait_closed()


def test_drain(world):
    drained = threading.Event()
    server = Peer()
    address = world.serve(server, on_drain=lambda conn: drained.set())
    client = Peer()
    conn = world.connect(address, client)
    conn.pause_receiving()
    assert server.connected.wait(LIMIT)
    total = 0
    while server.conn.pending_bytes < 300000:
        server.conn.send(bytes(50000))
        total += 50000
    assert not drained.is_set()
    conn.resume_receiving()
    assert drained.wait(LIMIT)
    assert len(client.wait_data(total)) == total


@pytest.mark.stress
def test_sends_of_several_threads(world):
    """Those of one come in order, and whole; both directions at once."""
    count, threads = scaled(200, 20), 4
    server, client = Peer(), Peer()
    conn = world.connect(world.serve(server), client)
    assert server.connected.wait(LIMIT)

    def send(to: Any, thread: int) -> None:
        for number in range(count):
            body = bytes([thread]) * ((thread + number) % 4 * 5000)
            head = b"".join(n.to_bytes(4, "big") for n in (thread, number, len(body)))
            assert to.send([head, body])
            while to.pending_bytes > 100000:  # above write_high it would not read
                threading.Event().wait(0.001)

    senders = [
        threading.Thread(target=send, args=(to, thread))
        for to in (conn, server.conn)
        for thread in range(threads)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(LIMIT)
    total = sum(
        12 + (thread + number) % 4 * 5000 for thread in range(threads) for number in range(count)
    )
    for peer in (server, client):
        data = peer.wait_data(total)
        numbers = [0] * threads
        at = 0
        while at < len(data):
            thread, number, size = (
                int.from_bytes(data[at + n : at + n + 4], "big") for n in (0, 4, 8)
            )
            assert number == numbers[thread]
            assert data[at + 12 : at + 12 + size] == bytes([thread]) * size
            numbers[thread] += 1
            at += 12 + size
        assert numbers == [count] * threads


# ---- files --------------------------------------------------------------------------------------


@pytest.fixture
def big(tmp_path) -> tuple[str, bytes]:
    data = random.randbytes(scaled(20, 2) * MEBIBYTE + 321)
    (tmp_path / "big").write_bytes(data)
    return str(tmp_path / "big"), data


def test_send_file(world, big):
    """It keeps its place among other sends, and close() waits for it."""
    path, data = big

    def on_connect(conn: Any) -> None:
        with open(path, "rb") as file:
            assert conn.send(b"<")
            assert conn.send_file(file)
            assert conn.send(b">")
            assert conn.send_file(file, 100, 200)
        conn.close()

    client = Peer()
    world.connect(world.serve(Peer(on_connect=on_connect)), client)
    assert client.wait_closed() is None
    assert client.data == b"<" + data + b">" + data[100:300]


def test_send_file_to_a_slow_reader(world, big):
    """Of the file only so much is read as the peer takes."""
    path, data = big
    server, client = Peer(), Peer()
    conn = world.connect(world.serve(server), client)
    conn.pause_receiving()
    assert server.connected.wait(LIMIT)
    with open(path, "rb") as file:
        assert server.conn.send_file(file)
    assert server.conn.send(b"after")
    most = 0
    for _ in range(50):
        most = max(most, server.conn.pending_bytes)
        threading.Event().wait(0.002)
    assert most < 262144
    conn.resume_receiving()
    assert client.wait_data(len(data) + 5) == data + b"after"


def test_the_connection_ends_while_a_file_is_sent(world, big):
    """The check for open descriptors is that of every test."""
    server, client = Peer(), Peer()
    conn = world.connect(world.serve(server), client)
    conn.pause_receiving()
    assert server.connected.wait(LIMIT)
    with open(big[0], "rb") as file:
        assert server.conn.send_file(file)
    conn.abort()
    assert isinstance(server.wait_closed(), OSError | None)
    client.wait_closed()


# ---- ends ---------------------------------------------------------------------------------------


def test_half_close(world):
    """After shutdown() the other direction goes on, for as long as it likes."""
    parts: list[int] = []

    def answer(conn: Any) -> None:
        parts.append(1)
        conn.send(bytes(100000))
        if len(parts) < 10:
            conn.call_later(0.001, answer, conn)
        else:
            conn.close()

    server, client = Peer(on_eof=answer), Peer()
    conn = world.connect(world.serve(server), client)
    assert conn.send(b"question")
    conn.shutdown()
    assert not conn.send(b"no more")
    assert len(client.wait_data(1000000)) == 1000000
    assert client.wait_closed() is None
    assert server.wait_closed() is None
    assert server.data == b"question"
    assert server.names == ["connect", "eof", "close"]


def test_close_sends_everything_first(world):
    data = random.randbytes(3 * MEBIBYTE)

    def all_at_once(conn: Any) -> None:
        for at in range(0, len(data), 100000):
            assert conn.send(data[at : at + 100000])
        conn.close()
        assert not conn.send(b"x")

    server, client = Peer(on_connect=all_at_once), Peer()
    world.connect(world.serve(server), client)
    assert client.wait_closed() is None
    assert client.data == data
    assert server.wait_closed() is None


def test_nothing_is_handed_on_after_close(world, big):
    """Though a file is still being sent, and the peer goes on."""
    called: list[str] = []

    def on_data(conn: Any, data: bytes) -> None:
        called.append("data")
        with open(big[0], "rb") as file:
            assert conn.send_file(file)
        conn.close()

    server = Peer(on_data=on_data, on_eof=lambda conn: called.append("eof"))
    client = Peer()
    conn = world.connect(world.serve(server), client)
    conn.pause_receiving()
    conn.send(b"1")
    wait_until(lambda: called, "the first data")
    for _ in range(5):
        conn.send(b"2")
    conn.shutdown()
    conn.resume_receiving()
    assert client.wait_closed() is None
    assert client.data == big[1]
    assert server.wait_closed() is None
    assert called == ["data"]


def test_calls_after_the_end(world):
    """They do nothing, and harm nobody."""
    server, client = Peer(), Peer()
    conn = world.connect(world.serve(server), client)
    assert server.connected.wait(LIMIT)
    conn.abort()
    client.wait_closed()
    server.wait_closed()
    for one in (conn, server.conn):
        wait_until(lambda one=one: one.fileno() == -1, "the socket is closed")
        for _ in range(2):
            assert not one.send(b"x")
            with open(__file__, "rb") as file:
                assert not one.send_file(file)
            one.shutdown()
            one.close()
            one.abort()
            assert one.ssl_object is None or isinstance(one.ssl_object, ssl.SSLObject)


@pytest.mark.stress
def test_closing_from_many_threads_at_once(world):
    """Sends, files, shutdowns, closes and the peer's end, all at the same time."""
    address = world.serve(Peer(on_data=echo))

    def torment(conn: Any, start: threading.Barrier, what: int) -> None:
        start.wait(LIMIT)
        with open(__file__, "rb") as file:
            for _ in range(5):
                conn.send(bytes(10000))
                conn.send_file(file)
        (conn.close, conn.shutdown, conn.abort, lambda: conn.ssl_object)[what]()

    for _ in range(scaled(15, 2)):
        client = Peer()
        conn = world.connect(address, client)
        start = threading.Barrier(4)
        threads = [threading.Thread(target=torment, args=(conn, start, n)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        client.wait_closed()


def test_an_exception_in_a_callback(world, unraisable):
    """What was sent before it arrives, and then a proper end."""

    def fail(conn: Any, data: bytes) -> None:
        conn.send(b"answer")
        raise ZeroDivisionError

    server, client = Peer(on_data=fail), Peer()
    conn = world.connect(world.serve(server), client)
    conn.send(b"question")
    assert client.wait_closed() is None
    assert client.data == b"answer"
    assert isinstance(server.wait_closed(), ZeroDivisionError)
    assert [type(error) for error in unraisable] == [ZeroDivisionError]


# ---- handshakes ---------------------------------------------------------------------------------


def test_sni_and_alpn(world):
    context, other = server_context(alpn=["echo/1"]), server_context("other.pem", alpn=["echo/1"])

    def choose(ssl_object: ssl.SSLObject, name: str, _: ssl.SSLContext) -> None:
        if name == OTHER_HOST:
            ssl_object.context = other

    context.sni_callback = choose
    address = world.serve(Peer(on_data=echo), ssl=context)

    def ask(conn: Any) -> None:
        certificate = conn.ssl_object.getpeercert()
        told.append((conn.ssl_object.selected_alpn_protocol(), certificate["subjectAltName"]))

    for host in (HOST, OTHER_HOST):
        told: list[tuple[str, Any]] = []
        client = Peer(on_connect=ask)
        conn = world.connect(
            address, client, ssl=client_context(alpn=["other", "echo/1"]), server_hostname=host
        )
        ((protocol, names),) = told
        assert protocol == "echo/1"
        assert ("DNS", host) in names
        conn.send(b"x")
        assert client.wait_data(1) == b"x"


@pytest.mark.parametrize("certificate", ["untrusted.pem", "other.pem"])
def test_wrong_certificate(world, unestablished, certificate):
    """connect() raises ssl's own exception, and the server has seen no connection."""
    server, client = Peer(), Peer()
    address = world.serve(server, ssl=server_context(certificate))
    with pytest.raises(ssl.SSLCertVerificationError):
        world.connect(address, client)
    wait_until(unestablished, "a line in the log")
    assert server.names == []
    assert client.names == []


def test_client_certificate(world, unestablished):
    certificates = Events()
    server = Peer(on_connect=lambda conn: certificates.add(conn.ssl_object.getpeercert()))
    address = world.serve(server, ssl=server_context(ask_client=True))
    client = Peer()
    world.connect(address, client, ssl=client_context("client.pem"))
    assert certificates.wait()[0]["subject"]

    without = Peer()
    try:  # with TLS 1.3 the client learns of it after the handshake
        world.connect(address, without)
    except ssl.SSLError as error:
        refused: BaseException | None = error
    else:
        refused = without.wait_closed()
    assert isinstance(refused, ssl.SSLError | ConnectionError)
    wait_until(unestablished, "a line in the log")
    assert server.names == ["connect"]


def test_plaintext_to_a_tls_server(world, unestablished):
    server, client = Peer(), Peer()
    conn = world.connect(world.serve(server), client, ssl=None)
    conn.send(b"GET / HTTP/1.1\r\n\r\n")
    client.wait_closed()
    assert not client.data or client.data[0] == 21  # an alert
    wait_until(unestablished, "a line in the log")
    assert server.names == []


def test_tls_to_a_plaintext_server(world):
    address = world.serve(Peer(on_data=lambda conn, data: conn.send(b"HTTP/1.1 400\r\n")), ssl=None)
    client = Peer()
    with pytest.raises(ssl.SSLError) as caught:
        world.connect(address, client)
    assert caught.value.__notes__ == [f"connect to {address[0]}:{address[1]}"]
    assert client.names == []


def test_handshake_timeout(world, unestablished):
    """A peer that says nothing, or only half, does not stay."""
    server = Peer()
    address = world.serve(server, handshake_timeout=0.3)
    for data in (b"", b"\x16\x03\x01"):
        client = Peer()
        conn = world.connect(address, client, ssl=None)
        if data:
            conn.send(data)
        client.wait_closed()
    wait_until(lambda: world.server.stats()["failed"] == 2, "the end of both")
    assert unestablished()
    assert server.names == []


def test_idle_timeout(world):
    """The peer is told the end of the stream, as by any other end of ours."""
    server, client = Peer(), Peer()
    world.connect(world.serve(server, idle_timeout=0.3), client)
    assert client.wait_closed() is None
    assert isinstance(server.wait_closed(), TimeoutError)


def test_a_handshake_that_ends_early(world, unestablished):
    server = Peer()
    client = Peer()
    conn = world.connect(world.serve(server), client, ssl=None)
    conn.close()
    client.wait_closed()
    wait_until(unestablished, "a line in the log")
    assert server.names == []


def test_connect_nowait(world):
    """Its callbacks come after the handshake, and a failed one is told to on_close."""
    server = Peer(on_data=echo)
    address = world.serve(server)
    client, failing = Peer(on_connect=lambda conn: conn.send(b"x")), Peer()
    options: dict[str, Any] = {"completion_port": world.port, "ssl": client_context()}
    iocpcore.connect_nowait(*address, handler=client, server_hostname=HOST, **options)
    assert client.wait_data(1) == b"x"
    iocpcore.connect_nowait(*address, handler=failing, server_hostname="x.example", **options)
    assert isinstance(failing.wait_closed(), ssl.SSLCertVerificationError)
    assert failing.names == ["close"]


def test_arguments(backend):
    for bad in (True, "context", ssl.SSLContext):
        with pytest.raises(TypeError, match=r"ssl must be an ssl\.SSLContext"):
            Server(ssl=bad, backend=backend)
    with pytest.raises((ssl.SSLError, ValueError)):
        Server(ssl=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), backend=backend)


# ---- others' clients ----------------------------------------------------------------------------


@pytest.fixture
def dial_ssl(ends_at_zero: None) -> Iterator[Callable[..., ssl.SSLSocket]]:
    sockets: list[ssl.SSLSocket] = []

    def dial_ssl(address: tuple[str, int], context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        sock = socket.create_connection(address, LIMIT)
        context = context or client_context()
        sockets.append(context.wrap_socket(sock, server_hostname=HOST, suppress_ragged_eofs=False))
        return sockets[-1]

    yield dial_ssl
    for sock in sockets:
        sock.close()


@pytest.mark.system
def test_an_ordinary_client(world, dial_ssl):
    server = Peer(on_data=echo)
    sock = dial_ssl(world.serve(server))
    sock.sendall(b"hello")
    assert sock.recv(100) == b"hello"
    plain = sock.unwrap()  # says goodbye, and waits for ours
    assert plain.recv(1) == b""
    plain.close()
    assert server.wait_closed() is None


@pytest.mark.system
def test_our_end_is_proper(world, dial_ssl):
    server = Peer(on_data=lambda conn, data: (conn.send(b"bye"), conn.close()))
    sock = dial_ssl(world.serve(server))
    sock.sendall(b"x")
    assert sock.recv(100) == b"bye"
    assert sock.recv(100) == b""  # and no ssl.SSLEOFError
    assert server.wait_closed() is None


@pytest.mark.system
def test_stop(world, dial_ssl):
    """Connections with nothing to send close at once, and their peers see a proper end."""
    server = Peer()
    sock = dial_ssl(world.serve(server))
    sock.sendall(b"x")
    assert server.wait_data(1) == b"x"
    assert world.server.stop() == 0
    assert sock.recv(100) == b""
    assert server.wait_closed() is None


@pytest.mark.system
def test_stop_with_something_to_send(world, dial_ssl):
    """It arrives, and then nobody waits for the peer to end its stream too."""
    size, sent = 8 * MEBIBYTE, threading.Event()
    server = Peer(on_data=lambda conn, data: conn.send(bytes(size)) and sent.set())
    sock = dial_ssl(world.serve(server))
    sock.sendall(b"x")
    assert sent.wait(LIMIT)
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(world.server.stop, LIMIT)
        wait_until(lambda: server.conn.closing, "the stop")
        assert len(read_all(sock)) == size
        began = time.monotonic()
        assert stopping.result(LIMIT) == 0
        assert time.monotonic() - began < 1.5  # it would be 2 s
    assert server.wait_closed() is None


def test_read_size(world):
    """One record may hold more, and what is left waits while the connection is paused."""
    size, most, sizes, paused = MEBIBYTE // 4, 1000, [], threading.Event()

    def on_data(conn: Any, data: bytes) -> None:
        assert not paused.is_set()
        sizes.append(len(data))
        paused.set()
        conn.pause_receiving()
        conn.call_later(0, resume, conn)

    def resume(conn: Any) -> None:
        paused.clear()
        conn.resume_receiving()

    server = Peer(on_data=on_data)
    client = world.connect(world.serve(server, read_size=most), None)
    data = random.Random(1).randbytes(size)
    client.send(data)
    assert server.wait_data(size) == data
    assert max(sizes) == most


@pytest.mark.system
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.skipif(ssl.OPENSSL_VERSION_INFO < (3, 0), reason="before, contexts allowed it")
def test_renegotiation_is_refused(world):
    context = server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # the last one that has it
    server = Peer(on_data=echo)
    host, port = world.serve(server, ssl=context)
    with subprocess.Popen(
        ["openssl", "s_client", "-connect", f"{host}:{port}", "-tls1_2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as client:
        assert client.stdin is not None
        try:
            client.stdin.write(b"hello\n")
            client.stdin.flush()
            assert server.wait_data(6) == b"hello\n"
            client.stdin.write(b"R\n")  # its command for that
            client.stdin.flush()
            assert isinstance(server.wait_closed(), ssl.SSLError)
        finally:
            client.kill()
    assert server.data == b"hello\n"


@pytest.mark.system
def test_ragged_end(world, dial_ssl):
    """Without close_notify the end is an error. Our own end is a proper one all the same."""
    server = Peer(on_data=echo)
    sock = dial_ssl(world.serve(server))
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    socket.socket.shutdown(sock, socket.SHUT_WR)  # of the socket, without TLS
    assert isinstance(server.wait_closed(), ssl.SSLEOFError)
    assert "eof" not in server.names
    assert sock.recv(1) == b""  # and no ssl.SSLEOFError


@pytest.mark.system
@pytest.mark.parametrize("what", ["data", "file"])
@pytest.mark.parametrize("ending", ["nothing", "shutdown", "close"])
def test_ragged_end_while_much_is_sent(world, dial_ssl, tmp_path, what, ending):
    """The peer ends its stream without close_notify and reads on: it gets all that was accepted,
    and our own end, which is a proper one."""
    path = tmp_path / "file"
    with open(path, "wb") as file:
        file.truncate(24 * MEBIBYTE)  # more than the system takes before close() is called
    size = 0

    def answer(conn: Any, _: bytes) -> None:
        nonlocal size
        if what == "file":
            with open(path, "rb") as file:
                assert conn.send_file(file)
            size = path.stat().st_size
        else:
            # Below write_high, so that it is still read. The goodbye has to wait for room.
            while conn.pending_bytes < 200_000:
                assert conn.send(bytes(20_000))
                size += 20_000
        assert conn.send(b"the end")

    server = Peer(on_data=answer)
    sock = dial_ssl(world.serve(server))
    sock.sendall(b"x")
    assert sock.recv(1) == b"\0"
    socket.socket.shutdown(sock, socket.SHUT_WR)  # of the socket, without TLS
    wait_until(lambda: not server.conn.send(b""), "the end of what is accepted")
    if ending != "nothing":
        getattr(server.conn, ending)()
    got = bytearray()
    while data := sock.recv(1 << 16):
        got += data
    assert len(got) == size - 1 + len(b"the end")
    assert got.endswith(b"the end")
    error = server.wait_closed()
    if ending == "close" and (what == "file" or error is None):  # data may be through before it
        assert error is None
    else:
        assert isinstance(error, ssl.SSLEOFError)
    assert "eof" not in server.names


@pytest.mark.system
def test_reset(world, dial_ssl):
    server = Peer(on_data=echo)
    sock = dial_ssl(world.serve(server))
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    reset(sock)
    assert isinstance(server.wait_closed(), ConnectionResetError | ConnectionAbortedError)


@pytest.mark.parametrize("tls", [False, True])
def test_data_that_cannot_be_sent(world, tls):
    """Is refused in the same words, and hurts nothing."""
    server = Peer(on_data=echo)
    contexts = (server_context(), client_context()) if tls else (None, None)
    address = world.serve(server, ssl=contexts[0])
    client = Peer()
    conn = world.connect(address, client, ssl=contexts[1])
    for data, name in [
        ("text", "str"),
        (5, "int"),
        ([b"x", "y"], "str"),
        ((b"x", None), "NoneType"),
    ]:
        with pytest.raises(TypeError, match=f"^data must be a bytes-like object, not {name}$"):
            conn.send(data)
    conn.send([b"good", bytearray(b" one")])
    assert client.wait_data(8) == b"good one"
    conn.close()
    with pytest.raises(TypeError, match="data must be a bytes-like object, not str"):
        conn.send("text")
    assert conn.send(b"late") is False


@pytest.mark.system
@pytest.mark.parametrize("tls", [False, True])
def test_reset_while_much_is_sent(world, dial_ssl, tls):
    """It has the same name whether a send or a receive meets it first."""

    def send(conn: Any, _: bytes) -> None:
        while conn.pending_bytes <= MEBIBYTE and conn.send(bytes(100_000)):
            pass

    for _ in range(scaled(20, 5)):
        server = Peer(on_data=send, on_drain=lambda conn: send(conn, b""))
        address = world.serve(server, ssl=server_context() if tls else None)
        sock = dial_ssl(address) if tls else socket.create_connection(address, LIMIT)
        sock.sendall(b"x")
        assert sock.recv(1) == b"\0"
        reset(sock)
        error = server.wait_closed()
        assert isinstance(error, ConnectionResetError | ConnectionAbortedError), error


@pytest.mark.system
def test_session_resumption(world, dial_ssl):
    """The tickets that servers send are good."""
    address = world.serve(Peer(on_data=echo))
    context = client_context()
    first = dial_ssl(address, context)
    first.sendall(b"x")
    assert first.recv(1) == b"x"
    session = first.session
    sock = socket.create_connection(address, LIMIT)
    with context.wrap_socket(sock, server_hostname=HOST, session=session) as second:
        assert second.session_reused
        second.sendall(b"y")
        assert second.recv(1) == b"y"


@pytest.mark.system
@pytest.mark.stress
def test_many_asyncio_clients(world):
    """At once, each with its own data."""
    address = world.serve(Peer(on_data=echo), workers=3)
    count = scaled(60, 5)

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection(
            *address, ssl=client_context(), server_hostname=HOST
        )
        data = random.Random(number).randbytes(50000 + number)
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        writer.close()
        await writer.wait_closed()

    async def all_of_them() -> None:
        await asyncio.wait_for(asyncio.gather(*map(client, range(count))), LIMIT)

    asyncio.run(all_of_them())
    wait_until(lambda: world.server.stats()["closed"] == count, "all are closed")
    assert world.server.stats()["failed"] == 0


@pytest.mark.system
def test_a_server_that_is_not_ours(world, ends_at_zero):
    """Our client with ssl's own server, which says goodbye in its own time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        said: list[bytes] = []

        def serve() -> None:
            accepted = listener.accept()[0]
            with server_context().wrap_socket(accepted, server_side=True) as sock:
                while data := sock.recv(1000):
                    said.append(data)
                sock.sendall(b"after your end")
                sock.unwrap()

        thread = threading.Thread(target=serve)
        thread.start()
        world.serve(Peer())
        client = Peer()
        conn = world.connect(listener.getsockname(), client)
        conn.send(b"question")
        conn.shutdown()
        assert client.wait_closed() is None
        assert client.data == b"after your end"
        thread.join(LIMIT)
    assert b"".join(said) == b"question"
