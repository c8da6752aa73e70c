"""Rate-limited logging (logger "iocpcore") of events that peers cause.

A peer can cause such an event as often as it likes. So each kind of event gets one line when it
begins, then at most one every ten seconds with the number of events left out. After ten seconds
without an event the episode is over and gets a last line. Timers of the port trigger these lines,
so the last one needs neither another event nor a thread. Text from peers is escaped in every line.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from iocpcore._core import Connection, Listener, Operation
from iocpcore.errors import ProxyProtocolError

logger = logging.getLogger("iocpcore")

INTERVAL = 10.0  # seconds between two lines of one kind


@dataclass(frozen=True)
class Kind:
    """A kind of event. Events of one kind are counted and limited together."""

    level: int
    name: str
    """In the plural, for the line with the number of them."""

    over: str | None = None
    """The last line of a state, which has a first and a last line and none in between. None: these
    are single events, and the last line says how many were left out."""


ACCEPT_FAILURES = Kind(
    logging.WARNING, "failures to accept connections", "accepting connections goes on"
)
LOST = Kind(logging.WARNING, "accepted connections that could not be served")
REFUSED = Kind(logging.WARNING, "connections of addresses that have too many")
BAD_HEADERS = Kind(logging.WARNING, "connections closed because of the PROXY protocol")
NOT_ESTABLISHED = Kind(logging.INFO, "connections not established")
NOT_CONNECTED = Kind(logging.WARNING, "attempts to connect that failed")
DATAGRAM_ERRORS = Kind(logging.DEBUG, "datagrams that were not sent or received")


class Timer(Protocol):
    """Starts a timer of the port, as CompletionPort.timer does."""

    def __call__(self, seconds: float, *, callback: Callable[[Operation], object]) -> Operation: ...


class _Episode:
    """A run of events of one kind. Decides when a line is written, and which.

    Time is divided into turns. A turn begins when a line is due, and lasts INTERVAL. Each turn gets
    at most one timer. The caller holds the lock of Log.
    """

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._events = 0
        self._shown = 0  # events that got a line
        self._unreported = 0  # events since the last line was due
        self._last = ""
        self.due = float("-inf")  # the earliest time of the next line
        self.turn = 0  # number of the current turn
        self.timed = 0  # the last turn that has got a timer
        self.timer: Operation | None = None

    def happened(self, text: str, now: float) -> str | None:
        """Count one more event. Returns the line to write now, if any."""
        if now >= self.due and not self.line_pending:  # the previous episode is over
            self._events = self._shown = 0
        self._events += 1
        self._unreported += 1
        self._last = text
        return None if now < self.due else self.next_line(now)

    def next_line(self, now: float) -> str | None:
        """Begin a turn. Returns the line to write now, if any."""
        self.due = now + INTERVAL
        self.turn += 1
        new, self._unreported = self._unreported, 0
        if new and (self._kind.over is None or new == self._events):
            self._shown += 1
            others = f" ({new - 1} more of them in {INTERVAL:g} s)" if new > 1 else ""
            return self._last + others
        return None if new else self._last_line()

    def _last_line(self) -> str | None:
        events, left_out = self._events, self._events - self._shown
        self._events = self._shown = 0
        if events and self._kind.over is not None:
            return f"{self._kind.over}: it had failed {_times(events)}"
        if left_out:
            return f"{self._kind.name}: no more; {events} in all, {left_out} not shown"
        return None

    @property
    def line_pending(self) -> bool:
        """Whether another line follows even without a further event."""
        return self._events > self._shown or (self._events > 0 and self._kind.over is not None)

    def final_line(self) -> str | None:
        """The line to write at shutdown, if events have gone unreported."""
        left_out = self._events - self._shown
        self._events = self._shown = self._unreported = 0
        if left_out == 0:
            return None
        return f"{self._kind.name}: {left_out} more until the end, the last one: {self._last}"

    def wants_timer(self) -> bool:
        """Returns True at most once per turn: the caller then sets the turn's timer."""
        wants = self.line_pending and self.timed != self.turn
        if wants:
            self.timed = self.turn
        return wants

    def replace_timer(self, timer: Operation | None) -> Operation | None:
        """Returns the old timer. Timers refer back to the episode, so none is kept when done."""
        old, self.timer = self.timer, timer
        return old


