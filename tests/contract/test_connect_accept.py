"""Connecting and accepting."""

from __future__ import annotations

import errno
import gc
import os
import socket

import pytest
from support.net import SystemPeer
from support.system import LIMIT, WINDOWS

needs_unix_sockets = pytest.mark.skipif(
    WINDOWS or not hasattr(socket, "AF_UNIX"), reason="no unix sockets in Python on this system"
)


@pytest.fixture
def closed_address():
    """A loopback address where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()


def test_connect_and_accept(port, net):
    listener, address = net.listener()
    accept = port.accept(listener)
    sock = net.stream()
    connect = port.connect(sock, address)
    net.finish(accept, connect)
    assert connect.result() is None
    accepted, peer_address = accept.result()
    net.taken(accepted)
    if not net.simulated:
        assert peer_address == sock.getsockname()
    receive = port.recv(accepted, 10)
    assert net.result(port.send(sock, b"hello")) == 5
    assert net.result(receive) == b"hello"
    assert net.result(port.send(accepted, b"there")) == 5
    assert net.result(port.recv(sock, 10)) == b"there"


def test_an_accept_takes_who_was_waiting(port, net):
    listener, address = net.listener()
    peer = net.dial(address)
    accepted, _ = net.result(port.accept(listener))
    net.taken(accepted)
    peer.send(b"early")
    assert net.result(port.recv(accepted, 10)) == b"early"


def test_many_accepts_at_once(port, net):
    listener, address = net.listener()
    accepts = [port.accept(listener) for _ in range(20)]
    for _ in range(20):
        net.dial(address)
    accepted = [net.result(op) for op in accepts]
    for sock, _ in accepted:
        net.taken(sock)
    assert len({address for _, address in accepted}) == 20


@pytest.mark.system
def test_an_accepted_socket(port, net):
    """A real, non-blocking socket, whose every property can be asked: also on Windows, where
    that needs the listener's context."""
    listener, address = net.listener()
    peer = net.dial(address)
    sock, peer_address = net.result(port.accept(listener))
    net.taken(sock)
    assert type(sock) is socket.socket
    assert sock.getblocking() is False
    assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
    assert sock.proto in (0, socket.IPPROTO_TCP)
    assert sock.getpeername() == peer_address == peer.sock.getsockname()
    assert sock.getsockname() == address
    assert not os.get_inheritable(sock.fileno()) if not WINDOWS else True
    sock.shutdown(socket.SHUT_WR)
    assert peer.recv(1) == b""


@pytest.mark.system
def test_a_connected_socket(port, net):
    """The same of the connecting side."""
    listener, address = net.listener()
    sock = net.stream()
    op = port.connect(sock, address)
    accepted, _ = net.result(port.accept(listener))
    peer = SystemPeer(net, net.taken(accepted))
    net.finish(op)
    assert op.result() is None
    assert sock.getblocking() is False
    assert sock.getpeername() == address
    assert sock.getsockname() == accepted.getpeername()
    sock.shutdown(socket.SHUT_WR)
    assert peer.recv(1) == b""


@pytest.mark.system
def test_connect_of_a_bound_socket(port, net):
    listener, address = net.listener()
    sock = net.stream()
    sock.bind(("127.0.0.1", 0))
    bound = sock.getsockname()
    connect = port.connect(sock, address)
    accepted, peer_address = net.result(port.accept(listener))
    net.taken(accepted)
    net.finish(connect)
    assert peer_address == bound


@pytest.mark.system
def test_a_refused_connect(port, net, closed_address):
    op = port.connect(net.stream(), closed_address)
    error = net.error(op)
    assert type(error) is ConnectionRefusedError
    assert error.errno == errno.ECONNREFUSED
    host, number = closed_address
    assert f"connect to {host}:{number}: " in str(error)
    with pytest.raises(ConnectionRefusedError):
        op.result()
    assert not op.cancelled


def test_a_refused_connect_anywhere(port, net):
    """An address that had a listener once."""
    listener, address = net.listener()
    net.close(listener)
    error = net.error(port.connect(net.stream(), address))
    assert type(error) is ConnectionRefusedError


