"""Fixtures: servers that are stopped after each test, and clients of them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import iocpcore
import pytest
from iocpcore import Connecting, Connection, Server, connect_nowait

from support import inside
from support.stopping import PROMISED, SLACK
from support.system import LIMIT, wait_until


@pytest.fixture
def make_server(backend: str, ends_at_zero: None) -> Iterator[Callable[..., Server]]:
    """Creates servers that listen on loopback and run. They are stopped after the test."""
    made: list[Server] = []

    def make(*args: Any, listen: bool = True, start: bool = True, **options: Any) -> Server:
        server = Server(*args, backend=backend, **options)
        made.append(server)
        if listen:
            server.listen("127.0.0.1", 0)
        if start:
            server.start()
        return server

    yield make
    began = time.monotonic()
    for server in made:
        server.stop(0)
    limit = (1 + len(made)) * (PROMISED + SLACK)
    assert time.monotonic() - began < limit, "stop() took too long"
    inside.stop_default_port()


@pytest.fixture
def client_port(backend: str, ends_at_zero: None) -> Iterator[Callable[[], Any]]:
    """Returns a port for clients, with threads that run it. It is opened on first use."""
    ports: list[iocpcore.CompletionPort] = []
    threads: list[threading.Thread] = []

    def get() -> iocpcore.CompletionPort:
        if not ports:
            ports.append(iocpcore.CompletionPort(1, backend=backend))
            threads.extend(threading.Thread(target=ports[0].run) for _ in range(2))
            for thread in threads:
                thread.start()
        return ports[0]

    yield get
    for port in ports:
        port.stop()
        for thread in threads:
            thread.join(LIMIT)
        port.close()


@pytest.fixture
def dial(backend: str, client_port: Callable[[], Any]) -> Callable[..., Connection]:
    """Connects to a server from another port, or from the same one if it is simulated."""

    def connect(server: Server, **options: Any) -> Connection:
        port = server.completion_port if backend == "sim" else client_port()
        options.setdefault("timeout", LIMIT)
        host, number = server.addresses[0][:2]
        return iocpcore.connect(host, number, completion_port=port, **options)

    return connect


@pytest.fixture
def plain(ends_at_zero: None) -> Iterator[Callable[[Server], socket.socket]]:
    """Connects a plain socket, with a time limit, to a server."""
    made: list[socket.socket] = []

    def connect(server: Server) -> socket.socket:
        made.append(socket.create_connection(server.addresses[0][:2], LIMIT))
        return made[-1]

    yield connect
    for sock in made:
        sock.close()


@pytest.fixture(scope="session")
def localhost() -> str:
    """The name "localhost". Skips the test if it is unknown: /etc/hosts may be missing."""
    try:
        socket.getaddrinfo("localhost", 1, socket.AF_INET)
    except socket.gaierror as error:
        pytest.skip(f"the name localhost is unknown here: {error}")
    return "localhost"


@pytest.fixture
def endpoint(
    port: iocpcore.CompletionPort, workers: Callable[..., Any]
) -> Iterator[Callable[..., iocpcore.Datagram]]:
    """Creates datagram sockets on a port with two threads in run()."""
    made: list[iocpcore.Datagram] = []

    def make(**options: object) -> iocpcore.Datagram:
        if (
            port.backend != "sim"
            and not {"sock", "local_address", "remote_address"} & options.keys()
        ):
            options["local_address"] = ("127.0.0.1", 0)
        made.append(iocpcore.Datagram(completion_port=port, **options))
        return made[-1]

    with workers(port, 2):
        yield make
        for one in made:
            one.close()
        wait_until(lambda: port.in_flight == 0, "the end of all operations")


@pytest.fixture
def nowait(backend, client_port) -> Callable[..., Connecting]:
    """connect_nowait() to a server."""

    def call(server: iocpcore.Server, **options: object) -> Connecting:
        port = server.completion_port if backend == "sim" else client_port()
        return connect_nowait(*server.addresses[0][:2], completion_port=port, **options)

    return call
