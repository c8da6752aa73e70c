"""The log by itself: how often what may be repeated is said, and what is said of a peer."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import iocpcore
import pytest
from iocpcore import _log
from iocpcore._log import INTERVAL, Kind, Log, ServerLog, escaped, shown
from support.log import Lines, log_lines
from support.system import LIMIT

EVENTS = Kind(logging.WARNING, "events")
STATE = Kind(logging.WARNING, "failures", over="it goes on")


class World:
    """A clock, and the timers that it drives."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[SimpleNamespace] = []
        self.refuse: BaseException | None = None

    def timer(self, seconds: float, *, callback: Callable[[Any], object]) -> Any:
        if self.refuse is not None:
            raise self.refuse
        timer = SimpleNamespace(at=self.now + seconds, callback=callback, error=None)
        timer.cancel = lambda: self.cancel(timer)
        self.timers.append(timer)
        return timer

    def cancel(self, timer: SimpleNamespace) -> None:
        if timer in self.timers:
            self.timers.remove(timer)
            timer.error = OSError("cancelled")
            timer.callback(timer)

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer.at <= end]:
            timer = min(due, key=lambda timer: timer.at)
            self.timers.remove(timer)
            self.now = timer.at
            timer.callback(timer)
        self.now = end


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def lines(world: World) -> Iterator[Lines]:
    with log_lines(lambda: world.now) as lines:
        yield lines


@pytest.fixture
def log(world: World, lines: Lines) -> Log:
    return Log(world.timer, lambda: world.now)


# ---- the policy ---------------------------------------------------------------------------------


def test_one_event(world, log, lines):
    """It is all in its line, and needs no timer."""
    log.note(EVENTS, "%s of %s", "a", "b")
    assert lines.texts == ["a of b"]
    assert not world.timers
    for number in range(5):
        world.pass_time(11)
        log.note(EVENTS, "%d", number)
    assert lines.texts == ["a of b", "0", "1", "2", "3", "4"]
    assert not world.timers


def test_the_second_of_an_interval(world, log, lines):
    """It is told at its end, ten seconds after the first."""
    log.note(EVENTS, "one")
    world.pass_time(7)
    log.note(EVENTS, "two")
    world.pass_time(2.9)
    assert lines.texts == ["one"]
    world.pass_time(0.2)
    assert lines.texts == ["one", "two"]
    world.pass_time(100)
    assert lines.texts == ["one", "two"]
    assert not world.timers


def test_a_flood(world, log, lines):
    """A line when it begins, one every ten seconds, and the rest when it is over."""
    for number in range(2500):
        log.note(EVENTS, "number %d", number)
        world.pass_time(0.01)
    assert lines.texts == [
        "number 0",
        "number 1000 (999 more of them in 10 s)",
        "number 2000 (999 more of them in 10 s)",
    ]
    world.pass_time(100)
    assert lines.texts[3:] == [
        "number 2499 (498 more of them in 10 s)",
        "events: no more; 2500 in all, 2496 not shown",
    ]
    assert not world.timers


def test_lines_are_ten_seconds_apart(world, log, lines):
    """Whatever the rhythm of the events is, also right behind the last line."""
    for pause in (0.3, 3, 9.9, 10.1, 11, 19.9, 20.1, 35):
        for kind in (EVENTS, STATE):
            lines.lines.clear()
            for _ in range(60):
                for _ in range(3):
                    log.note(kind, "it")
                world.pass_time(pause)
            times = [at for at, _ in lines.lines]
            gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
            assert all(gap >= INTERVAL - 1e-6 for gap in gaps), (pause, kind, lines.lines)
            world.pass_time(100)
            assert not world.timers


def test_every_event_is_counted(world, log, lines):
    for _ in range(7):
        log.note(EVENTS, "it")
        world.pass_time(4)
    world.pass_time(100)
    assert lines.texts[-1] == f"events: no more; 7 in all, {7 - len(lines.lines) + 1} not shown"


def test_a_state(world, log, lines):
    """It begins, and is over after ten seconds without; what is in between is counted."""
    for _ in range(100):
        log.note(STATE, "it pauses: why")
        world.pass_time(5)
    assert lines.texts == ["it pauses: why"]
    world.pass_time(9)
    assert len(lines.texts) == 1
    world.pass_time(10)
    assert lines.texts[1:] == ["it goes on: it had failed 100 times"]
    world.pass_time(100)
    log.note(STATE, "it pauses: again")
    world.pass_time(100)
    assert lines.texts[2:] == ["it pauses: again", "it goes on: it had failed once"]
    assert not world.timers


def test_kinds_are_apart(world, log, lines):
    for _ in range(5):
        log.note(EVENTS, "one")
        log.note(STATE, "other")
    assert lines.texts == ["one", "other"]


