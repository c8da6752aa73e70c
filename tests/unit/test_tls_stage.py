"""The TLS stage by itself: two of them, or one and an SSLObject, connected in memory."""

from __future__ import annotations

import gc
import os
import random
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from tempfile import TemporaryFile

import pytest
from iocpcore import _tls
from iocpcore.errors import SlowReaderError
from support.certificates import (
    FOLDER,
    HOST,
    IGNORE_UNEXPECTED_EOF,
    OTHER_HOST,
    VERSIONS,
    accepting_ragged_ends_is_a_choice,
    client_context,
    server_context,
)
from support.system import LIMIT, scaled

MEBIBYTE = 1 << 20


class Connection:
    """What stages use of a connection; the rest of it is the test."""

    def __init__(self) -> None:
        self.closing = False
        self.peername = ("192.0.2.1", 5000)
        self.established = 0
        self.finished = 0
        self.failed: list[BaseException] = []
        self.accepting = True
        self.room_asked = False
        self.most_pending = 0
        self.writes = 0
        self._lock = threading.Lock()
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._jobs: deque[Callable[[], object]] = deque()

    @property
    def pending_bytes(self) -> int:
        with self._lock:
            return self._size

    def _write(self, data: bytes | list[bytes]) -> bool:
        with self._lock:
            if not self.accepting:
                return False
            assert not self.finished
            self.writes += 1
            self._queue.append(b"".join(data) if isinstance(data, list) else data)
            self._size += len(self._queue[-1])
            self.most_pending = max(self.most_pending, self._size)
            return True

    def _ask_for_room(self) -> None:
        with self._lock:
            self.room_asked = True

    def _established(self) -> None:
        self.established += 1

    def _fail(self, error: BaseException) -> None:
        assert not self.finished, "it may be closed by then, without an error"
        self.failed.append(error)

    def _run(self, function: Callable[[], object]) -> None:
        self._jobs.append(function)

    def _finish(self) -> None:
        self.finished += 1

    def take(self, nbytes: int = sys.maxsize) -> bytes:
        """What the socket would send next."""
        with self._lock:
            data = b"".join(self._queue)
            self._queue = deque([data[nbytes:]] if len(data) > nbytes else [])
            data = data[:nbytes]
            self._size -= len(data)
            return data

    def run_jobs(self) -> None:
        while self._jobs:
            self._jobs.popleft()()


class Side:
    """A stage and its connection, and what has come out of it."""

    def __init__(self, make: Callable[[Connection], _tls.TLSStage]) -> None:
        self.conn = Connection()
        self.stage = make(self.conn)
        self.received = b""
        self.parts: list[bytes] = []

    def start(self) -> None:
        self.stage.start()

    def feed(self, data: bytes) -> None:
        before = self.conn.established
        plain = self.stage.receive(data)
        assert type(plain) is bytes
        assert self.conn.established or not plain, "data came before the handshake was over"
        assert self.conn.established >= before
        if plain:
            self.parts.append(plain)
        self.conn.run_jobs()

    def all_received(self) -> bytes:
        self.received += b"".join(self.parts)
        self.parts.clear()
        return self.received

    def have_room(self) -> bool:
        if self.conn.room_asked and self.conn.pending_bytes <= 65536:
            self.conn.room_asked = False
            self.stage.room()
            return True
        return False


class Pair:
    """A client and a server; pump() carries bytes between them until there are none."""

    def __init__(
        self,
        server: ssl.SSLContext | None = None,
        client: ssl.SSLContext | None = None,
        host: str | None = HOST,
        **options: int,
    ) -> None:
        server_ssl = server_context() if server is None else server
        client_ssl = client_context() if client is None else client
        self.server = Side(_tls.server_stage(server_ssl, **options))
        self.client = Side(_tls.client_stage(client_ssl, host, **options))
        self.server.start()
        self.client.start()

    def pump(self, nbytes: int = sys.maxsize) -> None:
        moved = True
        while moved:
            moved = False
            for sender, receiver in ((self.client, self.server), (self.server, self.client)):
                if data := sender.conn.take(nbytes):
                    receiver.feed(data)
                    moved = True
                moved = sender.have_room() or moved


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return server_context(), client_context()


