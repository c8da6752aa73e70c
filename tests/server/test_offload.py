"""offload() and call_later(): they come back to the connection, in turn, and not after its end."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager

import iocpcore
import pytest
from iocpcore import Connection, LengthPrefixed
from support.callbacks import ignore
from support.events import Events
from support.system import LIMIT, scaled, wait_until


def offloads(make_server, dial, on_message):
    server = make_server(on_message=on_message, framing=iocpcore.Delimited(b"\n"))
    conn = dial(server, on_message=lambda conn, message: None, framing=iocpcore.Delimited(b"\n"))
    conn.send(b"first\nsecond\n")


@pytest.mark.found_in_use
def test_serial_offloads_overlap(make_server, dial):
    """The end of one does not let go what another one still holds."""
    events, go_on = Events(), threading.Event()

    def on_message(conn, message):
        events.add(message)
        if message == b"first":
            conn.offload(int, then=lambda conn, _: events.add("short"), serial=True)
            conn.offload(go_on.wait, LIMIT, then=lambda conn, _: events.add("long"), serial=True)

    offloads(make_server, dial, on_message)
    events.wait(2)
    time.sleep(0.05)  # for what must not come
    go_on.set()
    assert events.wait(4) == [b"first", "short", "long", b"second"]


@pytest.mark.found_in_use
def test_serial_offload_after_another(make_server, dial):
    """The same if `then` begins the other one."""
    events = Events()

    def then(conn, _):
        events.add("one")
        conn.offload(time.sleep, 0.05, then=lambda conn, _: events.add("two"), serial=True)

    def on_message(conn, message):
        events.add(message)
        if message == b"first":
            conn.offload(int, then=then, serial=True)

    offloads(make_server, dial, on_message)
    assert events.wait(4) == [b"first", "one", "two", b"second"]


@pytest.mark.found_in_use
def test_cancelled_error_of_then(make_server, dial):
    """It is an exception as any other one."""
    events = Events()

    def then(conn, result):
        raise CancelledError("mine")

    server = make_server(
        on_connect=lambda conn: conn.offload(int, then=then),
        on_error=lambda conn, error: events.add(str(error)),
    )
    dial(server)
    assert events.wait(1) == ["mine"]


@pytest.mark.found_in_use
def test_call_later_that_fails_leaves_nothing(make_server, dial):
    server = make_server()
    conn = dial(server)

    def callback() -> None: ...

    for wrong in (-1, float("nan"), "1", True):
        with pytest.raises((ValueError, TypeError), match="seconds must"):
            conn.call_later(wrong, callback)
    gone = weakref.ref(callback)
    del callback
    gc.collect()
    assert gone() is None
    conn.abort()
    with pytest.raises(TypeError, match="seconds must"):
        conn.call_later("1", print)


def test_offload_is_on_the_strand(make_server, dial):
    """What comes back never overlaps with another callback of the connection."""
    inside, events, count = threading.Lock(), Events(), scaled(200, 20)

    @contextmanager
    def alone(name: str) -> Iterator[None]:
        if not inside.acquire(blocking=False):
            events.add("overlap")
        yield
        inside.release()
        events.add(name)

    def back(conn: Connection, result: int) -> None:
        with alone("back"):
            time.sleep(0)

    def on_message(conn: Connection, message: bytes) -> None:
        with alone("message"):
            conn.offload(len, message, then=back)
            conn.call_later(0, later)

    def later() -> None:
        with alone("later"):
            pass

    framing = LengthPrefixed(2)
    server = make_server(on_message=on_message, framing=framing, workers=4, concurrency=4)
    client = dial(server, on_message=ignore, framing=framing)
    for _ in range(count):
        client.send_message(b"x")
    found = events.wait(3 * count)
    assert sorted(found) == ["back"] * count + ["later"] * count + ["message"] * count


@pytest.mark.parametrize("serial", [False, True])
def test_serial_offload(make_server, dial, serial):
    """With serial=True the next message waits until `then` has returned."""
    let_go, events, framing = threading.Event(), Events(), LengthPrefixed(2)

    def on_message(conn: Connection, message: bytes) -> None:
        events.add(message)
        if message == b"first":
            conn.offload(
                let_go.wait, LIMIT, then=lambda conn, result: events.add("then"), serial=serial
            )

    server = make_server(on_message=on_message, framing=framing, workers=2)
    client = dial(server, on_message=ignore, framing=framing)
    for message in (b"first", b"second", b"third"):
        client.send_message(message)
    try:
        if serial:
            events.wait(1)
            wait_until(lambda: client.pending_bytes == 0, "that all has been sent")
        else:
            events.wait(3)
    finally:
        let_go.set()
    found = events.wait(4)
    expected = [b"first", "then", b"second", b"third"]
    assert found == (expected if serial else [b"first", b"second", b"third", "then"])


@pytest.mark.parametrize("serial", [False, True])
def test_offload_that_raises(make_server, dial, serial):
    events = Events()

    def on_data(conn: Connection, data: bytes) -> None:
        conn.offload(int, "no number", then=lambda conn, _: events.add("then"), serial=serial)

    server = make_server(
        on_data=on_data,
        on_error=lambda conn, error: events.add(type(error)),
        on_close=lambda conn, error: events.add(("close", type(error))),
    )
    dial(server).send(b"x")
    assert events.wait(2) == [ValueError, ("close", ValueError)]


def test_after_the_end(make_server, dial):
    """Neither offload() nor call_later() comes back to a connection that has ended."""
    let_go, events, timers = threading.Event(), Events(), []

    def on_data(conn: Connection, data: bytes) -> None:
        conn.offload(let_go.wait, LIMIT, then=lambda conn, _: events.add("then"))
        timers.append(conn.call_later(3600, events.add, "timer"))
        timers.append(conn.call_later(0.01, events.add, "timer"))
        conn.close()

    def on_close(conn: Connection, error: BaseException | None) -> None:
        events.add("close")
        conn.offload(events.add, "offloaded", then=lambda conn, _: events.add("then"))
        timers.append(conn.call_later(0, events.add, "timer"))

    server = make_server(on_data=on_data, on_close=on_close)
    dial(server).send(b"x")
    events.wait_for("close")
    let_go.set()
    events.wait_for("offloaded")
    wait_until(lambda: server.stats()["port_in_flight"] <= 2, "the timers")
    for timer in timers:
        timer.cancel()
    timers.clear()
    server.stop()
    assert [event for event in events.items if event in ("then", "timer")] == []


def test_timers_in_order(make_server, dial):
    events = Events()

    def on_connect(conn: Connection) -> None:
        conn.call_later(0.05, events.add, "third")
        conn.call_later(0.03, events.add, "second")
        conn.call_later(0.01, events.add, "first")
        conn.call_later(0.02, events.add, "never").cancel()

    server = make_server(on_connect=on_connect)
    dial(server)
    assert events.wait(3) == ["first", "second", "third"]


def test_offload_and_call_later(make_server, dial):
    events = Events()

    def on_data(conn: Connection, data: bytes) -> None:
        conn.offload(threading.current_thread, then=lambda c, thread: c.send(thread.name.encode()))
        conn.call_later(0.01, events.add, "later")

    server = make_server(on_data=on_data)
    dial(server, on_data=lambda c, data: events.add(data)).send(b"x")
    items = events.wait(2)
    assert "later" in items
    assert any(item.startswith(b"iocpcore-offload") for item in items if item != "later")


def test_an_executor_of_ones_own(make_server, dial):
    from concurrent.futures import ThreadPoolExecutor

    events = Events()
    with ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
        server = make_server(
            on_data=lambda c, _: c.offload(
                threading.current_thread, then=lambda _, thread: events.add(thread.name)
            ),
            executor=executor,
        )
        dial(server).send(b"x")
        assert events.wait() == ["mine_0"]
        server.stop()
        executor.submit(int).result()  # it is still there
