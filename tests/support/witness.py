"""Handlers that detect faults.

They are callbacks that overlap, are called twice or in the wrong order, and messages that are lost,
torn or out of order.
"""

from __future__ import annotations

import random
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from iocpcore import Connection, LengthPrefixed

from support.events import Events

HEADER = struct.Struct(">II")  # source, sequence number
FRAMING = LengthPrefixed(4)


def message(source: int, number: int, size: int) -> bytes:
    return HEADER.pack(source, number) + bytes([number & 255]) * size


class Sender:
    """Sends numbered messages of one source. Once send_message() returns False, it always must."""

    def __init__(self, source: int) -> None:
        self.source = source
        self.accepted = 0
        self.refused = False

    def send(self, conn: Connection, size: int) -> str:
        """Send one message. Returns a description of the fault, or ""."""
        if conn.send_message(message(self.source, self.accepted, size)):
            self.accepted += 1
            return "send() after one that was refused" if self.refused else ""
        self.refused = True
        return ""


class Witness:
    """Checks the callbacks and messages at one end of a connection."""

    def __init__(self, number: int, faults: Events) -> None:
        self.number = number
        self.random = random.Random(number)
        self.sender = Sender(0)
        self.received: dict[int, int] = {}  # source: messages
        self.peer = 0  # the other end's source
        self.plan: tuple[str, str] | None = None
        self.error: BaseException | None = None
        self._faults = faults
        self._inside = threading.Lock()
        self._connects = self._closes = 0

    def fault(self, what: str) -> None:
        self._faults.add(f"connection {self.number} ({self.plan}): {what}")

    @contextmanager
    def callback(self, name: str) -> Iterator[None]:
        if not self._inside.acquire(blocking=False):
            self.fault(f"{name} overlaps with another callback")
            yield
            return
        try:
            self._check_order(name)
            if self.random.random() < 0.1:
                time.sleep(0)  # lets other threads in
            yield
        finally:
            self._inside.release()

    def _check_order(self, name: str) -> None:
        if self._closes:
            self.fault(f"{name} after on_close")
        if name == "on_connect":
            self._connects += 1
            if self._connects != 1:
                self.fault("on_connect twice")
        elif not self._connects:
            self.fault(f"{name} before on_connect")
        self._closes += name == "on_close"

    def check_message(self, data: bytes) -> None:
        source, number = HEADER.unpack_from(data)
        expected = self.received.get(source, 0)
        if number != expected:
            self.fault(f"message {number} of {source}, {expected} was due")
        if data[HEADER.size :].strip(bytes([number & 255])):
            self.fault(f"message {number} of {source} is torn")
        self.received[source] = number + 1

    def send(self, conn: Connection, size: int) -> None:
        if wrong := self.sender.send(conn, size):
            self.fault(wrong)


class Handler:
    """The callbacks of one side. They check each call, then call begin() or act()."""

    def __init__(self, faults: Events) -> None:
        self.faults = faults
        self.closed = Events()

    def begin(self, witness: Witness, conn: Connection) -> None:
        """Called in on_connect, for subclasses."""

    def act(self, witness: Witness, conn: Connection, size: int) -> None:
        """Called in on_message with the size of the payload, for subclasses."""

    def witness(self, conn: Connection, name: str) -> Witness:
        if conn.context is None:
            if name != "on_connect":
                self.faults.add(f"{name} before on_connect")
            conn.context = Witness(conn.id, self.faults)
        witness: Witness = conn.context
        return witness

    def on_connect(self, conn: Connection) -> None:
        witness = self.witness(conn, "on_connect")
        with witness.callback("on_connect"):
            self.begin(witness, conn)

    def on_message(self, conn: Connection, data: bytes) -> None:
        witness = self.witness(conn, "on_message")
        with witness.callback("on_message"):
            witness.check_message(data)
            self.act(witness, conn, len(data) - HEADER.size)

    def on_drain(self, conn: Connection) -> None:
        with self.witness(conn, "on_drain").callback("on_drain"):
            pass

    def on_error(self, conn: Connection, error: BaseException) -> None:
        with self.witness(conn, "on_error").callback("on_error"):
            if not isinstance(error, Planned):
                self.faults.add(error)

    def on_close(self, conn: Connection | None, error: BaseException | None) -> None:
        if conn is None:
            self.faults.add(f"connecting failed: {error!r}")
            self.closed.add(None)
            return
        witness = self.witness(conn, "on_close")
        with witness.callback("on_close"):
            witness.error = error
        self.closed.add(witness)


class Planned(Exception):
    """An exception that a callback raises on purpose."""


def finish(events: Events, count: int, limit: float) -> list[Any]:
    """Wait for `count` events, and check that there are no more. Returns them.

    The limit applies to each event, not to all of them, as their total time depends on the machine.
    """
    found: list[Any] = []
    while len(found) < count:
        found = events.wait(len(found) + 1, limit)
    assert len(found) == count
    return found