@pytest.fixture
def pair(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Pair:
    """Connected."""
    pair = Pair(*contexts)
    pair.pump()
    assert (pair.server.conn.established, pair.client.conn.established) == (1, 1)
    return pair


def version(context: ssl.SSLContext, which: ssl.TLSVersion) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = which
    return context


# ---- the handshake, and data --------------------------------------------------------------------


@pytest.mark.parametrize("which", VERSIONS)
@pytest.mark.parametrize("nbytes", [1, 2, 3, 5, 7, 16, 100, 1000, sys.maxsize])
def test_every_split(which, nbytes):
    """However the raw bytes arrive, the data does."""
    pair = Pair(version(server_context(), which), client_context())
    pair.pump(nbytes)
    assert pair.client.stage.ssl_object.version() == which.name.replace("_", ".")
    assert pair.client.stage.send([b"question"])
    pair.pump(nbytes)
    assert pair.server.all_received() == b"question"
    assert pair.server.stage.send([b"an", bytearray(b"sw"), memoryview(b"er")])
    pair.pump(nbytes)
    assert pair.client.all_received() == b"answer"
    for side in (pair.server, pair.client):
        assert side.stage.close() is False
        pair.pump(nbytes)
    assert pair.server.stage.peer_ended
    assert pair.client.stage.peer_ended
    assert not pair.server.conn.failed + pair.client.conn.failed


def test_data_together_with_the_end_of_the_handshake(contexts):
    """It is handed on by the same receive, and counts as after it."""
    pair = Pair(*contexts)
    pair.server.feed(pair.client.conn.take())
    pair.client.feed(pair.server.conn.take())
    assert pair.client.conn.established
    assert not pair.server.conn.established
    pair.client.stage.send([b"early"])
    pair.server.feed(pair.client.conn.take())
    assert pair.server.conn.established == 1
    assert pair.server.all_received() == b"early"


def test_sent_before_the_handshake_is_over(contexts):
    """It waits, in order, and is counted."""
    pair = Pair(*contexts)
    assert pair.client.stage.send([b"one,"])
    assert pair.server.stage.send([b"1,"])
    assert pair.client.stage.send([b"two"])
    assert pair.server.stage.send([b"2"])
    assert (pair.client.stage.pending_bytes, pair.server.stage.pending_bytes) == (7, 3)
    pair.pump()
    assert pair.server.all_received() == b"one,two"
    assert pair.client.all_received() == b"1,2"
    assert (pair.client.stage.pending_bytes, pair.server.stage.pending_bytes) == (0, 0)


def test_a_buffer_may_be_changed_after_it_was_sent(contexts):
    pair = Pair(*contexts)
    buffer = bytearray(b"before")
    pair.client.stage.send([buffer])
    buffer[:] = b"after!"
    pair.pump()
    assert pair.server.all_received() == b"before"


def test_session_tickets_are_no_data(contexts):
    """TLS 1.3 servers send them after the handshake."""
    pair = Pair(*contexts)
    pair.server.feed(pair.client.conn.take())
    pair.client.feed(pair.server.conn.take())
    pair.server.feed(pair.client.conn.take())
    tickets = pair.server.conn.take()
    assert tickets
    assert pair.client.stage.receive(tickets) == b""
    assert not pair.client.stage.peer_ended


def test_nothing_is_sent_by_an_empty_send(pair):
    writes = pair.client.conn.writes
    assert pair.client.stage.send([])
    assert pair.client.stage.send([b"", b""])
    assert pair.client.conn.writes == writes


@pytest.mark.parametrize("nbytes", [1, 16384, 16385, 65536, MEBIBYTE])
def test_large_both_ways(pair, nbytes):
    to_server, to_client = random.randbytes(nbytes), random.randbytes(nbytes)
    assert pair.client.stage.send([to_server])
    assert pair.server.stage.send([to_client[:10], to_client[10:]])
    pair.pump(65536)
    assert pair.server.all_received() == to_server
    assert pair.client.all_received() == to_client


def test_a_send_is_one_write(pair):
    """So that the limit of what may be pending is looked at once, before it."""
    writes = pair.client.conn.writes
    pair.client.stage.send([bytes(3 * MEBIBYTE)])
    assert pair.client.conn.writes == writes + 1


def test_one_receive_gives_all_it_holds(pair):
    for _ in range(10):
        pair.client.stage.send([bytes(20000)])
    assert len(pair.server.stage.receive(pair.client.conn.take())) == 200000


def test_reading_may_make_bytes_to_send(contexts):
    """The client's certificate, asked for after the handshake, goes out though nobody sends."""
    server, client = server_context(ask_client=True), client_context("client.pem")
    server.post_handshake_auth = client.post_handshake_auth = True
    pair = Pair(server, client)
    pair.pump()
    assert not pair.server.stage.ssl_object.getpeercert()
    pair.server.stage.ssl_object.verify_client_post_handshake()
    pair.server.stage.send([b"?"])
    pair.pump()
    assert pair.client.all_received() == b"?"
    pair.client.stage.send([b"!"])
    pair.pump()
    assert pair.server.all_received() == b"!"
    assert pair.server.stage.ssl_object.getpeercert()


# ---- what ssl offers ----------------------------------------------------------------------------


def test_alpn():
    pair = Pair(server_context(alpn=["h2", "http/1.1"]), client_context(alpn=["http/1.1", "spdy"]))
    pair.pump()
    for side in (pair.server, pair.client):
        assert side.stage.ssl_object.selected_alpn_protocol() == "http/1.1"


def test_sni():
    """The server chooses the certificate by the name that the client asks for."""
    server, other = server_context(), server_context("other.pem")
    asked = []

    def choose(ssl_object, name, context):
        asked.append(name)
        if name == OTHER_HOST:
            ssl_object.context = other

    server.sni_callback = choose
    for host in (HOST, OTHER_HOST):
        pair = Pair(server, client_context(), host)
        pair.pump()
        names = pair.client.stage.ssl_object.getpeercert()["subjectAltName"]
        assert ("DNS", host) in names
    assert asked == [HOST, OTHER_HOST]


def test_client_certificate():
    pair = Pair(server_context(ask_client=True), client_context("client.pem"))
    pair.pump()
    assert pair.server.stage.ssl_object.getpeercert()["subjectAltName"]


def failing_pair(pair: Pair) -> tuple[BaseException | None, BaseException | None]:
    """Pumps until both have failed or nothing moves; the server's error and the client's."""
    errors: dict[Side, BaseException] = {}
    moved = True
    while moved:
        moved = False
        for sender, receiver in ((pair.client, pair.server), (pair.server, pair.client)):
            if data := sender.conn.take():
                moved = True
                try:
                    receiver.feed(data)
                except Exception as error:
                    errors[receiver] = error
    return errors.get(pair.server), errors.get(pair.client)


@pytest.mark.parametrize("which", VERSIONS)
def test_client_certificate_missing(which):
    pair = Pair(version(server_context(ask_client=True), which), client_context())
    server, client = failing_pair(pair)
    assert isinstance(server, ssl.SSLError)
    assert isinstance(client, ssl.SSLError)  # it was told by an alert
    assert "CERTIFICATE_REQUIRED" in str(client) or "HANDSHAKE_FAILURE" in str(client)
    assert not pair.server.conn.established


@pytest.mark.parametrize(
    ("certificate", "host"), [("untrusted.pem", HOST), ("other.pem", HOST), ("server.pem", "x.y")]
)
def test_wrong_certificate(certificate, host):
    """The error keeps its class, and the server is told."""
    pair = Pair(server_context(certificate), client_context(), host)
    server, client = failing_pair(pair)
    assert isinstance(client, ssl.SSLCertVerificationError)
    assert not pair.client.conn.established
    assert isinstance(server, ssl.SSLError)
    assert "ALERT" in str(server)


@pytest.mark.parametrize("nbytes", [1, 5, sys.maxsize])
def test_plaintext_to_a_tls_server(contexts, nbytes):
    side = Side(_tls.server_stage(contexts[0]))
    side.start()
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def feed():
        for at in range(0, len(request), nbytes):
            side.feed(request[at : at + nbytes])

    with pytest.raises(ssl.SSLError):
        feed()
    assert side.stage.receive(b"more") == b""
    assert not side.stage.send([b"x"])
    assert side.stage.close() is False
    assert not side.conn.established


@pytest.mark.parametrize("make", [_tls.server_stage, lambda c: _tls.client_stage(c, HOST)])
@pytest.mark.parametrize("context", [True, None, "context"])
def test_no_context(make, context):
    with pytest.raises(TypeError, match=r"ssl must be an ssl\.SSLContext"):
        make(context)


def test_contexts_that_cannot_serve(contexts):
    """They are refused at once, not by every connection."""
    client = contexts[1]
    for make in (
        lambda: _tls.server_stage(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)),
        lambda: _tls.client_stage(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), HOST),
    ):
        with pytest.raises(ValueError, match=r"server|client"):
            make()
    with pytest.raises(ValueError, match="server_hostname"):
        _tls.client_stage(client, None)
    with pytest.raises(ValueError):
        _tls.client_stage(client, "")


