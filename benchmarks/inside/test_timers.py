"""Timers of ports and of connections: set, cancelled, fired."""

from __future__ import annotations

import iocpcore
import pytest

from benchmarks.inside.driving import BATCH, FOREVER, Loop, Served, discard, group

pytestmark = group("timers")

# How many others there are.
among = pytest.mark.parametrize("others", [0, 10_000])


class Idle(Served):
    on_data = Served.one


class Timers:
    """A batch of timers at a time."""

    def __init__(self, port: iocpcore.CompletionPort, others: int = 0) -> None:
        self.port = port
        self.made: list[iocpcore.Operation] = []
        self.others = [port.timer(FOREVER + number) for number in range(others)]

    def set(self) -> None:
        # Sooner than the others: the dearest place.
        self.made = [self.port.timer(FOREVER / 2) for _ in range(BATCH)]

    def cancel(self) -> None:
        for op in self.made:
            op.cancel()

    def end(self) -> None:
        self.cancel()
        discard(self.port)

    def end_all(self) -> None:
        self.made += self.others
        self.end()


@among
def test_set(port, measure, others):
    timers = Timers(port, others)
    measure(timers.set, teardown=timers.end)
    timers.end_all()


@among
def test_cancel(port, measure, others):
    """And hand out what was cancelled."""
    timers = Timers(port, others)
    measure(timers.end, setup=timers.set)
    timers.end_all()


def test_fire(port, measure):
    """Set, and called back as soon as possible."""
    loop = Loop(port)

    def fire():
        for _ in range(BATCH):
            port.timer(0, callback=loop.one)
        loop.run(BATCH)

    measure(fire)


def test_call_later_and_cancel(backend, measure):
    with Idle(backend) as served:
        (conn,) = served.connections

        def set_and_cancel():
            for timer in [conn.call_later(FOREVER, print) for _ in range(BATCH)]:
                timer.cancel()
            discard(served.port)

        measure(set_and_cancel)


def test_call_later_and_fire(backend, measure):
    with Idle(backend) as served:
        (conn,) = served.connections

        def fire():
            for _ in range(BATCH):
                conn.call_later(0, served.one)
            served.run(BATCH)

        measure(fire)