def test_the_end_of_the_port(world, log, lines):
    """What was left out is told then."""
    for number in range(5):
        log.note(EVENTS, "number %d", number)
    log.note(STATE, "it pauses")
    log.close()
    assert lines.texts == [
        "number 0",
        "it pauses",
        "events: 4 more until the end, the last one: number 4",
    ]
    assert not world.timers
    log.close()
    for number in range(100):  # of connections that end with it
        log.note(EVENTS, "late %d", number)
    assert len(lines.texts) == 3
    assert not world.timers


@pytest.mark.parametrize("error", [ValueError("port is closed"), MemoryError(), RuntimeError()])
def test_without_timers(world, log, lines, error):
    """The next event after ten seconds is the one that tells."""
    world.refuse = error
    for number in range(25):
        log.note(EVENTS, "number %d", number)
        world.pass_time(1)
    assert lines.texts == [
        "number 0",
        "number 10 (9 more of them in 10 s)",
        "number 20 (9 more of them in 10 s)",
    ]


def test_a_timer_that_fails(world, log, lines):
    """It is not the end of ten seconds."""
    log.note(EVENTS, "one")
    log.note(EVENTS, "two")
    (timer,) = world.timers
    timer.error = MemoryError()
    timer.callback(timer)
    assert lines.texts == ["one"]


def test_a_timer_that_is_late(world, log, lines):
    """The next event has told already, and ten seconds begin anew with that."""
    log.note(EVENTS, "one")
    log.note(EVENTS, "two")
    (late,) = world.timers
    world.now += 15
    log.note(EVENTS, "three")
    log.note(EVENTS, "four")
    late.error = None  # it was too late to cancel it
    late.callback(late)
    world.pass_time(9)
    assert lines.texts == ["one", "three (1 more of them in 10 s)"]
    world.pass_time(1)
    assert lines.texts == ["one", "three (1 more of them in 10 s)", "four"]


def test_what_is_not_to_be_logged_costs_nothing(world, log, lines):
    log.note(Kind(logging.DEBUG, "details"), "%d", "no number")
    assert not world.timers
    assert not lines.texts


def test_a_handler_that_notes_something(world, log):
    """No lock is held while it is called."""

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if len(seen) < 5:
                seen.append(record.getMessage())
                log.note(EVENTS, "within")
                log.close()

    seen: list[str] = []
    handler = Noting()
    logger = logging.getLogger("iocpcore")
    logger.addHandler(handler)
    try:
        log.note(EVENTS, "one")
    finally:
        logger.removeHandler(handler)
    assert seen[0] == "one"


def test_many_threads(lines):
    """Each event is counted once, and there is one first line."""
    world = World()
    log = Log(world.timer, lambda: world.now)

    def note() -> None:
        for _ in range(500):
            log.note(EVENTS, "it")

    threads = [threading.Thread(target=note) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert lines.texts == ["it"]
    world.pass_time(INTERVAL)
    assert lines.texts[1:] == ["it (1998 more of them in 10 s)"]
    world.pass_time(100)
    assert lines.texts[2:] == ["events: no more; 2000 in all, 1998 not shown"]


# ---- what a peer has said -----------------------------------------------------------------------

NASTY = "x\r\n2026 CRITICAL root logged in\x1b[2J\x07\x9b31m\u2028\u202e\udcff\0"


def test_escaped():
    assert escaped("plain ü 漢") == "plain ü 漢"
    text = escaped(NASTY)
    assert text.isprintable()
    text.encode()
    assert text.startswith(r"x\r\n2026 CRITICAL root logged in\x1b[2J\x07\x9b31m\u2028\u202e")


@pytest.mark.parametrize("address", [NASTY, ("a\nb", 1), ("\x1b::", 1, 0, 0), b"\0" + b"a\n\xff"])
def test_addresses_are_escaped(address):
    assert shown(address).isprintable()
    assert shown(address) != ""


def test_addresses_as_people_write_them():
    assert shown(("127.0.0.1", 80)) == "127.0.0.1:80"
    assert shown(("::1", 80, 0, 0)) == "[::1]:80"
    assert shown("/run/x.sock") == "/run/x.sock"
    assert shown(b"\0name") == "@name"
    assert shown("") == shown(b"") == shown(None) == "a local process"


def test_every_line_of_a_server_is_escaped(log, lines):
    conn: Any = SimpleNamespace(peername=NASTY)
    told = ServerLog(log)
    told.on_failed(conn, ValueError(NASTY))
    told.on_accept_error(conn, OSError(NASTY))
    told.on_lost(NASTY, OSError(NASTY))
    told.on_refused(NASTY)
    told.on_refused((NASTY, 1))
    told.on_bad_header(NASTY, iocpcore.ProxyProtocolError(NASTY))
    log.note(_log.NOT_CONNECTED, "%s", NASTY)
    log.close()
    assert len(lines.texts) >= 6
    for text in lines.texts:
        assert text.isprintable()