# ---- the ends of streams ------------------------------------------------------------------------


def test_half_close(pair):
    """One side has said all; the other goes on, as long as it likes."""
    assert pair.client.stage.send([b"all"])
    assert pair.client.stage.close() is False
    assert not pair.client.stage.send([b"no more"])
    assert not pair.client.stage.send_file(0)
    pair.pump()
    assert pair.server.all_received() == b"all"
    assert pair.server.stage.peer_ended
    for _ in range(3):
        assert pair.server.stage.send([bytes(100000)])
        pair.pump(1000)
    assert len(pair.client.all_received()) == 300000
    assert not pair.client.stage.peer_ended
    pair.server.stage.close()
    pair.pump()
    assert pair.client.stage.peer_ended
    for side in (pair.server, pair.client):
        side.stage.eof()


def test_bytes_after_close_notify_are_ignored(pair):
    pair.client.stage.send([b"last"])
    pair.client.stage.close()
    pair.server.feed(pair.client.conn.take() + b"anything")
    pair.server.feed(b"whatever")
    assert pair.server.all_received() == b"last"
    assert pair.server.stage.peer_ended


def ends(which: ssl.TLSVersion, side: str) -> tuple[Side, Side]:
    """Of a connected pair: this side, which is to end its stream, and the one that hears of it."""
    pair = Pair(version(server_context(), which), client_context())
    pair.pump()
    return (pair.client, pair.server) if side == "client" else (pair.server, pair.client)


