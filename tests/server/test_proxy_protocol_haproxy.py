"""Behind a real proxy: Debian's haproxy, with both versions of the PROXY protocol."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certificates import HOST, client_context, server_context
from support.events import Events
from support.streams import read_all, read_exactly
from support.system import LIMIT, WINDOWS, wait_until

SEARCHED = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin"  # users' paths lack that
HAPROXY = None if WINDOWS else shutil.which("haproxy", path=SEARCHED)

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed"),
]

CONFIGURATION = """\
global
    quiet
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend front
    bind fd@{fd}
    default_backend back
backend back
    server one {host}:{port} {options}
"""

VERSIONS = ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"]


@pytest.fixture
def haproxy(tmp_path: Path, ends_at_zero: None) -> Iterator[Callable[..., tuple[str, int]]]:
    """Starts one in front of a server; the address that clients connect to."""
    running: list[subprocess.Popen[bytes]] = []

    def start(server: Any, options: str) -> tuple[str, int]:
        # The proxy is given the socket, so that its port is known and clients may come at once.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            host, port = server.addresses[0][:2]
            file = tmp_path / f"haproxy{len(running)}.cfg"
            file.write_text(
                CONFIGURATION.format(fd=listener.fileno(), host=host, port=port, options=options)
            )
            running.append(
                subprocess.Popen(
                    [str(HAPROXY), "-db", "-f", str(file)],
                    pass_fds=[listener.fileno()],
                    stdin=subprocess.DEVNULL,
                )
            )
            return listener.getsockname()

    yield start
    for process in running:
        process.terminate()
        process.wait(LIMIT)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, "iocpcore")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "iocpcore"]


def answer_with_address(conn: Any, data: bytes) -> None:
    conn.send("{}:{} ".format(*conn.peername).encode() + data)


@pytest.mark.parametrize("options", VERSIONS)
def test_the_client_is_known(make_server, haproxy, lines, options):
    connected = Events()
    server = make_server(
        on_connect=lambda conn: connected.add(conn.peername),
        on_data=answer_with_address,
        proxy_protocol=["127.0.0.1"],
    )
    address = haproxy(server, options)
    for _ in range(3):
        with socket.create_connection(address, LIMIT) as sock:
            sock.sendall(b"hello")
            sock.shutdown(socket.SHUT_WR)
            own = "{}:{}".format(*sock.getsockname())
            assert read_all(sock) == f"{own} hello".encode()
            assert sock.getsockname() in connected.items
    assert not lines()


@pytest.mark.parametrize("options", VERSIONS)
def test_a_server_that_speaks_first(make_server, haproxy, options):
    server = make_server(
        on_connect=lambda conn: conn.send("{}:{}".format(*conn.peername).encode()),
        proxy_protocol=["127.0.0.0/8"],
    )
    with socket.create_connection(haproxy(server, options), LIMIT) as sock:
        own = "{}:{}".format(*sock.getsockname()).encode()
        assert read_exactly(sock, len(own)) == own


@pytest.mark.parametrize("options", VERSIONS)
def test_tls_through_the_proxy(make_server, haproxy, options):
    """The header comes first and in the clear, TLS after it."""
    server = make_server(
        on_data=answer_with_address, ssl=server_context(), proxy_protocol=["127.0.0.1"]
    )
    with socket.create_connection(haproxy(server, options), LIMIT) as raw:
        own = "{}:{}".format(*raw.getsockname())
        with client_context().wrap_socket(raw, server_hostname=HOST) as sock:
            sock.sendall(b"hello")
            expected = f"{own} hello".encode()
            assert read_exactly(sock, len(expected)) == expected


@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2"])
def test_health_checks(make_server, haproxy, lines, options):
    """The proxy's own connections have its own address, and nobody is warned of them."""
    connected = Events()
    server = make_server(
        on_connect=lambda conn: connected.add(conn.peername), proxy_protocol=["127.0.0.1"]
    )
    address = haproxy(server, f"{options} check inter 50 check-send-proxy")
    wait_until(lambda: server.stats()["accepted"] >= 3, "three checks")
    with socket.create_connection(address, LIMIT) as sock:
        wait_until(lambda: sock.getsockname() in connected.items, "the client")
    assert {host for host, _ in connected.items} == {"127.0.0.1"}
    assert not lines()


@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2"])
def test_a_proxy_that_is_not_trusted(make_server, haproxy, lines, options):
    """Its header is not believed, and not served either."""
    got = Events()
    server = make_server(on_data=lambda conn, data: got.add(data), proxy_protocol=["192.0.2.0/24"])
    with socket.create_connection(haproxy(server, options), LIMIT) as sock:
        sock.sendall(b"hello")
        assert read_all(sock) == b""
    wait_until(lines, "a line in the log")
    assert len(lines()) == 1
    assert lines()[0].startswith("connection from 127.0.0.1:")
    assert lines()[0].endswith("closed: a PROXY header from a peer that is not trusted")
    assert not got.items


def test_a_proxy_that_sends_no_header(make_server, haproxy, lines):
    server = make_server(on_data=answer_with_address, proxy_protocol=["127.0.0.1"])
    with socket.create_connection(haproxy(server, ""), LIMIT) as sock:
        sock.sendall(b"hello")
        assert read_all(sock) == b""
    wait_until(lines, "a line in the log")
    assert "no PROXY header, but b'hello'" in lines()[0]


@pytest.mark.stress
def test_many_clients(make_server, haproxy):
    server = make_server(on_data=answer_with_address, proxy_protocol=["127.0.0.1"], workers=3)
    address = haproxy(server, "send-proxy-v2")
    failures: list[BaseException] = []

    def client() -> None:
        try:
            for _ in range(20):
                with socket.create_connection(address, LIMIT) as sock:
                    sock.sendall(b"x")
                    sock.shutdown(socket.SHUT_WR)
                    assert read_all(sock) == "{}:{} x".format(*sock.getsockname()).encode()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=client) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert not failures
