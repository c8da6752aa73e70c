"""How TLS streams end, on every backend, for servers and for clients.

The far side is a plain connection that does its TLS by itself, so that its stream can be cut
anywhere.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from typing import Any

import pytest
from iocpcore import Connection, Server
from support.certificates import (
    HOST,
    IGNORE_UNEXPECTED_EOF,
    VERSIONS,
    accepting_ragged_ends_is_a_choice,
    client_context,
    server_context,
)
from support.events import Events
from support.system import wait_until

by_version = pytest.mark.parametrize("which", VERSIONS)
by_side = pytest.mark.parametrize("side", ["server", "client"])


class Far:
    """Callbacks of the plain connection. Its events: ready, close_notify, end, close."""

    def __init__(self, context: ssl.SSLContext, server_side: bool) -> None:
        self.events = Events()
        self.data = bytearray()
        self.conn: Any = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else HOST
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side, name)
        self._lock = threading.Lock()  # the test's thread makes records, too
        self._ready = self._told = False

    def on_connect(self, conn: Any) -> None:
        self.conn = conn
        self._step()

    def on_data(self, conn: Any, raw: bytes) -> None:
        self._incoming.write(raw)
        self._step()

    def on_eof(self, conn: Any) -> None:
        self.events.add("end")

    def on_close(self, conn: Any, error: BaseException | None) -> None:
        self.events.add("close")

    def send(self, made: bytes) -> None:
        self.conn.send(made)

    def seal(self, data: bytes, goodbye: bool = False) -> bytes:
        """The records of this, and of close_notify."""
        with self._lock:
            self._tls.write(data)
            if goodbye:
                with pytest.raises(ssl.SSLWantReadError):  # it would wait for the other one
                    self._tls.unwrap()
            return self._outgoing.read()

    def _step(self) -> None:
        with self._lock:
            try:
                self._advance()
            except ssl.SSLWantReadError:
                pass
            made = self._outgoing.read()
        if made:
            self.send(made)

    def _advance(self) -> None:
        if not self._ready:
            self._tls.do_handshake()
            self._ready = True
            self.events.add("ready")
        try:
            while part := self._tls.read(1 << 16):
                self.data += part
        except ssl.SSLZeroReturnError:  # instead of nothing, behind a goodbye of its own
            pass
        if not self._told:
            self._told = True
            self.events.add("close_notify")


class Near:
    """Callbacks of the connection that is looked at."""

    def __init__(self) -> None:
        self.events = Events()
        self.data = bytearray()
        self.conn: Any = None
        self.error: BaseException | None = None
        self.paused = False
        self.pauses = False  # after each piece of data

    def on_connect(self, conn: Any) -> None:
        self.conn = conn
        self.events.add("connect")

    def on_data(self, conn: Any, data: bytes) -> None:
        assert not self.paused
        self.data += data
        if self.pauses:
            self.pause()
            conn.call_later(0, self.resume)

    def on_eof(self, conn: Any) -> None:
        assert not self.paused
        self.events.add("eof")
        conn.close()

    def on_close(self, conn: Any, error: BaseException | None) -> None:
        self.error = error
        self.events.add("close")

    def pause(self) -> None:
        self.paused = True
        self.conn.pause_receiving()

    def resume(self) -> None:
        self.paused = False
        self.conn.resume_receiving()


Meet = Callable[..., tuple[Near, Far]]


@pytest.fixture
def serve(backend: str, make_server: Callable[..., Server]) -> Callable[..., Server]:
    def serve(handler: object, **options: Any) -> Server:
        if backend == "sim":
            # Its time passes when nobody waits for anything else, and then time limits are up.
            options = {"workers": 1, "concurrency": 1, "handshake_timeout": None, **options}
        return make_server(handler, **options)

    return serve


@pytest.fixture
def meet(serve: Callable[..., Server], dial: Callable[..., Connection]) -> Meet:
    """A connection of this side and version, and its far side, both through the handshake."""

    def meet(
        side: str, which: ssl.TLSVersion, near_options: Any = None, accepting: bool = False
    ) -> tuple[Near, Far]:
        near = Near()
        server, client = server_context(), client_context()
        server.maximum_version = which
        if accepting:
            (server if side == "server" else client).options |= IGNORE_UNEXPECTED_EOF
        if side == "server":
            far = Far(client, False)
            dial(serve(near, ssl=server, **(near_options or {})), handler=far)
        else:
            far = Far(server, True)
            options: dict[str, Any] = {"ssl": client, "server_hostname": HOST}
            dial(serve(far), handler=near, **options, **(near_options or {}))
        far.events.wait_for("ready")
        near.events.wait_for("connect")
        return near, far

    return meet


def told(near: Near) -> tuple[list[Any], BaseException | None]:
    """All that its callbacks were told, once it is closed."""
    near.events.wait_for("close")
    return near.events.items, near.error


@by_side
@by_version
@pytest.mark.parametrize("how", ["together", "split", "and nothing more"])
def test_close_notify(meet, which, side, how):
    """It is a proper end: with data before it and the end of the stream behind, in two pieces, or
    without the end of the stream."""
    near, far = meet(side, which)
    if how == "split":
        far.conn.send(far.seal(b"all"))
        wait_until(lambda: near.data == b"all", "the data")
        before, goodbye = near.conn.bytes_received, far.seal(b"", goodbye=True)
        far.conn.send(goodbye[:-1])
        wait_until(lambda: near.conn.bytes_received == before + len(goodbye) - 1, "all but one")
        far.conn.send(goodbye[-1:])
    else:
        far.conn.send(far.seal(b"all", goodbye=True))
    if how != "and nothing more":
        far.conn.shutdown()
    assert told(near) == (["connect", "eof", "close"], None)
    assert near.data == b"all"
    far.events.wait_for("close_notify")
    far.conn.close()


@by_side
@by_version
@pytest.mark.parametrize("cut", ["behind a record", "in a record", "in close_notify"])
def test_ragged_end(meet, which, side, cut):
    """An error behind what has come. What was accepted arrives, and a proper end behind it."""
    near, far = meet(side, which)
    data = far.seal(b"all")
    records = {
        "behind a record": data,
        "in a record": data[:-1],
        "in close_notify": data + far.seal(b"", goodbye=True)[:-1],
    }
    assert near.conn.send(b"answer")
    far.conn.send(records[cut])
    far.conn.shutdown()
    events, error = told(near)
    assert isinstance(error, ssl.SSLEOFError)
    assert "close_notify" in str(error)
    assert events == ["connect", "close"]
    assert near.data == (b"" if cut == "in a record" else b"all")
    far.events.wait_for("close_notify")
    far.events.wait_for("close")
    assert far.data == b"answer"


@accepting_ragged_ends_is_a_choice
@by_side
@by_version
def test_ragged_end_that_is_accepted(meet, which, side):
    near, far = meet(side, which, accepting=True)
    far.conn.send(far.seal(b"all"))
    far.conn.shutdown()
    assert told(near) == (["connect", "eof", "close"], None)
    assert near.data == b"all"


@by_side
@by_version
@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("proper", [False, True])
def test_end_while_paused(meet, which, side, within, proper):
    """It is told after the pause, behind the data: also if it was decrypted with that already."""
    near, far = meet(side, which, near_options={"read_size": 2} if side == "server" else None)
    if within:
        near.pauses = True
    else:
        near.pause()
    far.conn.send(far.seal(b"all of it", goodbye=proper))
    far.conn.shutdown()
    if not within:
        wait_until(lambda: far.conn.pending_bytes == 0, "everything is on its way")
        near.resume()
    events, error = told(near)
    assert near.data == b"all of it"
    if proper:
        assert (events, error) == (["connect", "eof", "close"], None)
    else:
        assert isinstance(error, ssl.SSLEOFError)
        assert events == ["connect", "close"]
    far.events.wait_for("close_notify")


class FarThatBreaksOff(Far):
    """It sends this much of its first flight, and ends."""

    nbytes = 60

    def send(self, made: bytes) -> None:
        super().send(made[: self.nbytes])
        self.conn.shutdown()


@by_version
def test_end_in_the_handshake_of_a_server(serve, dial, which):
    near = Near()
    server = serve(near, ssl=server_context())
    far = FarThatBreaksOff(client_context(), False)
    dial(server, handler=far)
    wait_until(lambda: server.stats()["failed"] == 1, "the failure")
    far.events.wait_for("close")
    assert near.events.items == []


@by_version
def test_end_in_the_handshake_of_a_client(serve, dial, which):
    context = server_context()
    context.maximum_version = which
    far = FarThatBreaksOff(context, True)
    near = Near()
    with pytest.raises(ssl.SSLEOFError, match="handshake"):
        dial(serve(far), handler=near, ssl=client_context(), server_hostname=HOST)
    assert near.events.items == []
    far.events.wait_for("close")