by_version = pytest.mark.parametrize("which", VERSIONS)
by_side = pytest.mark.parametrize("side", ["client", "server"])


@by_version
@by_side
def test_close_notify_at_every_split(which, side):
    """It is a proper end however it arrives: with data, split, and with the end of the stream."""
    nbytes = cut = 0
    while cut <= nbytes:
        sender, receiver = ends(which, side)
        assert sender.stage.send([b"all"])
        sender.stage.close()
        data = sender.conn.take()
        nbytes = len(data)
        receiver.feed(data[:cut])
        receiver.feed(data[cut:])
        assert receiver.stage.peer_ended
        assert receiver.stage.eof() is False
        assert receiver.all_received() == b"all"
        assert not receiver.conn.failed
        cut += 1
    assert cut > 40


@by_version
@by_side
def test_ragged_end_at_every_byte(which, side):
    """Nothing but a whole close_notify is a proper end. Before the error comes all that arrived;
    what was accepted is sent, and our own end is a proper one."""
    data, cut = b"all of it", 0
    while cut < len(data):
        sender, receiver = ends(which, side)
        assert sender.stage.send([b"all"])
        whole = len(sender.conn.take())
        sender, receiver = ends(which, side)
        assert sender.stage.send([b"all"])
        sender.stage.close()
        data = sender.conn.take()
        receiver.feed(data[:cut])
        assert receiver.stage.send([b"answer"])
        assert receiver.stage.eof() is True
        assert not receiver.stage.peer_ended
        assert receiver.all_received() == (b"all" if cut >= whole else b"")
        (error,) = receiver.conn.failed
        assert isinstance(error, ssl.SSLEOFError)
        assert "close_notify" in str(error)
        assert not receiver.stage.send([b"more"])
        assert receiver.stage.receive(data[cut:]) == b""
        sender.feed(receiver.conn.take())
        assert sender.all_received() == b"answer"
        assert sender.stage.peer_ended
        cut += 1
    assert cut > 40


