"""Where a server may listen, seen from its clients."""

from __future__ import annotations

import gc
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from iocpcore import Connection, Server, connect
from support.callbacks import echo
from support.events import Events
from support.streams import read_exactly, socket_of
from support.system import LIMIT, LINUX, WINDOWS

pytestmark = pytest.mark.system
unix = pytest.mark.skipif(not LINUX, reason="unix sockets are for Linux")


def ask(address: object, family: int = socket.AF_INET) -> None:
    """There and back."""
    with socket.socket(family) as sock:
        sock.settimeout(LIMIT)
        sock.connect(address)
        sock.sendall(b"hello")
        assert read_exactly(sock, 5) == b"hello"


@pytest.fixture
def server(make_server):
    return make_server(on_data=echo, listen=False)


def test_several(server):
    one = server.listen("127.0.0.1", 0)
    two = server.listen("127.0.0.1", 0, backlog=5)
    assert server.addresses == (one, two)
    ask(one)
    ask(two)
    assert server.stats()["listeners"] == 2


@pytest.mark.parametrize("held", [False, True])
def test_dropped_before_it_was_started(backend, ends_at_zero, held):
    """Its sockets are closed, which is told as by other things that are just dropped."""

    class Holder:
        server: Server

        def on_data(self, conn: Connection, data: bytes) -> None:
            self.server.stop()

    def drop() -> int:
        holder = Holder()
        server = Server(on_data=holder.on_data if held else echo, backend=backend)
        holder.server = server
        return server.listen("127.0.0.1", 0)[1]

    def drop_and_collect() -> int:
        number = drop()
        gc.collect()
        return number

    with pytest.warns(ResourceWarning, match=r"unclosed <iocpcore\.Server not started"):
        number = drop_and_collect()
    with pytest.raises(ConnectionRefusedError):
        ask(("127.0.0.1", number))


def test_the_socket_of_another_that_waits(make_server):
    """The server's from the moment of listen() on, whatever becomes of the user's object."""
    server = make_server(on_data=echo, listen=False, start=False)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = server.listen(sock)
        assert sock.fileno() == -1
    assert server.stats()["listeners"] == 1
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask, address)
        server.start()
        asking.result(LIMIT)


def test_stopped_before_it_was_started(make_server):
    server = make_server(on_data=echo, start=False)
    assert server.stop() == 0
    assert server.stats()["listeners"] == 0
    with pytest.raises(ConnectionRefusedError):
        ask(server.addresses[0])


def test_every_interface(server):
    address = server.listen("", 0)
    ask(("127.0.0.1", address[1]))
    if len(server.addresses) > 1:
        ask(("::1", address[1]), socket.AF_INET6)


def test_ipv6(server, client_port):
    try:
        address = server.listen("::1", 0)
    except OSError:
        pytest.skip("no IPv6 here")
    ask(address, socket.AF_INET6)
    events = Events()
    conn = connect("::1", address[1], completion_port=client_port(), on_close=events.recorder("x"))
    assert conn.peername[:2] == address[:2]
    conn.close()
    events.wait()


def test_before_and_after_the_start(make_server):
    server = make_server(on_data=echo, start=False)
    early = server.addresses[0]
    with socket.create_connection(early, LIMIT) as sock:
        sock.sendall(b"early")
        server.start()
        assert read_exactly(sock, 5) == b"early"
    ask(server.listen("127.0.0.1", 0))


@pytest.mark.parametrize("keepalive", [True, False])
def test_options_of_accepted_sockets(make_server, plain, keepalive):
    events = Events()
    server = make_server(keepalive=keepalive, on_connect=events.add)
    plain(server)
    with socket_of(events.wait()[0]) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) == keepalive


