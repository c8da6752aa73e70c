"""The load of demo and bench: a process with many clients, each of which checks every answer.

A client keeps `depth` messages in flight. All messages are different, so an answer that is wrong,
missing or out of order is detected. Events are written to stdout as JSON, one per line: connected,
progress (every `interval` seconds), end. The end of stdin ends the load early.

The callbacks check the time limit themselves: if they are always busy, the main thread may have to
wait a long time for the GIL.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable

from iocpcore import Connection, FixedSize, LengthPrefixed, connect_nowait
from iocpcore._bench.processes import ANSWER_LIMIT, CONNECT_LIMIT, report, watch_stdin

TICK = 0.01
SMALLEST = 16  # bytes of a message
FILLER = b"the quick brown fox jumps over the lazy dog, "


class Client:
    """One connection. Only its own callbacks change its counters."""

    def __init__(self, load: Load, number: int) -> None:
        self._load = load
        self._head = b"%06d " % number
        self.conn: Connection | None = None
        self.failed = self.broken = False
        self.sent = self.received = self.wrong = 0
        self.last = 0.0  # time of the last answer
        self.delays: list[float] = []  # seconds; emptied by each report
        self._awaited: deque[tuple[bytes, float]] = deque()

    @property
    def missing(self) -> int:
        """The number of answers that may still arrive."""
        return 0 if self.broken else self.sent - self.received

    def begin(self) -> None:
        for _ in range(self._load.depth):
            self._send(time.perf_counter())

    def _send(self, now: float) -> None:
        message = b"%b%08d " % (self._head, self.sent) + self._load.filler
        self._awaited.append((self._load.answer(message), now))
        self.sent += 1
        assert self.conn is not None
        self.conn.send_message(message)

    def on_connect(self, conn: Connection) -> None:
        self.conn = conn
        self._load.settle()

    def on_message(self, conn: Connection, message: bytes) -> None:
        if not self._awaited:
            self.wrong += 1
            return
        expected, sent = self._awaited.popleft()
        self.last = now = time.perf_counter()
        self.delays.append(now - sent)
        self.received += 1
        if message != expected:
            self.wrong += 1
        if now < self._load.end:
            self._send(now)

    def on_close(self, conn: Connection | None, error: BaseException | None) -> None:
        if conn is None:
            self.failed = True
            self._load.settle()
        elif not self._load.ended:
            self.broken = True


class Load:
    """All clients."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.depth: int = options.depth
        self.filler = (FILLER * (options.size // len(FILLER) + 1))[: options.size - SMALLEST]
        self.answer = bytes.upper if options.answer == "upper" else bytes
        self.end = math.inf  # no message is sent after this time
        self.ended = False
        self._interrupted = threading.Event()
        self._settled = threading.Event()
        self._lock = threading.Lock()
        self._unsettled = options.connections
        self._clients = [Client(self, number) for number in range(options.connections)]
        self._all: Delays = Delays()

    def settle(self) -> None:
        with self._lock:
            self._unsettled -= 1
            if not self._unsettled:
                self._settled.set()

    def interrupt(self) -> None:
        """End the load early. May be called from any thread."""
        self._interrupted.set()
        self._settled.set()

    def run(self) -> None:
        self._connect()
        began, cpu = time.perf_counter(), time.process_time()
        self.end = began + self._options.seconds
        for client in self._clients:
            if client.conn is not None:
                client.conn.call_later(0, client.begin)
        self._go_on(began)
        deadline = time.monotonic() + ANSWER_LIMIT
        while any(client.missing for client in self._clients) and time.monotonic() < deadline:
            time.sleep(TICK)
        self.ended = True
        clients = self._clients
        seconds = max(*(client.last for client in clients), began) - began
        self._all.add(self._take())
        report(
            event="end",
            seconds=seconds,
            sent=sum(client.sent for client in clients),
            answered=sum(client.received for client in clients),
            lost=sum(client.sent - client.received for client in clients),
            wrong=sum(client.wrong for client in clients),
            broken=sum(client.broken for client in clients),
            load_cpu=(time.process_time() - cpu) / max(seconds, TICK),
            **self._all.figures(),
        )
        for client in clients:
            if client.conn is not None:
                client.conn.close()

    def _connect(self) -> None:
        options = self._options
        framing = LengthPrefixed(4) if options.framing == "length" else FixedSize(options.size)
        began = time.perf_counter()
        for client in self._clients:
            connect_nowait(
                options.host,
                options.port,
                handler=client,
                framing=framing,
                timeout=CONNECT_LIMIT,
            )
        self._settled.wait(CONNECT_LIMIT + 1)
        count = sum(client.conn is not None for client in self._clients)
        report(
            event="connected",
            connected=count,
            failed=len(self._clients) - count,
            seconds=time.perf_counter() - began,
        )

    def _go_on(self, began: float) -> None:
        """Report progress until the time is up."""
        interval: float = self._options.interval
        due = began + interval
        while True:
            now = time.perf_counter()
            if now >= due:
                self._report_progress(began)
                due = max(due + interval, time.perf_counter())
            if now >= self.end or self._interrupted.is_set():
                break
            self._interrupted.wait(max(0.0, min(due, self.end) - now))
        self.end = min(self.end, time.perf_counter())

    def _report_progress(self, began: float) -> None:
        delays = self._take()
        self._all.add(delays)
        clients = self._clients
        report(
            event="progress",
            answered=sum(client.received for client in clients),
            seconds=time.perf_counter() - began,
            wrong=sum(client.wrong for client in clients),
            broken=sum(client.broken for client in clients),
            **delays.figures(),
        )

    def _take(self) -> Delays:
        delays = Delays()
        for client in self._clients:
            taken, client.delays = client.delays, []
            delays.note(taken)
        return delays


class Delays:
    """A histogram of delays, with a resolution of 1 to 2 %."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()  # keys: microseconds, rounded down to 7 bits

    def note(self, seconds: Iterable[float]) -> None:
        for value in seconds:
            micros = int(value * 1e6)
            shift = max(0, micros.bit_length() - 7)
            self._counts[micros >> shift << shift] += 1

    def add(self, other: Delays) -> None:
        self._counts.update(other._counts)

    def figures(self) -> dict[str, float | None]:
        """The median, the 99th percentile and the maximum, in milliseconds."""
        rising = sorted(self._counts.items())
        total = self._counts.total()
        return {
            "p50": _at(rising, total * 0.5),
            "p99": _at(rising, total * 0.99),
            "longest": rising[-1][0] / 1000 if rising else None,
        }


def _at(rising: list[tuple[int, int]], rank: float) -> float | None:
    seen = 0
    for micros, count in rising:
        seen += count
        if seen >= rank:
            return micros / 1000
    return None


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m iocpcore._bench.load", description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--interval", type=float, default=1.0)
    parser.add_argument("--framing", choices=["none", "length"], default="length")
    parser.add_argument("--answer", choices=["same", "upper"], default="same")
    return parser.parse_args()


def main() -> int:
    load = Load(_parse())
    watch_stdin(load.interrupt)
    load.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