@pytest.mark.parametrize("ending", ["nothing", "shutdown", "close"])
def test_ragged_end_while_much_is_sent(pair, ending):
    """The error waits until all that was accepted is on its way, and our end behind it. Who closes
    meanwhile does not care any more."""
    size, server = 2 * MEBIBYTE, pair.server
    assert server.stage.send([bytes(_tls.AHEAD)])
    with TemporaryFile() as file:
        file.truncate(size)
        assert server.stage.send_file(file)
    assert server.stage.send([b"the end"])
    assert server.stage.eof() is True
    assert not server.stage.send([b"more"])
    assert not server.conn.failed
    server.conn.closing = ending == "close"
    if ending != "nothing":
        assert server.stage.close() is True
    pair.pump()
    assert pair.client.all_received() == bytes(_tls.AHEAD + size) + b"the end"
    assert pair.client.stage.peer_ended
    assert server.conn.finished == (ending != "nothing")
    if ending == "close":
        assert not server.conn.failed
    else:
        (error,) = server.conn.failed
        assert isinstance(error, ssl.SSLEOFError)


def test_a_file_that_cannot_be_read_behind_our_end(pair, tmp_path):
    """The error is told before the end that waited for the file, which may close the connection."""
    server = pair.server
    assert server.stage.send([bytes(2 * _tls.AHEAD)])
    with open(tmp_path / "file", "wb", buffering=0) as file:
        file.write(b"not to be read")
        assert server.stage.send_file(file)
    assert server.stage.close() is True
    pair.pump()
    assert isinstance(server.conn.failed.pop(), OSError)
    assert server.conn.finished == 1


def test_ragged_end_where_nothing_can_be_written(pair):
    """It remains the error that is told."""
    pair.server.conn.accepting = False
    assert pair.server.stage.eof() is True
    (error,) = pair.server.conn.failed
    assert isinstance(error, ssl.SSLEOFError)


@accepting_ragged_ends_is_a_choice
@by_version
@pytest.mark.parametrize("cut", [0, 3])
def test_ragged_end_that_is_accepted(which, cut):
    """Also one within a record, as everywhere else in ssl."""
    server = version(server_context(), which)
    server.options |= IGNORE_UNEXPECTED_EOF
    pair = Pair(server)
    pair.pump()
    pair.client.stage.send([b"data"])
    data = pair.client.conn.take()
    pair.server.feed(data[: len(data) - cut])
    assert pair.server.stage.eof() is False
    assert not pair.server.conn.failed


@pytest.mark.skipif(not IGNORE_UNEXPECTED_EOF, reason="there is no such option")
def test_an_option_that_every_context_has_says_nothing(monkeypatch):
    """So it is before Python 3.11.4."""
    new = ssl.SSLContext.__new__

    def new_with_option(cls: type[ssl.SSLContext], protocol: int) -> ssl.SSLContext:
        context = new(cls, protocol)
        context.options |= IGNORE_UNEXPECTED_EOF
        return context

    monkeypatch.setattr(ssl.SSLContext, "__new__", new_with_option)
    monkeypatch.setattr(_tls, "_ACCEPTING_OPTION", _tls._accepting_option())
    pair = Pair()
    pair.pump()
    for side in (pair.server, pair.client):
        assert side.stage.ssl_object.context.options & IGNORE_UNEXPECTED_EOF
        assert side.stage.eof() is True
        (error,) = side.conn.failed
        assert isinstance(error, ssl.SSLEOFError)


def test_ragged_end_after_our_own(pair):
    """Who has closed does not care; who has only shut down still does."""
    pair.client.stage.close()
    with pytest.raises(ssl.SSLEOFError, match="close_notify"):
        pair.client.stage.eof()
    pair.server.stage.close()
    pair.server.conn.closing = True
    assert pair.server.stage.eof() is False
    assert not pair.server.conn.failed


