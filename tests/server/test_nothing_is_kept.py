"""A connection that has ended, and a server that is gone, leave nothing behind."""

from __future__ import annotations

import gc
import weakref

import pytest
from iocpcore import Connection, LengthPrefixed
from support.callbacks import ignore
from support.events import Events
from support.system import FREE_THREADED, wait_until


def is_gone(there: weakref.ref[object]) -> bool:
    if FREE_THREADED:  # counts of several threads are put together by the collector at the latest
        gc.collect()
    return there() is None


class Thing:
    """Something to hold a weak reference to."""


@pytest.mark.parametrize("ending", ["close", "abort", "peer", "raise", "bad message", "stop"])
def test_nothing_keeps_a_connection(make_server, dial, ending):
    """What a connection held is free after on_close, without the collector's help."""
    events, things = Events(), []
    framing = LengthPrefixed(4, max_size=100)

    def on_connect(conn: Connection) -> None:
        conn.context = thing = Thing()
        things.append(weakref.ref(thing))
        conn.call_later(3600, conn.close)
        conn.offload(int, then=lambda conn, _: None)

    def on_message(conn: Connection, message: bytes) -> None:
        if ending == "raise":
            raise ValueError
        if ending in ("close", "abort"):
            getattr(conn, ending)()

    server = make_server(
        on_connect=on_connect,
        on_message=on_message,
        on_error=lambda conn, error: None,
        on_close=lambda conn, error: events.add("close"),
        framing=framing,
    )
    gc.collect()
    gc.disable()
    try:
        client = dial(server, on_message=ignore, framing=LengthPrefixed(4))
        client.send_message(bytes(101) if ending == "bad message" else b"x")
        if ending == "peer":
            client.close()
        if ending == "stop":
            wait_until(lambda: things, "the connection")
            server.stop()
        events.wait()
        wait_until(lambda: is_gone(things[0]), "the end of what it held")
    finally:
        gc.enable()


def test_nothing_keeps_a_server(make_server, dial):
    server = make_server(on_data=Connection.send)
    client = dial(server)
    there = weakref.ref(server)
    server.stop()
    del server, client
    make_server.__closure__[1].cell_contents.clear()
    wait_until(lambda: gc.collect() >= 0 and there() is None, "the end of the server")