@pytest.mark.system
def test_connect_twice(port, net):
    listener, address = net.listener()
    sock = net.stream()
    assert net.result(port.connect(sock, address)) is None
    error = net.error(port.connect(sock, address))
    assert isinstance(error, OSError)
    assert error.errno == errno.EISCONN
    accepted, _ = net.result(port.accept(listener))
    accepted.close()


@pytest.mark.system
def test_accept_on_what_does_not_listen(port, net):
    op = port.accept(net.stream())
    if WINDOWS and not op.done:  # Wine never completes it
        op.cancel()
    assert isinstance(net.error(op), OSError)


@pytest.mark.system
def test_ipv6(port, net):
    listener = net.keep(socket.socket(socket.AF_INET6))
    try:
        listener.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6: {error}")
    listener.listen()
    accept = port.accept(listener)
    sock = net.keep(socket.socket(socket.AF_INET6))
    connect = port.connect(sock, listener.getsockname())
    net.finish(accept, connect)
    assert connect.result() is None
    accepted, address = accept.result()
    net.taken(accepted)
    assert accepted.family == socket.AF_INET6
    assert address == sock.getsockname()
    assert address[0] == "::1"
    assert len(address) == 4
    number = listener.getsockname()[1]
    listener.close()
    error = net.error(port.connect(net.keep(socket.socket(socket.AF_INET6)), ("::1", number)))
    assert type(error) is ConnectionRefusedError
    assert f"connect to [::1]:{number}: " in str(error)


@pytest.mark.system
@needs_unix_sockets
@pytest.mark.parametrize("as_bytes", [False, True])
def test_unix_sockets(port, net, tmp_path, as_bytes):
    path = str(tmp_path / "socket")
    listener = net.keep(socket.socket(socket.AF_UNIX))
    listener.bind(path)
    listener.listen()
    accept = port.accept(listener)
    sock = net.keep(socket.socket(socket.AF_UNIX))
    connect = port.connect(sock, path.encode() if as_bytes else path)
    net.finish(accept, connect)
    assert connect.result() is None
    accepted, address = accept.result()
    net.taken(accepted)
    assert accepted.family == socket.AF_UNIX
    assert address == ""
    assert net.result(port.send(sock, b"local")) == 5
    assert net.result(port.recv(accepted, 10)) == b"local"


@pytest.mark.system
@needs_unix_sockets
def test_a_unix_socket_that_is_not_there(port, net, tmp_path):
    path = str(tmp_path / "missing")
    error = net.error(port.connect(net.keep(socket.socket(socket.AF_UNIX)), path))
    assert type(error) is FileNotFoundError
    assert f"connect to {path}: " in str(error)


@pytest.mark.system
def test_an_accepted_socket_that_nobody_takes_is_closed(port, net):
    """Handed out, and dropped without a look at its result."""
    listener, address = net.listener()
    peer = net.dial(address)
    op = port.accept(listener)
    net.finish(op)
    net.forget()
    del op
    gc.collect()
    assert peer.recv(1) == b""


@pytest.mark.system
def test_an_accepted_socket_that_close_finds_is_closed(make_port, make_net):
    """Accepted by the kernel, never handed out."""
    port = make_port()
    net = make_net(port)
    listener, address = net.listener()
    op = port.accept(listener)
    peer = net.dial(address)
    # Something else is handed out: by then the port has seen the connection or will not.
    port.post()
    assert port.get(LIMIT) is not None
    port.close()
    if op.cancelled:
        listener.close()
    else:
        assert op.done
        del op
        net.forget()
        gc.collect()
    net.pumping = False
    try:
        assert peer.recv(1) == b""
    except ConnectionResetError:
        pass


@pytest.mark.system
def test_taking_an_accepted_socket_twice(port, net):
    listener, address = net.listener()
    net.dial(address)
    op = port.accept(listener)
    first = net.result(op)
    second = op.result()
    assert first[0] is second[0]
    net.taken(first[0])
