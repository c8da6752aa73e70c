"""Servers behind a proxy: whom they believe, and what they log."""

from __future__ import annotations

import logging

import iocpcore
import pytest
from iocpcore import ProxyProtocolError
from support.events import Events
from support.proxy_headers import VALID
from support.system import wait_until


@pytest.mark.parametrize("nbytes", [1, 1000])
@pytest.mark.parametrize("name", ["v1 tcp4", "v2 tlvs", "v2 local"])
def test_a_server_behind_a_proxy(make_server, dial, logged, name, nbytes):
    """The header may come in any parts; on_connect waits for it and knows the client."""
    header, address = VALID[name]
    events = Events()
    server = make_server(
        on_connect=lambda conn: events.add(("connect", conn.peername)),
        on_data=lambda conn, data: events.add(data),
        proxy_protocol=["0.0.0.0/0"],
        handshake_timeout=None,
    )
    conn = dial(server)
    for at in range(0, len(header), nbytes):
        assert conn.send(header[at : at + nbytes])
    conn.send(b"data")
    events.wait_for(b"data")
    own = conn.sockname
    assert events.items == [("connect", own if address is None else address), b"data"]
    assert not logged()


@pytest.mark.parametrize("trusted", [True, False])
def test_a_server_that_refuses(make_server, dial, logged, trusted):
    """A malformed header, or one of a peer that is not trusted, and one line in the log."""
    events, closed = Events(), Events()
    server = make_server(
        on_data=lambda conn, data: events.add(data),
        on_close=lambda conn, error: closed.add(error),
        proxy_protocol=["0.0.0.0/0"] if trusted else [],
        handshake_timeout=None,
    )
    ended = Events()
    conn = dial(server, on_close=lambda conn, error: ended.add(error))
    conn.send(b"PROXY nonsense\r\nGET /")
    ended.wait()
    wait_until(logged, "a line in the log")
    assert len(logged()) == 1
    assert not events.items
    if not trusted:
        assert isinstance(closed.wait()[0], ProxyProtocolError)


def test_half_a_header_and_silence(make_server, dial, caplog):
    caplog.set_level(logging.INFO, "iocpcore")
    events, ended = Events(), Events()
    server = make_server(
        on_connect=events.recorder("connect"),
        on_close=events.recorder("close"),
        proxy_protocol=["0.0.0.0/0"],
        handshake_timeout=0.2,
    )
    conn = dial(server, on_close=lambda conn, error: ended.add(error))
    conn.send(b"PROXY TCP4 ")
    ended.wait()
    wait_until(lambda: "handshake_timeout" in caplog.text, "a line in the log")
    assert not events.items


def test_arguments_of_a_server(backend):
    with pytest.raises(TypeError, match="proxy_protocol"):
        iocpcore.Server(proxy_protocol="10.0.0.0/8", backend=backend)
    with pytest.raises(ValueError, match="proxy_protocol"):
        iocpcore.Server(proxy_protocol=["10.0.0.1/8"], backend=backend)
