"""Memory that is missing at one moment costs one client at most: not its place, nor the end of the
server, nor what protects the others."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress

import pytest
from iocpcore import Connection, Server, _tls
from support.certificates import HOST, client_context, server_context
from support.memory import refused
from support.system import LIMIT, wait_until

MOMENTS = range(60)  # which allocation is refused, while the last client goes


@pytest.fixture
def server(make_server, unraisable):
    """It takes one client of an address, and is run by serve(), in the test's own thread."""
    server = make_server(on_data=Connection.send, max_connections_per_address=1, start=False)
    server._listeners.begin()
    return server


def serve(server: Server, connections: int, moment: int | None = None) -> None:
    """Until there are so many; one allocation of each turn is refused."""
    deadline = time.monotonic() + LIMIT
    while server.stats()["connections"] != connections:
        assert time.monotonic() < deadline
        with suppress(MemoryError), nullcontext() if moment is None else refused(moment):
            server.completion_port.get(0.01)


@pytest.mark.system
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_last_client_goes(server, plain, moment):
    """Its place is free again, and nothing that stop() needs is held for ever."""
    client = plain(server)
    serve(server, 1)
    client.close()
    serve(server, 0, moment)
    plain(server)
    serve(server, 1)
    assert server.stats()["refused"] == 0
    stopping = threading.Thread(target=server.stop, args=(0,))
    stopping.start()
    stopping.join(LIMIT)
    assert not stopping.is_alive()


def refuse_lookup(monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    """Asking stages for their send() fails this time, and no other."""
    send: Callable[..., bool] = _tls.TLSStage.send
    lookups = iter(range(1_000_000))

    def look_up(stage: _tls.TLSStage) -> Callable[..., bool]:
        if next(lookups) == which:
            raise MemoryError
        return send.__get__(stage)

    monkeypatch.setattr(_tls.TLSStage, "send", property(look_up))


@pytest.mark.system
@pytest.mark.parametrize(
    ("which", "header"), [(0, b""), (0, b"PROXY UNKNOWN\r\n"), (1, b"PROXY UNKNOWN\r\n")]
)
def test_a_stage_that_cannot_be_used_sends_nothing(make_server, plain, monkeypatch, which, header):
    """The client never exists for its user, and hears nothing unencrypted."""
    refuse_lookup(monkeypatch, which)
    server = make_server(
        on_connect=lambda conn: conn.send(b"secret"),
        ssl=server_context(),
        proxy_protocol=["127.0.0.1"] if header else None,
    )
    client = plain(server)
    bios = ssl.MemoryBIO(), ssl.MemoryBIO()
    side = client_context().wrap_bio(*bios, server_hostname=HOST)
    with suppress(ssl.SSLWantReadError):
        side.do_handshake()
    got = b""
    with suppress(ConnectionError):
        client.sendall(header + bios[1].read())
        while data := client.recv(65536):
            got += data
    client.close()
    assert b"secret" not in got
    wait_until(lambda: server.stats()["failed"] == 1, "the end of the connection")


def test_a_client_whose_stage_cannot_be_used(make_server, dial, monkeypatch):
    server = make_server(on_data=Connection.send)  # without TLS: only the client's is looked up
    refuse_lookup(monkeypatch, 0)
    with pytest.raises(MemoryError):
        dial(server, on_data=Connection.send, ssl=client_context(), server_hostname=HOST)
