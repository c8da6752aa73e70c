"""A stage whose methods cannot be had: nothing is sent past it."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress

import pytest
from iocpcore import Connection, _tls
from support.certificates import HOST, client_context, server_context
from support.system import wait_until


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