@by_version
@by_side
@pytest.mark.parametrize("accepts", [False, True])
def test_end_in_the_handshake(which, side, accepts):
    """After however many bytes, and whatever the context accepts later."""
    nbytes = 0
    while True:
        contexts = version(server_context(), which), client_context()
        for context in contexts:
            context.options |= IGNORE_UNEXPECTED_EOF if accepts else 0
        pair = Pair(*contexts)
        both = pair.client, pair.server
        sender, receiver = both if side == "client" else both[::-1]
        sender.feed(receiver.conn.take())
        left = nbytes
        while data := sender.conn.take(left):
            receiver.feed(data)
            sender.feed(receiver.conn.take())
            left -= len(data)
        if receiver.conn.established:
            break
        assert receiver.stage.send([b"early"])
        with pytest.raises(ssl.SSLEOFError, match="handshake"):
            receiver.stage.eof()
        assert not receiver.stage.send([b"late"])
        assert receiver.stage.close() is False
        assert receiver.stage.receive(sender.conn.take()) == b""
        assert not receiver.conn.established
        nbytes += 29
    assert nbytes > 300


def test_close_in_the_handshake(contexts):
    """Closing gives it up; shutting down waits for it, and for what was sent."""
    pair = Pair(*contexts)
    pair.client.stage.send([b"all"])
    pair.client.conn.closing = True
    assert pair.client.stage.close() is False
    pair.pump()
    assert not pair.client.conn.established

    pair = Pair(*contexts)
    pair.client.stage.send([b"all"])
    assert pair.client.stage.close() is True
    assert not pair.client.conn.finished
    pair.pump()
    assert pair.client.conn.established
    assert pair.client.conn.finished == 1
    assert pair.server.all_received() == b"all"
    assert pair.server.stage.peer_ended


def test_damage(pair):
    """Data before it is handed on; then the connection fails, and the peer is told."""
    pair.client.stage.send([b"good"])
    good = pair.client.conn.take()
    pair.client.stage.send([b"bad"])
    bad = bytearray(pair.client.conn.take())
    bad[-1] ^= 1
    pair.server.feed(good + bytes(bad))
    assert pair.server.all_received() == b"good"
    assert [type(error) for error in pair.server.conn.failed] == [ssl.SSLError]
    assert not pair.server.stage.send([b"x"])
    with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
        pair.client.feed(pair.server.conn.take())


def test_a_connection_that_takes_no_more(pair):
    pair.client.conn.accepting = False
    assert not pair.client.stage.send([b"x"])
    assert not pair.client.stage.send([b"x"])
    assert pair.client.stage.close() is False
    assert not pair.client.conn.failed


# ---- files --------------------------------------------------------------------------------------


@pytest.fixture
def big(tmp_path) -> Iterator[tuple[str, bytes]]:
    data = random.randbytes(5 * MEBIBYTE + 12345)
    path = tmp_path / "big"
    path.write_bytes(data)
    return str(path), data


def test_file(pair, big):
    """It goes out piece by piece, as the socket takes it; what is sent after it comes after it."""
    path, data = big
    with open(path, "rb") as file:
        file.seek(77)
        assert pair.server.stage.send([b"<"])
        assert pair.server.stage.send_file(file)
        assert pair.server.stage.send([b">"])
        assert pair.server.stage.send_file(file, 1000, 100000)
        assert pair.server.stage.send_file(file, 5, 0)
        assert pair.server.stage.send_file(file, 10 * MEBIBYTE, None)
        assert pair.server.stage.send([b"."])
        assert file.tell() == 77
    assert pair.server.stage.pending_bytes == 2
    assert pair.server.stage.close() is True
    assert not pair.server.stage.send([b"x"])
    pair.pump(50000)
    assert pair.client.all_received() == b"<" + data + b">" + data[1000:101000] + b"."
    assert pair.client.stage.peer_ended
    assert pair.server.conn.finished == 1
    assert pair.server.conn.most_pending < 262144
    assert pair.server.stage.pending_bytes == 0


def test_file_by_descriptor(pair, big):
    path, data = big
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    handle = descriptor
    if sys.platform == "win32":
        import msvcrt

        handle = msvcrt.get_osfhandle(descriptor)
    assert pair.server.stage.send_file(handle, 100, 200)
    os.close(descriptor)
    pair.pump()
    assert pair.client.all_received() == data[100:300]


