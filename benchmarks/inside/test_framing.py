"""Framing, per message: by itself, and on a connection where many messages come at once."""

from __future__ import annotations

from collections.abc import Iterable

import iocpcore
import pytest

from benchmarks.inside.driving import BATCH, MESSAGE, Served, group

pytestmark = group("framing")

built_in = pytest.mark.parametrize(
    "framing",
    [
        iocpcore.LengthPrefixed(4),
        iocpcore.Delimited(b"\n"),
        iocpcore.FixedSize(len(MESSAGE)),
    ],
    ids=["LengthPrefixed", "Delimited", "FixedSize"],
)


class Lines:
    """A framer in Python, as a user would write it."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> Iterable[bytes]:
        *lines, self.rest = (self.rest + data).split(b"\n")
        return lines

    def encode(self, message: bytes) -> bytes:
        return message + b"\n"


class Receiving(Served):
    on_message = Served.one


def deliver_all(backend, measure, framing, data):
    """All messages with one receive."""
    with Receiving(backend, framing=framing) as served:
        (peer,) = served.peers

        def deliver():
            peer.send(data)
            served.run(BATCH)

        measure(deliver)


@built_in
def test_encode(measure, framing):
    def encode():
        for _ in range(BATCH):
            framing.encode(MESSAGE)

    measure(encode)


@built_in
def test_decode(measure, framing):
    """All at once."""
    data = framing.encode(MESSAGE) * BATCH
    messages, used = measure(framing.decode, args=(data,))
    assert messages == [MESSAGE] * BATCH
    assert used == len(data)


@built_in
def test_on_message(backend, measure, framing):
    deliver_all(backend, measure, framing, framing.encode(MESSAGE) * BATCH)


def test_on_message_in_python(backend, measure):
    deliver_all(backend, measure, Lines, Lines().encode(MESSAGE) * BATCH)