@pytest.mark.parametrize("listening", [False, True])
def test_a_socket_of_somebody_else(server, listening):
    """It is taken over."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    if listening:
        sock.listen(3)
    address = server.listen(sock)
    assert sock.fileno() == -1
    ask(address)


def test_bad_arguments(server):
    for arguments, options, kind, words in (
        (("127.0.0.1",), {}, TypeError, "port must be given"),
        (("127.0.0.1", "80"), {}, TypeError, "port"),
        (("127.0.0.1", -1), {}, ValueError, "port"),
        (("127.0.0.1", 65536), {}, ValueError, "port"),
        ((5, 80), {}, TypeError, "host"),
        (("127.0.0.1", 0), {"backlog": 0}, ValueError, "backlog"),
        (("127.0.0.1", 0), {"backlog": "5"}, TypeError, "backlog"),
        (("127.0.0.1", 0), {"reuse_port": 1}, TypeError, "reuse_port"),
        (("/tmp/x.sock",), {"reuse_port": True}, ValueError, "reuse_port"),
    ):
        with pytest.raises(kind, match=words):
            server.listen(*arguments, **options)
    with socket.socket() as sock:
        with pytest.raises(ValueError, match="bound"):
            server.listen(sock)
        with pytest.raises(TypeError, match="port must not be given"):
            server.listen(sock, 80)
        assert sock.fileno() >= 0
    assert server.addresses == ()


def test_an_address_that_is_taken(server):
    address = server.listen("127.0.0.1", 0)
    with pytest.raises(OSError, match=f"listen on 127.0.0.1 port {address[1]}"):
        server.listen(*address)
    with pytest.raises(OSError):
        server.listen("no-such-host.invalid", 0)
    ask(address)
    assert server.addresses == (address,)


# ---- unix sockets -------------------------------------------------------------------------------


@unix
def test_a_path(server, client_port, tmp_path):
    events = Events()
    path = str(tmp_path / "x.sock")
    assert server.listen(path) == path
    ask(path, socket.AF_UNIX)
    conn = connect(
        tmp_path / "x.sock",
        completion_port=client_port(),
        on_data=events.recorder("data"),
        timeout=LIMIT,
    )
    assert conn.peername == path
    conn.send(b"x")
    assert events.wait() == [("data", b"x")]
    server.stop()
    assert not os.path.exists(path)


@unix
def test_clients_of_a_path(make_server, tmp_path):
    """They have a name, or none; and no IP address of which there may be too many."""
    events = Events()
    server = make_server(
        on_connect=lambda conn: events.add(conn.peername),
        listen=False,
        max_connections_per_address=1,
    )
    path = server.listen(str(tmp_path / "x.sock"))
    names = ["", str(tmp_path / "a client's name"), "/tmp/iocpcore-" + tmp_path.name, ""]
    with ExitStack() as stack:
        stack.callback(Path(names[2]).unlink, missing_ok=True)
        for count, name in enumerate(names, 1):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            if name:
                sock.bind(name)
            sock.connect(path)
            assert events.wait(count)[-1] == name
    assert server.stats()["refused"] == 0


@unix
def test_a_stale_file(server, tmp_path):
    path = str(tmp_path / "x.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    server.listen(path)
    ask(path, socket.AF_UNIX)


@unix
def test_a_path_that_somebody_else_has_bound(server, tmp_path):
    """As systemd does; the file is not ours to remove."""
    path = str(tmp_path / "x.sock")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    assert server.listen(sock) == path
    ask(path, socket.AF_UNIX)
    server.stop()
    assert os.path.exists(path)


@unix
def test_a_path_with_a_port(server, client_port):
    for function in (server.listen, lambda *args: connect(*args, completion_port=client_port())):
        for host in ("/run/x.sock", Path("x.sock"), "\0name", b"\0name"):
            with pytest.raises(TypeError, match="port must not be given with a path"):
                function(host, 5)


@unix
def test_an_abstract_name(server, client_port):
    name = f"\0iocpcore-listen-{os.getpid()}"
    address = server.listen(name)
    ask(name, socket.AF_UNIX)
    for host in (name, address):
        connect(host, completion_port=client_port(), timeout=LIMIT).close()
    with pytest.raises(OSError, match="in use"):
        server.listen(address)


@unix
def test_a_path_where_nobody_is(client_port, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        connect(tmp_path / "nothing", completion_port=client_port())


@pytest.mark.skipif(WINDOWS, reason="possible there")
def test_no_pipes_here(server):
    with pytest.raises(ValueError, match="pipes do not exist here"):
        server.listen(r"\\.\pipe\x")
    with pytest.raises(ValueError, match="host"):
        connect(r"\\.\pipe\x")


@pytest.mark.skipif(not WINDOWS, reason="named pipes are for Windows")
def test_a_pipe(server, client_port):
    events = Events()
    name = rf"\\.\pipe\iocpcore-{os.getpid()}"
    assert server.listen(name) == name
    conns = [
        connect(name, completion_port=client_port(), on_data=events.recorder("data"), timeout=LIMIT)
        for _ in range(3)
    ]
    for conn in conns:
        conn.send(b"x")
    assert events.wait(3) == [("data", b"x")] * 3
    with pytest.raises(FileNotFoundError):
        connect(name + "-nothing", completion_port=client_port())


@pytest.mark.found_in_use
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
            server.stop(0)
        except RuntimeError:  # it is the parent's
            pass
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