def test_a_fast_socket_leaves_others_a_turn(pair, big):
    """A call writes a bounded part even if nothing ever waits for the socket."""
    path, data = big
    conn = pair.server.conn
    taken: list[bytes] = []
    write = conn._write

    def write_through(piece):
        accepted = write(piece)
        taken.append(conn.take())
        return accepted

    conn._write = write_through
    with open(path, "rb") as file:
        assert pair.server.stage.send_file(file)
    assert sum(map(len, taken)) < 2 * MEBIBYTE
    rounds = 0
    while pair.server.have_room():
        rounds += 1
    assert rounds >= 2
    pair.client.feed(b"".join(taken))
    assert pair.client.all_received() == data


def test_bad_files(pair, tmp_path):
    stage = pair.server.stage
    with pytest.raises(OSError):
        stage.send_file(99999)
    with open(__file__, "rb") as file:
        with pytest.raises(ValueError, match="offset"):
            stage.send_file(file, -1)
        with pytest.raises(ValueError, match="count"):
            stage.send_file(file, 0, -1)
    with pytest.raises(AttributeError):
        stage.send_file(object())
    assert not pair.server.conn.failed


@pytest.mark.skipif(sys.platform == "win32", reason="no directories can be opened there")
def test_a_file_that_cannot_be_read(pair, tmp_path):
    """It ends the connection: what was promised cannot be kept."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    pair.server.stage.send_file(descriptor)
    os.close(descriptor)
    assert [type(error) for error in pair.server.conn.failed] == [IsADirectoryError]


def test_the_file_is_closed_with_the_connection(contexts, big):
    """Whatever way that ends; the check for open descriptors is that of every test."""
    pair = Pair(*contexts)
    pair.pump()
    with open(big[0], "rb") as file:
        assert pair.server.stage.send_file(file)
        assert pair.client.stage.send_file(file)
    pair.client.conn.accepting = False
    pair.client.conn.take()
    pair.client.stage.room()
    assert pair.client.stage.pending_bytes == 0
    del pair
    gc.collect()


def test_what_is_held_is_limited(contexts, big):
    pair = Pair(*contexts, max_write_buffer=1000)
    pair.pump()
    with open(big[0], "rb") as file:
        assert pair.server.stage.send_file(file)
    assert pair.server.stage.send([bytes(5000)])  # one large one is always taken
    assert not pair.server.stage.send([b"x"])
    assert [type(error) for error in pair.server.conn.failed] == [SlowReaderError]
    assert pair.server.stage.pending_bytes == 0


def test_what_waits_behind_a_file_does_not_pile_up(pair, big):
    with open(big[0], "rb") as file:
        assert pair.server.stage.send_file(file)
    for _ in range(100):
        assert pair.server.stage.send([bytes(100000)])
    pair.pump()
    assert pair.server.conn.most_pending < 262144
    assert pair.client.all_received() == big[1] + bytes(10000000)


# ---- threads ------------------------------------------------------------------------------------


@pytest.mark.stress
def test_sends_of_several_threads_while_receiving(pair):
    """Each thread's come in order, and whole; the other direction is busy all the time."""
    count, threads = scaled(400, 40), 4
    sizes = [7, 100, 5000, 20000]
    failures: list[BaseException] = []
    carrying = threading.Event()
    sending = threads * 2

    def block(side: int, thread: int, number: int) -> bytes:
        body = bytes([thread]) * sizes[(thread + number) % len(sizes)]
        head = b"".join(n.to_bytes(4, "big") for n in (side, thread, number, len(body)))
        return head + body

    def send(side: int, thread: int) -> None:
        nonlocal sending
        stage = (pair.client, pair.server)[side].stage
        try:
            for number in range(count):
                whole = block(side, thread, number)
                assert stage.send([whole[:16], whole[16:]])
        except BaseException as error:
            failures.append(error)
        finally:
            with lock:
                sending -= 1

    def carry(sender: Side, receiver: Side) -> None:
        try:
            while True:
                over = not sending
                data = sender.conn.take(random.randrange(1, 60000))
                if data:
                    receiver.feed(data)
                elif over:
                    return
                else:
                    carrying.wait(0.001)
        except BaseException as error:
            failures.append(error)

    lock = threading.Lock()
    workers = [
        threading.Thread(target=send, args=(side, thread))
        for side in range(2)
        for thread in range(threads)
    ]
    workers.append(threading.Thread(target=carry, args=(pair.client, pair.server)))
    workers.append(threading.Thread(target=carry, args=(pair.server, pair.client)))
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LIMIT)
    assert not failures
    assert not any(worker.is_alive() for worker in workers)
    for side, receiver in enumerate((pair.server, pair.client)):
        data = receiver.all_received()
        numbers = [0] * threads
        at = 0
        while at < len(data):
            of, thread, number, _ = (
                int.from_bytes(data[at + n : at + n + 4], "big") for n in range(0, 16, 4)
            )
            whole = block(side, thread, number)
            assert (of, number) == (side, numbers[thread])
            assert data[at : at + len(whole)] == whole
            numbers[thread] += 1
            at += len(whole)
        assert numbers == [count] * threads