class Log:
    """The rate-limited log of one port. May be used from any thread."""

    def __init__(self, timer: Timer, clock: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._clock = clock
        self._lock = threading.Lock()  # not held while logging or calling the port
        self._episodes: dict[Kind, _Episode] = {}
        self._closed = False

    def note(self, kind: Kind, template: str, *args: object) -> None:
        """Count an event. `template % args` is its line, if it gets one."""
        if not logger.isEnabledFor(kind.level):
            return
        text = template % args
        now = self._clock()
        with self._lock:
            episode = self._episodes.get(kind)
            if episode is None:
                episode = self._episodes[kind] = _Episode(kind)
            line = episode.happened(text, now)
            turn, left = episode.turn, episode.due - now
            wants_timer = episode.wants_timer() and not self._closed
        if wants_timer:
            self._set_timer(kind, episode, turn, left)
        _write(kind, line)

    def close(self) -> None:
        """Write the final lines. Call before the port closes: its timers end with it."""
        with self._lock:
            self._closed = True
            lines = [(kind, episode.final_line()) for kind, episode in self._episodes.items()]
            timers = [episode.replace_timer(None) for episode in self._episodes.values()]
        for timer in timers:
            if timer is not None:
                timer.cancel()
        for kind, line in lines:
            _write(kind, line)

    def _set_timer(self, kind: Kind, episode: _Episode, turn: int, seconds: float) -> None:
        def end(operation: Operation) -> None:
            if operation.error is None:
                self._end_turn(kind, episode, turn)

        timer: Operation | None = None
        # Without a timer the next event or close() writes the line.
        with suppress(ValueError, RuntimeError, OSError, MemoryError):
            timer = self._timer(seconds, callback=end)
        with self._lock:
            if episode.turn == turn and not self._closed:
                timer = episode.replace_timer(timer)
        if timer is not None:  # the previous turn's, or ours if the turn is already over
            timer.cancel()

    def _end_turn(self, kind: Kind, episode: _Episode, turn: int) -> None:
        now = self._clock()
        with self._lock:
            if episode.turn != turn or self._closed:
                return
            line = episode.next_line(now)
            turn = episode.turn
            wants_timer = episode.wants_timer()
            episode.replace_timer(None)
        if wants_timer:
            self._set_timer(kind, episode, turn, INTERVAL)
        _write(kind, line)


def _write(kind: Kind, line: str | None) -> None:
    if line is not None:
        logger.log(kind.level, "%s", escaped(line))


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


class ServerLog:
    """The callbacks of a server's group that only write to the log."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def on_failed(self, conn: Connection, error: BaseException) -> None:
        """TLS failed or timed out. A bad PROXY header is logged by on_bad_header instead."""
        if not isinstance(error, ProxyProtocolError):
            name = shown(conn.peername)
            self._log.note(NOT_ESTABLISHED, "connection from %s not established: %s", name, error)

    def on_accept_error(self, listener: Listener, error: BaseException) -> None:
        """accept() failed. The listener pauses for a moment."""
        self._log.note(ACCEPT_FAILURES, "accepting connections pauses: %s", error)

    def on_lost(self, address: object, error: BaseException) -> None:
        name = shown(address)
        self._log.note(LOST, "connection from %s closed, it cannot be served: %s", name, error)

    def on_refused(self, address: object) -> None:
        """A connection exceeded max_connections_per_address."""
        host = address[0] if isinstance(address, tuple) else shown(address)
        self._log.note(REFUSED, "too many connections from %s: 1 refused", host)

    def on_bad_header(self, peername: object, error: ProxyProtocolError) -> None:
        self._log.note(BAD_HEADERS, "connection from %s closed: %s", shown(peername), error)


def shown(address: object) -> str:
    """Format an address for people. Text that a peer may control is escaped."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[0], address[1]
        return escaped(f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}")
    if isinstance(address, bytes) and address:  # an abstract name (Linux)
        address = "@" + address[1:].decode("utf-8", "surrogateescape")
    return escaped(str(address)) if address else "a local process"


def escaped(text: str) -> str:
    """Escape line breaks, control sequences and everything else that is not printable."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )
