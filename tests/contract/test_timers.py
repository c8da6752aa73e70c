"""Timers."""

from __future__ import annotations

import random
import threading
import time

import pytest
from support.system import LIMIT, WINDOWS, scaled, wait_until

# time.monotonic() moves in steps of 15.6 ms on Windows, before Python 3.13.
CLOCK_STEP = 0.02 if WINDOWS else 0.001


def test_a_timer(port, net):
    op = port.timer(0.01)
    assert op.kind == "timer"
    assert op.handle is None
    assert not op.done
    assert net.result(op) is None


@pytest.mark.system
def test_never_early(port, net):
    for delay in (0.001, 0.01, 0.05):
        begin = time.monotonic()
        net.finish(port.timer(delay))
        assert time.monotonic() - begin > delay - CLOCK_STEP


def test_zero(port, net):
    assert net.result(port.timer(0)) is None
    ops = [port.timer(0) for _ in range(10)]
    net.finish(*ops)


def test_an_integer_and_a_float(port, net):
    soon, later = port.timer(0.0), port.timer(1000)
    net.finish(soon)
    assert not later.done
    assert later.cancel()
    net.finish(later)


def test_they_fire_in_the_order_of_their_deadlines(port, net):
    ops = {delay: port.timer(delay) for delay in (0.12, 0.04, 0.16, 0.08)}
    taken = net.take(4)
    assert taken == [ops[delay] for delay in sorted(ops)]


def test_equal_deadlines_fire_in_the_order_they_were_set(port, net):
    ops = [port.timer(0) for _ in range(100)]
    assert net.take(100) == ops


def test_a_timer_that_is_set_later_and_ends_sooner(port, net):
    long = port.timer(500)
    short = port.timer(0.01)
    assert net.take(1) == [short]
    long.cancel()
    assert net.take(1) == [long]
    assert long.cancelled


@pytest.mark.system
def test_a_shorter_timer_wakes_who_waits_for_a_longer_one(port):
    """The waiter sleeps until the first deadline; a sooner one is set by another thread."""
    long = port.timer(1000)
    taken = []
    waits = port.stats()["waits"]
    waiter = threading.Thread(target=lambda: taken.append(port.get(LIMIT)))
    waiter.start()
    wait_until(lambda: port.stats()["waits"] > waits, "a wait")
    short = port.timer(0.01)
    waiter.join(LIMIT)
    assert taken == [short]
    long.cancel()
    assert port.get(LIMIT) is long


def test_cancelled_timers(port, net):
    ops = [port.timer(1000 + number) for number in range(100)]
    for op in ops[::2]:
        assert op.cancel() is True
    net.finish(*ops[::2])
    assert all(op.cancelled for op in ops[::2])
    assert not any(op.done for op in ops[1::2])
    for op in ops[1::2]:
        op.cancel()
    net.finish(*ops)


def test_a_timer_of_the_past_fires_before_the_deadline_of_get(port):
    """get(0) gives what is due."""
    op = port.timer(0)
    assert port.get(1) is op
    due = port.timer(0)
    wait_until(lambda: port.get(0) is due, "the timer")


@pytest.mark.stress
def test_ten_thousand(port, net):
    """All fire, each once, in order: none before one whose deadline was certainly sooner."""
    count = scaled(10_000)
    source = random.Random(4)
    bounds = {}
    order = []
    for _ in range(count):
        delay = source.uniform(0, 0.5)
        before = time.monotonic()
        op = port.timer(delay)
        bounds[id(op)] = (before + delay, time.monotonic() + delay)
        order.append(op)
    assert port.in_flight == count
    taken = net.take(count)
    assert len({id(op) for op in taken}) == count
    if net.simulated:  # its clock stood still meanwhile
        return
    latest = 0.0
    for op in taken:
        earliest_of_this, latest_of_this = bounds[id(op)]
        assert latest_of_this + 2 * CLOCK_STEP >= latest
        latest = max(latest, earliest_of_this)


@pytest.mark.stress
def test_random_cancels(port, net):
    """Each ends once, as one or the other, whoever wins."""
    source = random.Random(5)
    live = []
    ended = 0
    for _ in range(scaled(5000)):
        live.append(port.timer(source.uniform(0, 0.01)))
        if source.random() < 0.5:
            live.pop(source.randrange(len(live))).cancel()
            ended += 1
        if source.random() < 0.1:
            net.pump()
    net.finish(*live)
    while port.in_flight:
        assert net.pump(LIMIT)


def test_far_away(port, net):
    """A delay that no clock reaches is only long."""
    ops = [port.timer(1e9), port.timer(1e18)]
    assert port.get(0) is None
    for op in ops:
        assert op.cancel()
    net.finish(*ops)
