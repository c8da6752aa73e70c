"""Listening sockets: what they are bound to, and what is set on them. No server needed."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys

import pytest
from iocpcore import _server_sockets
from iocpcore._options import SocketOptions
from support.child import environment
from support.system import LINUX

unix = pytest.mark.skipif(not LINUX, reason="unix sockets are for Linux")


@pytest.fixture
def opened():
    found: list[_server_sockets.ListeningSocket] = []
    yield found
    for item in found:
        item.sock.close()
        if item.file is not None:
            item.file.remove()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_one_address(opened):
    opened += _server_sockets.listen_host("127.0.0.1", 0, SocketOptions())
    (item,) = opened
    assert item.address == item.sock.getsockname()
    assert item.address[0] == "127.0.0.1"
    assert item.address[1] > 0
    assert not item.sock.getblocking()
    assert item.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


@pytest.mark.skipif(not LINUX, reason="other systems do not hand options down")
@pytest.mark.parametrize("keepalive", [True, False])
def test_what_accepted_sockets_inherit(opened, keepalive):
    opened += _server_sockets.listen_host("127.0.0.1", 0, SocketOptions(keepalive=keepalive))
    with socket.create_connection(opened[0].address):
        opened[0].sock.setblocking(True)
        accepted = opened[0].sock.accept()[0]
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert bool(accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) == keepalive


@pytest.mark.parametrize("host", [None, ""])
def test_every_interface(opened, host):
    """One socket for each family, all with the same port."""
    opened += _server_sockets.listen_host(host, 0, SocketOptions())
    assert len({item.address[1] for item in opened}) == 1
    families = {item.sock.family for item in opened}
    assert socket.AF_INET in families
    assert (socket.AF_INET6 in families) == has_ipv6()
    socket.create_connection(("127.0.0.1", opened[0].address[1])).close()


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
def test_ipv6_leaves_ipv4_alone(opened):
    for _ in range(_server_sockets.ATTEMPTS):
        (six,) = _server_sockets.listen_host("::", 0, SocketOptions())
        opened.append(six)
        try:
            opened += _server_sockets.listen_host("0.0.0.0", six.address[1], SocketOptions())
            return
        except OSError as error:  # others may have taken it; were it for `six`, it always would be
            if error.errno != _server_sockets.errno.EADDRINUSE:
                raise
    pytest.fail("IPv4 was never free")


def test_a_port_that_is_taken(opened):
    opened += _server_sockets.listen_host("127.0.0.1", 0, SocketOptions())
    number = opened[0].address[1]
    with pytest.raises(OSError, match=f"listen on 127.0.0.1 port {number}") as caught:
        _server_sockets.listen_host("127.0.0.1", number, SocketOptions())
    assert caught.value.errno == _server_sockets.errno.EADDRINUSE


def test_an_address_of_somebody_else():
    with pytest.raises(OSError, match=r"listen on 203\.0\.113\.1 port 0"):
        _server_sockets.listen_host("203.0.113.1", 0, SocketOptions())


def test_a_port_in_time_wait(opened):
    """A server can be started again at once."""
    opened += _server_sockets.listen_host("127.0.0.1", 0, SocketOptions())
    listener = opened.pop()
    with socket.create_connection(listener.address) as client:
        listener.sock.setblocking(True)
        listener.sock.accept()[0].close()  # this side ends first
        assert client.recv(1) == b""
    listener.sock.close()
    opened += _server_sockets.listen_host("127.0.0.1", listener.address[1], SocketOptions())


@pytest.mark.skipif(not LINUX, reason="reuse_port is for Linux")
def test_reuse_port(opened):
    opened += _server_sockets.listen_host("127.0.0.1", 0, SocketOptions(reuse_port=True))
    opened += _server_sockets.listen_host(
        "127.0.0.1", opened[0].address[1], SocketOptions(reuse_port=True)
    )


@pytest.mark.skipif(LINUX, reason="possible here")
def test_no_reuse_port():
    with pytest.raises(ValueError, match="reuse_port"):
        _server_sockets.listen_host("127.0.0.1", 0, SocketOptions(reuse_port=True))


# ---- sockets of others --------------------------------------------------------------------------


def test_a_bound_socket(opened):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        item = _server_sockets.take_over(sock, SocketOptions())
        assert sock.fileno() == -1
        assert item.file is None
        opened.append(item)
        assert item.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        socket.create_connection(item.address).close()


def test_sockets_that_will_not_do():
    with socket.socket() as sock, pytest.raises(ValueError, match="bound"):
        _server_sockets.take_over(sock, SocketOptions())
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(ValueError, match="stream"):
        _server_sockets.take_over(sock, SocketOptions())


@unix
def test_sockets_of_systemd(monkeypatch):
    """They begin at descriptor 3, so a process of its own is needed."""
    code = (
        "import os, socket\n"
        "one = socket.create_server(('127.0.0.1', 0))\n"
        "address = one.getsockname()\n"
        "os.dup2(one.fileno(), 3)\n"
        "import iocpcore\n"
        "assert iocpcore.systemd_sockets() == []\n"
        "os.environ.update(LISTEN_PID='1', LISTEN_FDS='1')\n"
        "assert iocpcore.systemd_sockets() == []\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='x')\n"
        "taken, = iocpcore.systemd_sockets()\n"
        "assert taken.fileno() == 3 and taken.getsockname() == address\n"
        "assert not taken.get_inheritable()\n"
        "assert not any(name.startswith('LISTEN_') for name in os.environ)\n"
        "taken.detach()\n"
        "for wrong in ('abc', '-1', '1000'):\n"
        "    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=wrong)\n"
        "    try:\n"
        "        iocpcore.systemd_sockets()\n"
        "    except ValueError as error:\n"
        "        assert f'LISTEN_FDS' in str(error) and wrong in str(error), error\n"
        "    else:\n"
        "        raise AssertionError(wrong)\n"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, timeout=60)


# ---- unix sockets -------------------------------------------------------------------------------


@unix
def test_a_path(tmp_path, opened):
    path = str(tmp_path / "x.sock")
    opened.append(_server_sockets.listen_path(path, SocketOptions()))
    assert opened[0].address == path
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    opened[0].file.remove()
    assert not os.path.exists(path)


@unix
def test_a_stale_file_is_replaced(tmp_path, opened):
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    opened.append(_server_sockets.listen_path(path, SocketOptions()))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


@unix
def test_a_living_one_is_not(tmp_path, opened):
    path = tmp_path / "x.sock"
    opened.append(_server_sockets.listen_path(path, SocketOptions()))
    with pytest.raises(OSError, match=r"listen on .*x\.sock") as caught:
        _server_sockets.listen_path(path, SocketOptions())
    assert caught.value.errno == _server_sockets.errno.EADDRINUSE
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


@unix
def test_another_file_is_not(tmp_path):
    path = tmp_path / "x.sock"
    path.write_text("precious")
    with pytest.raises(OSError, match="listen on"):
        _server_sockets.listen_path(path, SocketOptions())
    assert path.read_text() == "precious"


@unix
def test_the_file_of_a_successor_stays(tmp_path, opened):
    path = tmp_path / "x.sock"
    opened.append(_server_sockets.listen_path(path, SocketOptions()))
    os.unlink(path)
    path.write_text("another's")
    opened[0].file.remove()
    assert path.exists()


@unix
def test_an_abstract_name(opened):
    name = f"\0iocpcore-test-{os.getpid()}"
    opened.append(_server_sockets.listen_path(name, SocketOptions()))
    assert opened[0].file is None
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(opened[0].address)


@pytest.mark.parametrize(
    ("host", "port", "path"),
    [
        ("/run/x.sock", None, True),
        ("./x.sock", None, True),
        ("\0name", None, True),
        ("127.0.0.1", None, False),
        ("localhost", 80, False),
        (None, None, False),
    ],
)
def test_what_is_a_path(host, port, path):
    assert _server_sockets.is_path(host, port) == path


def test_what_is_a_pipe():
    assert _server_sockets.is_pipe(r"\\.\pipe\x", None)
    assert _server_sockets.is_pipe(r"\\.\PIPE\x", None)
    assert not _server_sockets.is_pipe(r"\\.\pipe\x", 80)
    assert not _server_sockets.is_pipe("/run/x", None)
