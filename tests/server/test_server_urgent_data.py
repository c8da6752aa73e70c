"""Urgent data in a stream: at it the kernel ends receives early, and says that there is nothing
where there is something. Whatever a peer mixes, all of it arrives, its end is heard of, and nothing
is left behind."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import iocpcore
import pytest
from iocpcore import Connection
from support import system
from support.events import Events
from support.net import reset
from support.system import LIMIT, scaled, wait_until

pytestmark = [
    pytest.mark.found_in_use,
    pytest.mark.system,
    pytest.mark.skipif(system.WINDOWS, reason="Wine's urgent data is not the kernel's"),
]

CLIENTS = 400


def mixed(urgent: int, seed: int | None = None) -> Iterator[tuple[bytes, int]]:
    """Pieces to send, and their flags: bytes and urgent bytes in turn, or in random places."""
    if seed is None:
        for _ in range(urgent):
            yield b"x", 0
            yield b"!", socket.MSG_OOB
    else:
        places = random.Random(seed)
        for _ in range(urgent):
            for _ in range(places.randrange(3)):
                yield b"x" * places.randrange(1, 2000), 0
            for _ in range(1 + places.randrange(2)):
                yield b"!", socket.MSG_OOB
    yield b"x", 0


def talk(sock: socket.socket, urgent: int, seed: int | None, end: str) -> int:
    """Sends all that, and its end. How many bytes of it are no urgent ones."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ordinary = 0
    for piece, flags in mixed(urgent, seed):
        sock.send(piece, flags)
        ordinary += 0 if flags else len(piece)
    if end == "reset":
        reset(sock)
    else:
        sock.shutdown(socket.SHUT_WR)
    return ordinary


def nothing_left(server: iocpcore.Server, before: int) -> None:
    wait_until(lambda: not server.connections, "the end of all connections")
    wait_until(
        lambda: len(system.descriptors()) <= before + system.HANDLE_TOLERANCE, "their descriptors"
    )


@pytest.mark.parametrize("end", ["end", "reset"])
@pytest.mark.parametrize("urgent", [5, 20, 40, 200, 2000])
def test_clients_that_have_gone(make_server, urgent, end):
    server = make_server(on_data=lambda conn, data: None)
    before = len(system.descriptors())
    count = scaled(CLIENTS if urgent <= 40 else CLIENTS // 4, 10)
    for _ in range(count if urgent < 2000 else scaled(20, 3)):
        with socket.create_connection(server.addresses[0], LIMIT) as sock:
            talk(sock, urgent, None, end)
    nothing_left(server, before)


@pytest.mark.parametrize("inline", [False, True])
def test_in_random_places(make_server, inline):
    """Each client hears the end of the server's stream, after all bytes have been seen: those that
    are not urgent, or, where the user wants them in the stream, all."""
    seen = Events()
    counts: dict[Connection, int] = {}

    def on_data(conn: Connection, data: bytes) -> None:
        counts[conn] = counts.get(conn, 0) + len(data.replace(b"!", b""))

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        if inline:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        server = make_server(
            on_data=on_data,
            on_close=lambda conn, error: seen.add((counts.pop(conn, 0), error)),
            listen=False,
            start=False,
        )
        server.listen(listener)
        server.start()
        for seed in range(scaled(CLIENTS, 10)):
            with socket.create_connection(server.addresses[0], LIMIT) as sock:
                ordinary = talk(sock, 1 + seed % 50, seed, "end")
                assert sock.recv(1) == b"", seed
            assert seen.wait(seed + 1)[seed] == (ordinary, None), seed
    assert not counts


@pytest.mark.parametrize("urgent", [5, 40, 200])
def test_a_server_that_sends_it(client_port, urgent):
    """What a client receives."""
    seen = Events()
    counts = [0]

    def on_data(conn: Connection, data: bytes) -> None:
        counts[-1] += len(data.replace(b"!", b""))

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        for seed in range(scaled(CLIENTS // 4, 5)):
            iocpcore.connect(
                *listener.getsockname(),
                timeout=LIMIT,
                completion_port=client_port(),
                on_data=on_data,
                on_close=lambda conn, error: seen.add((counts[-1], error)),
            )
            with listener.accept()[0] as sock:
                ordinary = talk(sock, urgent, seed if seed % 2 else None, "end")
                assert sock.recv(1) == b"", seed
            assert seen.wait(seed + 1)[seed] == (ordinary, None), seed
            counts.append(0)
