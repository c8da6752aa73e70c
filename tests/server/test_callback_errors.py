"""Callbacks that raise: who is told, and what becomes of the connection."""

from __future__ import annotations

import sys
import threading

import pytest
from iocpcore import Connection, LengthPrefixed
from support.callbacks import ignore
from support.events import Events
from support.system import LIMIT, wait_until


def test_on_error(make_server, dial):
    """Told what was raised; that connection closes, and no other."""
    events = Events()

    def on_data(conn: Connection, data: bytes) -> None:
        if data == b"bad":
            raise ArithmeticError("bad")
        conn.send(data)

    server = make_server(
        on_data=on_data, on_error=events.recorder("error"), on_close=events.recorder("close")
    )
    answers, ends = Events(), Events()
    other = dial(server, on_data=lambda c, data: answers.add(data))
    conn = dial(server, on_close=ends.recorder("end"))
    conn.send(b"bad")
    (_, told), (_, closed) = events.wait(2)
    assert type(told) is ArithmeticError
    assert closed is told
    assert ends.wait() == [("end", None)]
    other.send(b"good")
    assert answers.wait() == [b"good"]


@pytest.mark.parametrize("name", ["on_connect", "on_data", "on_eof", "on_close"])
def test_what_nobody_is_told_of(make_server, dial, unraisable, name):
    def fail(*args: object) -> None:
        raise ArithmeticError(name)

    server = make_server(**{name: fail})
    conn = dial(server)
    conn.send(b"x")
    conn.shutdown()
    wait_until(lambda: unraisable, "what was raised")
    wait_until(lambda: not server.connections, "the end of the connection")
    conn.abort()
    assert [type(error) for error in unraisable] == [ArithmeticError]


def test_on_close_is_the_last(make_server, dial, unraisable):
    """What it raises goes to nobody's on_error."""
    events = Events()

    def on_close(*args: object) -> None:
        events.add("close")
        raise ArithmeticError

    server = make_server(on_close=on_close, on_error=events.recorder("error"))
    dial(server).close()
    wait_until(lambda: unraisable, "what was raised")
    wait_until(lambda: not server.connections, "the end of the connection")
    assert events.items == ["close"]


def test_on_error_that_raises(make_server, dial, unraisable):
    def fail(*args: object) -> None:
        raise ArithmeticError(len(args))

    server = make_server(on_data=fail, on_error=fail)
    dial(server).send(b"x")
    wait_until(lambda: unraisable, "what was raised")
    wait_until(lambda: not server.connections, "the end of the connection")


@pytest.mark.parametrize("where", ["on_connect", "on_message", "on_eof", "on_close"])
def test_a_callback_that_raises(make_server, dial, unraisable, where):
    """Only its connection ends, with on_error first."""
    events, answers, framing = Events(), Events(), LengthPrefixed(4)

    class Handler:
        def _act(self, name: str, conn: Connection) -> None:
            if conn.id in raising and name == where:
                raise ValueError(name)

        def on_connect(self, conn: Connection) -> None:
            if not raising:
                raising.add(conn.id)
            self._act("on_connect", conn)

        def on_message(self, conn: Connection, message: bytes) -> None:
            self._act("on_message", conn)
            conn.send_message(message)

        def on_eof(self, conn: Connection) -> None:
            self._act("on_eof", conn)
            conn.close()

        def on_error(self, conn: Connection, error: BaseException) -> None:
            events.add(("error", str(error)))

        def on_close(self, conn: Connection, error: BaseException | None) -> None:
            if conn.id in raising:
                events.add(("close", str(error)))
            self._act("on_close", conn)

    raising: set[int] = set()
    server = make_server(Handler(), framing=framing)
    bad = dial(server, on_message=ignore, framing=framing)
    wait_until(lambda: raising, "the first one")
    good = dial(server, on_message=lambda conn, data: answers.add(data), framing=framing)
    bad.send_message(bytes(1000))
    if where in ("on_eof", "on_close"):
        bad.close()
    found = events.wait(1 if where == "on_close" else 2)
    if where == "on_close":
        wait_until(lambda: unraisable or len(events) > 1, "where it goes")
    else:
        assert found[:2] == [("error", where), ("close", where)]
    good.send_message(b"still there")
    assert answers.wait() == [b"still there"]
    bad.abort()


@pytest.mark.found_in_use
def test_on_error_may_exit(make_server, dial):
    """SystemExit stops the server, from this callback too."""
    server = make_server(
        on_data=lambda conn, data: 1 / 0, on_error=lambda conn, error: sys.exit(3), start=False
    )
    raised = []

    def serve():
        try:
            server.serve_forever()
        except SystemExit as error:
            raised.append(error.code)

    thread = threading.Thread(target=serve)
    thread.start()
    dial(server).send(b"x")
    thread.join(LIMIT)
    assert raised == [3]