def test_a_send_from_within(pair):
    """The lock's own thread may come in again, as a finalizer does: nothing hangs or is lost."""
    stage = pair.server.stage
    conn = pair.server.conn
    write = conn._write
    inside = [b"second", b"third"]

    def write_and_send(data):
        accepted = write(data)
        if inside:
            assert stage.send([inside.pop(0)])
        return accepted

    conn._write = write_and_send
    assert stage.send([b"first"])
    pair.pump()
    assert pair.client.all_received() == b"firstsecondthird"


def test_a_close_from_within(pair):
    stage = pair.server.stage
    conn = pair.server.conn
    write = conn._write

    def write_and_close(data):
        accepted = write(data)
        if not conn.closing:
            conn.closing = True
            assert stage.close() is True
        return accepted

    conn._write = write_and_close
    stage.send([b"last"])
    pair.pump()
    assert pair.client.all_received() == b"last"
    assert pair.client.stage.peer_ended
    assert conn.finished == 1


# ---- against ssl itself -------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_ragged_end_in_another_handshake(contexts):
    """A server of TLS 1.2 asks for one and goes: what waits for that cannot be sent any more."""
    certificate = FOLDER / "server.pem"
    with (
        subprocess.Popen(
            ["openssl", "s_server", "-accept", "127.0.0.1:0", "-tls1_2", "-cert", certificate],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as server,
        ExitStack() as stack,
    ):
        stack.callback(server.kill)
        assert server.stdin is not None
        assert server.stdout is not None
        for line in server.stdout:
            if line.startswith(b"ACCEPT"):
                break
        port = int(line.rpartition(b":")[2])
        sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), LIMIT))
        client = Side(_tls.client_stage(contexts[1], HOST))
        client.start()
        while not client.conn.established:
            sock.sendall(client.conn.take())
            client.feed(sock.recv(1 << 16))
        sock.sendall(client.conn.take())
        server.stdin.write(b"r\n")  # its command for that
        server.stdin.flush()
        while not client.conn.pending_bytes:
            client.feed(sock.recv(1 << 16))
        assert client.stage.send([b"data"])
        assert client.stage.pending_bytes
        assert client.stage.eof() is True
        (error,) = client.conn.failed
        assert isinstance(error, ssl.SSLEOFError)
        assert not client.stage.pending_bytes


def test_an_ordinary_client(contexts):
    """One that is not ours: ssl's own SSLObject."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = contexts[1].wrap_bio(incoming, outgoing, server_hostname=HOST)
    side = Side(_tls.server_stage(contexts[0]))
    side.start()

    def until_done(step: Callable[[], object]) -> object:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                side.feed(outgoing.read())
                incoming.write(side.conn.take())

    until_done(client.do_handshake)
    client.write(b"hello")
    side.feed(outgoing.read())
    assert side.all_received() == b"hello"
    side.stage.send([b"world"])
    side.stage.close()
    incoming.write(side.conn.take())
    assert until_done(lambda: client.read(100)) == b"world"
    assert client.read(100) == b""
    client.unwrap()
    side.feed(outgoing.read())
    assert side.stage.peer_ended
